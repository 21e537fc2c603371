//! `sluiced explain`: where is my event? Asks a running daemon, and says it for a person.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use super::remote::{Ask, Remote, escaped, plain};

/// Which event, and whom to ask.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The event's id (`Nats-Msg-Id` or `ce-id`), or its place as STREAM:SEQUENCE.
    #[arg(value_name = "EVENT_ID")]
    event: String,
    /// Only this subscription, also when it does not match.
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Asks and prints.
///
/// # Errors
/// When the daemon cannot be asked, or does not know the event.
pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let ask = Ask::get(format!("/events/{}/trace", escaped(&args.event)));
    args.remote.ask(&ask.with("subscription", args.subscription.as_ref()), told)
}

/// The answer, for a person.
fn told(answer: &Value) -> String {
    let mut text = String::new();
    let event = &answer["event"];
    line(&mut text, 0, &[("event", &event["id"]), ("type", &event["type"]), ("subject", &event["subject"])]);
    line(&mut text, 1, &[("stream", &event["stream"]), ("sequence", &event["sequence"]), ("at", &event["stored_at"])]);
    line(&mut text, 1, &[("bytes", &event["bytes"]), ("content type", &event["content_type"])]);
    if answer["log"]["complete"] == false {
        text.push_str("  the log was not read to its end: what is missing below may still be in it\n");
    }
    for one in list(&answer["subscriptions"]) {
        subscription(&mut text, one);
    }
    writeln!(text, "\n{} other subscriptions do not match the type", number(&answer["unmatched"]))
        .expect("a text can be written to");
    if number(&answer["left_out"]) > 0 {
        writeln!(text, "{} more match: ask for one with --subscription", number(&answer["left_out"]))
            .expect("a text can be written to");
    }
    text
}

fn subscription(text: &mut String, one: &Value) {
    text.push('\n');
    line(text, 0, &[("subscription", &one["subscription"]), ("target", &one["target"])]);
    let subject = &one["subject"];
    if subject["matches"] == false {
        let patterns: Vec<&str> = list(&subject["patterns"]).filter_map(Value::as_str).collect();
        writeln!(text, "  does not match: it asks for {}", patterns.join(", ")).expect("a text can be written to");
        return;
    }
    line(
        text,
        1,
        &[("matches by", &subject["pattern"]), ("stands", &one["standing"]), ("reads from", &one["reads_from"])],
    );
    let verdict = &one["verdict"];
    line(
        text,
        1,
        &[("plugins now say", &verdict["result"]), ("by", &verdict["decided_by"]), ("because", &verdict["reason"])],
    );
    for plugin in list(&verdict["plugins"]) {
        line(
            text,
            2,
            &[(plugin["role"].as_str().unwrap_or("plugin"), &plugin["name"]), ("version", &plugin["version"])],
        );
    }
    for output in list(&verdict["outputs"]) {
        line(text, 2, &[("output", &output["part"]), ("bytes", &output["bytes"]), ("type", &output["type"])]);
    }
    for delivery in list(&one["deliveries"]) {
        line(text, 1, &[("delivery", &delivery["id"]), ("part", &delivery["part"]), ("state", &delivery["state"])]);
        line(text, 2, &[("next due", &delivery["next_due"]), ("given up", &delivery["failed_at"])]);
        // The record of its own has every attempt, the log those that it still has.
        let history: Vec<&Value> = list(&delivery["history"]).collect();
        if history.is_empty() {
            for attempt in list(&delivery["attempts"]) {
                let of = [("attempt", &attempt["attempt"]), ("at", &attempt["at"]), ("outcome", &attempt["outcome"])];
                line(text, 2, &of);
                line(text, 3, &[("status", &attempt["status"]), ("reason", &attempt["reason"])]);
            }
        }
        for attempt in history {
            line(text, 2, &[("attempt", &attempt["number"]), ("at", &attempt["at"]), ("took ms", &attempt["took_ms"])]);
            line(text, 3, &[("status", &attempt["status"]), ("reason", &attempt["reason"])]);
        }
    }
}

/// One line of names and values; what has no value is left out, and so is a line with none.
fn line(text: &mut String, indent: usize, fields: &[(&str, &Value)]) {
    let mut said = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::String(value) if value.is_empty() => {}
            Value::String(value) => said.push(format!("{name}: {}", plain(value))),
            value => said.push(format!("{name}: {value}")),
        }
    }
    if !said.is_empty() {
        writeln!(text, "{}{}", "  ".repeat(indent), said.join("  ")).expect("a text can be written to");
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_segment_of_a_path() {
        assert_eq!(escaped("EVENTS:7"), "EVENTS:7");
        assert_eq!(escaped("a/b ?ö"), "a%2Fb%20%3F%C3%B6");
    }

    #[test]
    fn what_strangers_wrote_cannot_drive_the_terminal() {
        let answer = serde_json::json!({ "event": { "id": "\u{1b}[2Jx" } });
        assert!(!told(&answer).contains('\u{1b}'));
    }
}

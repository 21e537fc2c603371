//! `sluiced explain`: where is my event? Asks a running daemon, and says it for a person.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::write_out;

/// How long the daemon may take to answer: it may have to search streams.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Which event, and whom to ask.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The event's id (`Nats-Msg-Id` or `ce-id`), or its place as STREAM:SEQUENCE.
    #[arg(value_name = "EVENT_ID")]
    event: String,
    /// The daemon's API.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// The key of the API; better given as SLUICED_AUTH__ADMIN_KEY.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only this subscription, also when it does not match.
    #[arg(long, value_name = "NAME")]
    subscription: Option<String>,
    /// Print the answer as it came.
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
///
/// # Errors
/// When the daemon cannot be asked, or does not know the event.
pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { tokio::time::timeout(ANSWER_TIME_MAX, ask(args)).await };
    let (status, body) = runtime.block_on(asked).context("the daemon took too long")??;
    let answer: Value =
        serde_json::from_slice(&body).context("what answered is not sluiced: its answer is not JSON")?;
    if status != 200 {
        bail!("{} ({status})", answer["detail"].as_str().unwrap_or("the daemon refused"));
    }
    match args.json {
        true => write_out(&format!("{answer:#}\n")),
        false => write_out(&told(&answer)),
    }
}

/// Sends the request, and returns status and body.
async fn ask(args: &ExplainArgs) -> anyhow::Result<(u16, Bytes)> {
    let url: hyper::Uri = args.url.parse().with_context(|| format!("{} is not a URL", args.url))?;
    if url.scheme_str() != Some("http") {
        bail!("{} is not an http:// URL: ask the daemon itself, not what stands before it", args.url);
    }
    let authority = url.authority().ok_or_else(|| anyhow!("{} names no host", args.url))?;
    let (host, port) = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let mut path = format!("/api/v1/events/{}/trace", escaped(&args.event));
    if let Some(name) = &args.subscription {
        path = format!("{path}?subscription={}", escaped(name));
    }
    let mut request = Request::get(path).header("host", authority.as_str());
    if let Some(key) = args.key.clone().or_else(|| std::env::var("SLUICED_AUTH__ADMIN_KEY").ok()) {
        request = request.header("x-api-key", key);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let stream =
        TcpStream::connect((host, port)).await.with_context(|| format!("no daemon answers at {}", args.url))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!(error).context("the answer broke off"))?;
        Ok((status, body.to_bytes()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // The connection's end lets the request end too, with the answer or an error.
        _ = &mut connection => answered.await,
    }
}

/// A text as one segment of a path.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a text can be written to");
        }
    }
    escaped
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
            Value::String(value) => said.push(format!("{name}: {}", value.escape_debug())),
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

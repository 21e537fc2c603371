//! `sluiced webhooks`: webhooks, over the API of a running daemon.

use anyhow::ensure;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::events::{Page, paged};
use super::remote::{Ask, Remote, escaped, fields, rows};

/// Webhooks, and whom to ask.
#[derive(Debug, Args)]
pub struct WebhooksArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all webhooks: those of the file, and those made over the API.
    List {
        /// Only those that are active, or only those that are disabled.
        #[arg(long, value_name = "BOOL")]
        active: Option<bool>,
        /// Only those of this owner.
        #[arg(long)]
        owner: Option<String>,
        /// Only those of the `file`, or only those made over the `api`.
        #[arg(long, value_name = "WHO")]
        managed_by: Option<String>,
        /// Only those that get events of this type.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
    },
    /// Show one.
    Get {
        /// Its id.
        id: String,
    },
    /// Make one. Its signing secret is printed, for the only time.
    Create {
        #[command(flatten)]
        keys: Keys,
        /// A key of this request's own: run again within a day, it is answered alike and done once.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Change what is named of one.
    Update {
        /// Its id.
        id: String,
        #[command(flatten)]
        keys: Keys,
        /// Only when it is still this version: an `ETag`.
        #[arg(long, value_name = "ETAG")]
        if_match: Option<String>,
    },
    /// End one, and forget it with its deliveries.
    Delete {
        /// Its id.
        id: String,
        /// Only when it is still this version: an `ETag`.
        #[arg(long, value_name = "ETAG")]
        if_match: Option<String>,
    },
    /// Send it a test event.
    Test {
        /// Its id.
        id: String,
    },
    /// Another signing secret. It is printed, for the only time.
    RotateSecret {
        /// Its id.
        id: String,
        /// How long the earlier one stays valid.
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
    /// Take up a disabled one.
    Enable {
        /// Its id.
        id: String,
        /// With what is published from now on, and not where it stopped.
        #[arg(long)]
        from_now: bool,
    },
    /// Deliver nothing to it; its events wait.
    Disable {
        /// Its id.
        id: String,
        /// Why, in one line.
        #[arg(long)]
        reason: Option<String>,
    },
    /// What became of its events, newest first.
    Deliveries {
        /// Its id.
        id: String,
        /// pending, delivered, failed or dropped.
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Deliver history again, as a job.
    Replay {
        /// Its id.
        id: String,
        /// From here on: a stream sequence, a time, or `all`.
        #[arg(long, value_name = "PLACE")]
        from: String,
        /// Up to here: a stream sequence, a time, or `now`.
        #[arg(long, value_name = "PLACE")]
        to: Option<String>,
        /// The stream, where there are several.
        #[arg(long)]
        stream: Option<String>,
        /// Deliveries a second, at most.
        #[arg(long)]
        rate: Option<u32>,
        /// Only count.
        #[arg(long)]
        dry_run: bool,
    },
}

/// The keys of a webhook.
#[derive(Debug, Args)]
struct Keys {
    /// What it is called.
    #[arg(long)]
    name: Option<String>,
    /// Where to deliver.
    #[arg(long = "endpoint", value_name = "URL")]
    endpoint: Option<String>,
    /// An event type or pattern that it gets; may be given several times.
    #[arg(long = "type", value_name = "PATTERN")]
    types: Vec<String>,
    /// A header of its requests; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// Any other key, its value as JSON or as plain text: `max_in_flight=4`, `retry={"schedule":["5s"]}`.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Keys {
    fn body(&self) -> Value {
        let mut body = Map::new();
        let texts = [("name", &self.name), ("url", &self.endpoint)];
        body.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), json!(text.as_ref()?)))));
        if !self.types.is_empty() {
            body.insert("types".to_owned(), json!(self.types));
        }
        if !self.headers.is_empty() {
            let headers: Map<_, _> = self.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            body.insert("headers".to_owned(), headers.into());
        }
        for (key, text) in &self.set {
            body.insert(key.clone(), serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
        }
        body.into()
    }
}

/// Carries it out.
///
/// # Errors
/// When the daemon cannot be asked, or refuses.
pub fn run(args: &WebhooksArgs) -> anyhow::Result<()> {
    let remote = &args.remote;
    let webhook = |id: &str| format!("/webhooks/{}", escaped(id));
    match &args.command {
        Command::List { active, owner, managed_by, kind } => {
            let ask = Ask::get("/webhooks").with("active", *active).with("owner", owner.as_ref());
            let ask = ask.with("managed_by", managed_by.as_ref()).with("type", kind.as_ref());
            remote.ask_all(&ask, "webhooks", |all| rows(all, &COLUMNS))
        }
        Command::Get { id } => remote.ask(&Ask::get(webhook(id)), fields),
        Command::Create { keys, idempotency_key } => {
            ensure!(keys.body().get("url").is_some(), "where to deliver is missing: say it with --endpoint URL");
            let ask = Ask::post("/webhooks").header("idempotency-key", idempotency_key.as_ref());
            remote.ask(&ask.body(keys.body()), fields)
        }
        Command::Update { id, keys, if_match } => {
            let ask = Ask::new(Method::PATCH, webhook(id)).header("if-match", if_match.as_ref());
            remote.ask(&ask.body(keys.body()), fields)
        }
        Command::Delete { id, if_match } => {
            let ask = Ask::new(Method::DELETE, webhook(id)).header("if-match", if_match.as_ref());
            remote.ask(&ask, |_| "removed\n".to_owned())
        }
        Command::Test { id } => {
            let answer = remote.answer(&Ask::post(format!("{}/test", webhook(id))))?;
            remote.show(&answer, fields)?;
            ensure!(answer["delivered"] == true, "the test event was not delivered");
            Ok(())
        }
        Command::RotateSecret { id, overlap } => {
            let ask = Ask::post(format!("{}/rotate-secret", webhook(id)));
            remote.ask(&ask.body(json!({ "overlap": overlap })), fields)
        }
        Command::Enable { id, from_now } => {
            let from = if *from_now { "now" } else { "stop" };
            remote.ask(&Ask::post(format!("{}/enable", webhook(id))).body(json!({ "from": from })), fields)
        }
        Command::Disable { id, reason } => {
            remote.ask(&Ask::post(format!("{}/disable", webhook(id))).body(json!({ "reason": reason })), fields)
        }
        Command::Deliveries { id, status, page } => {
            let ask = Ask::get(format!("{}/deliveries", webhook(id))).with("status", status.as_ref());
            remote.ask(&page.of(ask), |answer| paged(answer, "deliveries", &DELIVERY_COLUMNS))
        }
        Command::Replay { id, from, to, stream, rate, dry_run } => {
            let body = json!({
                "from": place(from), "to": to.as_deref().map(place), "stream": stream, "rate": rate, "dry_run": dry_run,
            });
            remote.ask(&Ask::post(format!("{}/replay", webhook(id))).body(body), fields)
        }
    }
}

/// The columns of webhooks,
const COLUMNS: [(&str, &str); 7] = [
    ("ID", "/id"),
    ("NAME", "/name"),
    ("URL", "/url"),
    ("TYPES", "/types"),
    ("OWNER", "/owner"),
    ("ACTIVE", "/active"),
    ("MANAGED BY", "/managed_by"),
];
/// and of the deliveries of one.
const DELIVERY_COLUMNS: [(&str, &str); 7] = [
    ("ID", "/id"),
    ("STATUS", "/status"),
    ("STREAM", "/stream"),
    ("SEQUENCE", "/sequence"),
    ("ATTEMPTS", "/attempts"),
    ("ANSWER", "/response_status"),
    ("UPDATED AT", "/updated_at"),
];

/// A stream sequence as a number, anything else as it is.
fn place(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |sequence| json!(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_texts_or_json() {
        let pairs = |texts: &[&str]| texts.iter().map(|text| pair(text).expect("a pair")).collect();
        let keys = Keys {
            name: Some("a".to_owned()),
            endpoint: None,
            types: vec!["x.>".to_owned()],
            headers: pairs(&["X=1=2"]),
            set: pairs(&["max_in_flight=4", "timeout=5s", "retry={\"schedule\":[\"5s\"]}", "owner=null"]),
        };
        let expected = json!({
            "name": "a", "types": ["x.>"], "headers": { "X": "1=2" }, "max_in_flight": 4, "timeout": "5s",
            "retry": { "schedule": ["5s"] }, "owner": null,
        });
        assert_eq!(keys.body(), expected);
        assert!(pair("no").is_err());
        assert_eq!((place("12"), place("all")), (json!(12), json!("all")));
    }
}

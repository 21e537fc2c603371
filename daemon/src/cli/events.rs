//! `sluiced events` and `sluiced send`: events, over the API of a running daemon.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::remote::{Ask, Remote, escaped, fields, rows};

/// Events, and whom to ask.
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List events, newest first.
    List {
        /// Only these types: patterns with commas between them.
        #[arg(long = "type", value_name = "PATTERNS")]
        types: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show one, with its data.
    Get {
        /// Its id, or its place as STREAM:SEQUENCE.
        id: String,
    },
    /// Publish one.
    Publish(New),
    /// Count events by type.
    Stats {
        /// Only these types: patterns with commas between them.
        #[arg(long = "type", value_name = "PATTERNS")]
        types: Option<String>,
        /// From this time on (RFC 3339).
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Before this time (RFC 3339).
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
    },
}

/// Which page of a list.
#[derive(Debug, Args)]
pub(super) struct Page {
    /// From this time on (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(super) from: Option<String>,
    /// Before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(super) to: Option<String>,
    /// How many, from 1 to 100.
    #[arg(long)]
    pub(super) limit: Option<u32>,
    /// Go on where a page ended: its `next`.
    #[arg(long, value_name = "NEXT")]
    pub(super) cursor: Option<String>,
}

impl Page {
    /// The request for that page.
    pub(super) fn of(&self, ask: Ask) -> Ask {
        let ask = ask.with("from", self.from.as_ref()).with("to", self.to.as_ref());
        ask.with("limit", self.limit).with("cursor", self.cursor.as_ref())
    }
}

/// A table, and where the next page begins.
pub(super) fn paged(answer: &Value, list: &str, columns: &[(&str, &str)]) -> String {
    let table = rows(&answer[list], columns);
    match answer["next"].as_str() {
        None => table,
        Some(next) => format!("{table}more: --cursor {next}\n"),
    }
}

/// An event to publish.
#[derive(Debug, Args)]
struct New {
    /// Its type.
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Its data: JSON, or any text with --content-type; `-` reads standard input.
    data: String,
    /// Published again with the same key within the stream's duplicate window, it is stored once.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// The data's media type, when it is not JSON.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

/// `sluiced send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    new: New,
}

impl New {
    fn ask(&self) -> anyhow::Result<Ask> {
        let data = match self.data.as_str() {
            "-" => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("standard input cannot be read as text")?;
                text
            }
            text => text.to_owned(),
        };
        let is_text = self.content_type.as_deref().is_some_and(|kind| !kind.contains("json"));
        let data = match serde_json::from_str::<Value>(&data) {
            _ if is_text => json!(data),
            Ok(data) => data,
            Err(error) => bail!("the data is not JSON ({error}): quote it, or say what it is with --content-type"),
        };
        let mut body = json!({ "type": self.kind, "data": data });
        for (key, value) in [("idempotency_key", &self.idempotency_key), ("content_type", &self.content_type)] {
            if let Some(value) = value {
                body[key] = json!(value);
            }
        }
        Ok(Ask::post("/events").body(body))
    }
}

/// Carries it out.
///
/// # Errors
/// When the daemon cannot be asked, or refuses.
pub fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let remote = &args.remote;
    match &args.command {
        Command::List { types, page } => {
            let ask = page.of(Ask::get("/events").with("type", types.as_ref()));
            remote.ask(&ask, |answer| paged(answer, "events", &COLUMNS))
        }
        Command::Get { id } => remote.ask(&Ask::get(format!("/events/{}", escaped(id))), fields),
        Command::Publish(new) => remote.ask(&new.ask()?, fields),
        Command::Stats { types, from, to } => {
            let ask = Ask::get("/events/stats").with("type", types.as_ref());
            let ask = ask.with("from", from.as_ref()).with("to", to.as_ref());
            remote.ask(&ask, |answer| rows(&answer["types"], &[("TYPE", "/type"), ("EVENTS", "/events")]))
        }
    }
}

/// Publishes an event.
///
/// # Errors
/// When the daemon cannot be asked, or refuses.
pub fn send(args: &SendArgs) -> anyhow::Result<()> {
    args.remote.ask(&args.new.ask()?, fields)
}

const COLUMNS: [(&str, &str); 6] = [
    ("STORED AT", "/stored_at"),
    ("TYPE", "/type"),
    ("ID", "/id"),
    ("STREAM", "/stream"),
    ("SEQUENCE", "/sequence"),
    ("BYTES", "/bytes"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_json_or_a_text_that_says_what_it_is() {
        let new = |data: &str, content_type: Option<&str>| {
            let content_type = content_type.map(str::to_owned);
            New { kind: "a".to_owned(), data: data.to_owned(), idempotency_key: None, content_type }.ask()
        };
        assert!(new("{\"n\":1}", None).is_ok() && new("hello", Some("text/plain")).is_ok());
        assert!(new("hello", None).is_err() && new("hello", Some("application/json")).is_err());
    }
}

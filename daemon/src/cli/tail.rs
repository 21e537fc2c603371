//! `sluiced tail`: events as they come, from a running daemon, until it is stopped.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::remote::{Ask, Daemon, Failure, Remote, plain};
use super::write_out;
use crate::stream::frame::{GAP, TOKEN_EXPIRING};

/// The first and the longest wait before the daemon is asked again; each wait is twice the one before.
const RECONNECT_DELAY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A connection that lived this long starts over with the first wait.
const STEADY: Duration = Duration::from_secs(30);
/// The longest line of a stream that is read, in bytes.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Which events, and whom to ask.
#[derive(Debug, Args)]
pub struct TailArgs {
    #[command(flatten)]
    remote: Remote,
    /// Patterns of event types: `orders.*` `users.>`; all, when none is given.
    #[arg(value_name = "TYPES")]
    types: Vec<String>,
    /// Listen to a named stream, with its filters and transforms.
    #[arg(long, value_name = "NAME", conflicts_with = "types")]
    stream: Option<String>,
    /// Go on after this place: the id of an event that was printed.
    #[arg(long, value_name = "ID")]
    last_event_id: Option<String>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Prints events for ever, or as many as were asked for; after an interruption it goes on after the last one.
///
/// # Errors
/// When the daemon refuses.
pub fn run(args: &TailArgs) -> anyhow::Result<()> {
    let daemon = args.remote.daemon()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut tail = Tail {
        last_id: args.last_event_id.clone(),
        left: args.count,
        is_json: args.remote.is_json(),
        frame: Frame::default(),
    };
    runtime.block_on(async {
        let mut delay = RECONNECT_DELAY.0;
        while tail.left != Some(0) {
            let since = Instant::now();
            match listen(args, &daemon, &mut tail).await {
                Ok(()) if tail.left == Some(0) => break,
                Ok(()) => eprintln!("the stream ended, asking again"),
                Err(error) if is_passing(&error) => eprintln!("{error:#}, asking again"),
                Err(error) => return Err(error),
            }
            if since.elapsed() >= STEADY {
                delay = RECONNECT_DELAY.0;
            }
            if tail.left != Some(0) {
                sleep(delay).await;
                delay = (delay * 2).min(RECONNECT_DELAY.1);
            }
        }
        Ok(())
    })
}

/// Will the same request be answered otherwise another time?
fn is_passing(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Refused { status, .. }) => *status == 429 || *status >= 500,
        Some(Failure::Unreachable { .. }) | None => true,
    }
}

async fn listen(args: &TailArgs, daemon: &Daemon, tail: &mut Tail) -> anyhow::Result<()> {
    let ask = match &args.stream {
        Some(name) => Ask::get(format!("/streams/{}", super::remote::escaped(name))),
        None => Ask::get("/events/stream").with("types", (!args.types.is_empty()).then(|| args.types.join(","))),
    };
    let ask = ask.header("accept", Some("text/event-stream")).header("last-event-id", tail.last_id.as_ref());
    tail.frame = Frame::default();
    let response = daemon.send(&ask).await?;
    tail.read(response.into_body()).await
}

/// What is read of a stream.
struct Tail {
    last_id: Option<String>,
    /// How many events are still to be printed.
    left: Option<u64>,
    is_json: bool,
    frame: Frame,
}

/// A frame as far as it was read.
#[derive(Default)]
struct Frame {
    line: Vec<u8>,
    kind: String,
    data: Vec<String>,
}

impl Tail {
    async fn read(&mut self, mut body: Incoming) -> anyhow::Result<()> {
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame?.into_data() else { continue };
            for byte in bytes {
                if byte != b'\n' {
                    self.frame.line.push(byte);
                    if self.frame.line.len() > LINE_BYTES_MAX {
                        bail!("a line of the stream does not end");
                    }
                    continue;
                }
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.frame.line)).into_owned();
                if let Some(text) = self.line(line.trim_end_matches('\r')) {
                    write_out(&text)?;
                    if self.left == Some(0) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in a line; the one that ends a frame makes a text of it.
    fn line(&mut self, line: &str) -> Option<String> {
        let (name, value) =
            line.split_once(':').map_or((line, ""), |(name, value)| (name, value.strip_prefix(' ').unwrap_or(value)));
        match name {
            "id" => self.last_id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.frame.kind),
            "data" => self.frame.data.push(value.to_owned()),
            "" if line.is_empty() && !self.frame.data.is_empty() => return Some(self.shown()),
            _ => {}
        }
        None
    }

    fn shown(&mut self) -> String {
        let Frame { kind, data, .. } = std::mem::take(&mut self.frame);
        // What the daemon says of the stream itself is none of the events that are counted.
        if ![GAP, TOKEN_EXPIRING].contains(&kind.as_str()) {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        let (data, id) = (data.join("\n"), self.last_id.clone().unwrap_or_default());
        if self.is_json {
            let data: Value = serde_json::from_str(&data).unwrap_or_else(|_| json!(data));
            return format!("{}\n", json!({ "id": id, "type": kind, "data": data }));
        }
        format!("{}  {}  {}\n", plain(&id), plain(&kind), plain(&data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_line_and_its_id_is_kept() {
        let mut tail = Tail { last_id: None, left: Some(2), is_json: false, frame: Frame::default() };
        let mut take = |text: &str| text.lines().filter_map(|line| tail.line(line)).collect::<Vec<_>>();
        assert_eq!(take(": heartbeat\n\nid: E:1\nevent: a.b\ndata: {\"n\":1}\n\n"), ["E:1  a.b  {\"n\":1}\n"]);
        assert_eq!(
            take("id: E:2\n\nid: E:3\nevent: c\ndata: x\ndata: \u{1b}[2J\n\n"),
            ["E:3  c  x\u{fffd}\u{fffd}[2J\n"]
        );
        assert_eq!((tail.last_id.as_deref(), tail.left), (Some("E:3"), Some(0)));
    }
}

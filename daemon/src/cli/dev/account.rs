//! The live account on standard output: one short line for each thing that happens.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Lines that wait for a slow terminal; later ones are lost, so that the daemon never waits for it.
const LINES_MAX: usize = 1_024;

/// What a line tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// An event was published.
    Published,
    /// A receiver took a delivery.
    Delivered,
    /// A receiver refused a delivery.
    Refused,
    /// A frame reached an SSE client.
    Streamed,
    /// What the daemon counted.
    Counted,
    /// Something to know.
    Note,
}

impl Mark {
    fn sign(self) -> (&'static str, &'static str) {
        match self {
            Self::Published => ("→", "\x1b[36m"),
            Self::Delivered => ("✓", "\x1b[32m"),
            Self::Refused => ("✗", "\x1b[31m"),
            Self::Streamed => ("»", "\x1b[34m"),
            Self::Counted => ("·", "\x1b[2m"),
            Self::Note => ("!", "\x1b[33m"),
        }
    }
}

/// Writes lines; clones write to the same place. Never waits.
#[derive(Debug, Clone)]
pub(super) struct Account {
    lines: SyncSender<Option<String>>,
    began: Instant,
    colour: bool,
}

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Writer(JoinHandle<()>);

impl Account {
    /// Starts writing. When standard output is closed, `stop` is cancelled: nobody looks any more.
    pub(super) fn start(stop: CancellationToken) -> std::io::Result<(Self, Writer)> {
        let (lines, queue) = sync_channel::<Option<String>>(LINES_MAX);
        let write = move || {
            let mut out = std::io::stdout().lock();
            while let Ok(Some(line)) = queue.recv() {
                if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
                    stop.cancel();
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("account".into()).spawn(write)?;
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = std::io::stdout().is_terminal() && !plain;
        Ok((Self { lines, began: Instant::now(), colour }, Writer(thread)))
    }

    /// One thing that happened: to whom, of which event type, and what came of it.
    pub(super) fn line(&self, mark: Mark, who: &str, kind: &str, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let (sign, colour) = mark.sign();
        let (colour, reset) = if self.colour { (colour, "\x1b[0m") } else { ("", "") };
        // A note is a sentence: it need not begin in the last column.
        let kind = if mark == Mark::Note && kind.is_empty() { String::new() } else { format!("{kind:<17}  ") };
        self.text(format!("{seconds:>7.2}s  {colour}{sign} {who:<10}{reset}  {kind}{what}\n"));
    }

    /// Text as it stands, with its line ends.
    pub(super) fn text(&self, text: String) {
        // When the queue is full or its reader is gone, the line is lost: the account is for people who look at it.
        let _ = self.lines.try_send(Some(text));
    }

    /// Ends the account with what has been said so far; the clones that remain, as the log's, write nothing any more.
    pub(super) fn end(self, writer: Writer) {
        // It fails when the writer has ended because standard output is closed.
        let _ = self.lines.send(None);
        // A panic of the thread has already been printed.
        let _ = writer.0.join();
    }
}

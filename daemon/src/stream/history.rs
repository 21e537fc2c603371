//! Reading history, for clients and feeds whose place is older than the ring.
//!
//! A client asks for the piece at its place and waits its turn: [`Config::readers_max`](super::Config::readers_max) read at
//! a time, whoever has waited longest first, and a piece is all that a turn gives. A piece serves everybody of its group
//! who waits with a place inside it, so that thousands who come back to about the same place are not as many readings.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::cursor::Tag;
use super::feed::Feed;
use super::frame::Frames;
use super::group::Group;
use super::log::Log;
use super::process::{Process, Processed};
use super::ring::Entry;
use crate::domain::{Event, OnPluginError, Pattern};
use crate::ingest::StreamConfig;
use crate::telemetry::chain;
use crate::telemetry::metrics::SseMetrics;

/// The wait before a failed reading is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long a reading that is under way may take at the end: its consumer is to be removed, where the server can be reached.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The plugins of a named stream with the policy that goes with them.
#[derive(Clone)]
pub(super) struct Plugins {
    pub(super) process: Arc<dyn Process>,
    pub(super) on_error: OnPluginError,
    pub(super) metrics: SseMetrics,
}

/// The plugins as they are at this moment.
pub(super) type CurrentPlugins = Box<dyn Fn() -> Plugins + Send + Sync>;

impl Plugins {
    /// What becomes of one event of the stream with that tag; no frames when it ends here.
    pub(super) async fn frames(&self, event: &Event, tag: Tag) -> Frames {
        let undecodable = event.undecodable.is_some();
        if undecodable && self.on_error == OnPluginError::Pass {
            return Frames::of_event(event, tag);
        }
        let processed = if undecodable { Processed::Faulted } else { self.process.run(event).await };
        match processed {
            Processed::Kept(outputs) => return Frames::of_outputs(event, tag, &outputs),
            Processed::Dropped => self.metrics.filtered.inc(),
            Processed::Faulted => self.metrics.faults.inc(),
        };
        Frames::default()
    }
}

/// A piece of history: everything that matches from `from` up to, not including, `next`.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) from: u64,
    pub(super) next: u64,
    /// The first sequence that the stream still has, where that is after `from`.
    pub(super) available: Option<u64>,
    pub(super) entries: Vec<Arc<Entry>>,
    /// That of the ring when it was read.
    epoch: u64,
}

/// How a stream's history is read: shared by all who read the same thing.
pub(super) struct Historian {
    pub(super) log: Arc<dyn Log>,
    pub(super) stream: StreamConfig,
    pub(super) types: Vec<Pattern>,
    pub(super) plugins: Option<CurrentPlugins>,
    /// The feed that the reader will go on with.
    pub(super) feed: Arc<Feed>,
    pub(super) readers: Arc<Semaphore>,
    pub(super) history_bytes_max: usize,
}

impl Historian {
    /// Reads from a place on, as often as it takes; `None` when the stream is another one than in that epoch.
    pub(super) async fn read_until_it_comes(&self, from: u64, epoch: u64) -> Option<Piece> {
        while self.feed.ring().epoch() == epoch {
            // The semaphore is never closed; if it were, reading without a permit would do no harm.
            let permit = self.readers.acquire().await.ok();
            match self.read(from, permit).await {
                Some(piece) => return Some(piece).filter(|piece| piece.epoch == epoch),
                None => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
        None
    }

    /// Reads once; `None` when it failed. What is held of the readers is given back before plugins run.
    async fn read<T>(&self, from: u64, permit: T) -> Option<Piece> {
        // All below this are in the stream already: a reading that comes to the end has seen them.
        let (there, epoch, tag) = {
            let ring = self.feed.ring();
            (ring.end(), ring.epoch(), ring.tag())
        };
        let history = match self.log.read(&self.stream, &self.types, from, self.history_bytes_max).await {
            Ok(history) => history,
            Err(error) => {
                debug!(stream = %self.stream.name, from, error = %chain(&error), "history cannot be read, trying again");
                return None;
            }
        };
        drop(permit);
        if history.tag != tag {
            debug!(stream = %self.stream.name, from, "the stream was made anew, which its live tail has yet to see");
            return None;
        }
        let next = if history.at_end { history.next.max(there) } else { history.next };
        let mut entries = Vec::with_capacity(history.events.len());
        for event in history.events {
            match &self.plugins {
                None => entries.push(Arc::new(Entry::of_event(event, tag))),
                Some(plugins) => {
                    let frames = plugins().frames(&event, tag).await;
                    if !frames.is_empty() {
                        entries.push(Arc::new(Entry::made(event.position.sequence, tag, frames)));
                    }
                }
            }
        }
        Some(Piece { from, next, available: history.gap.map(|gap| gap.available), entries, epoch })
    }
}

/// Those of a group who wait for a piece, in the order in which they came.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Vec<Waiter>>);

struct Waiter {
    from: u64,
    epoch: u64,
    /// A reader is at its place.
    is_read: bool,
    reply: oneshot::Sender<Arc<Piece>>,
}

impl Waiting {
    /// Takes a place in the queue. The other half is told of the piece, or of nothing when it must look again.
    pub(super) fn join(&self, from: u64, epoch: u64) -> oneshot::Receiver<Arc<Piece>> {
        let (reply, answer) = oneshot::channel();
        self.0.lock().push(Waiter { from, epoch, is_read: false, reply });
        answer
    }

    /// A reader comes to that place. False when nobody waits there any more.
    fn begin(&self, from: u64, epoch: u64) -> bool {
        let mut waiting = self.0.lock();
        waiting.retain(|waiter| !waiter.reply.is_closed());
        let mut waits = false;
        for waiter in waiting.iter_mut().filter(|waiter| (waiter.from, waiter.epoch) == (from, epoch)) {
            waiter.is_read = true;
            waits = true;
        }
        waits
    }

    /// Has no reader come yet for those who wait with that place?
    pub(super) fn is_in_line(&self, from: u64) -> bool {
        self.0.lock().iter().any(|waiter| waiter.from == from && !waiter.is_read)
    }

    /// Gives a piece to all who wait for a part of it. `epoch` is the stream's of now: who waits for another one looks
    /// again, and a piece that was read of another one is nobody's.
    fn serve(&self, piece: Piece, epoch: u64) {
        let piece = Arc::new(piece);
        let holds =
            |from: u64| piece.epoch == epoch && (from == piece.from || (piece.from..piece.next).contains(&from));
        let mut waiting = self.0.lock();
        let (served, others) =
            waiting.drain(..).partition(|waiter: &Waiter| waiter.epoch != epoch || holds(waiter.from));
        *waiting = others;
        let served: Vec<Waiter> = served;
        for waiter in served.into_iter().filter(|waiter| waiter.epoch == epoch) {
            // It may have gone away in the meantime.
            let _gone = waiter.reply.send(Arc::clone(&piece));
        }
    }
}

/// Sees to it that somebody who waits with that place gets its piece, from its own reading or from another's.
pub(super) async fn fetch(group: Arc<Group>, from: u64, epoch: u64, closing: CancellationToken) {
    let historian = &group.historian;
    loop {
        let Some(permit) = closing.run_until_cancelled(historian.readers.acquire()).await else { return };
        if !group.waiting.begin(from, epoch) {
            return;
        }
        let ended = async {
            closing.cancelled().await;
            tokio::time::sleep(END_TIMEOUT).await;
        };
        let read = tokio::select! {
            read = historian.read(from, permit.ok()) => read,
            () = ended => return,
        };
        if let Some(piece) = read {
            let now = historian.feed.ring().epoch();
            group.waiting.serve(piece, now);
            return;
        }
        if closing.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await.is_none() {
            return;
        }
    }
}

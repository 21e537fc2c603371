//! Reading history, for clients and feeds whose place is older than the ring.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};
use tracing::debug;

use super::feed::Feed;
use super::frame::Frames;
use super::log::Log;
use super::process::{Process, Processed};
use super::ring::Entry;
use crate::domain::{Event, OnPluginError, Pattern};
use crate::ingest::{Gap, StreamConfig};
use crate::telemetry::chain;
use crate::telemetry::metrics::SseMetrics;

/// The wait before a failed reading is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The plugins of a named stream with the policy that goes with them.
#[derive(Clone)]
pub(super) struct Plugins {
    pub(super) process: Arc<dyn Process>,
    pub(super) on_error: OnPluginError,
    pub(super) metrics: SseMetrics,
}

impl Plugins {
    /// What becomes of one event; no frames when it ends here.
    pub(super) async fn frames(&self, event: &Event) -> Frames {
        let undecodable = event.undecodable.is_some();
        if undecodable && self.on_error == OnPluginError::Pass {
            return Frames::of_event(event);
        }
        let processed = if undecodable { Processed::Faulted } else { self.process.run(event).await };
        match processed {
            Processed::Kept(outputs) => return Frames::of_outputs(event, &outputs),
            Processed::Dropped => self.metrics.filtered.inc(),
            Processed::Faulted => self.metrics.faults.inc(),
        };
        Frames::default()
    }
}

/// What one reading of history gave.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) gap: Option<Gap>,
    pub(super) entries: Vec<Arc<Entry>>,
    /// The place after it.
    pub(super) next: u64,
}

/// How a stream's history is read: shared by all who read the same thing.
pub(super) struct Historian {
    pub(super) log: Arc<dyn Log>,
    pub(super) stream: StreamConfig,
    pub(super) types: Vec<Pattern>,
    pub(super) plugins: Option<Plugins>,
    /// The feed that the reader will go on with.
    pub(super) feed: Arc<Feed>,
    pub(super) readers: Arc<Semaphore>,
    pub(super) history_bytes_max: usize,
}

impl Historian {
    /// Reads from a place on, as often as it takes, and hands the result over; ends when nobody waits for it any more.
    pub(super) fn fetch_for(self: Arc<Self>, from: u64, mut reply: oneshot::Sender<Fetched>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let fetched = tokio::select! {
                fetched = self.fetch(from) => fetched,
                () = reply.closed() => return,
            };
            // The client went away in the meantime.
            let _gone = reply.send(fetched);
        })
    }

    /// Reads from a place on, as often as it takes.
    pub(super) async fn fetch(&self, from: u64) -> Fetched {
        loop {
            match self.try_fetch(from).await {
                Ok(fetched) => return fetched,
                Err(error) => {
                    debug!(stream = %self.stream.name, from, error = %chain(&error), "history cannot be read, trying again");
                }
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn try_fetch(&self, from: u64) -> Result<Fetched, crate::ingest::Error> {
        // The semaphore is never closed; if it were, reading without a permit would do no harm.
        let permit = self.readers.acquire().await.ok();
        // All below this are in the stream already: a reading that comes to the end has seen them.
        let there = self.feed.ring().end();
        let history = self.log.read(&self.stream, &self.types, from, self.history_bytes_max).await?;
        drop(permit);
        let next = if history.at_end { history.next.max(there) } else { history.next };
        let mut entries = Vec::with_capacity(history.events.len());
        for event in history.events {
            match &self.plugins {
                None => entries.push(Arc::new(Entry::of_event(event))),
                Some(plugins) => {
                    let frames = plugins.frames(&event).await;
                    if !frames.is_empty() {
                        entries.push(Arc::new(Entry::made(event.position.sequence, frames)));
                    }
                }
            }
        }
        Ok(Fetched { gap: history.gap, entries, next })
    }
}

//! A feed: the ring of one stream, or of one named stream's share of it, and the task that fills it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tracing::{info, warn};

use super::frame::Frames;
use super::history::{Historian, Plugins};
use super::log::Log;
use super::ring::{Entry, Found, Ring, RingLimits};
use crate::domain::Pattern;
use crate::ingest::StreamConfig;
use crate::ingest::tail::{Break, Next};
use crate::telemetry::chain;

/// The wait before a tail that could not be opened is tried again.
const OPEN_DELAY: Duration = Duration::from_millis(500);
/// The most entries taken from a ring at once.
pub(super) const BATCH_ENTRIES_MAX: usize = 64;
/// The most bytes taken from a ring at once; a larger entry comes alone.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 10;

/// The ring of recent entries, and who reads it.
pub(super) struct Feed {
    ring: Mutex<Ring>,
    changed: watch::Sender<()>,
    leases: AtomicUsize,
}

impl Feed {
    pub(super) fn new(limits: RingLimits) -> Self {
        Self { ring: Mutex::new(Ring::new(limits)), changed: watch::Sender::new(()), leases: AtomicUsize::new(0) }
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock()
    }

    /// Tells of every change of the ring from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What is there at a place.
    pub(super) fn find(&self, next: u64, epoch: u64) -> Found {
        self.ring().find(next, epoch, BATCH_ENTRIES_MAX, BATCH_BYTES_MAX)
    }

    /// Waits until the ring is open.
    pub(super) async fn opened(&self) {
        let mut changes = self.changes();
        while !self.ring().is_open() {
            // The sender lives as long as this feed.
            let _closed = changes.changed().await;
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.leases.load(Ordering::Acquire) == 0
    }

    fn change(&self, change: impl FnOnce(&mut Ring)) {
        change(&mut self.ring());
        self.changed.send_replace(());
    }
}

/// A reader's share in a feed: while there is one, the feed goes on.
pub(super) struct Lease(Arc<Feed>);

impl Lease {
    pub(super) fn new(feed: &Arc<Feed>) -> Self {
        feed.leases.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(feed))
    }

    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Fills a feed from the live end of its stream. It does not end by itself.
pub(super) async fn pump_stream(feed: Arc<Feed>, log: Arc<dyn Log>, stream: StreamConfig, refill_events_max: u64) {
    let mut tail = loop {
        match log.tail(&stream, refill_events_max).await {
            Ok(tail) => break tail,
            Err(error) => {
                warn!(stream = %stream.name, error = %chain(&error), "the live tail cannot be opened, trying again");
                tokio::time::sleep(OPEN_DELAY).await;
            }
        }
    };
    feed.change(|ring| ring.open_at(tail.next_sequence(), tail.last_at_open()));
    loop {
        match tail.next().await {
            Next::Events(events) => feed.change(|ring| {
                for event in events {
                    ring.push(Arc::new(Entry::of_event(event)));
                }
            }),
            Next::Broken(Break::Discarded { available }) => {
                info!(stream = %stream.name, available, "events were discarded before the live tail read them");
                feed.change(|ring| ring.restart(available));
            }
            Next::Broken(Break::Reset { available }) => feed.change(|ring| ring.reset(available)),
        }
    }
}

/// Fills a named stream's feed from its stream's, through its plugins. It does not end by itself.
pub(super) async fn pump_named(feed: Arc<Feed>, base: Lease, historian: Historian, plugins: CurrentPlugins) {
    let base = base.feed();
    let mut changes = base.changes();
    base.opened().await;
    let (mut next, mut epoch) = {
        let ring = base.ring();
        let opened = (ring.start(), ring.epoch());
        let last_known = ring.last_known();
        drop(ring);
        feed.change(|ring| ring.open_at(opened.0, last_known));
        opened
    };
    let subjects = historian.stream.subjects_for(&historian.types);
    loop {
        changes.mark_unchanged();
        match base.find(next, epoch) {
            Found::Nothing => {
                // The sender lives as long as the base feed, which is leased.
                let _closed = changes.changed().await;
            }
            Found::Entries(entries, after) => {
                push_processed(&feed, &entries, &subjects, &plugins()).await;
                feed.change(|ring| ring.advance(after));
                next = after;
            }
            Found::Behind => {
                let fetched = historian.fetch(next).await;
                if let Some(gap) = fetched.gap {
                    feed.change(|ring| ring.restart(gap.available));
                }
                push_processed(&feed, &fetched.entries, &subjects, &plugins()).await;
                feed.change(|ring| ring.advance(fetched.next));
                next = fetched.next;
            }
            Found::Reset { available, epoch: now } => {
                feed.change(|ring| ring.reset(available));
                (next, epoch) = (available, now);
            }
        }
    }
}

/// The plugins as they are at this moment.
pub(super) type CurrentPlugins = Box<dyn Fn() -> Plugins + Send + Sync>;

async fn push_processed(feed: &Feed, entries: &[Arc<Entry>], subjects: &[Pattern], plugins: &Plugins) {
    for entry in entries {
        let Some(event) = entry.event() else { continue };
        let frames = match subjects.iter().any(|pattern| pattern.matches(&event.subject)) {
            true => plugins.frames(event).await,
            false => Frames::default(),
        };
        if !frames.is_empty() {
            feed.change(|ring| ring.push(Arc::new(Entry::made(entry.sequence, frames))));
        }
    }
}

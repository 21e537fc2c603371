//! A feed: the ring of one stream, or of one named stream's share of it, and the task that fills it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cursor::Tag;
use super::frame::Frames;
use super::group::{Group, Wish};
use super::history::{CurrentPlugins, Historian, Plugins};
use super::log::{Follow, Log};
use super::ring::{Entry, Found, Matched, Ring, RingLimits};
use crate::domain::Pattern;
use crate::ingest::StreamConfig;
use crate::ingest::tail::{Break, Next, Refill};
use crate::route::Table;
use crate::telemetry::chain;

/// The wait before a tail that could not be opened is tried again.
const OPEN_DELAY: Duration = Duration::from_millis(500);

/// The ring of recent entries, and who reads it.
pub(super) struct Feed {
    ring: Mutex<Ring>,
    /// Locked after the ring where both are.
    groups: Mutex<Groups>,
    /// Of every change of the ring, for those who are in no group.
    changed: watch::Sender<()>,
    leases: AtomicUsize,
}

#[derive(Default)]
struct Groups {
    known: HashMap<Wish, Weak<Group>>,
    /// Whom an event is for. Built when the next one comes; `None` after the groups have changed.
    table: Option<(Table, Vec<Weak<Group>>)>,
}

impl Feed {
    pub(super) fn new(limits: RingLimits) -> Self {
        let (changed, leases) = (watch::Sender::new(()), AtomicUsize::new(0));
        Self { ring: Mutex::new(Ring::new(limits)), groups: Mutex::default(), changed, leases }
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock()
    }

    /// Waits until the ring is open.
    pub(super) async fn opened(&self) {
        let mut changes = self.changed.subscribe();
        while !self.ring().is_open() {
            // The sender lives as long as this feed.
            let _closed = changes.changed().await;
        }
    }

    /// Waits until the ring is open, and of the stream with that tag; says in which epoch that is.
    pub(super) async fn becomes(&self, tag: Tag) -> u64 {
        let mut changes = self.changed.subscribe();
        let is_so = || {
            let ring = self.ring();
            (ring.is_open() && ring.tag() == tag).then(|| ring.epoch())
        };
        loop {
            if let Some(epoch) = is_so() {
                return epoch;
            }
            // The sender lives as long as this feed.
            let _closed = changes.changed().await;
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.leases.load(Ordering::Acquire) == 0
    }

    /// The group of a wish, which is made when there is none.
    pub(super) fn group(lease: Lease, wish: Wish, historian: impl FnOnce() -> Historian) -> Arc<Group> {
        let feed = Arc::clone(lease.feed());
        // Held until the group is known: what comes after that is for it too.
        let ring = feed.ring();
        let mut groups = feed.groups.lock();
        if let Some(known) = groups.known.get(&wish).and_then(Weak::upgrade) {
            drop((groups, ring));
            return known;
        }
        let group = Arc::new(Group::new(lease, wish.clone(), Arc::new(historian()), ring.end()));
        groups.known.insert(wish, Arc::downgrade(&group));
        groups.table = None;
        drop((groups, ring));
        group
    }

    /// A group is no more.
    pub(super) fn left(&self, wish: &Wish) {
        let mut groups = self.groups.lock();
        // Another one of that wish may have come already.
        if groups.known.get(wish).is_some_and(|group| group.strong_count() == 0) {
            groups.known.remove(wish);
            groups.table = None;
        }
    }

    pub(super) fn groups(&self) -> Vec<Arc<Group>> {
        self.groups.lock().known.values().filter_map(Weak::upgrade).collect()
    }

    /// Puts entries into the ring, and wakes the clients that want one of them.
    pub(super) async fn push(&self, entries: impl IntoIterator<Item = Arc<Entry>>) {
        let touched = self.add(entries);
        self.changed.send_replace(());
        for group in touched {
            group.wake().await;
        }
    }

    fn add(&self, entries: impl IntoIterator<Item = Arc<Entry>>) -> Vec<Arc<Group>> {
        let mut touched: BTreeMap<u32, Arc<Group>> = BTreeMap::new();
        let mut ring = self.ring();
        let mut groups = self.groups.lock();
        let (table, list) = groups.table();
        let mut found = Vec::new();
        for entry in entries {
            match entry.event() {
                Some(event) => table.matches(&event.subject, &mut found),
                // Plugins made it for all who listen to their named stream.
                None => found = (0..u32::try_from(list.len()).unwrap_or(u32::MAX)).collect(),
            }
            let sequence = entry.sequence;
            ring.push(entry);
            for at in &found {
                let Some(group) = list.get(*at as usize).and_then(Weak::upgrade) else { continue };
                group.matched(sequence);
                touched.insert(*at, group);
            }
        }
        touched.into_values().collect()
    }

    /// There are no entries before this sequence that are not in the ring. Nobody needs to be woken for that.
    fn advance(&self, next: u64) {
        self.ring().advance(next);
        self.changed.send_replace(());
    }

    /// Changes the ring in a way that leaves nothing known of what was before, and tells all.
    fn begin_anew(&self, change: impl FnOnce(&mut Ring)) {
        let mut ring = self.ring();
        change(&mut ring);
        let groups = self.groups();
        groups.iter().for_each(|group| group.begin_anew(ring.start()));
        drop(ring);
        self.changed.send_replace(());
        groups.iter().for_each(|group| group.wake_all());
    }

    /// Wakes every client, so that it sees that the end has come.
    pub(super) fn wake_all(&self) {
        self.groups().iter().for_each(|group| group.wake_all());
    }
}

impl Groups {
    fn table(&mut self) -> (&Table, &[Weak<Group>]) {
        let known = &self.known;
        let (table, list) = self.table.get_or_insert_with(|| {
            let everything = Pattern::parse(">").expect("it is a pattern");
            let mut patterns = Vec::new();
            for (at, wish) in (0_u32..).zip(known.keys()) {
                match wish {
                    Some(subjects) => patterns.extend(subjects.iter().map(|subject| (subject.clone(), at))),
                    None => patterns.push((everything.clone(), at)),
                }
            }
            let table = Table::new(patterns.iter().map(|(pattern, at)| (pattern, *at)));
            (table, known.values().cloned().collect())
        });
        (table, list)
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

/// Fills a feed from the live end of its stream, until it is told to stop.
pub(super) async fn pump_stream(
    feed: Arc<Feed>,
    log: Arc<dyn Log>,
    stream: StreamConfig,
    refill: Refill,
    stop: CancellationToken,
) {
    let Some(Some(mut tail)) = stop.run_until_cancelled(open(&*log, &stream, refill, &stop)).await else { return };
    let mut tag = Tag::of(tail.identity());
    feed.begin_anew(|ring| ring.open_at(tail.next_sequence(), tail.last_at_open(), tag));
    while let Some(next) = stop.run_until_cancelled(tail.next()).await {
        match next {
            Next::Events(events) => {
                feed.push(events.into_iter().map(|event| Arc::new(Entry::of_event(event, tag)))).await;
            }
            Next::Broken(Break::Discarded { available }) => {
                info!(stream = %stream.name, available, "events were discarded before the live tail read them");
                feed.begin_anew(|ring| ring.restart(available));
            }
            Next::Broken(Break::Reset { available, identity }) => {
                tag = Tag::of(identity);
                feed.begin_anew(|ring| ring.reset(available, tag));
            }
        }
    }
    tail.close().await;
}

async fn open(
    log: &dyn Log,
    stream: &StreamConfig,
    refill: Refill,
    stop: &CancellationToken,
) -> Option<Box<dyn Follow>> {
    while !stop.is_cancelled() {
        match log.tail(stream, refill).await {
            Ok(tail) => return Some(tail),
            Err(error) => {
                warn!(stream = %stream.name, error = %chain(&error), "the live tail cannot be opened, trying again");
                tokio::time::sleep(OPEN_DELAY).await;
            }
        }
    }
    None
}

/// Fills a named stream's feed from its stream's, through its plugins. It does not end by itself.
pub(super) async fn pump_named(feed: Arc<Feed>, base: Lease, historian: Historian, plugins: CurrentPlugins) {
    let base = base.feed();
    let mut changes = base.changed.subscribe();
    base.opened().await;
    let (mut next, mut epoch, mut tag, last_known) = {
        let ring = base.ring();
        (ring.start(), ring.epoch(), ring.tag(), ring.last_known())
    };
    feed.begin_anew(|ring| ring.open_at(next, last_known, tag));
    let subjects = historian.stream.subjects_for(&historian.types);
    let everything = Matched { since: u64::MAX, ..Matched::default() };
    loop {
        changes.mark_unchanged();
        let found = base.ring().find(next, epoch, &everything, |_| true);
        match found {
            Found::Nothing => {
                // The sender lives as long as the base feed, which is leased.
                let _closed = changes.changed().await;
            }
            Found::Entries(entries, after) => {
                push_processed(&feed, &entries, tag, &subjects, &plugins()).await;
                feed.advance(after);
                next = after;
            }
            Found::Behind => {
                // Without one the stream was made anew, which shows above.
                let Some(piece) = historian.read_until_it_comes(next, epoch).await else { continue };
                if let Some(available) = piece.available {
                    feed.begin_anew(|ring| ring.restart(available));
                }
                push_processed(&feed, &piece.entries, tag, &subjects, &plugins()).await;
                feed.advance(piece.next);
                next = piece.next;
            }
            Found::Reset { available, epoch: epoch_now, tag: tag_now } => {
                feed.begin_anew(|ring| ring.reset(available, tag_now));
                (next, epoch, tag) = (available, epoch_now, tag_now);
            }
        }
    }
}

async fn push_processed(feed: &Feed, entries: &[Arc<Entry>], tag: Tag, subjects: &[Pattern], plugins: &Plugins) {
    for entry in entries {
        let Some(event) = entry.event() else { continue };
        let frames = match subjects.iter().any(|pattern| pattern.matches(&event.subject)) {
            true => plugins.frames(event, tag).await,
            false => Frames::default(),
        };
        if !frames.is_empty() {
            feed.push([Arc::new(Entry::made(entry.sequence, tag, frames))]).await;
        }
    }
}

//! The recent entries of one stream, which all its clients share: bounded by count and by bytes.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use super::frame::Frames;
use crate::domain::Event;

/// What an entry costs beside its payload, in bytes: an estimate.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// The bounds of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLimits {
    /// The most entries.
    pub entries_max: usize,
    /// The most bytes of payloads and frames, estimated.
    pub bytes_max: usize,
}

/// One event, as clients get it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// An event as it came; its frame is rendered when the first client wants it.
    Event(Arc<Event>, OnceLock<Frames>),
    /// What plugins made of an event.
    Made(Frames),
}

impl Entry {
    pub(super) fn of_event(event: Arc<Event>) -> Self {
        Self { sequence: event.position.sequence, body: Body::Event(event, OnceLock::new()) }
    }

    pub(super) fn made(sequence: u64, frames: Frames) -> Self {
        Self { sequence, body: Body::Made(frames) }
    }

    /// The event, where it is still as it came.
    pub(super) fn event(&self) -> Option<&Arc<Event>> {
        match &self.body {
            Body::Event(event, _) => Some(event),
            Body::Made(_) => None,
        }
    }

    pub(super) fn frames(&self) -> &Frames {
        match &self.body {
            Body::Event(event, frames) => frames.get_or_init(|| Frames::of_event(event)),
            Body::Made(frames) => frames,
        }
    }

    /// An estimate that does not change when the frame is rendered.
    fn bytes(&self) -> usize {
        let held = match &self.body {
            Body::Event(event, _) => 2 * event.data.len(),
            Body::Made(frames) => frames.bytes(),
        };
        held + ENTRY_OVERHEAD_BYTES
    }
}

/// What a reader at some place finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Entries (none when plugins dropped them all), and the place after them.
    Entries(Vec<Arc<Entry>>, u64),
    /// Nothing yet.
    Nothing,
    /// The place is older than the ring.
    Behind,
    /// The stream was made anew since: the reader's place means nothing. It goes on at `available`, in that epoch.
    Reset {
        /// The new stream's beginning.
        available: u64,
        /// The epoch to ask for from now on.
        epoch: u64,
    },
}

/// The ring. It holds every entry of the sequences from `start` up to, not including, `end`.
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    start: u64,
    end: u64,
    bytes: usize,
    epoch: u64,
    /// The highest sequence that the stream is known to have had.
    last_known: u64,
    limits: RingLimits,
    open: bool,
}

impl Ring {
    pub(super) fn new(limits: RingLimits) -> Self {
        let entries = VecDeque::new();
        Self { entries, start: 0, end: 0, bytes: 0, epoch: 0, last_known: 0, limits, open: false }
    }

    /// It begins at a sequence; until then readers find nothing.
    pub(super) fn open_at(&mut self, next: u64, last_known: u64) {
        self.restart(next);
        self.last_known = self.last_known.max(last_known);
        self.open = true;
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn last_known(&self) -> u64 {
        self.last_known.max(self.end.saturating_sub(1))
    }

    /// It begins anew at a sequence: what lies between is not here, and readers must look for it in the stream.
    pub(super) fn restart(&mut self, next: u64) {
        self.entries.clear();
        self.bytes = 0;
        self.start = next;
        self.end = next;
    }

    /// The stream was made anew.
    pub(super) fn reset(&mut self, available: u64) {
        self.restart(available);
        self.last_known = 0;
        self.epoch += 1;
    }

    /// Adds an entry; the oldest make room.
    pub(super) fn push(&mut self, entry: Arc<Entry>) {
        debug_assert!(entry.sequence >= self.end, "entries come in order");
        self.end = entry.sequence + 1;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > self.limits.entries_max || self.bytes > self.limits.bytes_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.start = oldest.sequence + 1;
        }
    }

    /// There are no entries before this sequence that are not here.
    pub(super) fn advance(&mut self, next: u64) {
        self.end = self.end.max(next);
    }

    /// What is there at a place, up to those bounds; at least one entry when there is one.
    pub(super) fn find(&self, next: u64, epoch: u64, entries_max: usize, bytes_max: usize) -> Found {
        if !self.open {
            return Found::Nothing;
        }
        if epoch != self.epoch {
            return Found::Reset { available: self.start, epoch: self.epoch };
        }
        if next < self.start {
            return Found::Behind;
        }
        if next >= self.end {
            return Found::Nothing;
        }
        let first = self.entries.partition_point(|entry| entry.sequence < next);
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.range(first..) {
            bytes += entry.bytes();
            if found.len() >= entries_max || (bytes > bytes_max && !found.is_empty()) {
                let next = entry.sequence;
                return Found::Entries(found, next);
            }
            found.push(Arc::clone(entry));
        }
        Found::Entries(found, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::testing::event;

    fn entry(sequence: u64) -> Arc<Entry> {
        Arc::new(Entry::of_event(Arc::new(event("EVENTS", sequence, "a"))))
    }

    fn ring(entries_max: usize, bytes_max: usize) -> Ring {
        let mut ring = Ring::new(RingLimits { entries_max, bytes_max });
        ring.open_at(10, 12);
        ring
    }

    fn sequences(found: Found) -> (Vec<u64>, u64) {
        match found {
            Found::Entries(entries, next) => (entries.iter().map(|e| e.sequence).collect(), next),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn finds_what_is_there_and_says_what_is_not() {
        let mut ring = ring(3, usize::MAX);
        assert_eq!(ring.last_known(), 12);
        assert!(matches!(ring.find(10, 0, 9, 999_999), Found::Nothing));
        for sequence in [10, 11, 14, 15] {
            ring.push(entry(sequence));
        }
        assert!(matches!(ring.find(10, 0, 9, 999_999), Found::Behind));
        assert_eq!(sequences(ring.find(11, 0, 9, 999_999)), (vec![11, 14, 15], 16));
        assert_eq!(sequences(ring.find(12, 0, 1, 999_999)), (vec![14], 15));
        assert_eq!(sequences(ring.find(12, 0, 9, 0)), (vec![14], 15));
        assert!(matches!(ring.find(16, 0, 9, 999_999), Found::Nothing));
        ring.advance(20);
        assert_eq!(sequences(ring.find(16, 0, 9, 999_999)), (vec![], 20));
        assert_eq!(ring.last_known(), 19);
    }

    #[test]
    fn is_bounded_by_bytes() {
        let mut ring = ring(1000, 1000);
        for sequence in 10..100 {
            ring.push(entry(sequence));
        }
        assert!(ring.bytes <= 1000 && !ring.entries.is_empty());
        assert_eq!(ring.entries[0].sequence, ring.start());
        assert_eq!(ring.end(), 100);
    }

    #[test]
    fn a_break_sends_readers_to_the_stream_and_a_new_stream_to_its_beginning() {
        let mut ring = ring(9, usize::MAX);
        ring.push(entry(10));
        ring.restart(50);
        assert!(matches!(ring.find(11, 0, 9, 999_999), Found::Behind));
        ring.reset(1);
        assert!(matches!(ring.find(51, 0, 9, 999_999), Found::Reset { available: 1, epoch: 1 }));
        assert!(matches!(ring.find(1, 1, 9, 999_999), Found::Nothing));
    }
}

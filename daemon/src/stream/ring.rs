//! The recent entries of one stream, which all its clients share: bounded by count and by bytes.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use super::cursor::Tag;
use super::frame::Frames;
use crate::domain::Event;

/// What an entry costs beside its payload, in bytes: an estimate.
const ENTRY_OVERHEAD_BYTES: usize = 256;
/// The most entries taken at once.
pub(super) const TAKEN_ENTRIES_MAX: usize = 64;
/// The most bytes taken at once; a larger entry comes alone.
const TAKEN_BYTES_MAX: usize = 64 << 10;
/// The most entries looked at at once.
const LOOKED_AT_MAX: usize = 512;

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
    /// That of the stream it was read from.
    tag: Tag,
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
    pub(super) fn of_event(event: Arc<Event>, tag: Tag) -> Self {
        Self { sequence: event.position.sequence, tag, body: Body::Event(event, OnceLock::new()) }
    }

    pub(super) fn made(sequence: u64, tag: Tag, frames: Frames) -> Self {
        Self { sequence, tag, body: Body::Made(frames) }
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
            Body::Event(event, frames) => frames.get_or_init(|| Frames::of_event(event, self.tag)),
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

/// Entries as they are taken: mostly one.
pub(super) type Taken = SmallVec<[Arc<Entry>; 2]>;

/// What is known of the entries that match somebody's wish: all the sequences of those from `since` on, in order.
#[derive(Debug, Default)]
pub(super) struct Matched {
    pub(super) recent: VecDeque<u64>,
    pub(super) since: u64,
}

impl Matched {
    /// The first from a place on, in `recent`.
    fn first_from(&self, next: u64) -> usize {
        // Mostly it is the last one, or none.
        match self.recent.back() {
            Some(last) if *last >= next => self.recent.partition_point(|sequence| *sequence < next),
            _ => self.recent.len(),
        }
    }

    /// Is it known that nothing that matches was put into the ring from a place on?
    pub(super) fn nothing_from(&self, next: u64) -> bool {
        next >= self.since && self.first_from(next) == self.recent.len()
    }
}

/// What a reader at some place finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Entries that match, or none, and the place after them.
    Entries(Taken, u64),
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
        /// The new stream's.
        tag: Tag,
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
    /// That of the stream whose entries these are.
    tag: Tag,
    /// Where that stream began when it was seen to be made anew; what had to make room here since is still in the stream.
    origin: u64,
    /// The highest sequence that the stream is known to have had.
    last_known: u64,
    limits: RingLimits,
    open: bool,
}

impl Ring {
    pub(super) fn new(limits: RingLimits) -> Self {
        let entries = VecDeque::new();
        Self {
            entries,
            start: 0,
            end: 0,
            bytes: 0,
            epoch: 0,
            tag: Tag::default(),
            origin: 0,
            last_known: 0,
            limits,
            open: false,
        }
    }

    /// It begins at a sequence of the stream with that tag; until then readers find nothing.
    pub(super) fn open_at(&mut self, next: u64, last_known: u64, tag: Tag) {
        self.restart(next);
        self.tag = tag;
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

    /// That of the stream whose entries these are; it means nothing until it is open.
    pub(super) fn tag(&self) -> Tag {
        self.tag
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
    pub(super) fn reset(&mut self, available: u64, tag: Tag) {
        self.restart(available);
        (self.tag, self.origin) = (tag, available);
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

    /// What is there at a place for a wish, up to some bounds. `wants` is asked where `matched` does not reach back so far.
    pub(super) fn find(
        &self,
        next: u64,
        epoch: u64,
        matched: &Matched,
        mut wants: impl FnMut(&Entry) -> bool,
    ) -> Found {
        if !self.open {
            return Found::Nothing;
        }
        if epoch != self.epoch {
            return Found::Reset { available: self.origin, epoch: self.epoch, tag: self.tag };
        }
        if next >= self.end {
            return Found::Nothing;
        }
        if next >= matched.since {
            let first = matched.first_from(next);
            return match matched.recent.get(first) {
                None => Found::Entries(Taken::new(), self.end),
                // It was there, and had to make room.
                Some(sequence) if *sequence < self.start => Found::Behind,
                Some(_) => self.take(matched.recent.range(first..).filter_map(|sequence| self.at(*sequence))),
            };
        }
        if next < self.start {
            return Found::Behind;
        }
        let first = self.entries.partition_point(|entry| entry.sequence < next);
        let mut looked_at = self.entries.range(first..);
        let within = looked_at.by_ref().take(LOOKED_AT_MAX).filter(|entry| wants(entry));
        match (self.take(within), looked_at.next()) {
            // It was taken up to the bound of what is looked at, and not to the end.
            (Found::Entries(taken, end), Some(more)) if end == self.end => Found::Entries(taken, more.sequence),
            (found, _) => found,
        }
    }

    /// As many as may be taken at once; at least one when there is one.
    fn take<'a>(&self, entries: impl Iterator<Item = &'a Arc<Entry>>) -> Found {
        let mut bytes = 0;
        let mut taken = Taken::new();
        for entry in entries {
            bytes += entry.bytes();
            if taken.len() >= TAKEN_ENTRIES_MAX || (bytes > TAKEN_BYTES_MAX && !taken.is_empty()) {
                return Found::Entries(taken, entry.sequence);
            }
            taken.push(Arc::clone(entry));
        }
        Found::Entries(taken, self.end)
    }

    fn at(&self, sequence: u64) -> Option<&Arc<Entry>> {
        let at = self.entries.binary_search_by_key(&sequence, |entry| entry.sequence).ok()?;
        self.entries.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::testing::event;

    fn entry(sequence: u64) -> Arc<Entry> {
        Arc::new(Entry::of_event(Arc::new(event("EVENTS", sequence, "a")), Tag::of(1)))
    }

    fn ring(entries_max: usize, bytes_max: usize) -> Ring {
        let mut ring = Ring::new(RingLimits { entries_max, bytes_max });
        ring.open_at(10, 12, Tag::of(1));
        ring
    }

    fn sequences(found: Found) -> (Vec<u64>, u64) {
        match found {
            Found::Entries(entries, next) => (entries.iter().map(|e| e.sequence).collect(), next),
            other => panic!("{other:?}"),
        }
    }

    /// All that is in the ring matches, and the ring alone knows of it.
    fn find(ring: &Ring, next: u64, epoch: u64) -> Found {
        ring.find(next, epoch, &unknown(), |_| true)
    }

    fn unknown() -> Matched {
        Matched { recent: VecDeque::new(), since: u64::MAX }
    }

    #[test]
    fn finds_what_is_there_and_says_what_is_not() {
        let mut ring = ring(3, usize::MAX);
        assert_eq!(ring.last_known(), 12);
        assert!(matches!(find(&ring, 10, 0), Found::Nothing));
        for sequence in [10, 11, 14, 15] {
            ring.push(entry(sequence));
        }
        assert!(matches!(find(&ring, 10, 0), Found::Behind));
        assert_eq!(sequences(find(&ring, 11, 0)), (vec![11, 14, 15], 16));
        assert_eq!(sequences(ring.find(12, 0, &unknown(), |entry| entry.sequence != 14)), (vec![15], 16));
        assert!(matches!(find(&ring, 16, 0), Found::Nothing));
        ring.advance(20);
        assert_eq!(sequences(find(&ring, 16, 0)), (vec![], 20));
        assert_eq!(ring.last_known(), 19);
    }

    #[test]
    fn takes_and_looks_at_no_more_than_a_bound_at_once() {
        let mut ring = ring(5_000, usize::MAX);
        for sequence in 10..2_010 {
            ring.push(entry(sequence));
        }
        let (taken, next) = sequences(find(&ring, 10, 0));
        assert_eq!((taken.len(), next), (TAKEN_ENTRIES_MAX, 10 + TAKEN_ENTRIES_MAX as u64));
        let (taken, next) = sequences(ring.find(10, 0, &unknown(), |entry| entry.sequence > 1_000));
        assert_eq!((taken.len(), next), (0, 10 + LOOKED_AT_MAX as u64));
        let large = Event { data: vec![b'x'; 2 * TAKEN_BYTES_MAX].into(), ..event("EVENTS", 2_010, "a") };
        ring.push(Arc::new(Entry::of_event(Arc::new(large), Tag::of(1))));
        assert_eq!(sequences(find(&ring, 2_009, 0)), (vec![2_009], 2_010));
        assert_eq!(sequences(find(&ring, 2_010, 0)), (vec![2_010], 2_011));
    }

    #[test]
    fn what_matched_lately_is_known_without_looking() {
        let mut ring = ring(3, usize::MAX);
        for sequence in 10..20 {
            ring.push(entry(sequence));
        }
        let never = |_: &Entry| panic!("it is known");
        let matched = |recent: &[u64]| Matched { recent: recent.iter().copied().collect(), since: 11 };
        assert_eq!(sequences(ring.find(18, 0, &matched(&[12, 18]), never)), (vec![18], 20));
        assert_eq!(sequences(ring.find(13, 0, &matched(&[12]), never)), (vec![], 20), "nothing was before the ring");
        assert!(matches!(ring.find(12, 0, &matched(&[12, 18]), never), Found::Behind));
        assert!(matches!(ring.find(10, 0, &matched(&[18]), never), Found::Behind), "nothing is known of 10");
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
        assert!(matches!(find(&ring, 11, 0), Found::Behind));
        ring.reset(1, Tag::of(2));
        assert!(matches!(find(&ring, 51, 0), Found::Reset { available: 1, epoch: 1, tag } if tag == Tag::of(2)));
        assert!(matches!(find(&ring, 1, 1), Found::Nothing));
        // What had to make room is still in the stream.
        let mut ring = Ring { limits: RingLimits { entries_max: 2, bytes_max: usize::MAX }, ..ring };
        (1..=5).for_each(|sequence| ring.push(entry(sequence)));
        assert!(matches!(find(&ring, 51, 0), Found::Reset { available: 1, .. }));
        assert!(matches!(find(&ring, 1, 1), Found::Behind));
    }
}

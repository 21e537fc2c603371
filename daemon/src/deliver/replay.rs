//! A replay's place in a lane: history that a job brings, to be worked on beside what the subscription has to do anyway.
//! Pure state, as the ledger is, and by the same rules: its position moves only past what is on record.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use super::ledger::Ledger;
use crate::domain::{Event, JobId, RangeSet, StreamName};
use crate::store::{Disposition, JobCounts, Mark};

/// The most events that wait for a lane's worker.
pub const QUEUE_EVENTS_MAX: usize = 64;

/// One job's replay, in the lane of its subscription.
#[derive(Debug)]
pub struct Replay {
    job: JobId,
    ledger: Ledger,
    queue: VecDeque<Arc<Event>>,
    paused: bool,
    /// One event is taken after the other.
    in_order: bool,
    /// Events that were taken and are not done with.
    under_way: usize,
    /// How many deliveries were begun, since this replay was put into its lane.
    begun: u64,
    counts: JobCounts,
    /// What has come of events that are not done with: it counts with the event's last part, so that the counts of a place
    /// are of whole events, as the place is.
    open: BTreeMap<u64, JobCounts>,
    /// Told when something has come of the replay.
    changed: Arc<Notify>,
}

/// How far a replay is: what a later one could go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The next sequence to read.
    pub next: u64,
    /// What is on record at or above it.
    pub recorded_above: RangeSet,
    /// What has come of it so far.
    pub counts: JobCounts,
}

impl Replay {
    /// A replay of `stream` up to `to` that goes on at a place, and past what was marked since that place.
    pub fn new(job: JobId, stream: StreamName, to: u64, place: Place, marks: &[Mark], changed: Arc<Notify>) -> Self {
        let ledger = Ledger::held_at(stream, place.next, place.recorded_above, to);
        let mut replay = Self {
            job,
            ledger,
            queue: VecDeque::new(),
            paused: false,
            in_order: false,
            under_way: 0,
            begun: 0,
            counts: place.counts,
            open: BTreeMap::new(),
            changed,
        };
        marks.iter().for_each(|mark| replay.recorded(*mark));
        replay
    }

    /// The job that it belongs to.
    pub fn job(&self) -> JobId {
        self.job
    }

    /// How many more events may be brought before some are taken.
    pub fn room(&self) -> usize {
        QUEUE_EVENTS_MAX.saturating_sub(self.queue.len())
    }

    /// How many events wait to be taken.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The job's reader came to an event. It waits to be taken, unless it is on record already.
    pub fn bring(&mut self, event: Arc<Event>) {
        if self.ledger.read(event.position.sequence) {
            self.queue.push_back(event);
        }
    }

    /// The job's reader found nothing more up to `sequence`.
    pub fn came_to(&mut self, sequence: u64) {
        self.ledger.came_to_end(sequence);
    }

    /// In a subscription that keeps an order one event is taken after the other.
    pub fn keep_order(&mut self, in_order: bool) {
        self.in_order = in_order;
    }

    /// Nothing more is taken while it is paused.
    pub fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// The next event to be worked on.
    pub fn take(&mut self) -> Option<Arc<Event>> {
        if self.paused || (self.in_order && self.under_way > 0) {
            return None;
        }
        let event = self.queue.pop_front()?;
        self.under_way += 1;
        Some(event)
    }

    /// Is that part of that event done with?
    pub fn is_recorded(&self, sequence: u64, part: u32) -> bool {
        self.ledger.is_recorded(sequence, part)
    }

    /// Is that event done with?
    pub fn is_done(&self, sequence: u64) -> bool {
        self.ledger.is_done(sequence)
    }

    /// A delivery begins.
    pub fn begin(&mut self) {
        self.begun += 1;
    }

    /// How many deliveries were begun, since this replay was put into its lane.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// A plugin failed on the event, or it cannot be understood.
    pub fn faulted(&mut self, sequence: u64) {
        self.of(sequence).faulted += 1;
    }

    /// An event is done with and needs no record: a filter or the policy dropped it.
    pub fn filtered(&mut self, sequence: u64) {
        self.of(sequence).filtered += 1;
        self.ledger.settle(sequence);
        self.done(sequence);
    }

    /// A part is left alone: its delivery is in hand already, or waits for its next attempt.
    pub fn leave(&mut self, sequence: u64, part: u32, parts: u32) {
        self.of(sequence).pending += 1;
        self.part_done(sequence, part, parts);
    }

    /// The outcome of a part is durable.
    pub fn recorded(&mut self, mark: Mark) {
        let counts = self.of(mark.sequence);
        counts.deliveries += 1;
        match mark.disposition {
            Disposition::Delivered => counts.delivered += 1,
            Disposition::Parked => counts.parked += 1,
            Disposition::Dead => counts.failed += 1,
            Disposition::Dropped => {}
        }
        self.part_done(mark.sequence, mark.part, mark.parts);
    }

    /// All that an event has become by now is on record already: a daemon before this one recorded as many parts, of then
    /// more.
    pub fn nothing_left(&mut self, sequence: u64) {
        self.ledger.settle(sequence);
        self.done(sequence);
    }

    fn of(&mut self, sequence: u64) -> &mut JobCounts {
        self.open.entry(sequence).or_default()
    }

    fn part_done(&mut self, sequence: u64, part: u32, parts: u32) {
        self.ledger.recorded(sequence, part, parts);
        if self.ledger.is_done(sequence) {
            self.done(sequence);
        }
    }

    fn done(&mut self, sequence: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        self.counts.seen += 1;
        if let Some(counts) = self.open.remove(&sequence) {
            self.counts.add(counts);
        }
        self.changed.notify_one();
    }

    /// How far it is. What lies before that is forgotten.
    pub fn place(&mut self) -> Place {
        let (next, recorded_above) = self.ledger.place();
        self.ledger.forget_through(next.saturating_sub(1));
        Place { next, recorded_above, counts: self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Position;

    fn stream() -> StreamName {
        StreamName::parse("EVENTS").expect("name")
    }

    fn event(sequence: u64) -> Arc<Event> {
        Arc::new(Event {
            id: "e".into(),
            kind: "k".into(),
            subject: "k".into(),
            position: Position { stream: stream(), sequence },
            time_ms: 0,
            headers: Vec::new(),
            content_type: None,
            data: bytes::Bytes::new(),
            undecodable: None,
        })
    }

    fn replay(place: Place) -> Replay {
        resumed(place, &[])
    }

    fn resumed(place: Place, marks: &[Mark]) -> Replay {
        Replay::new(JobId::from_number(7), stream(), 9, place, marks, Arc::default())
    }

    fn mark(sequence: u64, part: u32, parts: u32, disposition: Disposition) -> Mark {
        Mark { sequence, part, parts, disposition }
    }

    fn place(next: u64, above: &[u64], counts: JobCounts) -> Place {
        let mut recorded_above = RangeSet::new();
        for sequence in above {
            recorded_above.insert(*sequence);
        }
        Place { next, recorded_above, counts }
    }

    #[test]
    fn its_place_moves_only_past_what_is_done_and_another_goes_on_there() {
        let mut replay = self::replay(place(3, &[], JobCounts::default()));
        for sequence in [3, 5, 6] {
            replay.bring(event(sequence));
        }
        assert_eq!((replay.waiting(), replay.place().next), (3, 3));
        let first = replay.take().expect("an event");
        assert_eq!(first.position.sequence, 3);
        replay.keep_order(true);
        assert!(replay.take().is_none(), "the first is under way");
        replay.keep_order(false);
        while replay.take().is_some() {}
        replay.recorded(mark(5, 0, 2, Disposition::Delivered));
        assert_eq!(replay.place(), place(3, &[], JobCounts::default()), "half an event counts for nothing yet");
        replay.recorded(mark(5, 1, 2, Disposition::Parked));
        assert_eq!(
            replay.place(),
            place(3, &[5], JobCounts { seen: 1, deliveries: 2, delivered: 1, parked: 1, ..Default::default() })
        );
        replay.filtered(3);
        replay.came_to(9);
        let left = replay.place();
        assert_eq!(left.next, 6, "6 is in hand");

        let mut next = self::replay(left);
        next.bring(event(6));
        next.pause(true);
        assert!(next.take().is_none());
        next.pause(false);
        next.take();
        next.leave(6, 0, 1);
        next.came_to(9);
        let counts = JobCounts {
            seen: 3,
            filtered: 1,
            pending: 1,
            deliveries: 2,
            delivered: 1,
            parked: 1,
            ..Default::default()
        };
        assert_eq!(next.place(), place(10, &[], counts));
    }

    #[test]
    fn what_was_marked_since_its_place_is_not_begun_again() {
        let marks = [mark(3, 0, 1, Disposition::Dead), mark(4, 1, 2, Disposition::Delivered)];
        let mut replay = resumed(place(3, &[], JobCounts::default()), &marks);
        for sequence in [3, 4] {
            replay.bring(event(sequence));
        }
        assert_eq!(replay.take().expect("an event").position.sequence, 4, "3 is on record");
        assert!(replay.is_recorded(4, 1) && !replay.is_recorded(4, 0));
        replay.recorded(mark(4, 0, 2, Disposition::Delivered));
        replay.came_to(9);
        let counts = JobCounts { seen: 2, deliveries: 3, delivered: 2, failed: 1, ..Default::default() };
        assert_eq!(replay.place(), place(10, &[], counts));
    }

    #[test]
    fn an_event_that_has_fewer_parts_by_now_comes_to_its_end() {
        let mut replay = resumed(place(3, &[], JobCounts::default()), &[mark(3, 0, 2, Disposition::Delivered)]);
        replay.bring(event(3));
        replay.take().expect("an event");
        replay.nothing_left(3);
        replay.came_to(9);
        assert_eq!(replay.place().next, 10);
    }

    #[test]
    fn what_is_on_record_is_not_taken_again() {
        let mut replay = self::replay(place(3, &[5], JobCounts::default()));
        replay.bring(event(4));
        replay.bring(event(5));
        assert_eq!(replay.waiting(), 1);
    }
}

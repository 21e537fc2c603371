//! A replay's place in a lane: history that a job brings, to be worked on beside what the subscription has to do anyway.
//! Pure state, as the ledger is, and by the same rules: its position moves only past what is on record.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use super::lane::Count;
use super::ledger::Ledger;
use crate::domain::{Event, JobId, RangeSet, StreamName};
use crate::store::JobCounts;

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
    /// A replay of `stream` up to `to` that goes on at a place.
    pub fn new(job: JobId, stream: StreamName, to: u64, place: Place, changed: Arc<Notify>) -> Self {
        let ledger = Ledger::held_at(stream, place.next, place.recorded_above, to);
        Self {
            job,
            ledger,
            queue: VecDeque::new(),
            paused: false,
            in_order: false,
            under_way: 0,
            begun: 0,
            counts: place.counts,
            changed,
        }
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

    /// A delivery begins.
    pub fn begin(&mut self) {
        self.begun += 1;
    }

    /// How many deliveries were begun, since this replay was put into its lane.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// What the event was found to be is counted.
    pub fn count(&mut self, count: impl FnOnce(&mut JobCounts)) {
        count(&mut self.counts);
    }

    /// An event is done with and needs no record: a filter or the policy dropped it.
    pub fn filtered(&mut self, sequence: u64) {
        self.ledger.settle(sequence);
        self.under_way = self.under_way.saturating_sub(1);
        self.counts.seen += 1;
        self.counts.filtered += 1;
        self.changed.notify_one();
    }

    /// A part is left alone: its delivery is in hand already, or waits for its next attempt.
    pub fn leave(&mut self, sequence: u64, part: u32, parts: u32) {
        self.counts.pending += 1;
        self.part_done(sequence, part, parts);
    }

    /// The outcome of a part is durable.
    pub fn recorded(&mut self, sequence: u64, part: u32, parts: u32, count: Count) {
        self.counts.deliveries += 1;
        match count {
            Count::Delivered | Count::DeliveredParked => self.counts.delivered += 1,
            Count::Parked | Count::ParkedAgain => self.counts.parked += 1,
            Count::Failed | Count::FailedParked => self.counts.failed += 1,
        }
        self.part_done(sequence, part, parts);
    }

    fn part_done(&mut self, sequence: u64, part: u32, parts: u32) {
        self.ledger.recorded(sequence, part, parts);
        if self.ledger.is_done(sequence) {
            self.under_way = self.under_way.saturating_sub(1);
            self.counts.seen += 1;
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
        Replay::new(JobId::from_number(7), stream(), 9, place, Arc::default())
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
        replay.recorded(5, 0, 2, Count::Delivered);
        replay.recorded(5, 1, 2, Count::Parked);
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
    fn what_is_on_record_is_not_taken_again() {
        let mut replay = self::replay(place(3, &[5], JobCounts::default()));
        replay.bring(event(4));
        replay.bring(event(5));
        assert_eq!(replay.waiting(), 1);
    }
}

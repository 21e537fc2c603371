//! What a daemon leaves behind when it ends: JetStream's side, the store, and what the receiver has seen.

use std::collections::{BTreeMap, BTreeSet};

use super::schedule::OnRecord;
use crate::deliver::ledger::Ledger;
use crate::domain::{Order, RangeSet, StreamName};

/// How many events a schedule has.
pub(super) const EVENTS: u64 = 40;

/// One delivery: sequence and part.
pub(super) type Part = (u64, u32);

/// What a position in the store tells: where the reader goes on, what is on record from there on, and of which events some
/// parts are.
pub(super) type Told = (u64, RangeSet, BTreeMap<u64, RangeSet>);

/// What an event is like.
pub(super) struct Plan {
    /// Does the subscription ask for it?
    pub(super) matches: bool,
    /// How many outputs the plugins make; none: a filter drops it.
    pub(super) parts: u32,
    /// The stream discards it before a reader can have it.
    pub(super) gone: bool,
    /// Its key: the event's type.
    pub(super) key: &'static str,
}

#[derive(Default)]
pub(super) struct Lasting {
    pub(super) plans: Vec<Plan>,
    pub(super) begins_after: u64,
    pub(super) published: u64,
    /// The highest that JetStream has sent.
    pub(super) delivered: u64,
    pub(super) unacked: BTreeSet<u64>,
    pub(super) position: Option<Told>,
    pub(super) log: BTreeSet<Part>,
    /// What waits in the store for its next attempt, in a subscription that keeps an order.
    pub(super) parked: BTreeMap<Part, Box<str>>,
    pub(super) disabled: bool,
    /// A replay that is not over, and how many there have been.
    pub(super) job: Option<OnRecord>,
    pub(super) jobs: u64,
    /// Which events wait for each other.
    pub(super) order: Order,
    /// A rule that is dropped: an ordered subscription does not begin with what the daemon before had in hand.
    pub(super) begins_live: bool,
    pub(super) received: BTreeMap<Part, u32>,
    /// How many receipts of a part a crash has excused.
    pub(super) excused: BTreeMap<Part, u32>,
}

impl Lasting {
    pub(super) fn plan(&self, sequence: u64) -> &Plan {
        &self.plans[sequence as usize - 1]
    }

    /// Everything up to here is acked.
    pub(super) fn floor(&self) -> u64 {
        self.unacked.first().map_or(self.delivered, |first| first - 1)
    }

    pub(super) fn receive(&mut self, part: Part) {
        if !self.received.contains_key(&part) {
            self.check_order(part);
        }
        *self.received.entry(part).or_default() += 1;
    }

    /// Whatever is received for the first time comes after all that it has to wait for.
    fn check_order(&self, (sequence, part): Part) {
        if !self.order.is_kept() {
            return;
        }
        let is_strict = self.order == Order::Strict;
        let goes_before = |s: &u64| is_strict || self.plan(*s).key == self.plan(sequence).key;
        for earlier in (1..sequence).filter(goes_before).filter(|s| !self.plan(*s).gone) {
            for part in self.wanted(earlier) {
                assert!(self.received.contains_key(&part), "{sequence} came before {part:?}");
            }
        }
        assert!(
            (0..part).all(|before| self.received.contains_key(&(sequence, before))),
            "{sequence}: {part} came early"
        );
    }

    /// As it is made from the store when a daemon starts.
    pub(super) fn ledger(&self, stream: StreamName) -> Ledger {
        let mut ledger = match &self.position {
            Some((position, above, partly)) => {
                Ledger::held_at(stream, *position, above.clone(), self.delivered).with_parts(partly.clone())
            }
            None => Ledger::live(stream, self.delivered),
        };
        ledger.read_to_end();
        if self.begins_after > 0 {
            ledger.begin_after(self.begins_after);
        }
        let floor = self.floor();
        ledger.set_ordered(self.order.is_kept());
        if !self.begins_live {
            ledger.begin_above(floor);
        }
        for (sequence, part) in self.log.iter().filter(|(sequence, _)| *sequence > floor) {
            ledger.recover(*sequence, *part, self.plan(*sequence).parts);
        }
        for (sequence, part) in self.parked.keys() {
            ledger.recover(*sequence, *part, self.plan(*sequence).parts);
        }
        ledger
    }

    /// Have all events been sent and acked, and is the subscription back on the live tail?
    pub(super) fn is_over(&self) -> bool {
        let all_acked = self.delivered == EVENTS && self.unacked.is_empty();
        all_acked && self.position.is_none() && self.parked.is_empty()
    }

    /// Whatever is acked is on record, or the reader will bring it, also after a crash.
    pub(super) fn check_acked(&self) {
        let position = self.position.as_ref().map_or(u64::MAX, |(position, ..)| *position);
        for sequence in (1..=self.delivered.min(position - 1)).filter(|s| !self.unacked.contains(s)) {
            let safe = self.plan(sequence).gone || self.is_recorded(sequence);
            assert!(safe, "{sequence} is acked, but neither on record nor ahead");
        }
    }

    pub(super) fn check_received(&self) {
        for sequence in (1..=EVENTS).filter(|s| !self.plan(*s).gone) {
            for part in self.wanted(sequence) {
                assert!(self.received.contains_key(&part), "{part:?} was lost");
            }
        }
        for (part, times) in &self.received {
            let excused = self.excused.get(part).copied().unwrap_or_default();
            assert!(*times <= excused + 1, "{part:?} came {times} times, {excused} of them excused");
        }
    }

    /// A crash may repeat what was not on record, and, while the position was not up to date, what only the position
    /// could have told: the log is read above the ack floor only.
    pub(super) fn excuse_what_a_crash_forgets(&mut self, ledger: &Ledger) {
        // What is still in hand may be in the log all the same, by a group of which the store did not know how it ended.
        let untold = |(sequence, _): &Part| !ledger.is_position_settled() || ledger.in_hand.contains_key(sequence);
        let excused = |part: &Part| !self.log.contains(part) || (untold(part) && !self.is_known(*part));
        let parts: Vec<Part> = self.received.keys().copied().filter(excused).collect();
        self.excuse(parts);
        // What is received and still parked was not yet on record as finished.
        for part in self.parked.keys() {
            if let Some(times) = self.received.get(part) {
                self.excused.insert(*part, *times);
            }
        }
    }

    fn excuse(&mut self, parts: Vec<Part>) {
        // What is parked is known by that.
        for part in parts.into_iter().filter(|part| !self.parked.contains_key(part)).collect::<Vec<_>>() {
            self.excused.insert(part, self.received[&part]);
            // Nobody will ever look for that record again.
            self.log.remove(&part);
        }
    }

    fn wanted(&self, sequence: u64) -> impl Iterator<Item = Part> + use<> {
        let plan = self.plan(sequence);
        (0..if plan.matches { plan.parts } else { 0 }).map(move |part| (sequence, part))
    }

    fn is_recorded(&self, sequence: u64) -> bool {
        self.wanted(sequence).all(|part| self.log.contains(&part))
    }

    /// Will a daemon that starts now know of this record?
    fn is_known(&self, (sequence, part): Part) -> bool {
        let told = |(position, above, partly): &Told| {
            let in_part = partly.get(&sequence).is_some_and(|parts| parts.contains(part.into()));
            sequence < *position || above.contains(sequence) || in_part
        };
        sequence > self.floor() || self.position.as_ref().is_none_or(told)
    }
}

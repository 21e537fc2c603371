//! The contract of each method, and random schedules in `schedule`.

mod lasting;
mod schedule;

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::domain::{AckSink, AckToken, Settlement};

#[derive(Default)]
struct Acked(Mutex<Vec<u64>>);

impl AckSink for Acked {
    fn settle(&self, sequence: u64, settlement: Settlement) {
        if settlement == Settlement::Ack {
            self.0.lock().push(sequence);
        }
    }
}

/// A ledger, and what was acked through it.
struct Bench {
    ledger: Ledger,
    acked: Arc<Acked>,
}

impl Bench {
    fn live() -> Self {
        Self { ledger: Ledger::live(stream(), 0), acked: Arc::default() }
    }

    fn held_at(position: u64, done_above: &[u64], offered: u64) -> Self {
        let mut above = RangeSet::new();
        for sequence in done_above {
            above.insert(*sequence);
        }
        Self { ledger: Ledger::held_at(stream(), position, above, offered), acked: Arc::default() }
    }

    fn share(&self, sequence: u64) -> AckShare {
        let token = AckToken::new(Arc::clone(&self.acked) as Arc<dyn AckSink>, sequence);
        let share = token.share();
        token.done();
        share
    }

    fn offer(&mut self, sequence: u64) -> &'static str {
        self.offer_with(sequence, true)
    }

    fn offer_with(&mut self, sequence: u64, room: bool) -> &'static str {
        let share = self.share(sequence);
        match self.ledger.offer(sequence, share, room) {
            Offer::Taken => "taken",
            Offer::Kept => "kept",
            Offer::Settled(_) => "settled",
            Offer::Full(_) => "full",
            Offer::Refused(_) => "refused",
        }
    }

    fn saves(&mut self) -> Option<u64> {
        match self.ledger.position_change()? {
            PositionChange::Save { sequence, .. } => Some(sequence),
            PositionChange::Remove => panic!("not to be removed"),
        }
    }

    fn freed(&mut self, free: impl FnOnce(&mut Ledger) -> Shares) -> Vec<u64> {
        free(&mut self.ledger).into_iter().for_each(AckShare::done);
        std::mem::take(&mut *self.acked.0.lock())
    }

    fn saved(&mut self) -> Vec<u64> {
        self.freed(Ledger::position_saved)
    }
}

fn stream() -> StreamName {
    StreamName::parse("EVENTS").expect("name")
}

#[test]
fn a_live_event_is_acked_with_its_last_part() {
    let mut b = Bench::live();
    assert_eq!(b.offer(1), "taken");
    assert_eq!(b.offer(1), "kept", "it is in hand");
    assert_eq!(b.freed(|l| l.recorded(1, 1, 2)), [0u64; 0]);
    assert!(b.ledger.is_recorded(1, 1) && !b.ledger.is_recorded(1, 0));
    assert_eq!(b.freed(|l| l.recorded(1, 0, 2)), [1, 1]);
    assert_eq!(b.offer(1), "settled");
    assert_eq!(b.ledger.position_change(), None, "nothing to be told while it reads live");
}

#[test]
fn parts_that_were_recorded_under_other_plugins_do_not_count_for_the_parts_of_now() {
    let mut b = Bench::live();
    b.ledger.recover(1, 2, 3);
    b.offer(1);
    assert_eq!(b.freed(|l| l.recorded(1, 0, 2)), [0u64; 0], "the second part is not on record");
    assert_eq!(b.freed(|l| l.recorded(1, 1, 2)), [1]);
}

#[test]
fn a_filtered_event_is_acked_without_a_record() {
    let mut b = Bench::live();
    b.offer(1);
    b.ledger.recorded(1, 0, 2);
    assert_eq!(b.freed(|l| l.settle(1)), [1]);
    assert!(b.ledger.partial.is_empty());
}

#[test]
fn a_full_lane_takes_nothing_new_and_does_not_count_it_as_offered() {
    let mut b = Bench::live();
    b.offer(1);
    assert_eq!(b.offer_with(1, false), "kept");
    assert_eq!(b.offer_with(2, false), "full");
    b.ledger.hold([]);
    assert_eq!(b.ledger.cursor(), Some(2), "the reader brings it");
    assert_eq!(b.offer_with(2, false), "kept");
}

#[test]
fn what_is_held_back_is_acked_when_the_position_is_durable() {
    let mut b = Bench::live();
    for sequence in 1..=3 {
        b.offer(sequence);
    }
    b.ledger.hold([2, 3]);
    assert_eq!(b.offer(4), "kept");
    assert_eq!(b.saves(), Some(2));
    assert_eq!(b.offer(5), "kept", "the position is only on its way");
    assert_eq!(b.saved(), [2, 3, 4, 5]);
    assert_eq!(b.offer(6), "settled");
    assert_eq!(b.freed(|l| l.recorded(1, 0, 1)), [1]);
}

#[test]
fn an_event_that_the_reader_has_passed_is_taken_when_it_comes_back() {
    let mut b = Bench::held_at(5, &[7], 9);
    assert!(b.ledger.read(8));
    assert_eq!(b.offer(6), "taken");
    assert_eq!(b.offer(7), "settled", "the position told of it");
    assert_eq!(b.offer(8), "settled", "the reader has it in hand, and the position is before it");
    assert_eq!(b.offer_with(4, false), "refused");
}

#[test]
fn a_position_that_may_yet_become_durable_is_reckoned_with() {
    let mut b = Bench::held_at(10, &[], 30);
    b.offer(5);
    b.ledger.read_through(19);
    assert_eq!(b.offer(15), "taken");
    assert_eq!(b.saves(), Some(20));
    b.ledger.step_back(15);
    assert_eq!(b.offer(16), "kept", "20 is on its way, and would leave it out");
    b.ledger.position_lost();
    assert_eq!(b.saves(), Some(15));
    assert_eq!(b.offer(17), "kept", "20 may be durable all the same");
    assert_eq!(b.saved(), [15, 16, 17]);
}

#[test]
fn one_change_of_the_position_at_a_time() {
    let mut b = Bench::held_at(10, &[], 30);
    b.ledger.read_through(12);
    assert_eq!(b.saves(), Some(13));
    b.ledger.read_through(14);
    assert_eq!(b.saves(), None);
    b.saved();
    assert_eq!(b.saves(), Some(15));
    b.saved();
    assert!(b.ledger.is_position_settled());
}

#[test]
fn a_removal_that_the_store_refused_is_handed_in_again() {
    let mut b = Bench::held_at(10, &[], 10);
    b.ledger.read_through(10);
    assert!(b.ledger.try_rejoin());
    assert_eq!(b.ledger.position_change(), Some(PositionChange::Remove));
    b.ledger.position_lost();
    assert!(b.ledger.has_position());
    assert_eq!(b.ledger.position_change(), Some(PositionChange::Remove));
    b.saved();
    assert!(!b.ledger.has_position() && b.ledger.is_position_settled());
}

#[test]
fn held_again_while_the_removal_is_on_its_way() {
    let mut b = Bench::held_at(10, &[], 10);
    b.ledger.read_through(10);
    assert!(b.ledger.try_rejoin());
    assert_eq!(b.ledger.position_change(), Some(PositionChange::Remove));
    b.ledger.hold([]);
    assert_eq!(b.offer(11), "kept");
    assert_eq!(b.saved(), [0u64; 0], "there is no position now");
    assert_eq!(b.saves(), Some(11));
    assert_eq!(b.saved(), [11]);
}

#[test]
fn the_position_stays_until_what_the_reader_took_is_on_record() {
    let mut b = Bench::held_at(10, &[], 11);
    assert!(b.ledger.read(10) && b.ledger.read(11));
    assert!(b.ledger.try_rejoin() && !b.ledger.is_held());
    assert_eq!(b.ledger.position_change(), None);
    b.ledger.recorded(11, 0, 1);
    let mut done_above = RangeSet::new();
    done_above.insert(11);
    let told = PositionChange::Save { sequence: 10, done_above, partly_above: Default::default() };
    assert_eq!(
        b.ledger.position_change(),
        Some(told),
        "what is done above it is told, as the log may not be read there"
    );
    b.saved();
    b.ledger.recorded(10, 0, 1);
    assert_eq!(b.ledger.position_change(), Some(PositionChange::Remove));
}

#[test]
fn what_waits_for_an_event_that_the_reader_does_not_bring_is_let_go() {
    let mut b = Bench::live();
    b.offer(1);
    b.ledger.hold([1]);
    b.ledger.read_through(1);
    assert_eq!(b.saves(), Some(2));
    assert_eq!(b.saved(), [1], "it is gone from the stream");
}

#[test]
fn a_cursor_that_went_back_is_told_once() {
    let mut b = Bench::held_at(10, &[], 20);
    assert!(!b.ledger.take_rewound());
    b.ledger.read_through(15);
    b.offer(12);
    b.ledger.hold([12]);
    assert_eq!(b.ledger.cursor(), Some(12));
    assert!(b.ledger.take_rewound() && !b.ledger.take_rewound());
    b.ledger.step_back(12);
    assert!(b.ledger.take_rewound());
    b.ledger.reread();
    assert!(b.ledger.take_rewound());
}

#[test]
fn what_is_before_the_subscriptions_time_is_done() {
    let mut b = Bench::held_at(6, &[], 8);
    b.ledger.begin_after(5);
    assert_eq!(b.offer(5), "settled");
    assert_eq!(b.offer(7), "settled", "its position is durable from the first instant on");
    assert_eq!((b.ledger.cursor(), b.ledger.target()), (Some(6), 8));
    assert!(b.ledger.read(6) && !b.ledger.is_at_end());
    b.ledger.read_through(8);
    assert!(b.ledger.is_at_end() && b.ledger.try_rejoin());
}

#[test]
fn one_that_came_later_rejoins_only_after_the_streams_end() {
    let mut b = Bench::held_at(6, &[], 8);
    b.ledger.read_to_end();
    assert!(b.ledger.read(12) && !b.ledger.try_rejoin(), "nobody offered what comes after 12");
    b.ledger.step_back(12);
    b.ledger.read_through(14);
    assert!(!b.ledger.try_rejoin(), "going back changes nothing about it");
    b.ledger.came_to_end(b.ledger.target());
    assert!(b.ledger.try_rejoin());
    b.ledger.hold([]);
    assert!(!b.ledger.is_at_end() || b.ledger.try_rejoin(), "held again, it needs no end any more");
}

#[test]
fn what_is_below_the_floor_is_forgotten_unless_the_reader_may_come_to_it() {
    let mut b = Bench::held_at(10, &[12], 20);
    b.ledger.recover(9, 0, 1);
    b.ledger.forget_through(20);
    assert!(!b.ledger.is_recorded(9, 0) && b.ledger.is_recorded(12, 0));
    let mut b = Bench::live();
    b.ledger.recover(1, 0, 2);
    b.ledger.forget_through(50);
    assert!(!b.ledger.is_recorded(1, 0));
    b.ledger.hold([]);
    assert_eq!(b.ledger.cursor(), Some(51), "a sparse subscription does not look for history that is not its own");
}

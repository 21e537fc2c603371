//! What has to wait for what in a subscription that keeps an order.
//!
//! The [`Gate`] says which events may begin. Of an event with several parts one is under way at a time; the others follow
//! when it is finished and on record. A part that is parked takes the rest of its event back to the gate, so that no bodies
//! pile up behind deliveries that wait for their next attempt.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::{Taken, Worker};
use crate::deliver::lane::Ended;
use crate::deliver::order::Gate;
use crate::domain::{DeliveryId, Event, Position, SubscriptionId};
use crate::pipeline::job::Job;
use crate::store::{Error, Parked, Store};
use crate::telemetry;

/// How many parked deliveries are read at a time, to learn which keys they block.
const HEADS_PAGE: usize = 64;
/// How many separate ranges of events may be on record above a position that a blocked key holds back.
const SPREAD_RANGES_MAX: usize = 1_024;
/// How long to wait before the store is read again after it could not be.
const REREAD_DELAY: Duration = Duration::from_secs(1);

/// What a worker knows of its subscription's order.
#[derive(Default)]
pub(super) struct Keeper {
    gate: Gate,
    /// The events that are being worked on, by their keys, with the parts that follow.
    parts: HashMap<Box<str>, Parts>,
    /// The parked deliveries have been read: it is known which keys they block.
    knows_parked: bool,
}

struct Parts {
    event: Arc<Event>,
    rest: VecDeque<Job>,
}

impl Keeper {
    /// An event of that key needs no more work.
    pub(super) fn leave(&mut self, key: &str) {
        self.gate.leave(key);
    }

    /// Does an event wait for that delivery's record? Then it had better be soon.
    pub(super) fn waits_for(&self, key: Option<&str>) -> bool {
        key.is_some_and(|key| {
            self.gate.waits_for(key) || self.parts.get(key).is_some_and(|parts| !parts.rest.is_empty())
        })
    }
}

impl Worker {
    /// Takes in what became durable, and what a reload changed. False while nothing is to begin.
    pub(super) async fn keep_order(&mut self) -> bool {
        let ended = self.lane.state().take_ended();
        for ended in ended {
            self.ended(ended);
        }
        let spec = self.spec.load_full();
        if *self.order.gate.order() != spec.order {
            let at_work = self.order.gate.is_working() || !self.ready.is_empty() || !self.in_air.is_empty();
            if at_work && self.order.gate.order().is_kept() {
                // What is under way ends by the old order.
                return !self.ready.is_empty();
            }
            self.order.gate.change(spec.order.clone());
            self.order.knows_parked = false;
        }
        let knows = self.order.knows_parked || !spec.order.is_kept() || self.learn_parked().await;
        let mut state = self.lane.state();
        state.waiting = (self.order.gate.waiting(), self.order.gate.blocked_keys());
        knows
    }

    /// Is the worker to finish what is under way, and to begin nothing, because the order changes?
    fn is_changing_order(&self) -> bool {
        *self.order.gate.order() != self.spec.load().order
    }

    /// Reads from the store which keys wait for a parked delivery. False when it could not: then nothing may begin, or
    /// later events would go past it.
    async fn learn_parked(&mut self) -> bool {
        let (store, id) = (self.shared.store.clone(), self.lane.id().clone());
        let read = tokio::task::spawn_blocking(move || heads(&store, &id)).await;
        match read {
            Ok(Ok(heads)) => {
                let mut state = self.lane.state();
                for (key, parked) in heads {
                    self.order.gate.parked(&key, parked.delivery);
                    // The log is read above the ack floor only, and an event whose parts wait for each other may lie below.
                    if let Some(ledger) = state.ledger_of(&parked.position.stream) {
                        state.ledgers[ledger].recover(parked.position.sequence, parked.part, parked.parts);
                    }
                }
                self.order.knows_parked = true;
            }
            Ok(Err(error)) => {
                error!(subscription = %self.lane.id(), error = %telemetry::chain(&error), "cannot read what is parked");
            }
            Err(error) => error!(subscription = %self.lane.id(), %error, "cannot read what is parked"),
        }
        if !self.order.knows_parked {
            self.wait_until(Instant::now() + REREAD_DELAY);
        }
        self.order.knows_parked
    }

    /// Something of an ordered event became durable.
    fn ended(&mut self, ended: Ended) {
        let Ended { key, delivery, was_parked, is_parked } = ended;
        let gate = &mut self.order.gate;
        if is_parked {
            gate.parked(&key, delivery);
        }
        if was_parked {
            if !is_parked {
                gate.unparked(&key, &delivery);
            }
            return;
        }
        let parts = self.order.parts.get_mut(&key);
        if let Some(next) = parts.and_then(|parts| if is_parked { None } else { parts.rest.pop_front() }) {
            return self.ready.push_back(next);
        }
        match self.order.parts.remove(&key) {
            Some(parts) if !parts.rest.is_empty() => gate.put_back(&key, parts.event),
            _ => gate.leave(&key),
        }
    }

    /// The first part of an ordered event is to be attempted, the others one after the other when it is finished.
    pub(super) fn begin_parts(&mut self, key: Box<str>, event: Arc<Event>, mut jobs: VecDeque<Job>) {
        self.ready.extend(jobs.pop_front());
        self.order.parts.insert(key, Parts { event, rest: jobs });
    }

    /// Something was to be due and is not there: deliveries that were taken out of the store block their keys no longer.
    pub(super) fn forget_removed(&mut self, claimed: &HashSet<DeliveryId>) {
        let gate = &mut self.order.gate;
        let parked = gate.parked_deliveries().filter(|(_, delivery)| !claimed.contains(delivery));
        let parked: Vec<(Box<str>, DeliveryId)> = parked.map(|(key, d)| (key.into(), *d)).take(HEADS_PAGE).collect();
        for (key, delivery) in parked {
            // What cannot be read is asked for again when the next one is due.
            if let Ok(None) = self.shared.store.parked(&delivery) {
                gate.unparked(&key, &delivery);
            }
        }
    }

    /// The next event that may begin: one that has waited, or else the oldest that the live tail or history offers.
    pub(super) fn next_in_order(&mut self, probe: bool) -> Option<Taken> {
        if self.is_changing_order() {
            return None;
        }
        loop {
            let kept = self.order.gate.order().is_kept();
            if let Some(waited) = self.order.gate.next_waiting() {
                return Some(Taken {
                    event: waited.event,
                    key: Some(waited.key).filter(|_| kept),
                    again: waited.again,
                });
            }
            if !self.order.gate.has_room() || self.has_spread_too_far() {
                self.stand_still();
                return None;
            }
            let event = self.next_live().or_else(|| self.next_history(probe))?;
            let Some(key) = self.order.gate.order().key_of(&event) else {
                return Some(Taken { event, key: None, again: false });
            };
            if let Some(event) = self.order.gate.admit(&key, event) {
                return Some(Taken { event, key: Some(key), again: false });
            }
        }
    }

    /// Are so many events on record past a blocked one that its position has too much to tell?
    fn has_spread_too_far(&self) -> bool {
        self.order.gate.blocked_keys() > 0
            && self.lane.state().ledgers.iter().any(|ledger| ledger.spread() > SPREAD_RANGES_MAX)
    }

    /// Nothing more can be taken. When it is for a delivery that waits for its next attempt, that may take long: the
    /// subscription is held, and its reader makes room for another one's.
    fn stand_still(&mut self) {
        if self.order.gate.blocked_keys() == 0 {
            return;
        }
        if self.lane.state().has_queued() {
            info!(
                subscription = %self.lane.id(),
                "a delivery waits for its next attempt, the events behind it wait in the stream"
            );
            self.hold();
        } else {
            self.stop_reading();
        }
    }

    /// Events that wait for long must not keep their acknowledgements waiting: the position stands for them.
    pub(super) fn defer_waiting(&mut self) {
        if self.order.gate.waiting() == 0 {
            return;
        }
        let mut state = self.lane.state();
        let held: Vec<_> = state.ledgers.iter().filter(|l| l.is_held()).map(|l| l.stream().clone()).collect();
        for position in self.order.gate.take_deferrable(|position| held.contains(&position.stream)) {
            if let Some(ledger) = state.ledger_of(&position.stream) {
                state.ledgers[ledger].defer(position.sequence);
            }
        }
    }

    /// A probe with an ordered event failed: the event waits, and is the next one to be tried. True when the job is of one.
    pub(super) fn put_back(&mut self, job: &Job) -> bool {
        let Some(key) = &job.order_key else { return false };
        let Some(parts) = self.order.parts.remove(key) else { return false };
        self.order.gate.put_back(key, parts.event);
        true
    }
}

/// A parked delivery that keeps its key waiting.
struct Head {
    delivery: DeliveryId,
    position: Position,
    part: u32,
    parts: u32,
}

/// A subscription's parked deliveries, with their keys.
fn heads(store: &Store, id: &SubscriptionId) -> Result<Vec<(Box<str>, Head)>, Error> {
    let mut heads = Vec::new();
    let mut after = None;
    loop {
        let page = store.parked_page(id, after.as_ref(), u64::MAX, HEADS_PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(heads) };
        after = Some(last.clone());
        heads.extend(page.into_iter().filter_map(|(_, parked)| {
            let Parked { delivery, position, part, parts, .. } = parked;
            Some((parked.order_key?, Head { delivery, position, part, parts }))
        }));
    }
}

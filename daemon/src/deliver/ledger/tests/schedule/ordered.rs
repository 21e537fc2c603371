//! What the worker does besides where a subscription keeps an order, and a subscription that is disabled for a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::RngExt as _;

use super::{Broken, Job, Simulation, event};
use crate::deliver::ledger::tests::lasting::Part;
use crate::deliver::order::Gate;
use crate::domain::{DeliveryId, Order, Position};

/// The gate, and what the worker keeps beside it.
pub(super) struct Keeper {
    gate: Gate,
    /// The parts that follow, by key.
    parts: BTreeMap<Box<str>, (u64, VecDeque<Job>)>,
    /// Parked deliveries that are being tried again.
    claimed: BTreeSet<Part>,
}

impl Keeper {
    pub(super) fn new(order: Order) -> Self {
        Self { gate: Gate::new(order), parts: BTreeMap::new(), claimed: BTreeSet::new() }
    }

    /// A delivery's id: its part, spelled out.
    pub(super) fn name(&self, (sequence, part): Part) -> DeliveryId {
        DeliveryId::from_bytes((u128::from(sequence) << 32 | u128::from(part)).to_be_bytes())
    }

    pub(super) fn part(&self, delivery: DeliveryId) -> Part {
        let number = u128::from_be_bytes(*delivery.bytes());
        ((number >> 32) as u64, number as u32)
    }
}

impl Simulation {
    /// A daemon starts: it learns which keys are blocked before it takes anything.
    pub(super) fn begin_order(&mut self) {
        self.lost = false;
        self.keeper = Keeper::new(self.lasting.order.clone());
        if self.broken != Some(Broken::ParkedBlocks) {
            for (part, key) in &self.lasting.parked {
                let delivery = self.keeper.name(*part);
                self.keeper.gate.parked(key, delivery);
            }
        }
        self.forget_order_if_broken();
        if self.lasting.disabled {
            self.lane.hold();
        }
    }

    pub(super) fn forget_order_if_broken(&mut self) {
        if self.broken == Some(Broken::PositionIsOldest) {
            self.lane.state().ledgers[0].set_ordered(false);
        }
    }

    pub(super) fn turn_off_or_on(&mut self) {
        self.lasting.disabled = !self.lasting.disabled;
        if self.lasting.disabled {
            self.close_reader();
            self.lane.hold();
        }
    }

    /// Whoever keeps an order reads what was lost from the stream, before what comes after it.
    pub(super) fn notice_loss(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if lost && self.lane.keeps_order() && self.broken != Some(Broken::LossHolds) {
            self.lane.hold();
        }
    }

    pub(super) fn take_ended(&mut self) {
        let ended = self.lane.state().take_ended();
        for ended in ended {
            let gate = &mut self.keeper.gate;
            if ended.is_parked {
                gate.parked(&ended.key, ended.delivery);
            }
            if ended.was_parked {
                if !ended.is_parked {
                    gate.unparked(&ended.key, &ended.delivery);
                }
                let part = self.keeper.part(ended.delivery);
                self.keeper.claimed.remove(&part);
            } else {
                self.end(&ended.key, ended.is_parked);
            }
        }
    }

    /// A rule that can be broken: the key is free as soon as the attempt has ended.
    pub(super) fn end_early(&mut self, record: &crate::deliver::lane::Record) {
        let Some((delivery, key)) = record.order.clone().filter(|_| self.broken == Some(Broken::WaitsForRecord)) else {
            return;
        };
        if record.due_ms.is_none() && record.event.is_some() {
            self.end(&key, false);
        } else if record.due_ms.is_none() {
            self.keeper.gate.unparked(&key, &delivery);
        }
    }

    fn end(&mut self, key: &str, is_parked: bool) {
        let parts = self.keeper.parts.get_mut(key);
        if let Some(next) = parts.and_then(|(_, rest)| if is_parked { None } else { rest.pop_front() }) {
            return self.ready.push_back(next);
        }
        match self.keeper.parts.remove(key) {
            Some((sequence, rest)) if !rest.is_empty() => self.put_back_event(key, sequence),
            _ => self.keeper.gate.leave(key),
        }
    }

    fn put_back_event(&mut self, key: &str, sequence: u64) {
        let event = event(sequence, self.lasting.plan(sequence).key);
        self.keeper.gate.put_back(key, event);
    }

    /// A probe failed. True when the event waits in memory.
    pub(super) fn put_back(&mut self, job: &Job) -> bool {
        let Some(key) = &job.key else { return false };
        let Some((sequence, _)) = self.keeper.parts.remove(key) else { return false };
        self.put_back_event(key, sequence);
        true
    }

    pub(super) fn leave(&mut self, key: Option<Box<str>>) {
        if let Some(key) = key {
            self.keeper.gate.leave(&key);
        }
    }

    pub(super) fn begin_parts(&mut self, key: Option<Box<str>>, sequence: u64, rest: VecDeque<Job>) {
        if let Some(key) = key {
            self.keeper.parts.insert(key, (sequence, rest));
        }
    }

    /// Takes a parked delivery for another attempt, now and then.
    pub(super) fn retry_parked(&mut self) -> bool {
        if !self.rng.random_bool(0.3) {
            return false;
        }
        let free: Vec<Part> =
            self.lasting.parked.keys().filter(|part| !self.keeper.claimed.contains(part)).copied().collect();
        let Some((sequence, part)) = free.get(self.rng.random_range(0..free.len().max(1))).copied() else {
            return false;
        };
        self.keeper.claimed.insert((sequence, part));
        let key = self.lasting.parked.get(&(sequence, part)).cloned();
        let parts = self.lasting.plan(sequence).parts;
        self.ready.push_back(Job { sequence, part, parts, key, was_parked: true, of: None });
        true
    }

    /// The next event that may begin.
    pub(super) fn next_event(&mut self) -> Option<(u64, Option<Box<str>>)> {
        loop {
            if let Some(waiting) = self.keeper.gate.next_waiting() {
                return Some((waiting.event.position.sequence, Some(waiting.key)));
            }
            if !self.keeper.gate.has_room() {
                if self.keeper.gate.blocked_keys() > 0 && self.lane.state().has_queued() {
                    self.close_reader();
                    self.lane.hold();
                }
                return None;
            }
            let sequence = self.next_from_stream()?;
            let event = event(sequence, self.lasting.plan(sequence).key);
            let Some(key) = self.lasting.order.key_of(&event) else { return Some((sequence, None)) };
            if self.keeper.gate.admit(&key, event).is_some() {
                return Some((sequence, Some(key)));
            }
        }
    }

    pub(super) fn defer_waiting(&mut self) {
        let mut state = self.lane.state();
        let held = state.ledgers[0].is_held();
        for Position { sequence, .. } in self.keeper.gate.take_deferrable(|_| held) {
            state.ledgers[0].defer(sequence);
        }
    }
}

#[test]
fn a_part_is_found_by_its_delivery() {
    let keeper = Keeper::new(Order::Strict);
    assert_eq!(keeper.part(keeper.name((40, 2))), (40, 2));
}

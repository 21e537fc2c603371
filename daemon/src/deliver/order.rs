//! Which events of an ordered subscription may begin, and which wait for another one of their key.
//!
//! A key is busy from the moment that one of its events is taken for work until that event is finished and on record. A
//! delivery that waits in the store for its next attempt keeps its key busy too. Events of a busy key wait here, in a
//! window of [`WINDOW_EVENTS_MAX`]; when it is full nothing more is taken from the stream. A strict subscription has one key
//! and takes nothing while that is busy.
//!
//! Pure state: no I/O, no clock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::domain::{DeliveryId, Event, Order, Position};

/// How many events may wait for their keys while events of other keys go past them.
pub const WINDOW_EVENTS_MAX: usize = 256;

/// An event that waits.
#[derive(Debug)]
pub struct Waiting {
    /// What it is ordered by.
    pub key: Box<str>,
    /// The event.
    pub event: Arc<Event>,
    /// It has been worked on before: it is counted already.
    pub again: bool,
    deferred: bool,
}

/// What keeps a key busy.
#[derive(Debug, Default)]
struct Busy {
    /// An event is being worked on: in plugins, in an attempt, or not yet on record.
    working: bool,
    /// Deliveries that wait in the store for their next attempt, or are under way again.
    parked: HashSet<DeliveryId>,
    /// How many events wait in the window.
    waiting: usize,
}

impl Busy {
    fn is_busy(&self) -> bool {
        self.working || !self.parked.is_empty()
    }
}

/// The order of one subscription.
#[derive(Debug, Default)]
pub struct Gate {
    order: Order,
    keys: HashMap<Box<str>, Busy>,
    /// In the order of their streams, as far as their keys are the same.
    window: VecDeque<Waiting>,
    /// The window was full, and has not been half empty since.
    full: bool,
    /// A key may have become free since the window was last searched in vain.
    freed: bool,
    working: usize,
    blocked: usize,
}

impl Gate {
    /// A gate where nobody waits.
    pub fn new(order: Order) -> Self {
        Self { order, ..Self::default() }
    }

    /// The order that it keeps.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Keeps another order from now on. What waits goes on waiting, by its new key. To be called only while nothing is
    /// being worked on; what is parked is forgotten, and is to be told again.
    pub fn change(&mut self, order: Order) {
        let window = std::mem::take(&mut self.window);
        *self = Self { freed: true, ..Self::new(order) };
        for mut waiting in window {
            waiting.key = self.order.key_of(&waiting.event).unwrap_or_default();
            self.keys.entry(waiting.key.clone()).or_default().waiting += 1;
            self.window.push_back(waiting);
        }
    }

    /// How many events wait.
    pub fn waiting(&self) -> usize {
        self.window.len()
    }

    /// How many keys wait for a delivery that is parked.
    pub fn blocked_keys(&self) -> usize {
        self.blocked
    }

    /// Is any event being worked on?
    pub fn is_working(&self) -> bool {
        self.working > 0
    }

    /// May another event be taken from the stream?
    pub fn has_room(&self) -> bool {
        match self.order {
            Order::None => true,
            Order::ByKey(_) => !self.full,
            Order::Strict => self.working == 0 && self.blocked == 0 && self.window.is_empty(),
        }
    }

    /// The next event that waited and whose key is free: it is being worked on from now on.
    pub fn next_waiting(&mut self) -> Option<Waiting> {
        if !self.freed || self.window.is_empty() {
            return None;
        }
        let strict = self.order == Order::Strict;
        let busy = |key: &str| self.keys.get(key).is_some_and(Busy::is_busy);
        let free = match self.order {
            Order::None => Some(0),
            _ if strict && (self.working > 0 || self.blocked > 0) => None,
            _ => self.window.iter().position(|waiting| !busy(&waiting.key)),
        };
        let Some(waiting) = free.and_then(|at| self.window.remove(at)) else {
            self.freed = false;
            return None;
        };
        if self.window.len() <= WINDOW_EVENTS_MAX / 2 {
            self.full = false;
        }
        if let Some(state) = self.keys.get_mut(&waiting.key) {
            state.waiting -= 1;
        }
        if self.order.is_kept() {
            self.begin(&waiting.key);
        }
        Some(waiting)
    }

    /// An event was taken from the stream. Returned when it may begin: it is being worked on from now on. Else it waits.
    pub fn admit(&mut self, key: &str, event: Arc<Event>) -> Option<Arc<Event>> {
        let state = self.keys.get(key);
        if state.is_none_or(|state| !state.is_busy() && state.waiting == 0) {
            self.begin(key);
            return Some(event);
        }
        // An older one that came back goes before those of its key that wait already.
        let later = |waiting: &Waiting| {
            let (a, b) = (&waiting.event.position, &event.position);
            *waiting.key == *key && a.stream == b.stream && a.sequence > b.sequence
        };
        let at = self.window.iter().position(later).unwrap_or(self.window.len());
        self.wait(at, key, event, false);
        None
    }

    /// An event that is being worked on goes back: the next one of its key to begin.
    pub fn put_back(&mut self, key: &str, event: Arc<Event>) {
        self.wait(0, key, event, true);
        self.leave(key);
    }

    /// The event of that key that was being worked on is finished, and on record where it needs to be.
    pub fn leave(&mut self, key: &str) {
        let Some(state) = self.keys.get_mut(key) else { return };
        if std::mem::take(&mut state.working) {
            self.working -= 1;
        }
        self.tidy(key);
    }

    /// A delivery of that key waits in the store.
    pub fn parked(&mut self, key: &str, delivery: DeliveryId) {
        let state = self.keys.entry(key.into()).or_default();
        if state.parked.is_empty() {
            self.blocked += 1;
        }
        state.parked.insert(delivery);
    }

    /// A delivery of that key that waited in the store is finished, or was taken away.
    pub fn unparked(&mut self, key: &str, delivery: &DeliveryId) {
        let Some(state) = self.keys.get_mut(key) else { return };
        if state.parked.remove(delivery) && state.parked.is_empty() {
            self.blocked -= 1;
        }
        self.tidy(key);
    }

    /// Does an event of that key wait?
    pub fn waits_for(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|state| state.waiting > 0)
    }

    /// The deliveries that wait in the store, with their keys.
    pub fn parked_deliveries(&self) -> impl Iterator<Item = (&str, &DeliveryId)> {
        self.keys.iter().flat_map(|(key, state)| state.parked.iter().map(|delivery| (&**key, delivery)))
    }

    /// The events that wait for long, and have not been told of before: those behind a parked delivery, and those that
    /// `is_held` names because their subscription is held. Their acknowledgements are not to wait with them.
    pub fn take_deferrable(&mut self, is_held: impl Fn(&Position) -> bool) -> Vec<Position> {
        let mut deferrable = Vec::new();
        for waiting in self.window.iter_mut().filter(|waiting| !waiting.deferred) {
            let blocked = self.keys.get(&waiting.key).is_some_and(|state| !state.parked.is_empty());
            if blocked || waiting.again || is_held(&waiting.event.position) {
                waiting.deferred = true;
                deferrable.push(waiting.event.position.clone());
            }
        }
        deferrable
    }

    fn begin(&mut self, key: &str) {
        self.keys.entry(key.into()).or_default().working = true;
        self.working += 1;
    }

    fn wait(&mut self, at: usize, key: &str, event: Arc<Event>, again: bool) {
        self.window.insert(at, Waiting { key: key.into(), event, again, deferred: false });
        self.keys.entry(key.into()).or_default().waiting += 1;
        self.full |= self.window.len() >= WINDOW_EVENTS_MAX;
    }

    fn tidy(&mut self, key: &str) {
        if let Some(state) = self.keys.get(key)
            && !state.is_busy()
        {
            self.freed = true;
            if state.waiting == 0 {
                self.keys.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! What a lane's worker, the ingest and the store's writer share.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::record::{Ended, Record};
use super::{Limits, Overflow};
use crate::deliver::health::Health;
use crate::deliver::ledger::Ledger;
use crate::deliver::replay::Replay;
use crate::domain::{DeliveryId, Event, Pattern, StreamName};
use crate::store::{Change, Disabled};

/// What a lane's worker and the ingest share. Short critical sections only; nothing awaits under its lock.
pub struct State {
    /// One ledger for each stream.
    pub ledgers: Vec<Ledger>,
    pub(super) queue: VecDeque<Arc<Event>>,
    pub(super) limits: Limits,
    pub(super) in_flight: u32,
    pub(super) unrecorded: u32,
    /// Since when the queue has not been below half.
    pub(super) full_since: Option<Instant>,
    /// When an outcome was last made durable.
    pub(super) progress_at: Option<Instant>,
    /// Since when it has had live events in hand, as far as anybody looked.
    pub(super) in_hand_since: Option<Instant>,
    /// When it last went back to reading live.
    pub(super) rejoined_at: Option<Instant>,
    /// The earliest time in milliseconds since the Unix epoch at which a parked delivery is due.
    pub due_ms: Option<u64>,
    /// Parked deliveries that were taken out to be tried again, until what became of them is durable: till then the store
    /// still shows them as due.
    pub(super) claimed: HashSet<DeliveryId>,
    /// Changes that the store refused, to be handed in again.
    pub(super) lost: Vec<Record>,
    /// Changes of the subscription itself that the store refused.
    pub(super) lost_changes: Vec<Change>,
    /// What became durable in an ordered subscription, until its worker has seen it.
    pub(super) ended: Vec<Ended>,
    /// How many events wait in memory for their keys, and how many keys wait for a parked delivery, for readings.
    pub waiting: (usize, usize),
    /// When the store last refused one.
    pub refused_at: Option<Instant>,
    /// When the oldest event that the reader has yet to bring was published, in milliseconds since the Unix epoch, as far
    /// as that is known.
    pub unread_ms: Option<u64>,
    /// The replay that is being worked on beside everything else.
    pub replay: Option<Replay>,
    /// Why nothing is delivered, when the subscription is disabled.
    pub disabled: Option<Disabled>,
    /// What is known of the endpoint's health.
    pub health: Health,
    /// The subscription's event types.
    pub types: Vec<Pattern>,
    /// What becomes of events of streams that forget what is acked.
    pub overflow: Overflow,
    /// The subscription is gone: its position is no longer written, since another lane of that name may follow.
    pub removed: bool,
}

impl State {
    /// Nothing waits, and nothing is under way.
    pub(super) fn new(limits: Limits, ledgers: Vec<Ledger>) -> Self {
        let mut ledgers = ledgers;
        ledgers.iter_mut().for_each(|ledger| ledger.set_ordered(limits.ordered));
        Self {
            ledgers,
            queue: VecDeque::new(),
            limits,
            in_flight: 0,
            unrecorded: 0,
            full_since: None,
            progress_at: None,
            in_hand_since: None,
            rejoined_at: None,
            due_ms: None,
            claimed: HashSet::new(),
            lost: Vec::new(),
            ended: Vec::new(),
            waiting: (0, 0),
            refused_at: None,
            unread_ms: None,
            replay: None,
            disabled: None,
            health: Health::default(),
            types: Vec::new(),
            lost_changes: Vec::new(),
            overflow: Overflow::default(),
            removed: false,
        }
    }

    /// The place of a stream's ledger.
    pub fn ledger_of(&self, stream: &StreamName) -> Option<usize> {
        self.ledgers.iter().position(|ledger| ledger.stream() == stream)
    }

    /// The oldest live event that waits. The second value is true when the queue has just fallen to half after it had
    /// been full: then the ingest is to be told.
    pub fn pop(&mut self) -> Option<(Arc<Event>, bool)> {
        let event = self.queue.pop_front()?;
        Some((event, self.relieved()))
    }

    /// Has the queue, of which one was just taken, fallen to half after it had been full?
    pub(super) fn relieved(&mut self) -> bool {
        self.full_since.take_if(|_| self.queue.len() <= self.limits.queue_events_max / 2).is_some()
    }

    /// Puts a live event in the queue. In an ordered subscription one that came back goes before later ones.
    pub(super) fn enqueue(&mut self, event: Arc<Event>) {
        let is_later = |other: &Arc<Event>| {
            let (a, b) = (&other.position, &event.position);
            a.stream == b.stream && a.sequence > b.sequence
        };
        let at = if self.limits.ordered { self.queue.iter().position(is_later) } else { None };
        self.queue.insert(at.unwrap_or(self.queue.len()), event);
    }

    /// Do live events wait?
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What became durable in an ordered subscription since this was last asked.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Takes everything out of the queue: its acknowledgements are with the ledgers.
    pub fn clear_queue(&mut self) {
        self.queue.clear();
    }

    /// Takes a parked delivery for an attempt. It stays taken until the attempt's outcome is durable.
    pub fn claim(&mut self, delivery: DeliveryId) {
        self.claimed.insert(delivery);
    }

    /// The parked deliveries that are taken. To be asked before the store is read: one that is no longer among them then
    /// is gone from its old place in the store too.
    pub fn claimed(&self) -> HashSet<DeliveryId> {
        self.claimed.clone()
    }

    /// Is that delivery taken for an attempt?
    pub fn is_claimed(&self, delivery: &DeliveryId) -> bool {
        self.claimed.contains(delivery)
    }

    /// A parked delivery is due at that time, in milliseconds since the Unix epoch.
    pub fn due_at(&mut self, due_ms: u64) {
        self.due_ms = Some(self.due_ms.map_or(due_ms, |earliest| earliest.min(due_ms)));
    }

    /// The lane's bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// How many slots are free.
    pub fn free_slots(&self) -> u32 {
        self.limits.in_flight_max.saturating_sub(self.in_flight)
    }

    /// Attempts under way or not yet on record.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Takes a slot.
    pub fn take_slot(&mut self) {
        self.in_flight += 1;
    }

    /// Gives a slot back without a record.
    pub fn give_slot_back(&mut self) {
        self.in_flight -= 1;
    }

    /// An outcome is on its way to the store. True when so many are that the store had better hurry.
    pub fn submitted(&mut self) -> bool {
        self.unrecorded += 1;
        self.unrecorded * 2 >= self.limits.in_flight_max
    }

    /// Changes that the store refused, to be handed in again.
    pub fn take_lost(&mut self) -> Vec<Record> {
        self.refused_at = None;
        std::mem::take(&mut self.lost)
    }

    /// Changes of the subscription itself that the store refused, to be handed in again.
    pub fn take_lost_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.lost_changes)
    }

    /// When the oldest live event that waits was published, in milliseconds since the Unix epoch.
    pub fn oldest_queued_ms(&self) -> Option<u64> {
        self.queue.front().map(|event| event.time_ms)
    }

    /// Other bounds from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.ledgers.iter_mut().for_each(|ledger| ledger.set_ordered(limits.ordered));
        self.limits = limits;
    }

    /// Reads live again; told so that a lane that fills up again at once is held at once.
    pub fn rejoined(&mut self) {
        self.rejoined_at = Some(Instant::now());
    }

    /// Is every outcome durable, and every position as it should be?
    pub fn is_settled(&self) -> bool {
        self.in_flight == 0 && self.ledgers.iter().all(Ledger::is_position_settled)
    }

    /// True once after the cursor of a ledger went back: then what the reader has read ahead must be dropped.
    pub fn take_rewound(&mut self) -> bool {
        self.ledgers.iter_mut().fold(false, |rewound, ledger| ledger.take_rewound() | rewound)
    }

    /// Is there a position in the store, or one to be written?
    pub(super) fn has_position(&self) -> bool {
        self.ledgers.iter().any(Ledger::has_position)
    }
}

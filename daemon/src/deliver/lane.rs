//! A subscription's lane: a bounded queue of live events, slots for attempts, and the bookkeeping of what the store has
//! confirmed.
//!
//! A slot is taken when an attempt begins and given back when its outcome is durable, so that a crash can repeat no more
//! than `in_flight_max` deliveries of a subscription.

mod overflow;
mod token;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::health::Health;
use super::ledger::{Ledger, Offer, PositionChange, Shares};
use super::replay::Replay;
use crate::domain::{AckShare, DeliveryId, Event, JobId, Pattern, Position, RateLimit, StreamName, SubscriptionId};
use crate::failpoint::{self, Place};
use crate::store::{Change, Disabled, PositionRecord};
use crate::telemetry::clock;
use crate::telemetry::metrics::SubscriptionMetrics;

pub use overflow::Overflow;
pub use token::{Token, completed};

/// The bounds of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most attempts under way or not yet on record.
    pub in_flight_max: u32,
    /// The most live events that wait.
    pub queue_events_max: usize,
    /// How many attempts a time may be made.
    pub rate: Option<RateLimit>,
    /// Does the subscription keep an order?
    pub ordered: bool,
}

/// A delivery of an ordered subscription of which something became durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it is ordered by.
    pub key: Box<str>,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Had it been parked before?
    pub was_parked: bool,
    /// Is it parked now? Else it is finished.
    pub is_parked: bool,
}

/// For how long after it went back to reading live a lane is held sooner when it is full again.
const HOLD_AGAIN: Duration = Duration::from_secs(30);

/// How many times sooner than after `hold_after` a lane is held that does not seem to move at all.
pub const IMPATIENCE: u32 = 5;

/// As [`IMPATIENCE`], when others have waited for full lanes for long already.
pub const HURRY: u32 = 50;

/// One subscription's lane.
pub struct Lane {
    id: SubscriptionId,
    /// The subscription's counters.
    pub metrics: SubscriptionMetrics,
    state: Mutex<State>,
    wake: Notify,
    /// Told when a full lane has room again.
    room: Arc<Notify>,
}

/// What a lane's worker and the ingest share. Short critical sections only; nothing awaits under its lock.
pub struct State {
    /// One ledger for each stream.
    pub ledgers: Vec<Ledger>,
    queue: VecDeque<Arc<Event>>,
    limits: Limits,
    in_flight: u32,
    unrecorded: u32,
    /// Since when the queue has not been below half.
    full_since: Option<Instant>,
    /// When an outcome was last made durable.
    progress_at: Option<Instant>,
    /// Since when it has had live events in hand, as far as anybody looked.
    in_hand_since: Option<Instant>,
    /// When it last went back to reading live.
    rejoined_at: Option<Instant>,
    /// The earliest time in milliseconds since the Unix epoch at which a parked delivery is due.
    pub due_ms: Option<u64>,
    /// Parked deliveries that were taken out to be tried again, until what became of them is durable: till then the store
    /// still shows them as due.
    claimed: HashSet<DeliveryId>,
    /// Changes that the store refused, to be handed in again.
    lost: Vec<Record>,
    /// Changes of the subscription itself that the store refused.
    lost_changes: Vec<Change>,
    /// What became durable in an ordered subscription, until its worker has seen it.
    ended: Vec<Ended>,
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

/// An outcome on its way into the store.
#[derive(Debug)]
pub struct Record {
    /// The ledger and the event it belongs to; `None` for a parked delivery, whose event is long on record.
    pub event: Option<(usize, u64)>,
    /// Which part of the event.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// When the delivery is due next, when it is parked.
    pub due_ms: Option<u64>,
    /// How it is counted.
    pub count: Count,
    /// The replay that brought the event, and its sequence.
    pub replay: Option<(JobId, u64)>,
    /// The delivery and what it is ordered by, in an ordered subscription.
    pub order: Option<(DeliveryId, Box<str>)>,
    /// What is written: kept to be handed in again should the store fail.
    pub change: Change,
}

impl Record {
    /// The parked delivery that this is the outcome of.
    fn claimed(&self) -> Option<DeliveryId> {
        match &self.change {
            _ if self.event.is_some() => None,
            Change::FinishParked { delivery, .. } => Some(*delivery),
            Change::Dead { letter, .. } => Some(letter.delivery),
            Change::Park { parked, .. } => Some(parked.delivery),
            _ => None,
        }
    }
}

/// How an outcome counts once it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The receiver took it at the first attempt.
    Delivered,
    /// The receiver took it after it had been parked.
    DeliveredParked,
    /// It was parked for the first time.
    Parked,
    /// It was parked again.
    ParkedAgain,
    /// It is a dead letter.
    Failed,
    /// It was parked, and is a dead letter now.
    FailedParked,
}

/// What became of an event that was offered.
#[derive(Debug)]
pub enum Offered {
    /// The lane has it, or needs it no more.
    Done,
    /// The lane is full: wait, or hold it.
    Full(AckShare),
}

impl Lane {
    /// A lane with those ledgers.
    pub fn new(
        id: SubscriptionId,
        metrics: SubscriptionMetrics,
        limits: Limits,
        ledgers: Vec<Ledger>,
        room: Arc<Notify>,
    ) -> Self {
        let mut ledgers = ledgers;
        ledgers.iter_mut().for_each(|ledger| ledger.set_ordered(limits.ordered));
        let state = State {
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
        };
        Self { id, metrics, state: Mutex::new(state), wake: Notify::new(), room }
    }

    /// The subscription.
    pub fn id(&self) -> &SubscriptionId {
        &self.id
    }

    /// The shared state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Tells the worker that there is something to look at.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for [`Lane::wake`].
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The live tail offers an event.
    pub fn offer(&self, event: &Arc<Event>, share: AckShare) -> Offered {
        let mut state = self.state.lock();
        let room = state.queue.len() < state.limits.queue_events_max;
        let Some(ledger) = state.ledger_of(&event.position.stream) else {
            share.done();
            return Offered::Done;
        };
        let was_at_end = state.ledgers[ledger].is_at_end();
        let offer = state.ledgers[ledger].offer(event.position.sequence, share, room);
        // While the breaker is open a reader that has read everything waits: now there is something to probe with.
        if was_at_end && !state.ledgers[ledger].is_at_end() {
            self.wake();
        }
        match offer {
            Offer::Taken => {
                state.enqueue(Arc::clone(event));
                let first = state.queue.len() == 1;
                drop(state);
                if first {
                    self.wake();
                }
            }
            Offer::Settled(share) => share.done(),
            Offer::Kept => {}
            // The share's drop asks JetStream to send it again.
            Offer::Refused(share) => drop(share),
            Offer::Full(share) => {
                state.full_since.get_or_insert_with(Instant::now);
                return Offered::Full(share);
            }
        }
        Offered::Done
    }

    /// Is the lane full, and has it been for `hold_after`? One that has finished nothing since it filled up, or that was
    /// held a short while ago, is given a part of that time only; the former a very small one when the feed is `hurried`.
    pub fn is_stuck(&self, hold_after: Duration, hurried: bool) -> bool {
        let state = self.state.lock();
        let Some(since) = state.full_since.filter(|_| !state.overflow.is_full) else { return false };
        let idle = state.progress_at.is_none_or(|at| at < since);
        let again = state.rejoined_at.is_some_and(|at| at.elapsed() < HOLD_AGAIN);
        let patience = match (idle, again) {
            (true, _) if hurried => hold_after / HURRY,
            (false, false) => hold_after,
            _ => hold_after / IMPATIENCE,
        };
        since.elapsed() >= patience
    }

    /// Could the lane take live events now?
    pub fn could_go_on(&self) -> bool {
        let state = self.state.lock();
        state.full_since.is_none() && state.disabled.is_none() && !state.ledgers.iter().any(Ledger::is_held)
    }

    /// Has it had live events in hand for that long without finishing any?
    pub fn is_hanging(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        let in_hand: usize = state.ledgers.iter().map(Ledger::live_in_hand).sum();
        if in_hand == 0 {
            state.in_hand_since = None;
            return false;
        }
        let now = Instant::now();
        let since = *state.in_hand_since.get_or_insert(now);
        let since = state.progress_at.map_or(since, |at| at.max(since));
        now.duration_since(since) >= patience
    }

    /// Holds the subscription, and lets the position stand for what is under way too: none of its events keeps an
    /// acknowledgement waiting once that position is durable.
    pub fn hold_all(&self) {
        self.hold();
        self.state.lock().ledgers.iter_mut().for_each(Ledger::defer_all);
        self.wake();
    }

    /// Does the subscription keep an order?
    pub fn keeps_order(&self) -> bool {
        self.state.lock().limits.ordered
    }

    /// Holds the subscription: the events in its queue go back, and its reader will bring them again.
    pub fn hold(&self) {
        let mut state = self.state.lock();
        if !state.ledgers.iter().any(Ledger::is_held) {
            state.unread_ms = Some(state.queue.front().map_or_else(clock::now_ms, |event| event.time_ms));
        }
        let queued = state.give_back_queue();
        for ledger in &mut state.ledgers {
            let own = queued.iter().filter(|p| p.stream == *ledger.stream()).map(|p| p.sequence).collect::<Vec<_>>();
            ledger.hold(own);
        }
        state.full_since = None;
        drop(state);
        failpoint::pass(Place::Held);
        self.metrics.held.set(1);
        self.wake();
        self.room.notify_waiters();
    }

    /// The end: hands back to JetStream whatever is not on record.
    pub fn let_go(&self) {
        let mut state = self.state.lock();
        state.queue.clear();
        let ledgers = std::mem::take(&mut state.ledgers);
        drop(state);
        drop(ledgers);
    }

    /// The store has dealt with a change of this lane.
    fn record_done(self: &Arc<Self>, record: Record, durable: bool) -> Shares {
        let mut state = self.state.lock();
        if !durable {
            state.lost.push(record);
            state.refused_at = Some(Instant::now());
            drop(state);
            // Nothing else may happen in this lane: its worker has to set itself a time to hand the record in again.
            self.wake();
            return Shares::new();
        }
        let was_full = state.in_flight >= state.limits.in_flight_max;
        state.in_flight -= 1;
        state.unrecorded -= 1;
        state.progress_at = Some(Instant::now());
        self.metrics.in_flight.dec();
        if let Some(due) = record.due_ms {
            state.due_at(due);
        }
        if let Some(delivery) = record.claimed() {
            state.claimed.remove(&delivery);
        }
        let is_ordered = record.order.is_some();
        if let Some((delivery, key)) = record.order {
            let (was_parked, is_parked) = (record.event.is_none(), record.due_ms.is_some());
            state.ended.push(Ended { key, delivery, was_parked, is_parked });
        }
        let shares = match record.event {
            Some((ledger, sequence)) => state.ledgers[ledger].recorded(sequence, record.part, record.parts),
            None => Shares::new(),
        };
        if let Some((job, sequence)) = record.replay
            && let Some(replay) = state.replay.as_mut().filter(|replay| replay.job() == job)
        {
            replay.recorded(sequence, record.part, record.parts, record.count);
        }
        let wake = was_full || record.due_ms.is_some() || is_ordered || state.in_flight == 0 || state.has_position();
        let wake = wake || state.overflow.is_full;
        drop(state);
        self.count(record.count);
        if wake {
            self.wake();
        }
        shares
    }

    fn position_done(&self, ledger: usize, durable: bool) -> Shares {
        failpoint::pass(Place::PositionSaved);
        let mut state = self.state.lock();
        let shares = if durable {
            state.ledgers[ledger].position_saved()
        } else {
            state.ledgers[ledger].position_lost();
            state.refused_at = Some(Instant::now());
            Shares::new()
        };
        drop(state);
        // The position may have moved while this one was on its way: only now can it be handed in.
        self.wake();
        shares
    }

    fn change_lost(&self, change: Change) {
        let mut state = self.state.lock();
        state.lost_changes.push(change);
        state.refused_at = Some(Instant::now());
        drop(state);
        self.wake();
    }

    /// Dead letters of this subscription were parked to be sent again: their next attempts are due now.
    pub fn resent(&self, letters: u64, now_ms: u64) {
        self.metrics.resent.inc_by(letters);
        self.metrics.parked.inc_by(i64::try_from(letters).unwrap_or(i64::MAX));
        self.state.lock().due_at(now_ms);
        self.wake();
    }

    fn count(&self, count: Count) {
        let m = &self.metrics;
        match count {
            Count::Delivered => drop(m.delivered.inc()),
            Count::DeliveredParked => {
                m.delivered.inc();
                m.parked.dec();
            }
            Count::Parked => drop(m.parked.inc()),
            Count::ParkedAgain => {}
            Count::Failed => drop(m.failed.inc()),
            Count::FailedParked => {
                m.failed.inc();
                m.parked.dec();
            }
        }
    }
}

impl State {
    /// The place of a stream's ledger.
    pub fn ledger_of(&self, stream: &StreamName) -> Option<usize> {
        self.ledgers.iter().position(|ledger| ledger.stream() == stream)
    }

    /// The oldest live event that waits. The second value is true when the queue has just fallen to half after it had
    /// been full: then the ingest is to be told.
    pub fn pop(&mut self) -> Option<(Arc<Event>, bool)> {
        let event = self.queue.pop_front()?;
        let relieved = self.full_since.is_some() && self.queue.len() <= self.limits.queue_events_max / 2;
        if relieved {
            self.full_since = None;
        }
        Some((event, relieved))
    }

    /// Puts a live event in the queue. In an ordered subscription one that came back goes before later ones.
    fn enqueue(&mut self, event: Arc<Event>) {
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

    /// A parked delivery was taken out of the store by somebody else than the worker, so that nothing waits for it.
    pub fn unparked(&mut self, key: Box<str>, delivery: DeliveryId) {
        self.ended.push(Ended { key, delivery, was_parked: true, is_parked: false });
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
    fn has_position(&self) -> bool {
        self.ledgers.iter().any(Ledger::has_position)
    }
}

/// The change that makes a ledger's new position durable.
pub fn position_change(id: &SubscriptionId, stream: &StreamName, change: PositionChange) -> Change {
    match change {
        PositionChange::Remove => Change::Unhold { subscription: id.clone(), stream: stream.clone() },
        PositionChange::Save { sequence, done_above } => {
            let position = Position { stream: stream.clone(), sequence };
            let record = PositionRecord { position, recorded_above: done_above };
            Change::Hold { subscription: id.clone(), position: record }
        }
    }
}

#[cfg(test)]
mod tests;

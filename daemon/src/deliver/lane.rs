//! A subscription's lane: a bounded queue of live events, slots for attempts, and the bookkeeping of what the store has
//! confirmed.
//!
//! A slot is taken when an attempt begins and given back when its outcome is durable, so that a crash can repeat no more
//! than `in_flight_max` deliveries of a subscription.

mod overflow;
mod record;
mod state;
mod token;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ledger::{Ledger, Offer, Shares};
use crate::domain::{AckShare, Event, RateLimit, SubscriptionId};
use crate::failpoint::{self, Place};
use crate::store::{Change, Store};
use crate::telemetry::clock;
use crate::telemetry::metrics::SubscriptionMetrics;

pub use overflow::Overflow;
pub use record::{Count, Ended, Record, position_change};
pub use state::State;
pub use token::{Token, completed, concluded};

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
        let state = State::new(limits, ledgers);
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
        if let Change::Replayed { job, mark, .. } = &record.change
            && let Some(replay) = state.replay.as_mut().filter(|replay| replay.job() == *job)
        {
            replay.recorded(*mark);
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
        self.state.lock().due_at(now_ms);
        self.wake();
    }

    /// A parked delivery of this subscription is due now, earlier than it was.
    pub fn hastened(&self, now_ms: u64) {
        self.state.lock().due_at(now_ms);
        self.wake();
    }

    /// Reads from the store how many deliveries are parked; to be called after each change of it. Counting along would go
    /// wrong where two changes meet, as when a delivery that a replay has under way is resent.
    pub fn read_parked(&self, store: &Store) {
        // Under the lock, so that whoever reads last also notes last.
        let _state = self.state.lock();
        self.metrics.parked.set(i64::try_from(store.counts(&self.id).parked).unwrap_or(i64::MAX));
    }

    fn count(&self, count: Count) {
        let m = &self.metrics;
        match count {
            Count::Delivered | Count::DeliveredParked => drop(m.delivered.inc()),
            Count::Parked | Count::ParkedAgain => {}
            Count::Failed | Count::FailedParked => drop(m.failed.inc()),
        }
    }
}

#[cfg(test)]
mod tests;

//! Where the next piece of work comes from: the live queue, history, or the store when an attempt is due.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::{Next, Worker};
use crate::deliver::breaker::Permit;
use crate::domain::{DeliveryId, Event};
use crate::failpoint::{self, Place};
use crate::pipeline::catchup::{Ask, Brought};
use crate::pipeline::job::Job;
use crate::store;
use crate::telemetry::{self, clock};

/// How many parked deliveries are taken from the store at a time.
const DUE_PAGE: usize = 64;
/// How much longer than its policy says a delivery may wait because its receiver asked for it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// How long to wait, in milliseconds, before a reading of the store that failed is tried again.
const REREAD_DELAY_MS: u64 = 1_000;

impl Worker {
    /// The next piece of work: a job that waits for a slot, a parked delivery that is due, a live event, or one that the
    /// reader brings.
    pub(super) fn next(&mut self, probe: bool) -> Option<Next> {
        if let Some(job) = self.ready.pop_front() {
            return Some(Next::Job(Box::new(job)));
        }
        self.replayed_next = !self.replayed_next;
        if self.replayed_next
            && !probe
            && let Some(replayed) = self.next_replayed()
        {
            return Some(Next::Replayed(replayed));
        }
        self.parked_next = !self.parked_next;
        let due_max = if probe { 1 } else { DUE_PAGE };
        if (self.parked_next || probe) && self.load_due(due_max) {
            return self.ready.pop_front().map(|job| Next::Job(Box::new(job)));
        }
        if let Some(taken) = self.next_in_order(probe) {
            return Some(Next::Event(taken));
        }
        if self.load_due(due_max) {
            return self.ready.pop_front().map(|job| Next::Job(Box::new(job)));
        }
        self.next_replayed().map(Next::Replayed)
    }

    pub(super) fn next_live(&mut self) -> Option<Arc<Event>> {
        // What a probe failed with would be parked beyond the bound.
        if self.lane.state().overflow.is_full && self.breaker.permit(Instant::now()) != Permit::All {
            return None;
        }
        let (event, relieved) = self.lane.state().pop()?;
        if relieved {
            self.room.notify_waiters();
        }
        Some(event)
    }

    /// The next event of the catch-up page that is still to be worked on; asks for a page when there is none, and goes
    /// back to reading live when all that was skipped has been read.
    pub(super) fn next_history(&mut self, probe: bool) -> Option<Arc<Event>> {
        self.drop_what_was_read_ahead();
        loop {
            let mut state = self.lane.state();
            let ledger = state.ledgers.iter().position(|ledger| ledger.is_held())?;
            if self.catch_up.is_empty()
                && let Some((of, through)) = self.through.take()
            {
                state.ledgers[of].came_to_end(through);
            }
            if !self.breaker.is_open() && state.ledgers[ledger].try_rejoin() {
                state.rejoined();
                let all_live = !state.ledgers.iter().any(|ledger| ledger.is_held());
                drop(state);
                self.rejoined(all_live);
                continue;
            }
            if let Some(event) = self.catch_up.next_event() {
                let of = state.ledger_of(&event.position.stream)?;
                state.unread_ms = Some(event.time_ms);
                if state.ledgers[of].read(event.position.sequence) {
                    return Some(event);
                }
                continue;
            }
            if let Some(at) = self.catch_up.not_before() {
                drop(state);
                self.wait_until(at);
                return None;
            }
            if !self.catch_up.is_reading() {
                let cursor = state.ledgers[ledger].cursor()?;
                let target = state.ledgers[ledger].target();
                if self.breaker.is_open() && state.ledgers[ledger].is_at_end() {
                    return None;
                }
                let stream = state.ledgers[ledger].stream().clone();
                let types = self.spec.load().types.clone();
                if probe
                    && let Some(event) = self.catch_up.kept_probe(&stream, cursor, &types)
                    && state.ledgers[ledger].read(cursor)
                {
                    return Some(event);
                }
                let oldest_ms = state.unread_ms.unwrap_or(0);
                drop(state);
                let ask = Ask { ledger, stream, types, cursor, target, oldest_ms, probe };
                self.catch_up.ask(&self.shared, ask);
            }
            return None;
        }
    }

    /// The cursor may have gone back without the worker: a feed holds a lane that is full, also one that catches up in
    /// another stream. The page then no longer follows on the cursor.
    pub(super) fn drop_what_was_read_ahead(&mut self) {
        let rewound = self.lane.state().take_rewound();
        if rewound {
            self.drop_page();
        }
    }

    fn rejoined(&mut self, all_live: bool) {
        self.drop_page();
        failpoint::pass(Place::Rejoined);
        if all_live {
            self.lane.metrics.held.set(0);
            info!(subscription = %self.lane.id(), "caught up, reading live again");
        }
        self.room.notify_waiters();
    }

    /// Lets others read whose turn it is.
    pub(super) fn give_way(&mut self) {
        if self.catch_up.must_give_way(&self.shared.readers) {
            self.drop_page();
        }
    }

    /// Reads no further as long as nothing may be tried: whoever cannot use a permit is not to keep it.
    pub(super) fn stop_reading(&mut self) {
        if self.catch_up.is_engaged() {
            self.drop_page();
        }
    }

    /// Forgets the page and what was to follow on it, and closes the reader, whose permit another subscription may wait for.
    pub(super) fn drop_page(&mut self) {
        self.through = None;
        if let Some(close) = self.catch_up.reset() {
            self.shared.background.spawn(close);
        }
    }

    /// Loads parked deliveries that are due into `ready`, at most so many. True when there is one.
    fn load_due(&mut self, due_max: usize) -> bool {
        let now = clock::now_ms();
        let latest = self.latest_due_ms(now);
        let claimed = {
            let mut state = self.lane.state();
            // Taken out before the store is read: what is parked meanwhile puts its own time there.
            if state.due_ms.take_if(|due| *due <= now || *due > latest).is_none() {
                return false;
            }
            state.claimed()
        };
        let later = match self.load_unclaimed(now, due_max, &claimed) {
            Ok(later) => later,
            Err(error) => {
                error!(subscription = %self.lane.id(), error = %telemetry::chain(&error), "cannot read what is parked");
                Some(now + REREAD_DELAY_MS)
            }
        };
        if let Some(later) = later {
            self.lane.state().due_at(later);
        }
        if self.ready.is_empty() {
            self.forget_removed(&claimed);
        }
        !self.ready.is_empty()
    }

    /// The latest time at which a parked delivery can be due. One that seems to be due after that was parked by a clock
    /// that has been set back since: it is tried now, instead of perhaps in years.
    pub(super) fn latest_due_ms(&self, now: u64) -> u64 {
        let longest = self.spec.load().retry.horizon() + RETRY_AFTER_MAX;
        now.saturating_add(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads on in the store past what is claimed. Returns when the first delivery that it left is due.
    fn load_unclaimed(
        &mut self,
        now: u64,
        due_max: usize,
        claimed: &HashSet<DeliveryId>,
    ) -> Result<Option<u64>, store::Error> {
        let latest = self.latest_due_ms(now);
        let mut after = None;
        loop {
            let limit = claimed.len() + due_max + 1;
            let page = self.shared.store.parked_page(self.lane.id(), after.as_ref(), u64::MAX, limit)?;
            let Some((last, _)) = page.last() else { return Ok(None) };
            after = Some(last.clone());
            for (key, parked) in page {
                if claimed.contains(&key.delivery) {
                    continue;
                }
                if (key.due_ms > now && key.due_ms <= latest) || self.ready.len() >= due_max {
                    return Ok(Some(key.due_ms));
                }
                self.lane.state().claim(key.delivery);
                failpoint::pass(Place::DueTaken);
                self.ready.push_back(Job::parked(parked));
            }
        }
    }

    pub(super) fn brought(&mut self, brought: Brought) {
        self.through = brought.through.map(|through| (brought.ledger, through));
        if let Some(gap) = brought.gap {
            self.note_gap(gap);
        }
    }
}

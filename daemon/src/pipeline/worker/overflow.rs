//! Live events of streams that forget what is acked, when the subscription cannot take them: each is carried through the
//! plugins and parked without an attempt, due at once. What is due is tried as soon as the endpoint may be, and when nothing
//! is left of it the subscription reads live again.

use tracing::{info, warn};

use super::{Taken, Worker};
use crate::deliver::lane::Overflow;
use crate::domain::FailureClass;
use crate::pipeline::job::failure;
use crate::telemetry::clock;

/// How many of them may be on their way to the store.
const ON_THEIR_WAY_MAX: u32 = 256;

impl Worker {
    /// Parks what waits of them, as far as the bound allows.
    pub(super) async fn park_overflow(&mut self) {
        while self.may_park() {
            let Some((event, relieved)) = self.lane.state().pop_overflow() else { return };
            if relieved {
                self.room.notify_waiters();
            }
            let before = self.ready.len();
            self.carry(Taken { event, key: None, again: false }).await;
            for job in self.ready.split_off(before) {
                let why = failure(FailureClass::Internal, "the subscription could not take it when it came");
                self.record_unattempted(job.park(None, clock::now_ms(), &why));
            }
        }
    }

    /// Is there one to be parked, and room for it? Says so when the bound is reached, and when it is no longer.
    fn may_park(&mut self) -> bool {
        if !self.lane.state().overflows() {
            return false;
        }
        let parked = self.shared.store.counts(self.lane.id()).parked;
        let parked_max = self.shared.config.overflow_parked_max;
        let mut state = self.lane.state();
        let was_full = state.overflow.is_full;
        state.overflow.is_full = parked.saturating_add(u64::from(state.unrecorded())) >= parked_max;
        let is_full = state.overflow.is_full;
        let has_room = state.unrecorded() < ON_THEIR_WAY_MAX;
        drop(state);
        if is_full != was_full {
            self.lane.metrics.overflow_full.set(is_full.into());
            if is_full {
                warn!(
                    subscription = %self.lane.id(), parked, parked_max,
                    "as many deliveries are parked as may be, the stream waits with all that read it"
                );
            }
        }
        has_room && !is_full
    }

    /// Nothing is due and nothing waits: the subscription reads live again, if it does in its other streams.
    pub(super) fn end_overflow(&mut self) {
        let mut state = self.lane.state();
        if !state.overflow.is_on || state.overflows() || state.disabled.is_some() {
            return;
        }
        state.overflow = Overflow::default();
        self.lane.metrics.overflow_full.set(0);
        let all_live = !state.ledgers.iter().any(|ledger| ledger.is_held());
        drop(state);
        if all_live {
            self.lane.metrics.held.set(0);
            info!(subscription = %self.lane.id(), "what was parked meanwhile has been tried, reading live again");
        }
    }
}

//! What follows from an attempt: its record, and what it says of the endpoint.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{RESUBMIT_DELAY, Worker};
use crate::deliver::breaker::{Permit, Turn};
use crate::deliver::lane::{Record, Token};
use crate::domain::{FailureClass, Outcome};
use crate::failpoint::{self, Place};
use crate::pipeline::job::{Job, Landed};
use crate::store::Change;

/// How many probes may fail with the same event before it is parked and the next one is tried: it may be the event that the
/// endpoint cannot take.
const PROBES_PER_EVENT_MAX: u32 = 20;

impl Worker {
    /// Takes in an attempt that ended, and all others that have.
    pub(super) fn land_all(&mut self, first: Landed) {
        self.land(first);
        while let Some(Some(landed)) = self.in_air.next().now_or_never() {
            self.land(landed);
        }
    }

    pub(super) fn land(&mut self, landed: Landed) {
        let Landed { job, outcome, took } = landed;
        failpoint::pass(Place::Answered);
        self.lane.metrics.attempt_seconds.observe(took.as_secs_f64());
        let was_probe = self.breaker.permit(Instant::now()) == Permit::One;
        self.judge(&job, &outcome);
        let from_reader = job.ledger.is_some() && job.parts == 1;
        if was_probe
            && from_reader
            && matches!(outcome, Outcome::Retry(_))
            && self.probes_of(&job) < PROBES_PER_EVENT_MAX
        {
            return self.give_back(&job);
        }
        let spec = self.spec.load();
        let record = job.conclude(&spec, &outcome, took, rand::random::<f64>());
        self.submit(record);
    }

    /// Counts the outcome, and tells the breaker what it says of the endpoint.
    fn judge(&mut self, job: &Job, outcome: &Outcome) {
        let failed = match outcome {
            Outcome::Delivered { .. } => {
                self.lane.metrics.attempted("delivered");
                if let Turn::Closed { .. } = self.breaker.succeeded(Instant::now()) {
                    info!(subscription = %self.lane.id(), "the endpoint works again");
                }
                return;
            }
            Outcome::Retry(failure) | Outcome::Final(failure) => failure,
        };
        self.lane.metrics.attempted(failed.class.as_str());
        debug!(
            subscription = %self.lane.id(), delivery = %job.delivery, attempt = job.attempt, class = failed.class.as_str(),
            status = failed.status, reason = %failed.message, "an attempt failed"
        );
        if failed.class == FailureClass::Gone {
            return self.disable("the endpoint answered 410 Gone");
        }
        if failed.class == FailureClass::Internal {
            self.breaker.not_tried(Instant::now());
        }
        let blames = matches!(outcome, Outcome::Retry(_)) && failed.class != FailureClass::Internal;
        let retry_after = failed.retry_after_ms.map(Duration::from_millis);
        let turn = if blames { self.breaker.failed(Instant::now(), retry_after) } else { Turn::None };
        if turn != Turn::None {
            warn!(
                subscription = %self.lane.id(), reason = %failed.message,
                "the endpoint is left alone for a while, its events wait in the stream"
            );
            self.hold();
        }
    }

    fn disable(&mut self, reason: &str) {
        error!(subscription = %self.lane.id(), reason, "the subscription is disabled");
        let removed = {
            let mut state = self.lane.state();
            state.disabled = Some(reason.into());
            state.removed
        };
        // Nothing more is written of one that is gone: it would be found when it comes back.
        if removed {
            return self.hold();
        }
        let subscription = self.lane.id().clone();
        self.shared.recorder.submit(Change::Disable { subscription, reason: reason.into() }, Token::Nobody);
        self.hold();
    }

    pub(super) fn hold(&mut self) {
        self.drop_page();
        self.lane.hold();
    }

    fn probes_of(&self, job: &Job) -> u32 {
        self.given_back.as_ref().filter(|(position, _)| *position == job.position).map_or(0, |(_, probes)| *probes)
    }

    /// A probe that failed leaves no record: its event stays in the stream, and the reader will bring it again.
    fn give_back(&mut self, job: &Job) {
        self.given_back = Some((job.position.clone(), self.probes_of(job) + 1));
        // Where an order is kept the event stays in memory, before those that wait for it.
        let waits = self.put_back(job);
        if !waits {
            self.drop_page();
        }
        let mut state = self.lane.state();
        state.give_slot_back();
        if let Some(ledger) = job.ledger.filter(|_| !waits) {
            state.ledgers[ledger].step_back(job.position.sequence);
        }
        drop(state);
        self.lane.metrics.in_flight.dec();
        self.lane.metrics.held.set(1);
    }

    pub(super) fn record_unattempted(&self, record: Record) {
        self.lane.state().take_slot();
        self.lane.metrics.in_flight.inc();
        self.submit(record);
    }

    pub(super) fn submit(&self, record: Record) {
        let awaited = self.order.waits_for(record.order.as_ref().map(|(_, key)| &**key));
        let hurry = self.lane.state().submitted() || awaited;
        let change = record.change.clone();
        self.shared.recorder.submit(change, Token::Record(Arc::clone(&self.lane), record));
        if hurry {
            self.shared.recorder.hurry();
        }
    }

    /// Hands in again what the store refused, after a pause. False while the store is not to be bothered: then no attempt
    /// is begun either, so that a store that is full or broken does not make duplicates.
    pub(super) fn resubmit(&mut self) -> bool {
        let lost = {
            let mut state = self.lane.state();
            match state.refused_at {
                None => return true,
                Some(at) if at.elapsed() < RESUBMIT_DELAY => return false,
                Some(_) => state.take_lost(),
            }
        };
        for record in lost {
            let change = record.change.clone();
            self.shared.recorder.submit(change, Token::Record(Arc::clone(&self.lane), record));
        }
        true
    }
}

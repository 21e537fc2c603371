//! What follows from an attempt: its record, and what it says of the endpoint.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use tokio::time::Instant;
use tracing::debug;

use super::{RESUBMIT_DELAY, Worker};
use crate::deliver::breaker::Permit;
use crate::deliver::lane::{Record, Token};
use crate::domain::Outcome;
use crate::failpoint::{self, Place};
use crate::pipeline::job::{Job, Landed};

/// How many probes may fail with the same event before it is parked and the next one is tried: it may be the event that the
/// endpoint cannot take.
const PROBES_PER_EVENT_MAX: u32 = 20;
/// How long the record of a failure waits while others are under way: when they fail too and the endpoint is left alone,
/// none of them is parked.
const SUSPECT_TIME: Duration = Duration::from_millis(50);
/// How many events are known to have gone back to the stream, so that they are not counted as received again. With more,
/// some are.
const RETURNED_MAX: usize = 4096;

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
        let landed = Landed { job, outcome, took };
        let may_go_back = landed.job.parts == 1
            && matches!(landed.outcome, Outcome::Retry(_))
            && landed.job.ledger.is_some_and(|ledger| !self.lane.state().ledgers[ledger].is_forgetful());
        // Where an order is kept, only a probe waits in its place.
        let is_ordered = landed.job.order_key.is_some();
        // An endpoint that is left alone costs a position and no bodies: what fails goes back to the stream.
        if may_go_back
            && (was_probe || (self.breaker.is_failing() && !is_ordered))
            && self.probes_of(&landed.job) < PROBES_PER_EVENT_MAX
        {
            self.suspected_at = None;
            let suspects = std::mem::take(&mut self.suspects);
            suspects.iter().for_each(|suspect| self.give_back(&suspect.job));
            return self.give_back(&landed.job);
        }
        // One of several that fail together may be the first of those that make the endpoint a failing one.
        if may_go_back
            && !is_ordered
            && !self.breaker.is_open()
            && (!self.in_air.is_empty() || !self.suspects.is_empty())
        {
            self.suspected_at.get_or_insert_with(Instant::now);
            return self.suspects.push(landed);
        }
        if !may_go_back {
            self.conclude_suspects();
        }
        self.conclude(&landed);
    }

    fn conclude(&self, landed: &Landed) {
        let Landed { job, outcome, took } = landed;
        let mut record = job.conclude(&self.spec.load(), outcome, *took, rand::random::<f64>());
        record.span = job.recording(&self.shared.spans);
        self.submit(record);
    }

    /// What failed a moment ago was not the beginning of more: it is recorded like any other failure.
    pub(super) fn conclude_suspects(&mut self) {
        self.suspected_at = None;
        for landed in std::mem::take(&mut self.suspects) {
            self.conclude(&landed);
        }
    }

    /// When what failed is to be recorded, whatever comes.
    pub(super) fn suspects_due(&self) -> Option<Instant> {
        self.suspected_at.map(|at| at + SUSPECT_TIME)
    }

    /// Counts the outcome, and draws what it says of the endpoint.
    fn judge(&mut self, job: &Job, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered { .. } => self.lane.metrics.attempted("delivered"),
            Outcome::Retry(failed) | Outcome::Final(failed) => {
                self.lane.metrics.attempted(failed.class.as_str());
                debug!(
                    subscription = %self.lane.id(), delivery = %job.delivery, attempt = job.attempt,
                    class = failed.class.as_str(), status = failed.status, reason = %failed.message, "an attempt failed"
                );
            }
        }
        self.judge_endpoint(outcome);
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
        if self.returned.len() >= RETURNED_MAX {
            self.returned.clear();
        }
        // Where an order is kept the event stays in memory, before those that wait for it.
        let waits = self.put_back(job);
        if !waits {
            self.returned.insert(job.position.clone());
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
        let (lost, changes) = {
            let mut state = self.lane.state();
            match state.refused_at {
                None => return true,
                Some(at) if at.elapsed() < RESUBMIT_DELAY => return false,
                Some(_) => (state.take_lost(), state.take_lost_changes()),
            }
        };
        changes.into_iter().for_each(|change| self.change(change));
        for record in lost {
            let change = record.change.clone();
            self.shared.recorder.submit(change, Token::Record(Arc::clone(&self.lane), record));
        }
        true
    }
}

//! What attempts say of the endpoint's health over time, and what follows: it is left alone, its subscription is disabled,
//! and whoever wants to know is told.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Worker;
use crate::deliver::breaker::{Breaker, Turn};
use crate::deliver::health::Seen;
use crate::deliver::lane::Token;
use crate::domain::{Failure, FailureClass, HealthPolicy, Outcome};
use crate::ingest::Gap;
use crate::pipeline::announce::{Details, Kind};
use crate::store::{Change, Disabled, GapCause, GapRecord, LastFailure};
use crate::telemetry::clock;

/// How long a subscription's events about failing and recovering, and about gaps, keep apart: an endpoint that fails and
/// recovers all the time is told of no more often, and one whose events are about itself feeds itself no faster.
const QUIET: Duration = Duration::from_secs(60);
/// For how long there must have been nothing but failures before that goes on record, when the endpoint does not count as
/// failing anyway: a single failure is no reason to write.
const RECORDED_AFTER_MS: u64 = 10 * 60 * 1_000;

/// What a worker remembers of its endpoint's health.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Failures in a row by the receiver's fault, those included that are final.
    failures: u32,
    /// Since when there have been nothing but failures, in milliseconds since the Unix epoch.
    since_ms: Option<u64>,
    /// The store was told of it.
    is_recorded: bool,
    /// It was announced that the endpoint fails.
    is_announced: bool,
    /// When failing was announced last.
    announced_at: Option<Instant>,
    /// A gap that is still to be announced.
    gap: Option<GapRecord>,
    /// When a gap was announced last.
    gap_announced_at: Option<Instant>,
}

impl Course {
    /// Goes on from what is on record of the time before this daemon.
    pub(super) fn resumed(since_ms: Option<u64>) -> Self {
        Self { since_ms, is_recorded: since_ms.is_some(), is_announced: since_ms.is_some(), ..Self::default() }
    }

    /// When a gap is to be announced.
    pub(super) fn gap_due(&self) -> Option<Instant> {
        self.gap.as_ref().map(|_| self.gap_announced_at.map_or_else(Instant::now, |at| at + QUIET))
    }
}

/// The breaker of a worker that begins.
pub(super) fn breaker(policy: &HealthPolicy, failing_since_ms: Option<u64>) -> Breaker {
    match failing_since_ms {
        Some(_) => Breaker::probing(policy.breaker, Instant::now(), true),
        None => Breaker::new(policy.breaker),
    }
}

impl Worker {
    /// Takes in what an attempt's outcome says of the endpoint.
    pub(super) fn judge_endpoint(&mut self, outcome: &Outcome) {
        let now = Instant::now();
        let (failure, is_final) = match outcome {
            Outcome::Delivered { .. } => return self.endpoint_works(now),
            Outcome::Retry(failure) => (failure, false),
            Outcome::Final(failure) => (failure, true),
        };
        if failure.class == FailureClass::Internal {
            return self.breaker.not_tried(now);
        }
        self.note_failure(failure);
        if failure.class == FailureClass::Gone {
            return self.disable("the endpoint answered 410 Gone");
        }
        let turn = match (is_final, failure.class) {
            (false, _) => self.breaker.failed(now, failure.retry_after_ms.map(Duration::from_millis)),
            (true, FailureClass::Status) => self.breaker.answered(now),
            (true, _) => {
                self.breaker.not_tried(now);
                Turn::None
            }
        };
        match turn {
            Turn::None => {}
            Turn::Closed { had_failed } => self.endpoint_answers(had_failed),
            Turn::Paused => {
                info!(subscription = %self.lane.id(), "the endpoint asks to be left alone, its events wait in the stream");
                self.hold();
            }
            Turn::Failing => {
                warn!(
                    subscription = %self.lane.id(), reason = %failure.message,
                    "the endpoint is left alone for a while, its events wait in the stream"
                );
                self.lane.state().health.failing = true;
                self.lane.metrics.failing.set(1);
                self.hold();
            }
        }
        self.record_failing();
        self.announce_failing(now);
        self.disable_when_overdue();
    }

    fn endpoint_works(&mut self, now: Instant) {
        if let Turn::Closed { had_failed } = self.breaker.succeeded(now) {
            self.endpoint_answers(had_failed);
        }
        self.course.failures = 0;
        if self.course.since_ms.take().is_some() {
            self.lane.state().health.failing_since_ms = None;
            if std::mem::take(&mut self.course.is_recorded) {
                self.change(Change::Failing { subscription: self.lane.id().clone(), since_ms: None });
            }
        }
    }

    /// A probe was answered: the endpoint is sent events again.
    fn endpoint_answers(&mut self, had_failed: bool) {
        info!(subscription = %self.lane.id(), "the endpoint works again");
        self.lane.state().health.failing = false;
        self.lane.metrics.failing.set(0);
        if had_failed && std::mem::take(&mut self.course.is_announced) {
            let details = Details { since_ms: self.course.since_ms, ..Details::default() };
            self.shared.announcer.announce(Kind::Recovered, &self.lane, &details);
        }
    }

    fn note_failure(&mut self, failure: &Failure) {
        let at_ms = clock::now_ms();
        self.course.failures = self.course.failures.saturating_add(1);
        let since_ms = *self.course.since_ms.get_or_insert(at_ms);
        let mut state = self.lane.state();
        state.health.failing_since_ms = Some(since_ms);
        state.health.last_failure = Some(Seen { at_ms, failure: LastFailure::from(failure) });
    }

    /// Since when the endpoint fails outlives a restart.
    fn record_failing(&mut self) {
        let Some(since_ms) = self.course.since_ms else { return };
        let is_old = clock::now_ms().saturating_sub(since_ms) >= RECORDED_AFTER_MS;
        if !self.course.is_recorded && (self.breaker.is_failing() || is_old) {
            self.course.is_recorded = true;
            self.change(Change::Failing { subscription: self.lane.id().clone(), since_ms: Some(since_ms) });
        }
    }

    fn announce_failing(&mut self, now: Instant) {
        let quiet = self.course.announced_at.is_some_and(|at| now < at + QUIET);
        if !self.breaker.is_failing() || self.course.is_announced || quiet {
            return;
        }
        self.course.is_announced = true;
        self.course.announced_at = Some(now);
        let details = Details { since_ms: self.course.since_ms, ..Details::default() };
        self.shared.announcer.announce(Kind::Failing, &self.lane, &details);
    }

    /// Nothing but failures for too long. A few failures far apart are not enough: as many are asked for as open the
    /// breaker, of this run of the daemon.
    fn disable_when_overdue(&mut self) {
        let policy = self.spec.load().health;
        let (Some(after), Some(since_ms)) = (policy.disable_after, self.course.since_ms) else { return };
        let failing_ms = u128::from(clock::now_ms().saturating_sub(since_ms));
        if failing_ms >= after.as_millis() && self.course.failures >= policy.breaker.attempts_min {
            let after = humantime::format_duration(after);
            self.disable(&format!("the endpoint has done nothing but fail for {after}"));
        }
    }

    fn disable(&mut self, reason: &str) {
        if self.lane.state().disabled.is_some() {
            return;
        }
        error!(subscription = %self.lane.id(), reason, "the subscription is disabled");
        let endpoint = Some(self.spec.load().endpoint_digest);
        let disabled = Disabled { reason: reason.into(), since_ms: clock::now_ms(), endpoint };
        let since_ms = self.course.since_ms;
        self.lane.state().disabled = Some(disabled.clone());
        self.lane.metrics.disabled.set(1);
        self.change(Change::Disable { subscription: self.lane.id().clone(), disabled });
        self.hold();
        let details = Details { reason: Some(reason), since_ms, gap: None };
        self.shared.announcer.announce(Kind::Disabled, &self.lane, &details);
    }

    /// What was learnt of an endpoint does not hold for the one that a reload put in its place; and whoever is enabled again
    /// is probed first.
    pub(super) fn forgive(&mut self) {
        let spec = self.spec.load();
        let policy = spec.health.breaker;
        let is_other = !std::sync::Arc::ptr_eq(&spec.endpoint, &self.endpoint);
        let is_enabled = std::mem::take(&mut self.lane.state().health.forgiven);
        if is_other {
            self.endpoint = std::sync::Arc::clone(&spec.endpoint);
        }
        drop(spec);
        if is_enabled {
            self.breaker = Breaker::probing(policy, Instant::now(), false);
            self.course = Course::default();
        } else if is_other {
            self.breaker = Breaker::new(policy);
            let was_recorded = self.course.is_recorded;
            self.course = Course::default();
            let mut state = self.lane.state();
            state.health.failing = false;
            state.health.failing_since_ms = None;
            drop(state);
            self.lane.metrics.failing.set(0);
            if was_recorded {
                self.change(Change::Failing { subscription: self.lane.id().clone(), since_ms: None });
            }
        }
    }

    /// A gap of the time before this worker, which is on record, and still to be announced.
    pub fn tell_of(&mut self, gap: GapRecord) {
        self.course.gap = Some(gap);
    }

    /// History that was gone before it was read.
    pub(super) fn note_gap(&mut self, gap: Gap) {
        let events = gap.available - gap.from;
        self.lane.metrics.gap_events.inc_by(events);
        let Gap { stream, from, available } = gap;
        let cause = GapCause::Discarded;
        let record = GapRecord { stream, from, available, at_ms: clock::now_ms(), cause, events };
        self.change(Change::Gap { subscription: self.lane.id().clone(), gap: record.clone() });
        self.lane.state().health.add_gap(record.clone());
        match &mut self.course.gap {
            Some(earlier) if earlier.stream == record.stream => {
                earlier.available = record.available;
                earlier.events += events;
            }
            other => *other = Some(record),
        }
    }

    /// Tells of a gap, and of those since then, when it was quiet for a while.
    pub(super) fn announce_gap(&mut self) {
        if self.course.gap_due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let Some(gap) = self.course.gap.take() else { return };
        self.course.gap_announced_at = Some(Instant::now());
        let reason = match gap.cause {
            GapCause::Replaced => "the stream was deleted and made anew, what it had and was not read is gone",
            GapCause::Discarded | GapCause::Skipped => "the stream discarded events before they were read",
        };
        let details = Details { reason: Some(reason), since_ms: Some(gap.at_ms), gap: Some(&gap) };
        self.shared.announcer.announce(Kind::Gap, &self.lane, &details);
    }

    /// Hands in a change that must not be lost: refused, it is handed in again. Nothing more is written of a subscription
    /// that is gone: it would be found when it comes back.
    pub(super) fn change(&self, change: Change) {
        if self.lane.state().removed {
            return;
        }
        let lane = std::sync::Arc::clone(&self.lane);
        self.shared.recorder.submit(change.clone(), Token::Health { lane, change });
    }
}

//! A replay's share of a worker's time: its events go the way of all others, and what comes of them is told to the job.

use std::sync::Arc;

use super::Worker;
use crate::domain::{DeliveryId, Event, FailureClass, JobId, OnPluginError};
use crate::pipeline::job::{Job, failure};
use crate::pipeline::traced::outgoing;
use crate::plugin::Passed;

/// An event that a replay brought.
pub(super) struct Replayed {
    pub(super) event: Arc<Event>,
    pub(super) job: JobId,
}

impl Worker {
    /// The next event of a replay, unless the subscription will come to it by itself: that one is left alone.
    pub(super) fn next_replayed(&mut self) -> Option<Replayed> {
        let mut state = self.lane.state();
        loop {
            let replay = state.replay.as_mut()?;
            let job = replay.job();
            let event = replay.take()?;
            let sequence = event.position.sequence;
            let own = state.ledger_of(&event.position.stream);
            if own.is_none_or(|own| state.ledgers[own].has_passed(sequence)) {
                return Some(Replayed { event, job });
            }
            if let Some(replay) = &mut state.replay {
                replay.leave(sequence, 0, 1);
            }
        }
    }

    /// Carries an event of a replay on: decoded, through the plugins, and each output to an attempt.
    pub(super) async fn carry_replayed(&mut self, replayed: Replayed) {
        let Replayed { event, job } = replayed;
        let spec = self.spec.load_full();
        if let Some(reason) = &event.undecodable {
            self.faulted(job, &event);
            let failure = failure(FailureClass::Undecodable, reason.clone());
            return self.bury_replayed(job, &event, &failure);
        }
        let (passed, span) = self.run_plugins(&spec, &event).await;
        match passed {
            Passed::Kept(outputs) if !outputs.is_empty() => {
                let parts = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
                let before = self.ready.len();
                for (part, output) in (0..).zip(outputs) {
                    if self.begin_part(job, &event, part, parts) {
                        let output = outgoing(&spec, &span, &event, output);
                        self.ready.push_back(Job::new(self.lane.id(), 0, &event, output, part, parts).replayed(job));
                    }
                }
                if self.ready.len() > before {
                    self.took();
                } else {
                    self.end_recorded(job, &event, parts);
                }
            }
            Passed::Kept(_) | Passed::Dropped { .. } => {
                self.took();
                self.lane.metrics.filtered.inc();
                self.settle_replayed(job, &event);
            }
            Passed::Faulted { fault, policy } => {
                self.lane.metrics.faulted(fault.kind_str());
                self.faulted(job, &event);
                self.warn_of_fault(&event, &fault);
                if policy == OnPluginError::Drop {
                    self.took();
                    self.lane.metrics.dropped.inc();
                    self.settle_replayed(job, &event);
                } else {
                    self.bury_replayed(job, &event, &failure(FailureClass::Plugin, fault.to_string()));
                }
            }
        }
    }

    /// Is that part to be delivered? Not when it is done with already, or when its delivery is under way or waits for its
    /// next attempt: that one goes on, and two of them would be one too many.
    fn begin_part(&self, job: JobId, event: &Event, part: u32, parts: u32) -> bool {
        let sequence = event.position.sequence;
        let delivery = DeliveryId::derive(self.lane.id(), &event.position, part);
        // What cannot be read is not known to be parked. Nothing begins for long while the store cannot be read.
        let is_parked = self.shared.store.parked(&delivery).is_ok_and(|parked| parked.is_some());
        let mut state = self.lane.state();
        let waits = is_parked || state.is_claimed(&delivery);
        let Some(replay) = state.replay.as_mut().filter(|replay| replay.job() == job) else { return false };
        if replay.is_recorded(sequence, part) {
            return false;
        }
        if waits {
            replay.leave(sequence, part, parts);
            return false;
        }
        replay.begin();
        state.claim(delivery);
        true
    }

    fn settle_replayed(&self, job: JobId, event: &Event) {
        if let Some(replay) = self.lane.state().replay.as_mut().filter(|replay| replay.job() == job) {
            replay.filtered(event.position.sequence);
        }
    }

    /// Gives an event of a replay up that cannot be delivered as it is.
    fn bury_replayed(&self, job: JobId, event: &Event, reason: &crate::domain::Failure) {
        if self.begin_part(job, event, 0, 1) {
            self.took();
            self.record_unattempted(Job::whole(self.lane.id(), 0, event).replayed(job).dead(None, reason));
        }
    }

    /// An event of a replay is counted as taken, once it is known that something comes of it.
    fn took(&self) {
        self.lane.metrics.received.inc();
        self.lane.metrics.replayed.inc();
    }

    fn faulted(&self, job: JobId, event: &Event) {
        if let Some(replay) = self.lane.state().replay.as_mut().filter(|replay| replay.job() == job) {
            replay.faulted(event.position.sequence);
        }
    }

    /// No part of an event begins. When all of them are on record, of then more, nothing else would end it.
    fn end_recorded(&self, job: JobId, event: &Event, parts: u32) {
        let sequence = event.position.sequence;
        if let Some(replay) = self.lane.state().replay.as_mut().filter(|replay| replay.job() == job)
            && !replay.is_done(sequence)
            && (0..parts).all(|part| replay.is_recorded(sequence, part))
        {
            replay.nothing_left(sequence);
        }
    }
}

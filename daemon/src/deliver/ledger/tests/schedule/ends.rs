//! How a daemon ends and begins, and how everything runs dry.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::RngExt as _;

use super::{Broken, DRY_STEPS, Simulation, lane, stream};
use crate::deliver::ledger::tests::lasting::EVENTS;

impl Simulation {
    /// Everything but JetStream and the store is lost.
    pub(super) fn crash(&mut self) {
        self.settle_acks();
        self.lasting.excuse_what_a_crash_forgets(&self.lane.state().ledgers[0]);
        if let Some(job) = &mut self.lasting.job {
            job.excuse_what_a_crash_forgets();
        }
        self.start();
    }

    /// A stop: attempts under way end or are parked, and the last records and positions become durable.
    pub(super) fn stop(&mut self) {
        self.close_reader();
        self.ready.clear();
        self.lane.state().clear_queue();
        for job in std::mem::take(&mut self.in_air) {
            let failed = self.rng.random_bool(0.5);
            self.record(&job, failed);
        }
        let waits = self.broken != Some(Broken::StopWaitsForPosition);
        self.dry = true;
        self.save_position();
        while !self.writes.is_empty() || (waits && !self.lane.state().is_settled()) {
            if waits {
                self.resubmit();
                self.save_position();
            }
            self.flush();
        }
        self.dry = false;
        self.settle_acks();
        self.start();
    }

    fn start(&mut self) {
        self.sink = Arc::default();
        self.open.clear();
        self.blocked = None;
        self.ready.clear();
        self.in_air.clear();
        self.writes.clear();
        self.close_reader();
        self.breaker_open = false;
        self.again = self.lasting.unacked.iter().copied().collect();
        let ledger = self.lasting.ledger(stream());
        self.lane = lane(&mut self.rng, &self.metrics, ledger, self.lasting.order.is_kept());
        self.begin_order();
        self.resume_replay();
    }

    /// Lets everything run dry.
    pub(super) fn finish(&mut self) {
        self.dry = true;
        self.breaker_open = false;
        self.lasting.disabled = false;
        self.lasting.published = EVENTS;
        for _ in 0..DRY_STEPS {
            let idle =
                self.blocked.is_none() && self.in_air.is_empty() && self.writes.is_empty() && self.ready.is_empty();
            if idle && self.lasting.is_over() && self.lasting.job.is_none() && self.lane.state().is_settled() {
                break;
            }
            self.step();
        }
        assert_eq!(self.lasting.delivered, EVENTS, "nobody waits for ever");
        assert_eq!(self.lasting.unacked, BTreeSet::new(), "everything is acked in the end");
        assert!(self.lasting.job.is_none(), "a replay comes to its end");
        assert_eq!(self.lasting.position, None, "the position is removed in the end");
        self.lasting.check_received();
    }
}

//! Positions on their way to the store, and the worker's end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{RESUBMIT_DELAY, Worker};
use crate::deliver::lane::{Token, position_change};
use crate::domain::FailureClass;
use crate::pipeline::job::failure;
use crate::telemetry::clock;

/// How long a stop waits at least for the last outcomes and positions to be durable.
const SETTLE_TIME_MIN: Duration = Duration::from_secs(2);

impl Worker {
    /// The end: no new work; attempts under way may end, and what does not end in time is parked.
    pub(super) async fn drain(mut self: Box<Self>) {
        self.catch_up.reset();
        self.ready.clear();
        self.lane.state().clear_queue();
        let deadline = Instant::now() + self.shared.config.drain_timeout;
        while !self.in_air.is_empty() {
            tokio::select! {
                Some(landed) = self.in_air.next() => self.land(landed),
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.conclude_suspects();
        let cut_short = failure(FailureClass::Internal, "the daemon was stopped during the attempt");
        for in_air in self.in_air.iter() {
            let job = &in_air.job;
            info!(subscription = %self.lane.id(), delivery = %job.delivery, "parked an attempt that the stop cut short");
            self.submit(job.park(None, clock::now_ms(), &cut_short));
        }
        self.settle_positions(deadline).await;
    }

    /// Waits until the last outcomes are durable, and then the positions that tell of them: a daemon that starts later
    /// reads the log above the ack floor only.
    async fn settle_positions(&mut self, deadline: Instant) {
        let deadline = deadline.max(Instant::now() + SETTLE_TIME_MIN);
        loop {
            self.resubmit();
            self.save_positions();
            if self.lane.state().is_settled() {
                return;
            }
            self.shared.recorder.hurry();
            let look_again = Instant::now() + RESUBMIT_DELAY;
            tokio::select! {
                () = self.lane.woken() => {}
                () = tokio::time::sleep_until(look_again.min(deadline)) => {}
            }
            if Instant::now() >= deadline {
                return warn!(subscription = %self.lane.id(), "the store did not take the last outcomes in time");
            }
        }
    }

    pub(super) fn save_positions(&self) {
        let mut state = self.lane.state();
        if state.refused_at.is_some() || state.removed {
            return;
        }
        for index in 0..state.ledgers.len() {
            let ledger = &mut state.ledgers[index];
            if let Some(change) = ledger.position_change() {
                let change = position_change(self.lane.id(), ledger.stream(), change);
                let token = Token::Position { lane: Arc::clone(&self.lane), ledger: index };
                self.shared.recorder.submit(change, token);
            }
        }
    }
}

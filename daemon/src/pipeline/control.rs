//! What an operator, or a reload, decides of a subscription: it is disabled, or enabled again. Both are durable before the
//! answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Shared;
use super::announce::{Details, Kind};
use crate::deliver::Lane;
use crate::deliver::health::{Error, Resume};
use crate::deliver::ledger::Ledger;
use crate::ingest::{self, Reader};
use crate::store::{Change, Disabled, GapCause, GapRecord};
use crate::telemetry::{chain, clock};

/// How long to wait for a position to be durable.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether it is.
const POLL: Duration = Duration::from_millis(5);

/// Enables and disables subscriptions. Cloning shares it.
#[derive(Clone)]
pub struct Control {
    shared: Shared,
    /// One decision at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Control {
    /// Over what the workers share.
    pub fn new(shared: Shared) -> Self {
        Self { shared, turn: Arc::default() }
    }

    /// Disables a subscription until it is enabled, whatever happens to its endpoint.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn disable(&self, lane: &Arc<Lane>, reason: Box<str>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let disabled = Disabled { reason: reason.clone(), since_ms: clock::now_ms(), endpoint: None };
        let subscription = lane.id().clone();
        self.durable(Change::Disable { subscription, disabled: disabled.clone() }).await?;
        info!(subscription = %lane.id(), reason, "the subscription is disabled by an operator");
        let since_ms = Some(disabled.since_ms);
        lane.state().disabled = Some(disabled);
        lane.hold();
        lane.metrics.disabled.set(1);
        self.shared.announcer.announce(Kind::Disabled, lane, &Details { reason: Some(&reason), since_ms, gap: None });
        Ok(())
    }

    /// Enables a subscription: it goes on where it stopped, or with what is published from now on. One that is not disabled
    /// stays as it is.
    ///
    /// # Errors
    /// When the store does not take it, or the stream cannot be asked what is passed over; it is then still disabled.
    pub async fn enable(&self, lane: &Arc<Lane>, resume: Resume) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let Some(was) = lane.state().disabled.clone() else {
            return if resume == Resume::Stop { Ok(()) } else { Err(Error::NotDisabled) };
        };
        if resume == Resume::Now {
            self.skip(lane).await.inspect_err(|error| {
                warn!(subscription = %lane.id(), error = %chain(error), "the subscription could not be enabled");
            })?;
        }
        self.durable(Change::Enable { subscription: lane.id().clone() }).await?;
        {
            let mut state = lane.state();
            state.disabled = None;
            state.health.failing = false;
            state.health.failing_since_ms = None;
            state.health.forgiven = true;
        }
        lane.metrics.disabled.set(0);
        lane.metrics.failing.set(0);
        info!(subscription = %lane.id(), was = %was.reason, "the subscription is enabled again");
        let reason = match resume {
            Resume::Stop => "goes on where it stopped",
            Resume::Now => "goes on with what is published from now on",
        };
        let details = Details { reason: Some(reason), since_ms: Some(was.since_ms), gap: None };
        self.shared.announcer.announce(Kind::Enabled, lane, &details);
        lane.wake();
        Ok(())
    }

    /// Hands in a change, and returns when it is durable.
    async fn durable(&self, change: Change) -> Result<(), Error> {
        if self.shared.written(change).await.unwrap_or(false) { Ok(()) } else { Err(Error::Store) }
    }

    /// Passes over what waits for a subscription in each stream. It is counted and put on record first.
    async fn skip(&self, lane: &Arc<Lane>) -> Result<(), Error> {
        let ledgers = lane.state().ledgers.len();
        for index in 0..ledgers {
            let (stream, cursor) = {
                let state = lane.state();
                (state.ledgers[index].stream().clone(), state.ledgers[index].cursor())
            };
            let Some(from) = cursor else { continue };
            let last = self.shared.nats.facts(&stream).await.map_err(|e| unreadable(&e))?.last_sequence;
            if last < from {
                continue;
            }
            let Some(config) = self.shared.nats.stream(&stream).cloned() else { continue };
            let types = lane.state().types.clone();
            let opened = Reader::open(self.shared.nats.clone(), config, &types, from).await;
            let (reader, _) = opened.map_err(|e| unreadable(&e))?;
            let events = reader.pending();
            self.shared.background.spawn(reader.close());
            let cause = GapCause::Skipped;
            let gap = GapRecord { stream, from, available: last + 1, at_ms: clock::now_ms(), cause, events };
            info!(subscription = %lane.id(), stream = %gap.stream, from, until = last, events, "what waits is passed over");
            self.durable(Change::Gap { subscription: lane.id().clone(), gap: gap.clone() }).await?;
            lane.metrics.skipped_events.inc_by(events);
            let mut state = lane.state();
            state.health.add_gap(gap);
            state.ledgers[index].skip_through(last);
        }
        lane.wake();
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while !lane.state().ledgers.iter().all(Ledger::is_position_settled) {
            if Instant::now() >= deadline {
                return Err(Error::Store);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

fn unreadable(error: &ingest::Error) -> Error {
    Error::Stream { reason: chain(error).into() }
}

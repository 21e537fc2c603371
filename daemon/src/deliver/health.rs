//! What is known of an endpoint's health, as its worker, the API and the operational events share it.

use std::pin::Pin;

use crate::store::{self, GapRecord, LastFailure};

/// What is known of an endpoint's health, and of what its subscription missed.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// It counts as failing: it is left alone but for probes.
    pub failing: bool,
    /// Since when there have been nothing but failures, in milliseconds since the Unix epoch.
    pub failing_since_ms: Option<u64>,
    /// The last attempt that failed.
    pub last_failure: Option<Seen>,
    /// The plugins that are set aside, with how many faults in a row each had.
    pub quarantined: Vec<(Box<str>, u32)>,
    /// The last gaps and skips, oldest first, as they are on record.
    pub gaps: Vec<GapRecord>,
    /// How far behind the subscription is, as measured last.
    pub lag: Lag,
    /// The subscription was enabled again: what its worker learnt of the endpoint no longer counts.
    pub forgiven: bool,
}

impl Health {
    /// Notes a gap.
    pub fn add_gap(&mut self, gap: GapRecord) {
        store::add_gap(&mut self.gaps, gap);
    }
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When it failed, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How.
    pub failure: LastFailure,
}

/// How far behind a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Events that wait: exact while it reads live, and at most so many while it is held.
    pub events: u64,
    /// The age of the oldest of them, in seconds.
    pub seconds: u64,
}

/// Where a subscription that is enabled goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Where it stopped: nothing is missed.
    Stop,
    /// With what is published from now on; what waits is passed over, and counted.
    Now,
}

/// Why a subscription could not be enabled or disabled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not take it.
    #[error("the store could not make it durable")]
    Store,
    /// What waits in the stream could not be found out.
    #[error("cannot find out what waits in the stream: {reason}")]
    Stream {
        /// Why.
        reason: Box<str>,
    },
    /// It is not disabled, so there is nothing to pass over.
    #[error("the subscription is not disabled")]
    NotDisabled,
}

/// The answer to an operator's wish.
pub type Decision<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

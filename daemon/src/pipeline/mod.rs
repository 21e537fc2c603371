//! The webhook side: what happens to an event from the stream to its record, and who does it.
//!
//! ```text
//! receive ─ match ─ offer │ take ─ plugins ─ dispatch ─ attempt ─ record │ ack
//!        feed (a stream)  │         worker (a subscription)              │ store's writer
//! ```
//!
//! The [`feed`] of a stream receives its events, matches them and offers each to the lanes that it concerns. The
//! [`worker`] of a lane takes events from there, from its own [`catchup`] reader, or from the store when an attempt is
//! due, and carries them through plugins, attempt and record: one path for all of them. When the store's writer has made
//! the outcome durable, the event's acknowledgement is released.

pub mod announce;
pub mod catchup;
pub mod control;
pub mod feed;
pub mod job;
pub mod jobs;
pub mod lag;
mod pace;
pub mod readers;
pub mod subscriptions;
mod traced;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::RecvError};
use tokio_util::task::TaskTracker;

use self::announce::Announcer;
use self::readers::Readers;
use crate::deliver::secrets::Wanted;
use crate::deliver::{Client, Prepared, Secrets, Token};
use crate::domain::{DeliverFrom, HeadOfLine, HealthPolicy, Order, Pattern, RateLimit, RetryPolicy};
use crate::ingest::Nats;
use crate::plugin::Chain;
use crate::store::{Change, Recorder, Store};
use crate::telemetry::spans::Spans;

/// How the webhook side behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a lane may be full, while others could go on, before it is held.
    pub hold_after: Duration,
    /// How many subscriptions catch up at a time.
    pub readers_max: usize,
    /// How many deliveries a subscription may have parked, until events of a stream that forgets what is acked wait in it.
    pub overflow_parked_max: u64,
    /// How long attempts under way may take to end when the daemon stops.
    pub drain_timeout: Duration,
}

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
    /// Carries out attempts.
    pub client: Client,
    /// Makes outcomes durable.
    pub recorder: Recorder<Token>,
    /// For reading what is parked.
    pub store: Store,
    /// What subscriptions sign with.
    pub secrets: Secrets,
    /// For catching up.
    pub nats: Nats,
    /// Permits of the readers.
    pub readers: Readers,
    /// Small errands that nobody waits for, such as closing a reader.
    pub background: TaskTracker,
    /// Tells of what happens to endpoints.
    pub announcer: Announcer,
    /// Makes the spans of traces.
    pub spans: Spans,
    /// How to behave.
    pub config: Arc<Config>,
}

impl Shared {
    /// Hands in a change, in a hurry, and waits for the store's answer: whether it is durable.
    ///
    /// # Errors
    /// When no answer comes, because the store's writer has ended.
    async fn written(&self, change: Change) -> Result<bool, RecvError> {
        let (tell, told) = oneshot::channel();
        self.recorder.submit(change, Token::Told(tell));
        self.recorder.hurry();
        told.await
    }
}

/// What a worker needs to know of its subscription; replaced as a whole on reload.
#[derive(Clone)]
pub struct Spec {
    /// The event types.
    pub types: Vec<Pattern>,
    /// The plugins, ready to run.
    pub chain: Arc<Chain>,
    /// The endpoint, ready for attempts.
    pub endpoint: Arc<Prepared>,
    /// Tells the endpoint's URL from another one.
    pub endpoint_digest: u64,
    /// What its definition says of its signing secret.
    pub secret: Wanted,
    /// When to try again.
    pub retry: RetryPolicy,
    /// When the endpoint is left alone, and when the subscription is disabled.
    pub health: HealthPolicy,
    /// The most attempts at a time.
    pub in_flight_max: u32,
    /// Where it begins in a stream in which it is new.
    pub deliver_from: DeliverFrom,
    /// How many attempts a time may be made.
    pub rate_limit: Option<RateLimit>,
    /// Which events wait for each other.
    pub order: Order,
    /// What becomes of one that others wait for.
    pub head_of_line: HeadOfLine,
}

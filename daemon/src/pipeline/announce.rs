//! Operational events: what happens to an endpoint is published as an event of its own, and can thereby be delivered like
//! any other.
//!
//! They are a courtesy and hold nothing up: a queue of bounded length, one publisher that tries again until NATS takes the
//! event, and a count of what found the queue full. The status in the API is what counts. What happens often is told
//! rarely (see the worker's `health`), so that a subscription whose own events are about itself does not feed itself.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::deliver::Lane;
use crate::domain::Subject;
use crate::ingest::Nats;
use crate::store::GapRecord;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{chain, clock};

/// How many operational events wait for NATS; what comes beyond is dropped and counted.
const QUEUE_EVENTS_MAX: usize = 1024;
/// The first and the longest wait before an event that NATS did not take is published again.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An endpoint counts as failing: it is left alone but for probes.
    Failing,
    /// A failing endpoint works again.
    Recovered,
    /// A subscription was disabled.
    Disabled,
    /// A subscription was enabled again.
    Enabled,
    /// History was discarded before a subscription read it.
    Gap,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Failing, Self::Recovered, Self::Disabled, Self::Enabled, Self::Gap];

    /// The event's type, below the configured prefix.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "sluiced.endpoint.failing",
            Self::Recovered => "sluiced.endpoint.recovered",
            Self::Disabled => "sluiced.endpoint.disabled",
            Self::Enabled => "sluiced.endpoint.enabled",
            Self::Gap => "sluiced.endpoint.gap",
        }
    }
}

/// An event that waits to be published.
#[derive(Debug)]
struct Announcement {
    kind: Kind,
    id: String,
    body: Bytes,
}

/// What an operational event says besides what is known of the subscription anyway.
#[derive(Debug, Default)]
pub struct Details<'a> {
    /// Why, for a person.
    pub reason: Option<&'a str>,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// The history that was missed.
    pub gap: Option<&'a GapRecord>,
}

/// Takes operational events in. Cloning shares the queue.
#[derive(Clone)]
pub struct Announcer {
    queue: Option<mpsc::Sender<Announcement>>,
    metrics: Metrics,
}

/// Publishes them.
pub struct Publisher {
    queue: mpsc::Receiver<Announcement>,
    nats: Nats,
    prefix: String,
    metrics: Metrics,
}

/// The two ends. Without a prefix nothing is published.
pub fn channel(prefix: Option<String>, nats: Nats, metrics: Metrics) -> (Announcer, Option<Publisher>) {
    let Some(prefix) = prefix else { return (Announcer { queue: None, metrics }, None) };
    let (sender, queue) = mpsc::channel(QUEUE_EVENTS_MAX);
    let publisher = Publisher { queue, nats, prefix, metrics: metrics.clone() };
    (Announcer { queue: Some(sender), metrics }, Some(publisher))
}

impl Announcer {
    /// Tells what happened. It never waits.
    pub fn announce(&self, kind: Kind, lane: &Lane, details: &Details<'_>) {
        let Some(queue) = &self.queue else { return };
        let at_ms = clock::now_ms();
        let id = format!("{}-{}-{at_ms}", kind.as_str(), lane.id());
        let body = body(kind, at_ms, lane, details).to_string().into();
        if queue.try_send(Announcement { kind, id, body }).is_err() {
            self.metrics.announcement_dropped();
            warn!(subscription = %lane.id(), kind = kind.as_str(), "an operational event is dropped, too many wait for nats");
        }
    }
}

fn body(kind: Kind, at_ms: u64, lane: &Lane, details: &Details<'_>) -> Value {
    let state = lane.state();
    let mut body = Map::new();
    body.insert("event".to_owned(), kind.as_str().into());
    body.insert("subscription".to_owned(), lane.id().as_str().into());
    body.insert("at".to_owned(), clock::rfc3339(at_ms).into());
    if let Some(reason) = details.reason {
        body.insert("reason".to_owned(), reason.into());
    }
    if let Some(since_ms) = details.since_ms {
        body.insert("since".to_owned(), clock::rfc3339(since_ms).into());
    }
    if let Some(seen) = &state.health.last_failure {
        let failure = &seen.failure;
        let last = json!({
            "at": clock::rfc3339(seen.at_ms), "class": failure.class, "status": failure.status, "reason": failure.message
        });
        body.insert("last_failure".to_owned(), last);
    }
    if let Some(gap) = details.gap {
        let missed = json!({
            "stream": gap.stream.as_str(), "from": gap.from, "available": gap.available, "events_max": gap.events
        });
        body.insert("gap".to_owned(), missed);
    }
    let lag = state.health.lag;
    body.insert("lag".to_owned(), json!({ "events": lag.events, "seconds": lag.seconds }));
    Value::Object(body)
}

impl Publisher {
    /// Publishes until `stop`, and then what still waits, as far as NATS takes it at once.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let announcement = tokio::select! {
                biased;
                Some(announcement) = self.queue.recv() => announcement,
                () = stop.cancelled() => return,
                else => return,
            };
            let mut delay = RETRY_DELAY.0;
            while !self.publish(&announcement).await {
                tokio::select! {
                    () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY_DELAY.1),
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    async fn publish(&self, announcement: &Announcement) -> bool {
        let subject = match Subject::parse(&format!("{}{}", self.prefix, announcement.kind.as_str())) {
            Ok(subject) => subject,
            // The configuration was checked for it.
            Err(error) => {
                warn!(%error, "an operational event has no subject");
                return true;
            }
        };
        let body = announcement.body.clone();
        match self.nats.publish_json(&subject, &announcement.id, body).await {
            Ok(_) => {
                self.metrics.announced(announcement.kind.as_str());
                true
            }
            Err(error) => {
                debug!(error = %chain(&error), "an operational event could not be published, trying again");
                false
            }
        }
    }
}

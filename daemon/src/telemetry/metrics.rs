//! The metrics, a small named set per stage, in the Prometheus text format.
//!
//! Labels are bounded by the configuration: streams, subscriptions, and fixed words. The hot path holds its counters and
//! never looks one up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The bounds of the duration histograms' buckets, in seconds.
const SECONDS_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0];

/// What an attempt or a delivery may be counted as.
const OUTCOMES: [&str; 10] = [
    "delivered",
    "failed",
    "network",
    "timeout",
    "status",
    "gone",
    "address_refused",
    "plugin",
    "undecodable",
    "internal",
];

/// What a plugin fault may be counted as.
const FAULTS: [&str; 8] = ["trap", "deadline", "memory", "table", "output", "reported", "instantiate", "quarantined"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BySubscription {
    subscription: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByOutcome {
    subscription: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByKind {
    subscription: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByType {
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStream {
    stream: String,
}

/// All metrics. Cloning shares them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    received: Family<BySubscription, Counter>,
    filtered: Family<BySubscription, Counter>,
    deliveries: Family<ByOutcome, Counter>,
    attempts: Family<ByOutcome, Counter>,
    faults: Family<ByKind, Counter>,
    dropped: Family<BySubscription, Counter>,
    resent: Family<BySubscription, Counter>,
    replayed: Family<BySubscription, Counter>,
    parked: Family<BySubscription, Gauge>,
    in_flight: Family<BySubscription, Gauge>,
    held: Family<BySubscription, Gauge>,
    disabled: Family<BySubscription, Gauge>,
    failing: Family<BySubscription, Gauge>,
    overflow_full: Family<BySubscription, Gauge>,
    quarantined: Family<BySubscription, Gauge>,
    lag_events: Family<BySubscription, Gauge>,
    lag_seconds: Family<BySubscription, Gauge>,
    gap_events: Family<BySubscription, Counter>,
    skipped_events: Family<BySubscription, Counter>,
    announced: Family<ByType, Counter>,
    announcements_dropped: Counter,
    ingested: Family<ByStream, Counter>,
    unmatched: Family<ByStream, Counter>,
    unacked: Family<ByStream, Gauge>,
    attempt_seconds: Histogram,
    client: ClientMetrics,
    store: StoreMetrics,
    sse: SseMetrics,
}

/// What one webhook subscription counts.
#[derive(Clone, Debug)]
pub struct SubscriptionMetrics {
    /// Events taken for this subscription, after the type matched.
    pub received: Counter,
    /// Events that a filter dropped, or that a transform made nothing of.
    pub filtered: Counter,
    /// Events dropped because a plugin failed and the policy is `drop`.
    pub dropped: Counter,
    /// Deliveries that a receiver took.
    pub delivered: Counter,
    /// Deliveries that ended as dead letters.
    pub failed: Counter,
    /// Dead letters that were parked again, to be sent once more.
    pub resent: Counter,
    /// Of the events taken, those that a replay brought.
    pub replayed: Counter,
    /// Deliveries that wait in the store for their next attempt.
    pub parked: Gauge,
    /// Attempts under way, and outcomes not yet on record.
    pub in_flight: Gauge,
    /// 1 while the subscription is held or catching up.
    pub held: Gauge,
    /// 1 while the subscription is disabled.
    pub disabled: Gauge,
    /// 1 while the endpoint counts as failing.
    pub failing: Gauge,
    /// 1 while as much is parked as may be, so that a stream that forgets what is acked waits.
    pub overflow_full: Gauge,
    /// Plugins that are set aside.
    pub quarantined: Gauge,
    /// Events that wait: exact while it reads live, and at most so many while it is held.
    pub lag_events: Gauge,
    /// The age of the oldest event that waits, in seconds.
    pub lag_seconds: Gauge,
    /// Events (at most) that were gone from the stream before they could be read.
    pub gap_events: Counter,
    /// Events passed over because an operator asked for it.
    pub skipped_events: Counter,
    /// How long attempts take (shared by all subscriptions).
    pub attempt_seconds: Histogram,
    attempts: Family<ByOutcome, Counter>,
    faults: Family<ByKind, Counter>,
    name: String,
    /// The subscription is gone, and with it what was exported of it.
    forgotten: Arc<AtomicBool>,
}

impl SubscriptionMetrics {
    /// Counts an attempt by its result: `delivered`, or the failure's class.
    pub fn attempted(&self, outcome: &'static str) {
        if self.forgotten.load(Ordering::Relaxed) {
            return;
        }
        self.attempts.get_or_create(&ByOutcome { subscription: self.name.clone(), outcome }).inc();
    }

    /// Counts a plugin fault by its kind.
    pub fn faulted(&self, kind: &'static str) {
        if self.forgotten.load(Ordering::Relaxed) {
            return;
        }
        self.faults.get_or_create(&ByKind { subscription: self.name.clone(), kind }).inc();
    }
}

/// What one stream's ingest counts.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    /// Messages received from JetStream, those that came again included.
    pub received: Counter,
    /// Messages that no subscription asked for.
    pub unmatched: Counter,
    /// Messages received and not yet acked.
    pub unacked: Gauge,
}

/// What the HTTP client of the webhooks counts.
#[derive(Clone, Debug, Default)]
pub struct ClientMetrics {
    /// Connections open now, to receivers or to the proxy.
    pub connections: Gauge,
}

/// What the store's writer counts.
#[derive(Clone, Debug, Default)]
pub struct StoreMetrics {
    /// Groups of changes made durable.
    pub flushes: Counter,
    /// Changes made durable.
    pub changes: Counter,
    /// Groups that could not be made durable.
    pub failures: Counter,
    /// Bytes on disk.
    pub bytes: Gauge,
    /// About how many bytes of them are data.
    pub live_bytes: Gauge,
    /// About how many bytes the log of deliveries has.
    pub log_bytes: Gauge,
    /// Dead letters in the store.
    pub dead_letters: Gauge,
    /// Dead letters published.
    pub dead_letters_published: Counter,
    /// Dead letters removed for their age or size.
    pub dead_letters_expired: Counter,
}

/// What the Server-Sent Events side counts.
#[derive(Clone, Debug, Default)]
pub struct SseMetrics {
    /// Clients connected now.
    pub clients: Gauge,
    /// Event frames sent.
    pub frames: Counter,
    /// Bytes sent.
    pub bytes: Counter,
    /// Times that a client had to read from the stream's history.
    pub catch_ups: Counter,
    /// Clients that read history now.
    pub catching_up: Gauge,
    /// How far the client that is furthest behind is behind its stream's end, in sequences.
    pub lag_events: Gauge,
    /// How far the live tails are behind the ends of their streams, in events.
    tail_lag: Family<ByStream, Gauge>,
    /// Clients whose connection was ended because they read nothing.
    pub stalled: Counter,
    /// Gaps announced to clients.
    pub gaps: Counter,
    /// Events that an SSE subscription's plugins dropped.
    pub filtered: Counter,
    /// Events that an SSE subscription's plugins failed on.
    pub faults: Counter,
}

impl SseMetrics {
    /// How far the live tail of a stream is behind the stream's end, in events.
    pub fn tail_lag(&self, stream: &str) -> Gauge {
        self.tail_lag.get_or_create_owned(&ByStream { stream: stream.to_owned() })
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh set.
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Mutex::new(Registry::with_prefix("sluiced")),
            received: Family::default(),
            filtered: Family::default(),
            deliveries: Family::default(),
            attempts: Family::default(),
            faults: Family::default(),
            dropped: Family::default(),
            resent: Family::default(),
            replayed: Family::default(),
            parked: Family::default(),
            in_flight: Family::default(),
            held: Family::default(),
            disabled: Family::default(),
            failing: Family::default(),
            overflow_full: Family::default(),
            quarantined: Family::default(),
            lag_events: Family::default(),
            lag_seconds: Family::default(),
            gap_events: Family::default(),
            skipped_events: Family::default(),
            announced: Family::default(),
            announcements_dropped: Counter::default(),
            ingested: Family::default(),
            unmatched: Family::default(),
            unacked: Family::default(),
            attempt_seconds: Histogram::new(SECONDS_BUCKETS),
            client: ClientMetrics::default(),
            store: StoreMetrics::default(),
            sse: SseMetrics::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }

    /// The counters of a webhook subscription.
    pub fn subscription(&self, name: &str) -> SubscriptionMetrics {
        let by = BySubscription { subscription: name.to_owned() };
        let outcome = |outcome| ByOutcome { subscription: name.to_owned(), outcome };
        let m = &self.0;
        SubscriptionMetrics {
            received: m.received.get_or_create_owned(&by),
            filtered: m.filtered.get_or_create_owned(&by),
            dropped: m.dropped.get_or_create_owned(&by),
            delivered: m.deliveries.get_or_create_owned(&outcome("delivered")),
            failed: m.deliveries.get_or_create_owned(&outcome("failed")),
            resent: m.resent.get_or_create_owned(&by),
            replayed: m.replayed.get_or_create_owned(&by),
            parked: m.parked.get_or_create_owned(&by),
            in_flight: m.in_flight.get_or_create_owned(&by),
            held: m.held.get_or_create_owned(&by),
            disabled: m.disabled.get_or_create_owned(&by),
            failing: m.failing.get_or_create_owned(&by),
            overflow_full: m.overflow_full.get_or_create_owned(&by),
            quarantined: m.quarantined.get_or_create_owned(&by),
            lag_events: m.lag_events.get_or_create_owned(&by),
            lag_seconds: m.lag_seconds.get_or_create_owned(&by),
            gap_events: m.gap_events.get_or_create_owned(&by),
            skipped_events: m.skipped_events.get_or_create_owned(&by),
            attempt_seconds: m.attempt_seconds.clone(),
            attempts: m.attempts.clone(),
            faults: m.faults.clone(),
            name: name.to_owned(),
            forgotten: Arc::default(),
        }
    }

    /// Exports no longer what a webhook subscription counted: it is gone. Whoever still holds its counters may count on, and
    /// nobody sees it.
    pub fn forget(&self, subscription: &SubscriptionMetrics) {
        subscription.forgotten.store(true, Ordering::Relaxed);
        let name = &subscription.name;
        let by = BySubscription { subscription: name.clone() };
        let m = &self.0;
        let counters = [&m.received, &m.filtered, &m.dropped, &m.resent, &m.replayed, &m.gap_events, &m.skipped_events];
        for family in counters {
            family.remove(&by);
        }
        let health = [&m.held, &m.disabled, &m.failing, &m.quarantined, &m.overflow_full];
        let load = [&m.parked, &m.in_flight, &m.lag_events, &m.lag_seconds];
        for family in health.into_iter().chain(load) {
            family.remove(&by);
        }
        for outcome in OUTCOMES {
            let by = ByOutcome { subscription: name.clone(), outcome };
            m.deliveries.remove(&by);
            m.attempts.remove(&by);
        }
        for kind in FAULTS {
            m.faults.remove(&ByKind { subscription: name.clone(), kind });
        }
    }

    /// Counts an operational event that was published.
    pub fn announced(&self, kind: &'static str) {
        self.0.announced.get_or_create(&ByType { r#type: kind }).inc();
    }

    /// Counts an operational event that found the queue full.
    pub fn announcement_dropped(&self) {
        self.0.announcements_dropped.inc();
    }

    /// The counters of a stream's ingest.
    pub fn stream(&self, name: &str) -> StreamMetrics {
        let by = ByStream { stream: name.to_owned() };
        StreamMetrics {
            received: self.0.ingested.get_or_create_owned(&by),
            unmatched: self.0.unmatched.get_or_create_owned(&by),
            unacked: self.0.unacked.get_or_create_owned(&by),
        }
    }

    /// The readings of the HTTP client of the webhooks.
    pub fn client(&self) -> ClientMetrics {
        self.0.client.clone()
    }

    /// The counters of the store's writer.
    pub fn store(&self) -> StoreMetrics {
        self.0.store.clone()
    }

    /// The counters of the Server-Sent Events side.
    pub fn sse(&self) -> SseMetrics {
        self.0.sse.clone()
    }

    /// How many attempts took at most so many seconds, by the bounds of the histogram; `None` is any time. The histogram tells
    /// its counts in its text alone, which is short.
    pub fn attempt_times(&self) -> Vec<(Option<f64>, u64)> {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("seconds", "", self.0.attempt_seconds.clone());
        if encode(&mut text, &registry).is_err() {
            return Vec::new();
        }
        let lines = text.lines().filter_map(|line| line.strip_prefix("seconds_bucket{le=\"")?.split_once("\"} "));
        lines
            .filter_map(|(bound, count)| {
                Some((bound.parse().ok().filter(|s: &f64| s.is_finite()), count.parse().ok()?))
            })
            .collect()
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: writing to a text does not fail.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry.lock())?;
        Ok(text)
    }
}

impl Inner {
    fn register(&mut self) {
        let r = self.registry.get_mut();
        r.register("events_received", "Events taken for a subscription", self.received.clone());
        r.register("events_filtered", "Events that a subscription's plugins dropped", self.filtered.clone());
        r.register("events_dropped", "Events dropped because a plugin failed", self.dropped.clone());
        r.register("deliveries", "Deliveries that ended, by outcome", self.deliveries.clone());
        r.register("attempts", "Attempts that ended, by result", self.attempts.clone());
        r.register("plugin_faults", "Plugin faults, by kind", self.faults.clone());
        r.register("events_replayed", "Events taken that a replay brought", self.replayed.clone());
        r.register("deliveries_resent", "Dead letters parked to be sent again", self.resent.clone());
        r.register("parked", "Deliveries that wait for their next attempt", self.parked.clone());
        r.register("in_flight", "Attempts under way or not yet on record", self.in_flight.clone());
        r.register("held", "1 while a subscription is held or catching up", self.held.clone());
        r.register("disabled", "1 while a subscription is disabled", self.disabled.clone());
        r.register("failing", "1 while an endpoint counts as failing", self.failing.clone());
        r.register(
            "overflow_full",
            "1 while a stream waits for a subscription's parked deliveries",
            self.overflow_full.clone(),
        );
        r.register("plugins_quarantined", "Plugins that are set aside", self.quarantined.clone());
        r.register("lag_events", "Events that wait, at most", self.lag_events.clone());
        r.register("lag_seconds", "The age of the oldest event that waits", self.lag_seconds.clone());
        r.register("gap_events", "Events gone before they were read, at most", self.gap_events.clone());
        r.register("skipped_events", "Events passed over by an operator's wish", self.skipped_events.clone());
        r.register("operational_events", "Operational events published", self.announced.clone());
        let dropped = self.announcements_dropped.clone();
        r.register("operational_events_dropped", "Operational events that found the queue full", dropped);
        r.register("ingest_received", "Messages received from JetStream", self.ingested.clone());
        r.register("ingest_unmatched", "Messages that no subscription asked for", self.unmatched.clone());
        r.register("ingest_unacked", "Messages received and not yet acked", self.unacked.clone());
        let seconds = self.attempt_seconds.clone();
        r.register_with_unit("attempt", "How long attempts take", Unit::Seconds, seconds);
        r.register("connections", "Connections open to receivers", self.client.connections.clone());
        let store = &self.store;
        r.register("store_flushes", "Groups of changes made durable", store.flushes.clone());
        r.register("store_changes", "Changes made durable", store.changes.clone());
        r.register("store_failures", "Groups that could not be made durable", store.failures.clone());
        r.register("store_bytes", "Bytes on disk", store.bytes.clone());
        r.register("store_live_bytes", "Bytes of data, estimated", store.live_bytes.clone());
        r.register("store_log_bytes", "Bytes of the log of deliveries, estimated", store.log_bytes.clone());
        r.register("dead_letters", "Dead letters in the store", store.dead_letters.clone());
        r.register("dead_letters_published", "Dead letters published", store.dead_letters_published.clone());
        r.register(
            "dead_letters_expired",
            "Dead letters removed for their age or size",
            store.dead_letters_expired.clone(),
        );
        let sse = &self.sse;
        r.register("sse_clients", "Clients connected", sse.clients.clone());
        r.register("sse_frames", "Event frames sent", sse.frames.clone());
        r.register("sse_bytes", "Bytes sent", sse.bytes.clone());
        r.register("sse_catch_ups", "Times a client read from history", sse.catch_ups.clone());
        r.register("sse_catching_up", "Clients that read history now", sse.catching_up.clone());
        r.register("sse_lag_events", "Sequences that the slowest client is behind", sse.lag_events.clone());
        r.register("sse_tail_lag_events", "Events that the live tail has not taken yet", sse.tail_lag.clone());
        r.register("sse_stalled", "Clients that were cut off because they read nothing", sse.stalled.clone());
        r.register("sse_gaps", "Gaps announced to clients", sse.gaps.clone());
        r.register("sse_filtered", "Events that plugins dropped", sse.filtered.clone());
        r.register("sse_faults", "Events that plugins failed on", sse.faults.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_exported_no_longer() {
        let metrics = Metrics::new();
        let (gone, kept) = (metrics.subscription("removed"), metrics.subscription("kept"));
        for subscription in [&gone, &kept] {
            OUTCOMES.iter().for_each(|outcome| subscription.attempted(outcome));
            FAULTS.iter().for_each(|kind| subscription.faulted(kind));
        }
        metrics.forget(&gone);
        gone.attempted("delivered");
        gone.faulted("trap");
        gone.held.set(1);
        let text = metrics.render().expect("metrics can be written");
        let left: Vec<&str> = text.lines().filter(|line| line.contains("\"removed\"")).collect();
        assert!(left.is_empty(), "{left:?}: name the family in `forget`");
        assert!(text.contains("\"kept\""));
    }

    #[test]
    fn the_times_of_attempts_can_be_read() {
        let metrics = Metrics::new();
        let subscription = metrics.subscription("a");
        [0.0001, 0.003, 20.0].into_iter().for_each(|seconds| subscription.attempt_seconds.observe(seconds));
        let times = metrics.attempt_times();
        assert_eq!(times.len(), SECONDS_BUCKETS.len() + 1);
        assert_eq!((times[0], times[3]), ((Some(0.0005), 1), (Some(0.005), 2)));
        assert_eq!(times.last(), Some(&(None, 3)));
    }
}

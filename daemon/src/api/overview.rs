//! Everything at a glance: what flows, what fails, and who is behind. One answer that costs little, to be asked for again
//! every few seconds: a page of it makes rates of the counts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::operate::{self, Component};
use super::principal::Asker;
use super::subscriptions::Lanes;
use crate::deliver::Lane;
use crate::store::Store;
use crate::telemetry::clock;
use crate::telemetry::metrics::Metrics;

/// How many subscriptions in trouble, and how many that are behind, are shown.
const SHOWN_MAX: usize = 20;
/// An event that has waited for so long makes its subscription one in trouble.
const BEHIND_S: u64 = 30;

/// What the route works on.
#[derive(Clone)]
pub struct Access {
    /// The running subscriptions.
    pub lanes: Arc<dyn Lanes>,
    /// Their records.
    pub store: Store,
    /// The names of the streams that are read.
    pub streams: Vec<String>,
}

/// The route, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(Arc::new(access)))
}

/// The route, described.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(overview))
}

/// The whole, or an owner's part of it.
#[derive(Serialize, ToSchema)]
struct Overview {
    /// When it was so: two answers make rates of what they count.
    #[schema(format = "date-time")]
    at: String,
    /// What was counted since the daemon's start. Of a subscription that was removed nothing counts any more.
    counts: Counted,
    /// What there is now.
    now: Now,
    /// Webhook subscriptions, by what they do.
    subscriptions: States,
    /// Those that need somebody, the worst first: at most 20.
    troubles: Vec<Trouble>,
    /// Those with the most events that wait: at most 20.
    behind: Vec<Behind>,
    /// The daemon itself: the operator's alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<Inside>,
}

/// Counts since the start.
#[derive(Serialize, Default, ToSchema)]
#[schema(as = OverviewCounts)]
struct Counted {
    /// Events received from JetStream; for an owner those that its subscriptions took.
    received: u64,
    /// Events that plugins filtered.
    filtered: u64,
    /// Events that were dropped because a plugin failed.
    dropped: u64,
    /// Deliveries that a receiver took.
    delivered: u64,
    /// Deliveries that were given up.
    failed: u64,
}

/// What there is now.
#[derive(Serialize, Default, ToSchema)]
#[schema(as = OverviewNow)]
struct Now {
    /// Deliveries that wait for their next attempt.
    parked: u64,
    /// Attempts under way.
    in_flight: u64,
    /// Dead letters that are kept.
    dead_letters: u64,
    /// Events that wait in their streams.
    lag_events: u64,
    /// The age of the oldest of them, in seconds.
    lag_seconds: u64,
}

/// How many subscriptions there are.
#[derive(Serialize, Default, ToSchema)]
#[schema(as = OverviewStates)]
struct States {
    live: usize,
    held: usize,
    disabled: usize,
    /// Those whose endpoint counts as failing, whatever else they do.
    failing: usize,
}

/// A subscription that needs somebody.
#[derive(Serialize, ToSchema)]
#[schema(as = OverviewTrouble)]
struct Trouble {
    subscription: String,
    /// What it is: the worst of it.
    kind: TroubleKind,
    /// Since when, as far as that is known.
    #[schema(format = "date-time")]
    since: Option<String>,
    /// What there is to say of it.
    reason: Option<String>,
    /// The status of the last answer that was a failure.
    status: Option<u16>,
    parked: u64,
    dead_letters: u64,
    lag_events: u64,
    lag_seconds: u64,
}

/// What is wrong with a subscription.
#[derive(Serialize, ToSchema, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
enum TroubleKind {
    /// It is disabled.
    Disabled,
    /// Its endpoint fails: it is left alone but for probes.
    Failing,
    /// Plugins that do nothing but fail are set aside.
    Quarantined,
    /// Events have waited for long.
    Behind,
    /// Its deliveries wait for another attempt.
    Retrying,
}

/// A subscription with events that wait.
#[derive(Serialize, ToSchema)]
#[schema(as = OverviewBehind)]
struct Behind {
    subscription: String,
    lag_events: u64,
    lag_seconds: u64,
}

/// The daemon's own parts.
#[derive(Serialize, ToSchema)]
#[schema(as = OverviewDaemon)]
struct Inside {
    /// How each part is, as `/readyz` has it.
    components: BTreeMap<&'static str, Component>,
    /// How long attempts took.
    attempts: Vec<AttemptTimes>,
    streams: Vec<StreamRead>,
    store: StoreSeen,
    sse: SseSeen,
}

/// How many attempts took at most so long, and longer than the entry before.
#[derive(Serialize, ToSchema)]
struct AttemptTimes {
    /// In seconds; nothing for those that took longer than the last bound.
    at_most_s: Option<f64>,
    /// Since the start.
    attempts: u64,
}

/// A stream that is read.
#[derive(Serialize, ToSchema)]
#[schema(as = OverviewStream)]
struct StreamRead {
    name: String,
    /// Messages received since the start.
    received: u64,
    /// Of these, those that no subscription asked for.
    unmatched: u64,
    /// Messages received and not yet acked.
    unacked: i64,
}

/// The store.
#[derive(Serialize, ToSchema)]
#[schema(as = OverviewStore)]
struct StoreSeen {
    /// Bytes on disk.
    bytes: i64,
    /// About how many bytes of these are data.
    live_bytes: i64,
    /// Groups of changes made durable since the start.
    flushes: u64,
    /// Changes made durable since the start.
    changes: u64,
    /// Groups that could not be made durable.
    failures: u64,
}

/// Server-Sent Events.
#[derive(Serialize, ToSchema)]
#[schema(as = OverviewSse)]
struct SseSeen {
    /// Clients connected now.
    clients: i64,
    /// Event frames sent since the start.
    frames: u64,
    /// Gaps announced to clients.
    gaps: u64,
}

/// Get everything at a glance
///
/// What flows, what fails and who is behind: of all subscriptions for the operator, of its own for an owner.
#[utoipa::path(
    get,
    path = "/overview",
    tag = "operation",
    responses((status = 200, description = "As it is now", body = Overview))
)]
async fn overview(
    Extension(access): Extension<Arc<Access>>,
    axum::extract::State(state): axum::extract::State<State>,
    asker: Asker,
) -> Json<Overview> {
    let mut seen = Overview {
        at: clock::rfc3339(clock::now_ms()),
        counts: Counted::default(),
        now: Now::default(),
        subscriptions: States::default(),
        troubles: Vec::new(),
        behind: Vec::new(),
        daemon: None,
    };
    for lane in access.lanes.lanes().iter().filter(|lane| asker.sees(lane.id())) {
        seen.add(lane, &access.store);
    }
    seen.troubles.sort_by_key(|one| (one.kind, Reverse(one.lag_events + one.parked)));
    seen.troubles.truncate(SHOWN_MAX);
    seen.behind.sort_by_key(|one| Reverse((one.lag_events, one.lag_seconds)));
    seen.behind.truncate(SHOWN_MAX);
    if asker.principal().owner().is_none() {
        let inside = inside(&access, &state);
        seen.counts.received = inside.streams.iter().map(|stream| stream.received).sum();
        seen.daemon = Some(inside);
    }
    Json(seen)
}

impl Overview {
    fn add(&mut self, lane: &Lane, store: &Store) {
        let (counts, metrics) = (store.counts(lane.id()), &lane.metrics);
        let state = lane.state();
        let health = &state.health;
        let (lag_events, lag_seconds) = (health.lag.events, health.lag.seconds);
        self.counts.received += metrics.received.get();
        self.counts.filtered += metrics.filtered.get();
        self.counts.dropped += metrics.dropped.get();
        self.counts.delivered += metrics.delivered.get();
        self.counts.failed += metrics.failed.get();
        self.now.parked += counts.parked;
        self.now.dead_letters += counts.dead;
        self.now.in_flight += u64::from(state.in_flight());
        self.now.lag_events += lag_events;
        self.now.lag_seconds = self.now.lag_seconds.max(lag_seconds);
        let is_held = state.ledgers.iter().any(|ledger| ledger.cursor().is_some());
        match (&state.disabled, is_held) {
            (Some(_), _) => self.subscriptions.disabled += 1,
            (None, true) => self.subscriptions.held += 1,
            (None, false) => self.subscriptions.live += 1,
        }
        self.subscriptions.failing += usize::from(health.failing);
        let failure = health.last_failure.as_ref();
        let message = || failure.map(|seen| seen.failure.message.to_string());
        let trouble = if let Some(disabled) = &state.disabled {
            Some((TroubleKind::Disabled, Some(disabled.since_ms), Some(disabled.reason.to_string())))
        } else if health.failing {
            Some((TroubleKind::Failing, health.failing_since_ms, message()))
        } else if let Some((plugin, faults)) = health.quarantined.first() {
            let reason = format!("{plugin} failed {faults} times in a row and is set aside");
            Some((TroubleKind::Quarantined, None, Some(reason)))
        } else if lag_seconds >= BEHIND_S {
            Some((TroubleKind::Behind, None, None))
        } else if counts.parked > 0 {
            Some((TroubleKind::Retrying, health.failing_since_ms, message()))
        } else {
            None
        };
        self.troubles.extend(trouble.map(|(kind, since_ms, reason)| Trouble {
            subscription: lane.id().to_string(),
            kind,
            since: since_ms.map(clock::rfc3339),
            reason,
            status: failure.and_then(|seen| seen.failure.status),
            parked: counts.parked,
            dead_letters: counts.dead,
            lag_events,
            lag_seconds,
        }));
        if lag_events > 0 {
            self.behind.push(Behind { subscription: lane.id().to_string(), lag_events, lag_seconds });
        }
    }
}

fn inside(access: &Access, state: &State) -> Inside {
    let (metrics, store, sse) = (&state.metrics, state.metrics.store(), state.metrics.sse());
    let stream = |name: &String| {
        let seen = metrics.stream(name);
        let (received, unmatched) = (seen.received.get(), seen.unmatched.get());
        StreamRead { name: name.clone(), received, unmatched, unacked: seen.unacked.get() }
    };
    Inside {
        components: operate::components(&state.health),
        attempts: attempts(metrics),
        streams: access.streams.iter().map(stream).collect(),
        store: StoreSeen {
            bytes: store.bytes.get(),
            live_bytes: store.live_bytes.get(),
            flushes: store.flushes.get(),
            changes: store.changes.get(),
            failures: store.failures.get(),
        },
        sse: SseSeen { clients: sse.clients.get(), frames: sse.frames.get(), gaps: sse.gaps.get() },
    }
}

fn attempts(metrics: &Metrics) -> Vec<AttemptTimes> {
    let mut before = 0;
    let bucket = |(at_most_s, up_to): (Option<f64>, u64)| {
        let attempts = up_to.saturating_sub(before);
        before = up_to;
        AttemptTimes { at_most_s, attempts }
    };
    metrics.attempt_times().into_iter().map(bucket).collect()
}

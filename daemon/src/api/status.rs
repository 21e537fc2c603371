//! How a webhook subscription is, and an operator's word on it: disable it, enable it again.

use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::ToSchema;

use super::Problem;
use super::extract::{JsonOrNone, Path};
use super::principal::Asker;
use super::problem::Code;
use super::subscriptions::{Access, find};
use crate::deliver::health::{self, Resume, Seen};
use crate::deliver::lane::Lane;
use crate::domain::RateLimit;
use crate::store::{GapCause, GapRecord, Store};
use crate::telemetry::{chain, clock};

/// The longest reason that an operator may give, in characters.
const REASON_CHARS_MAX: usize = 512;

/// A webhook subscription as it is now.
#[derive(Serialize, ToSchema)]
#[schema(as = SubscriptionStatus)]
pub(super) struct Status {
    pub(super) name: String,
    /// `live`, `held` (its endpoint is left alone, or it catches up) or `disabled`.
    state: &'static str,
    /// Why it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Since when it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// The endpoint counts as failing: it is left alone but for probes.
    failing: bool,
    /// Since when the endpoint has done nothing but fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<String>,
    /// The last attempt that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<LastFailure>,
    /// Plugins that have done nothing but fail, and are set aside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quarantined: Vec<Quarantined>,
    /// How far behind it is.
    lag: Lag,
    /// Attempts under way, or not yet on record.
    in_flight: u32,
    /// Deliveries that wait for their next attempt.
    parked: u64,
    /// Dead letters.
    dead_letters: u64,
    /// How many attempts a time are made at most, when there is a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<Rate>,
    /// What waits for what, when the subscription keeps an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Kept>,
    /// Where it reads, for each stream in which it is held.
    positions: Vec<Place>,
    /// The last parts of the history that it did not read, oldest first.
    gaps: Vec<Missed>,
}

#[derive(Serialize, ToSchema)]
struct LastFailure {
    at: String,
    class: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    reason: String,
}

impl From<&Seen> for LastFailure {
    fn from(seen: &Seen) -> Self {
        Self {
            at: clock::rfc3339(seen.at_ms),
            class: seen.failure.class.to_string(),
            status: seen.failure.status,
            reason: seen.failure.message.to_string(),
        }
    }
}

/// A plugin that is set aside: its calls fail at once, but for a probe now and then.
#[derive(Serialize, ToSchema)]
#[schema(as = QuarantinedPlugin)]
struct Quarantined {
    plugin: String,
    /// How many faults in a row it had.
    faults: u32,
}

#[derive(Serialize, ToSchema)]
struct Lag {
    /// Events that wait: exact while it reads live, and at most so many while it is held.
    events: u64,
    /// The age of the oldest of them.
    seconds: u64,
}

/// Which events wait for each other, and how many do.
#[derive(Serialize, ToSchema)]
#[schema(as = KeptOrder)]
struct Kept {
    /// Events in memory that wait for an earlier one of their key.
    waiting: usize,
    /// Keys with a delivery that waits for its next attempt.
    blocked_keys: usize,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RateLimit)]
struct Rate {
    /// So many attempts ...
    rate: u32,
    /// ... in each span of so many milliseconds, ...
    per_ms: u64,
    /// ... and so many at once after a quiet time.
    burst: u32,
}

impl From<RateLimit> for Rate {
    fn from(limit: RateLimit) -> Self {
        let per_ms = u64::try_from(limit.per().as_millis()).unwrap_or(u64::MAX);
        Self { rate: limit.rate(), per_ms, burst: limit.burst() }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = HeldPosition)]
struct Place {
    stream: String,
    /// The next event to read.
    sequence: u64,
    /// The last one that it has to read before it reads live again.
    until: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Gap)]
struct Missed {
    stream: String,
    /// The first sequence that was not read.
    from: u64,
    /// The last one.
    until: u64,
    at: String,
    /// `discarded` by the stream before it was read, or `skipped` because an operator asked for it.
    cause: &'static str,
    /// How many of its events were the subscription's: at most so many when they were discarded.
    events: u64,
}

impl From<&GapRecord> for Missed {
    fn from(gap: &GapRecord) -> Self {
        Self {
            stream: gap.stream.to_string(),
            from: gap.from,
            until: gap.available.saturating_sub(1),
            at: clock::rfc3339(gap.at_ms),
            cause: match gap.cause {
                GapCause::Discarded => "discarded",
                GapCause::Skipped => "skipped",
                GapCause::Replaced => "replaced",
            },
            events: gap.events,
        }
    }
}

/// How a subscription is now.
pub(super) fn of(lane: &Lane, store: &Store) -> Status {
    let counts = store.counts(lane.id());
    let state = lane.state();
    let place = |ledger: &crate::deliver::ledger::Ledger| {
        let sequence = ledger.cursor()?;
        Some(Place { stream: ledger.stream().to_string(), sequence, until: ledger.target() })
    };
    let positions: Vec<Place> = state.ledgers.iter().filter_map(place).collect();
    let word = match (&state.disabled, positions.is_empty()) {
        (Some(_), _) => "disabled",
        (None, false) => "held",
        (None, true) => "live",
    };
    let health = &state.health;
    Status {
        name: lane.id().to_string(),
        state: word,
        reason: state.disabled.as_ref().map(|disabled| disabled.reason.to_string()),
        since: state.disabled.as_ref().map(|disabled| clock::rfc3339(disabled.since_ms)),
        failing: health.failing,
        failing_since: health.failing_since_ms.map(clock::rfc3339),
        last_failure: health.last_failure.as_ref().map(LastFailure::from),
        quarantined: health
            .quarantined
            .iter()
            .map(|(plugin, faults)| Quarantined { plugin: plugin.to_string(), faults: *faults })
            .collect(),
        lag: Lag { events: health.lag.events, seconds: health.lag.seconds },
        in_flight: state.in_flight(),
        parked: counts.parked,
        dead_letters: counts.dead,
        rate_limit: state.limits().rate.map(Rate::from),
        order: state.limits().ordered.then(|| Kept { waiting: state.waiting.0, blocked_keys: state.waiting.1 }),
        positions,
        gaps: health.gaps.iter().map(Missed::from).collect(),
    }
}

/// How a disabled subscription is to go on.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Enable {
    /// Where it stopped, or with what is published from now on.
    #[serde(default)]
    from: Start,
}

/// Where to go on.
#[derive(Deserialize, Default, Clone, Copy, ToSchema)]
#[schema(as = EnableFrom)]
#[serde(rename_all = "lowercase")]
enum Start {
    #[default]
    Stop,
    Now,
}

/// Why nothing is to be delivered.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Disable {
    /// One line.
    #[schema(max_length = 512, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    reason: Option<String>,
}

/// Enable a subscription
///
/// A disabled one goes on where it stopped, or with what is published from now on. Durable when it is answered.
#[utoipa::path(
    post,
    path = "/subscriptions/{name}/enable",
    tag = "subscriptions",
    params(("name" = String, Path, description = "The subscription's name")),
    request_body = Option<Enable>,
    responses((status = 200, description = "How it is now", body = Status)),
    extensions(("x-problems" = json!(["not_found", "not_disabled", "store_unavailable", "stream_unavailable"])))
)]
pub(super) async fn enable(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
    JsonOrNone(asked): JsonOrNone<Enable>,
) -> Result<Json<Status>, Problem> {
    let lane = find(&access, &asker, &name)?;
    let resume = match asked.from {
        Start::Stop => Resume::Stop,
        Start::Now => Resume::Now,
    };
    access.lanes.enable(&lane, resume).await.map_err(|error| refused(&error))?;
    Ok(Json(of(&lane, &access.store)))
}

/// Disable a subscription
///
/// Nothing is delivered until it is enabled, and its events wait in the stream. Durable when it is answered.
#[utoipa::path(
    post,
    path = "/subscriptions/{name}/disable",
    tag = "subscriptions",
    params(("name" = String, Path, description = "The subscription's name")),
    request_body = Option<Disable>,
    responses((status = 200, description = "How it is now", body = Status)),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
pub(super) async fn disable(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
    JsonOrNone(asked): JsonOrNone<Disable>,
) -> Result<Json<Status>, Problem> {
    let lane = find(&access, &asker, &name)?;
    let reason = asked.reason.unwrap_or_else(|| "disabled by an operator".to_owned());
    if reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
        return Err(Problem::invalid(
            "reason",
            format!("`reason` is one line of at most {REASON_CHARS_MAX} characters"),
        ));
    }
    access.lanes.disable(&lane, reason.into()).await.map_err(|error| refused(&error))?;
    Ok(Json(of(&lane, &access.store)))
}

fn refused(error: &health::Error) -> Problem {
    error!(error = %chain(error), "a subscription could not be enabled or disabled");
    match error {
        health::Error::Store => {
            Problem::unavailable(Code::StoreUnavailable, "the store cannot be written at the moment")
        }
        health::Error::Stream { .. } => {
            Problem::unavailable(Code::StreamUnavailable, "the stream cannot be read at the moment")
        }
        health::Error::NotDisabled => {
            Problem::new(Code::NotDisabled, "only a disabled subscription can go on from now: disable it first")
        }
    }
}

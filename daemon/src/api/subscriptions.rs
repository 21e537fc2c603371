//! How the webhook subscriptions are, what became of their events, and taking a disabled one up again.

use std::sync::Arc;

use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::answer::Logged;
use super::{Problem, State, dead_letters};
use crate::deliver::Lane;
use crate::domain::RateLimit;
use crate::store::{self, LogKey, Store};
use crate::telemetry::chain;

/// The most entries of a page.
pub(super) const PAGE_MAX: usize = 100;
/// The entries of a page when nothing is said.
pub(super) const PAGE_DEFAULT: usize = 50;

/// Where the running subscriptions are found.
pub trait Lanes: Send + Sync + 'static {
    /// The lanes as they are now.
    fn lanes(&self) -> Vec<Arc<Lane>>;
}

/// What the routes work on.
#[derive(Clone)]
pub struct Access {
    /// The lanes.
    pub lanes: Arc<dyn Lanes>,
    /// Their records.
    pub store: Store,
}

/// The routes, to be served below `/api/v1`.
pub fn routes(access: Access) -> Router<State> {
    Router::new()
        .route("/subscriptions", get(list))
        .route("/subscriptions/{name}", get(one))
        .route("/subscriptions/{name}/enable", post(enable))
        .route("/subscriptions/{name}/deliveries", get(deliveries))
        .merge(dead_letters::routes())
        .layer(Extension(access))
}

/// A webhook subscription as it is now.
#[derive(Serialize)]
struct Status {
    name: String,
    /// `live`, `held` (its endpoint is left alone, or it catches up) or `disabled`.
    state: &'static str,
    /// Why it is disabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
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
}

/// Which events wait for each other, and how many do.
#[derive(Serialize)]
struct Kept {
    /// Events in memory that wait for an earlier one of their key.
    waiting: usize,
    /// Keys with a delivery that waits for its next attempt.
    blocked_keys: usize,
}

#[derive(Serialize)]
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

#[derive(Serialize)]
struct Place {
    stream: String,
    /// The next event to read.
    sequence: u64,
    /// The last one that it has to read before it reads live again.
    until: u64,
}

fn status(lane: &Lane, store: &Store) -> Status {
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
    Status {
        name: lane.id().to_string(),
        state: word,
        reason: state.disabled.as_deref().map(ToOwned::to_owned),
        in_flight: state.in_flight(),
        parked: counts.parked,
        dead_letters: counts.dead,
        rate_limit: state.limits().rate.map(Rate::from),
        order: state.limits().ordered.then(|| Kept { waiting: state.waiting.0, blocked_keys: state.waiting.1 }),
        positions,
    }
}

pub(super) fn find(access: &Access, name: &str) -> Result<Arc<Lane>, Problem> {
    let found = access.lanes.lanes().into_iter().find(|lane| lane.id().as_str() == name);
    found.ok_or_else(|| Problem::not_found(format!("there is no webhook subscription {name}")))
}

/// `GET /api/v1/subscriptions`.
async fn list(Extension(access): Extension<Access>) -> Response {
    let mut all: Vec<Status> = access.lanes.lanes().iter().map(|lane| status(lane, &access.store)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Json(serde_json::json!({ "subscriptions": all })).into_response()
}

/// `GET /api/v1/subscriptions/{name}`.
async fn one(Extension(access): Extension<Access>, Path(name): Path<String>) -> Result<Response, Problem> {
    let lane = find(&access, &name)?;
    Ok(Json(status(&lane, &access.store)).into_response())
}

/// `POST /api/v1/subscriptions/{name}/enable`: a disabled subscription goes on where it stopped.
async fn enable(Extension(access): Extension<Access>, Path(name): Path<String>) -> Result<Response, Problem> {
    let lane = find(&access, &name)?;
    let (store, id) = (access.store.clone(), lane.id().clone());
    blocking(move || {
        if let Some(mut registration) = store.registration(&id)?
            && registration.disabled.take().is_some()
        {
            store.put_registration(&id, &registration)?;
        }
        Ok(())
    })
    .await?;
    if lane.state().disabled.take().is_some() {
        info!(subscription = %lane.id(), "the subscription is enabled again");
    }
    lane.wake();
    Ok((StatusCode::OK, Json(status(&lane, &access.store))).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    limit: Option<usize>,
    before: Option<String>,
}

impl PageQuery {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX)
    }
}

pub(super) fn bad_cursor() -> Problem {
    Problem::invalid("cursor", "`before` is not a cursor: take it from the `next` of a page")
}

/// `GET /api/v1/subscriptions/{name}/deliveries`: every outcome on record, newest first.
async fn deliveries(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let lane = find(&access, &name)?;
    let before = query.before.as_deref().map(log_key).transpose()?;
    let (store, id, limit) = (access.store.clone(), lane.id().clone(), query.limit());
    let page = blocking(move || store.deliveries(&id, before, limit)).await?;
    let entries: Vec<Logged> = page.entries.iter().map(|(_, entry)| Logged::from(entry)).collect();
    let next = page.next.map(|key| format!("{}-{}", key.flush, key.index));
    Ok(Json(serde_json::json!({ "deliveries": entries, "next": next })).into_response())
}

fn log_key(text: &str) -> Result<LogKey, Problem> {
    let (flush, index) = text.split_once('-').ok_or_else(bad_cursor)?;
    let flush = flush.parse().map_err(|_| bad_cursor())?;
    Ok(LogKey { flush, index: index.parse().map_err(|_| bad_cursor())? })
}

/// Reads or writes the store away from the tasks that serve requests.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Problem> {
    let unavailable = || Problem::unavailable("store_unavailable", "the store cannot be read at the moment");
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            error!(error = %chain(&error), "the store could not serve a request");
            Err(unavailable())
        }
        Err(_) => Err(unavailable()),
    }
}

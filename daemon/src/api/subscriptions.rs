//! The webhook subscriptions and what became of their events.

use std::sync::Arc;

use axum::extract::{Path, Query};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use tracing::error;

use super::answer::Logged;
use super::status::{self, Status};
use super::{Problem, State, dead_letters};
use crate::deliver::Lane;
use crate::deliver::health::{Decision, Resume};
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

    /// Enables a subscription; durable when it returns. One that is not disabled stays as it is.
    fn enable(&self, lane: &Arc<Lane>, resume: Resume) -> Decision<()>;

    /// Disables a subscription; durable when it returns.
    fn disable(&self, lane: &Arc<Lane>, reason: Box<str>) -> Decision<()>;
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
        .route("/subscriptions/{name}/enable", post(status::enable))
        .route("/subscriptions/{name}/disable", post(status::disable))
        .route("/subscriptions/{name}/deliveries", get(deliveries))
        .merge(dead_letters::routes())
        .layer(Extension(access))
}

/// The subscription of that name.
///
/// # Errors
/// When there is none.
pub(super) fn find(access: &Access, name: &str) -> Result<Arc<Lane>, Problem> {
    let found = access.lanes.lanes().into_iter().find(|lane| lane.id().as_str() == name);
    found.ok_or_else(|| Problem::not_found(format!("there is no webhook subscription {name}")))
}

/// `GET /api/v1/subscriptions`.
async fn list(Extension(access): Extension<Access>) -> Response {
    let mut all: Vec<Status> = access.lanes.lanes().iter().map(|lane| status::of(lane, &access.store)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Json(serde_json::json!({ "subscriptions": all })).into_response()
}

/// `GET /api/v1/subscriptions/{name}`.
async fn one(Extension(access): Extension<Access>, Path(name): Path<String>) -> Result<Response, Problem> {
    let lane = find(&access, &name)?;
    Ok(Json(status::of(&lane, &access.store)).into_response())
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

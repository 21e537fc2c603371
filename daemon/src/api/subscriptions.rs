//! The webhook subscriptions and what became of their events.

use std::sync::Arc;

use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::Logged;
use super::document::of_webhook;
use super::extract::{Path, Query};
use super::paging::{limit, log_key, log_place};
use super::principal::Asker;
use super::problem::Code;
use super::status::{self, Status};
use super::{Problem, State, dead_letters};
use crate::deliver::Lane;
use crate::deliver::health::{Decision, Resume};
use crate::store::{self, Store};
use crate::telemetry::chain;

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
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(access))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(status::enable))
        .routes(routes!(status::disable))
        .routes(of_webhook(routes!(status::enable), "/webhooks/{id}/enable"))
        .routes(of_webhook(routes!(status::disable), "/webhooks/{id}/disable"))
        .routes(routes!(deliveries))
        .merge(dead_letters::routes())
}

/// The subscription of that name.
///
/// # Errors
/// When there is none that the asker may see.
pub(super) fn find(access: &Access, asker: &Asker, name: &str) -> Result<Arc<Lane>, Problem> {
    let found = access.lanes.lanes().into_iter().find(|lane| lane.id().as_str() == name && asker.sees(lane.id()));
    found.ok_or_else(|| Problem::not_found(format!("there is no webhook subscription {name}")))
}

/// Webhook subscriptions.
#[derive(Serialize, ToSchema)]
struct SubscriptionList {
    /// All that run, in the order of their names.
    subscriptions: Vec<Status>,
}

/// List the webhook subscriptions
///
/// Those of the configuration and those that were made over the API, with how they are.
#[utoipa::path(
    get,
    path = "/subscriptions",
    tag = "subscriptions",
    responses((status = 200, description = "All that run", body = SubscriptionList))
)]
async fn list(Extension(access): Extension<Access>, asker: Asker) -> Json<SubscriptionList> {
    let lanes = access.lanes.lanes();
    let seen = lanes.iter().filter(|lane| asker.sees(lane.id()));
    let mut all: Vec<Status> = seen.map(|lane| status::of(lane, &access.store)).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Json(SubscriptionList { subscriptions: all })
}

/// Get a webhook subscription
#[utoipa::path(
    get,
    path = "/subscriptions/{name}",
    tag = "subscriptions",
    params(("name" = String, Path, description = "The subscription's name")),
    responses((status = 200, description = "How it is now", body = Status)),
    extensions(("x-problems" = json!(["not_found"])))
)]
async fn one(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Json<Status>, Problem> {
    let lane = find(&access, &asker, &name)?;
    Ok(Json(status::of(&lane, &access.store)))
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Go on where a page ended: its `next`.
    #[param(pattern = "^[0-9]{1,15}-[0-9]{1,9}$")]
    before: Option<String>,
}

/// A page of the log.
#[derive(Serialize, ToSchema)]
struct LogPage {
    /// Outcomes, newest first.
    deliveries: Vec<Logged>,
    /// Where the next page begins, as `before`; `null` at the end.
    next: Option<String>,
}

pub(super) fn bad_cursor() -> Problem {
    Problem::invalid("before", "`before` is not a cursor: take it from the `next` of a page")
}

/// List what became of a subscription's events
///
/// Every outcome on record, newest first.
#[utoipa::path(
    get,
    path = "/subscriptions/{name}/deliveries",
    tag = "deliveries",
    params(("name" = String, Path, description = "The subscription's name"), PageQuery),
    responses((status = 200, description = "A page", body = LogPage)),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
async fn deliveries(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<LogPage>, Problem> {
    let lane = find(&access, &asker, &name)?;
    let before = query.before.as_deref().map(|text| log_key(text).ok_or_else(bad_cursor)).transpose()?;
    let (store, id, limit) = (access.store.clone(), lane.id().clone(), limit(query.limit)?);
    let page = blocking(move || store.deliveries(&id, before, limit)).await?;
    let deliveries = page.entries.iter().map(|(_, entry)| Logged::from(entry)).collect();
    let next = page.next.as_ref().map(log_place);
    Ok(Json(LogPage { deliveries, next }))
}

/// Reads or writes the store away from the tasks that serve requests.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Problem> {
    let unavailable = || Problem::unavailable(Code::StoreUnavailable, "the store cannot be read at the moment");
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            error!(error = %chain(&error), "the store could not serve a request");
            Err(unavailable())
        }
        Err(_) => Err(unavailable()),
    }
}

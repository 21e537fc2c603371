//! `/healthz`, `/readyz` and `/metrics`: open to whoever can reach the address.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use super::Problem;
use crate::telemetry::health::{Condition, Health};
use crate::telemetry::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The three, which need nothing else of the daemon.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(metrics: Metrics, health: Health) -> OpenApiRouter<S> {
    OpenApiRouter::default()
        .routes(routes!(healthz))
        .routes(routes!(readyz).with_state(health))
        .routes(routes!(render).with_state(metrics))
}

/// Is the process alive?
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operation",
    security(()),
    responses((status = 200, description = "It is alive", body = str, content_type = "text/plain"))
)]
async fn healthz() -> &'static str {
    "ok"
}

/// How the daemon's parts are.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// Whether all parts work.
    ready: bool,
    /// Each part, by its name.
    components: BTreeMap<&'static str, Component>,
}

/// How one part of the daemon is.
#[derive(Serialize, ToSchema)]
pub(super) struct Component {
    /// Whether it works.
    ready: bool,
    /// What there is to say of it, though it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Why it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

/// Can it do its work?
///
/// NATS and the store are usable, and the start is over.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    security(()),
    responses(
        (status = 200, description = "All parts work", body = Readiness),
        (status = 503, description = "A part does not work", body = Readiness),
    )
)]
async fn readyz(State(health): State<Health>) -> Response {
    let components = components(&health);
    let ready = components.values().all(|component| component.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, components })).into_response()
}

/// Each part of the daemon, by its name.
pub(super) fn components(health: &Health) -> BTreeMap<&'static str, Component> {
    let component = |condition| match condition {
        Condition::Ready => Component { ready: true, note: None, cause: None },
        Condition::Noted(note) => Component { ready: true, note: Some(note), cause: None },
        Condition::Failing(cause) => Component { ready: false, note: None, cause: Some(cause) },
    };
    health.report().into_iter().map(|(name, condition)| (name, component(condition))).collect()
}

/// The daemon's metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    security(()),
    responses((
        status = 200,
        description = "All metrics, in the OpenMetrics format",
        body = str,
        content_type = "application/openmetrics-text",
    ))
)]
async fn render(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => Problem::internal().into_response(),
    }
}

//! `/healthz`, `/readyz` and `/metrics`: open to whoever can reach the address.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use super::Problem;
use crate::telemetry::health::{Condition, Health};
use crate::telemetry::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The three, which need nothing else of the daemon.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(metrics: Metrics, health: Health) -> Router<S> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).with_state(health))
        .route("/metrics", get(render).with_state(metrics))
}

async fn healthz() -> &'static str {
    "ok"
}

async fn readyz(State(health): State<Health>) -> Response {
    let report = health.report();
    let ready = report.iter().all(|(_, condition)| !matches!(condition, Condition::Failing(_)));
    let components: Map<String, Value> = report
        .into_iter()
        .map(|(name, condition)| {
            let value = match condition {
                Condition::Ready => json!({ "ready": true }),
                Condition::Noted(note) => json!({ "ready": true, "note": note }),
                Condition::Failing(cause) => json!({ "ready": false, "cause": cause }),
            };
            (name.to_owned(), value)
        })
        .collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "components": components }))).into_response()
}

async fn render(State(metrics): State<Metrics>) -> Response {
    match metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => Problem::internal().into_response(),
    }
}

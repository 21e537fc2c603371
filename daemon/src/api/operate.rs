//! `/healthz`, `/readyz` and `/metrics`: open to whoever can reach the address.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use super::{Problem, State as Shared};
use crate::telemetry::health::Condition;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn healthz() -> &'static str {
    "ok"
}

pub(super) async fn readyz(State(state): State<Shared>) -> Response {
    let report = state.health.report();
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

pub(super) async fn metrics(State(state): State<Shared>) -> Response {
    match state.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => Problem::internal().into_response(),
    }
}

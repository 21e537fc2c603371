//! Publishing events, and listening to them.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::warn;

use super::{Principal, Problem, State as Shared};
use crate::domain::{Pattern, Subject, SubscriptionId};
use crate::ingest::{self, Publish};
use crate::stream::{self, Cursor, Wanted};
use crate::telemetry::chain;

/// The most patterns in `types`.
const PATTERNS_MAX: usize = 64;
/// The longest idempotency key and media type, in bytes.
const HEADER_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEvent {
    r#type: String,
    data: Value,
    idempotency_key: Option<String>,
    content_type: Option<String>,
}

#[derive(Serialize)]
struct Accepted {
    id: String,
    stream: String,
    sequence: u64,
    duplicate: bool,
}

/// `POST /api/v1/events`.
pub(super) async fn publish(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    // A page of another origin can send any text without asking first, but not this type.
    if !headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json) {
        let (status, title) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body has the wrong type");
        return Err(Problem::new(status, "content_type", title, "send it with Content-Type: application/json"));
    }
    let body = body.map_err(|rejection| Problem::of_body(&rejection))?;
    let new: NewEvent = serde_json::from_slice(&body).map_err(|error| Problem::invalid("body", error.to_string()))?;
    let event = event(new)?;
    let id = event.id.clone();
    let published = state.publisher.publish(event).await.map_err(|error| match error {
        ingest::Error::NoStreamFor { .. } => {
            let (status, title) = (StatusCode::UNPROCESSABLE_ENTITY, "No stream takes this event");
            Problem::new(status, "no_stream", title, error.to_string())
        }
        error => {
            warn!(error = %chain(&error), "an event could not be published");
            Problem::unavailable(
                "nats_unavailable",
                "the event may or may not be stored: send it again with the same idempotency_key",
            )
        }
    })?;
    let position = published.position;
    let accepted = Accepted {
        id: id.unwrap_or_else(|| format!("{}:{}", position.stream, position.sequence)),
        stream: position.stream.to_string(),
        sequence: position.sequence,
        duplicate: published.duplicate,
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)).into_response())
}

fn event(new: NewEvent) -> Result<Publish, Problem> {
    let kind = Subject::parse(&new.r#type).map_err(|error| Problem::invalid("type", format!("`type`: {error}")))?;
    let plain = |text: &str| {
        !text.is_empty() && text.len() <= HEADER_BYTES_MAX && text.bytes().all(|b| (0x20..0x7f).contains(&b))
    };
    if new.idempotency_key.as_deref().is_some_and(|key| !plain(key)) {
        let detail = format!("`idempotency_key` must be 1 to {HEADER_BYTES_MAX} printable ASCII characters");
        return Err(Problem::invalid("idempotency_key", detail));
    }
    let content_type = new.content_type.unwrap_or_else(|| "application/json".to_owned());
    if !plain(&content_type) {
        return Err(Problem::invalid("content_type", "`content_type` is not a media type"));
    }
    let data = match (new.data, is_json(&content_type)) {
        (Value::String(text), false) => text.into(),
        (_, false) => {
            let detail = format!("`data` must be a string for the content type {content_type}");
            return Err(Problem::invalid("data", detail));
        }
        (data, true) => data.to_string().into(),
    };
    Ok(Publish { kind, id: new.idempotency_key, content_type, data })
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

#[derive(Deserialize)]
pub(super) struct Listen {
    types: Option<String>,
    last_event_id: Option<String>,
}

/// `GET /api/v1/events/stream?types=a.*,b.>`.
pub(super) async fn stream_types(
    State(state): State<Shared>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<Listen>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let types: Vec<&str> = query.types.as_deref().unwrap_or(">").split(',').collect();
    if types.len() > PATTERNS_MAX {
        return Err(Problem::invalid("types", format!("`types` has more than {PATTERNS_MAX} patterns")));
    }
    let parse = |text: &&str| {
        Pattern::parse(text).map_err(|error| Problem::invalid("types", format!("`types`: {text:?}: {error}")))
    };
    let types = types.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    listen(&state, &principal, Wanted::Types(types), query.last_event_id, &headers).await
}

/// `GET /api/v1/streams/{name}`.
pub(super) async fn stream_named(
    State(state): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    Query(query): Query<Listen>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = SubscriptionId::parse(&name).map_err(|_| Problem::not_found("there is no stream of that name"))?;
    listen(&state, &principal, Wanted::Named(id), query.last_event_id, &headers).await
}

/// `GET /api/v1/streams`.
pub(super) async fn list(State(state): State<Shared>) -> Json<Value> {
    let streams: Vec<Value> = state
        .hub
        .named()
        .into_iter()
        .map(|named| {
            let types: Vec<&str> = named.types.iter().map(Pattern::as_str).collect();
            json!({ "name": named.name.as_str(), "types": types, "clients": named.clients })
        })
        .collect();
    Json(json!({ "streams": streams }))
}

async fn listen(
    state: &Shared,
    principal: &Principal,
    wanted: Wanted,
    last_event_id: Option<String>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    // The header is newer than the address: a browser that comes back by itself repeats the address as it was.
    let text = match headers.get("last-event-id") {
        Some(value) => Some(value.to_str().unwrap_or("\u{fffd}").to_owned()),
        None => last_event_id,
    };
    let cursor =
        text.filter(|text| !text.is_empty()).map(|text| Cursor::parse(&text)).transpose().map_err(|error| {
            Problem::invalid("last_event_id", format!("Last-Event-ID is not a place that this daemon gave: {error}"))
        })?;
    let request = stream::Request { principal: principal.name().to_owned(), wanted, cursor };
    let client = state.hub.subscribe(request).await.map_err(|error| refused(&error))?;
    let mut response = Body::from_stream(client.map(Ok::<_, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect the response otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn refused(error: &stream::Error) -> Problem {
    let detail = error.to_string();
    match error {
        stream::Error::Stopping => Problem::unavailable("stopping", detail),
        stream::Error::Clients { .. } => Problem::unavailable("clients_max", detail).retry_after(10),
        stream::Error::ClientsOfPrincipal { .. } => {
            let (status, title) = (StatusCode::TOO_MANY_REQUESTS, "Too many event streams");
            Problem::new(status, "clients_per_principal_max", title, detail).retry_after(10)
        }
        stream::Error::NoSuchStream { .. } => Problem::not_found(detail),
        stream::Error::NoStreamForTypes | stream::Error::Forgetful { .. } => Problem::invalid("types", detail),
        stream::Error::UnknownStream { .. } => Problem::invalid("last_event_id", detail),
        stream::Error::NotReady { .. } | stream::Error::Facts { .. } => {
            warn!(error = %chain(error), "an event stream could not be opened");
            Problem::unavailable("nats_unavailable", detail)
        }
    }
}

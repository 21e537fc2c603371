//! Publishing events, reading them, and listening to them.

pub(super) mod batch;
pub mod clients;
mod gzip;
mod listen;
pub mod read;
mod session;
mod stats;
pub mod tickets;

pub(super) use listen::CLIENT;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, is_json};
use super::principal::Asker;
use super::problem::Code;
use super::{Principal, Problem, State as Shared};
use crate::domain::Subject;
use crate::ingest::{self, Publish, Published};
use crate::telemetry::chain;

/// The longest idempotency key and media type, in bytes.
const HEADER_BYTES_MAX: usize = 256;

/// The routes, to be served below `/api/v1`.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(publish))
        .routes(routes!(batch::publish_batch))
        .routes(routes!(listen::stream_types))
        .routes(routes!(listen::list))
        .routes(routes!(listen::stream_named))
        .routes(routes!(tickets::issue))
        .routes(routes!(clients::list_clients))
        .routes(routes!(clients::renew))
}

/// An event to publish.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewEvent {
    /// Its type: tokens with dots between them, such as `orders.created`.
    #[schema(
        max_length = 512,
        pattern = r"^[^\u0000-\u0020\u007f-\u00a0.*>]+(\.[^\u0000-\u0020\u007f-\u00a0.*>]+)*$",
        example = "orders.created"
    )]
    r#type: String,
    /// Its payload: any JSON, or a text where `content_type` is not of JSON.
    #[schema(value_type = serde_json::Value)]
    data: Value,
    /// An event with the same key within the stream's duplicate window is not stored a second time.
    #[schema(min_length = 1, max_length = 256, pattern = "^[ -~]+$")]
    idempotency_key: Option<String>,
    /// The payload's media type; `application/json` when it is not said.
    #[schema(min_length = 1, max_length = 256, pattern = "^[ -~]+$")]
    content_type: Option<String>,
}

/// An event that is stored.
#[derive(Serialize, ToSchema)]
struct Accepted {
    /// Its idempotency key, else `STREAM:SEQUENCE`.
    id: String,
    /// The stream that has it.
    stream: String,
    /// Its place in the stream.
    sequence: u64,
    /// Whether the stream had it already.
    duplicate: bool,
}

/// Publish an event
///
/// It is answered when the stream has stored it.
#[utoipa::path(
    post,
    path = "/events",
    tag = "events",
    request_body = NewEvent,
    responses((status = 202, description = "The stream has it", body = Accepted)),
    extensions(("x-problems" = json!([
        "invalid_request", "types_not_allowed", "no_stream", "schema_mismatch", "event_too_large", "nats_unavailable"
    ])))
)]
async fn publish(State(state): State<Shared>, asker: Asker, Json(new): Json<NewEvent>) -> Result<Response, Problem> {
    let event = event(&state, asker.principal(), new)?;
    let id = event.id.clone();
    let published = state.publisher.publish(event).await.map_err(|error| not_published(&error))?;
    Ok((StatusCode::ACCEPTED, axum::Json(accepted(id, published))).into_response())
}

/// What is said of an event that a stream has.
fn accepted(id: Option<String>, published: Published) -> Accepted {
    let Published { position, duplicate } = published;
    Accepted {
        id: id.unwrap_or_else(|| format!("{}:{}", position.stream, position.sequence)),
        stream: position.stream.to_string(),
        sequence: position.sequence,
        duplicate,
    }
}

/// What is said of an event that could not be published.
fn not_published(error: &ingest::Error) -> Problem {
    match error {
        ingest::Error::NoStreamFor { .. } => Problem::new(Code::NoStream, error.to_string()),
        ingest::Error::TooLarge(_) => {
            let detail =
                "the event is larger than its stream, or the NATS server, takes: send less, or raise `max_payload`";
            Problem::new(Code::EventTooLarge, detail)
        }
        error => {
            warn!(error = %chain(error), "an event could not be published");
            Problem::unavailable(
                Code::NatsUnavailable,
                "the event may or may not be stored: send it again with the same idempotency_key",
            )
        }
    }
}

/// Checks an event that is to be published.
fn event(state: &Shared, principal: &Principal, new: NewEvent) -> Result<Publish, Problem> {
    let kind = Subject::parse(&new.r#type).map_err(|error| Problem::invalid("type", format!("`type`: {error}")))?;
    if !principal.types().allows(kind.as_str()) {
        let detail = format!("{kind} is not among the event types that you may publish");
        return Err(Problem::new(Code::TypesNotAllowed, detail));
    }
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
    state.types.check(&kind, &new.data).map_err(|errors| {
        let detail = format!("`data` does not fit the schema of {kind}");
        Problem::new(Code::SchemaMismatch, detail).about(errors)
    })?;
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

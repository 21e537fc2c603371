//! Publishing events, reading them, and listening to them.

pub(super) mod batch;
pub mod read;
mod stats;

use std::convert::Infallible;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, Path, Query, is_json};
use super::principal::Asker;
use super::problem::Code;
use super::{Principal, Problem, State as Shared};
use crate::domain::{Begin, Pattern, Subject, SubscriptionId};
use crate::ingest::{self, Publish, Published};
use crate::stream::{self, Connection, Cursor, SEQUENCE_MAX, Wanted};
use crate::telemetry::{chain, clock};

/// The most patterns in `types`.
const PATTERNS_MAX: usize = 64;
/// The longest idempotency key and media type, in bytes.
const HEADER_BYTES_MAX: usize = 256;

/// The routes, to be served below `/api/v1`.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(publish))
        .routes(routes!(batch::publish_batch))
        .routes(routes!(stream_types))
        .routes(routes!(list))
        .routes(routes!(stream_named))
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
async fn publish(
    State(state): State<Shared>,
    Extension(principal): Extension<Principal>,
    Json(new): Json<NewEvent>,
) -> Result<Response, Problem> {
    let event = event(&state, &principal, new)?;
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

/// What to listen to.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Listen {
    /// Patterns of event types, with commas between them: `orders.*,users.>`. All that you may listen to, when it is not said.
    types: Option<String>,
    /// Go on after this place, which a frame's `id:` named; the header `Last-Event-ID` goes before it.
    last_event_id: Option<String>,
    /// Where to begin when there is no such place: `now`, which is what it is when it is not said, `all`, a time (RFC 3339),
    /// or a sequence, where one stream alone has events of these types.
    from: Option<String>,
}

/// What to go on after.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Resume {
    /// Go on after this place, which a frame's `id:` named; the header `Last-Event-ID` goes before it.
    last_event_id: Option<String>,
    /// Where to begin when there is no such place: `now`, which is what it is when it is not said, `all`, a time (RFC 3339),
    /// or a sequence, where one stream alone has events of these types.
    from: Option<String>,
}

/// Listen to events by their types
///
/// Server-Sent Events, until the asker leaves. `id:` is a place to go on from, over all streams.
#[utoipa::path(
    get,
    path = "/events/stream",
    tag = "events",
    params(Listen, ("Last-Event-ID" = Option<String>, Header, description = "Go on after this place")),
    responses((status = 200, description = "Events as they come", body = str, content_type = "text/event-stream")),
    extensions(("x-problems" = json!([
        "invalid_request", "types_not_allowed", "stopping", "clients_max", "clients_per_principal_max", "nats_unavailable"
    ])))
)]
async fn stream_types(
    State(state): State<Shared>,
    asker: Asker,
    Query(query): Query<Listen>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Listen { types, last_event_id, from } = query;
    let types = match types.as_deref() {
        None => asker.principal().types().patterns().to_vec(),
        Some(text) => patterns(text)?,
    };
    asker.within(&types)?;
    listen(&state, asker.principal(), Wanted::Types(types), Place { last_event_id, from, connection }, &headers).await
}

/// The patterns of a query.
fn patterns(text: &str) -> Result<Vec<Pattern>, Problem> {
    let types: Vec<&str> = text.split(',').collect();
    if types.len() > PATTERNS_MAX {
        return Err(Problem::invalid("types", format!("`types` has more than {PATTERNS_MAX} patterns")));
    }
    let parse = |text: &&str| {
        Pattern::parse(text).map_err(|error| Problem::invalid("types", format!("`types`: {text:?}: {error}")))
    };
    types.iter().map(parse).collect()
}

/// Listen to a named stream
///
/// Server-Sent Events of an SSE subscription of the configuration, with its filters and transforms.
#[utoipa::path(
    get,
    path = "/streams/{name}",
    tag = "streams",
    params(
        ("name" = String, Path, description = "The subscription's name"),
        Resume,
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this place"),
    ),
    responses((status = 200, description = "Events as they come", body = str, content_type = "text/event-stream")),
    extensions(("x-problems" = json!([
        "invalid_request", "not_found", "stopping", "clients_max", "clients_per_principal_max", "nats_unavailable"
    ])))
)]
async fn stream_named(
    State(state): State<Shared>,
    asker: Asker,
    Path(name): Path<String>,
    Query(query): Query<Resume>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = SubscriptionId::parse(&name).map_err(|_| Problem::not_found("there is no stream of that name"))?;
    if !asker.sees(&id) {
        return Err(refused(&stream::Error::NoSuchStream { name: id }));
    }
    let Resume { last_event_id, from } = query;
    listen(&state, asker.principal(), Wanted::Named(id), Place { last_event_id, from, connection }, &headers).await
}

/// The named streams.
#[derive(Serialize, ToSchema)]
struct StreamList {
    /// All of them.
    streams: Vec<NamedStream>,
}

/// A named stream.
#[derive(Serialize, ToSchema)]
struct NamedStream {
    /// Its name.
    name: String,
    /// The patterns of the event types that it has.
    types: Vec<String>,
    /// How many clients listen to it now.
    clients: usize,
}

/// List the named streams
#[utoipa::path(
    get,
    path = "/streams",
    tag = "streams",
    responses((status = 200, description = "All named streams", body = StreamList))
)]
async fn list(State(state): State<Shared>, asker: Asker) -> axum::Json<StreamList> {
    let streams = state
        .hub
        .named()
        .into_iter()
        .filter(|named| asker.sees(&named.name))
        .map(|named| {
            let types = named.types.iter().map(ToString::to_string).collect();
            NamedStream { name: named.name.to_string(), types, clients: named.clients }
        })
        .collect();
    axum::Json(StreamList { streams })
}

/// Where a client begins, and what it is connected by.
struct Place {
    last_event_id: Option<String>,
    from: Option<String>,
    connection: Option<Extension<Connection>>,
}

/// A text such as `now`, `all`, `2026-11-22T12:00:00Z` or `123`.
fn begin(text: &str) -> Result<Begin, Problem> {
    let sequence = || text.parse().ok().filter(|sequence| (1..=SEQUENCE_MAX).contains(sequence)).map(Begin::Sequence);
    match text {
        "now" => Some(Begin::Now),
        "all" => Some(Begin::All),
        _ => sequence().or_else(|| clock::parse_rfc3339(text).map(Begin::Time)),
    }
    .ok_or_else(|| Problem::invalid("from", "`from` must be now, all, a time (RFC 3339), or a sequence from 1"))
}

async fn listen(
    state: &Shared,
    principal: &Principal,
    wanted: Wanted,
    place: Place,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    // The header is newer than the address: a browser that comes back by itself repeats the address as it was.
    let text = match headers.get("last-event-id") {
        Some(value) => Some(value.to_str().unwrap_or("\u{fffd}").to_owned()),
        None => place.last_event_id,
    };
    let cursor =
        text.filter(|text| !text.is_empty()).map(|text| Cursor::parse(&text)).transpose().map_err(|error| {
            Problem::invalid("last_event_id", format!("Last-Event-ID is not a place that this daemon gave: {error}"))
        })?;
    let from = place.from.as_deref().map(begin).transpose()?.unwrap_or_default();
    let connection = place.connection.map(|Extension(connection)| connection);
    let request = stream::Request { principal: principal.name().to_owned(), wanted, cursor, from, connection };
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
        stream::Error::Stopping => Problem::unavailable(Code::Stopping, detail),
        stream::Error::Clients { .. } => Problem::unavailable(Code::ClientsMax, detail).retry_after(10),
        stream::Error::ClientsOfPrincipal { .. } => Problem::new(Code::ClientsPerPrincipalMax, detail).retry_after(10),
        stream::Error::NoSuchStream { .. } => Problem::not_found(detail),
        stream::Error::NoStreamForTypes | stream::Error::Forgetful { .. } => Problem::invalid("types", detail),
        stream::Error::SequenceOfSeveral => Problem::invalid("from", detail),
        stream::Error::UnknownStream { .. } => Problem::invalid("last_event_id", detail),
        stream::Error::NotReady { .. } | stream::Error::Facts { .. } => {
            warn!(error = %chain(error), "an event stream could not be opened");
            Problem::unavailable(Code::NatsUnavailable, detail)
        }
    }
}

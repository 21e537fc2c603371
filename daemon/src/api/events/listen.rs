//! Listening to events: by their types, or to a named stream.

use std::convert::Infallible;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use super::gzip::{self, Gzip};
use super::session::Session;
use crate::api::document::EVENT_STREAM;
use crate::api::extract::{Path, Query};
use crate::api::principal::Asker;
use crate::api::problem::Code;
use crate::api::{Problem, State as Shared};
use crate::domain::{Begin, Pattern, SubscriptionId};
use crate::stream::{self, Connection, Cursor, SEQUENCE_MAX, Wanted};
use crate::telemetry::{chain, clock};

/// The most patterns in `types`.
pub(super) const PATTERNS_MAX: usize = 64;
/// Names the client that an event stream is for, to those who can read headers.
pub(in crate::api) const CLIENT: HeaderName = HeaderName::from_static("sluiced-client");

/// What to listen to.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Listen {
    /// Patterns of event types, with commas between them: `orders.*,users.>`. All that you may listen to, when it is not said.
    types: Option<String>,
    /// Go on after this place, which a frame's `id:` named; the header `Last-Event-ID` goes before it.
    last_event_id: Option<String>,
    /// Where to begin when there is no such place: `now`, which is what it is when it is not said, `all`, a time (RFC 3339),
    /// or a sequence, where one stream alone has events of these types.
    from: Option<String>,
    /// In the place of a key or a token, for those who can send no header: from `POST /api/v1/events/tickets`.
    #[serde(rename = "ticket")]
    _ticket: Option<String>,
}

/// What to go on after.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Resume {
    /// Go on after this place, which a frame's `id:` named; the header `Last-Event-ID` goes before it.
    last_event_id: Option<String>,
    /// Where to begin when there is no such place: `now`, which is what it is when it is not said, `all`, a time (RFC 3339),
    /// or a sequence, where one stream alone has events of these types.
    from: Option<String>,
    /// In the place of a key or a token, for those who can send no header: from `POST /api/v1/events/tickets`.
    #[serde(rename = "ticket")]
    _ticket: Option<String>,
}

/// Listen to events by their types
///
/// Server-Sent Events, until the asker leaves, or what he is known by expires or is taken back. `id:` is a place to go on from,
/// over all streams. `event: token-expiring` says that a new token is wanted.
#[utoipa::path(
    get,
    path = "/events/stream",
    tag = "events",
    params(Listen, ("Last-Event-ID" = Option<String>, Header, description = "Go on after this place")),
    responses((
        status = 200, description = "Events as they come", body = str, content_type = "text/event-stream",
        headers(("Sluiced-Client" = String, description = "The client's id, by which its token is replaced"))
    )),
    extensions(("x-problems" = json!([
        "invalid_request", "invalid_ticket", "types_not_allowed", "stopping", "clients_max", "clients_per_principal_max", "nats_unavailable"
    ])))
)]
pub(super) async fn stream_types(
    State(state): State<Shared>,
    asker: Asker,
    Query(query): Query<Listen>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Listen { types, last_event_id, from, .. } = query;
    let types = match types.as_deref() {
        None => asker.principal().types().patterns().to_vec(),
        Some(text) => patterns(text)?,
    };
    asker.within(&types)?;
    if types.is_empty() {
        return Err(Problem::new(Code::TypesNotAllowed, "there are no event types that you may listen to"));
    }
    let wanted = Wanted::Types(types.clone());
    listen(&state, &asker, wanted, types, Place { last_event_id, from, connection }, &headers).await
}

/// The patterns of a query.
fn patterns(text: &str) -> Result<Vec<Pattern>, Problem> {
    parsed("types", &text.split(',').collect::<Vec<_>>())
}

/// The patterns of a field of that name.
///
/// # Errors
/// When there are too many, or one is none.
pub(super) fn parsed(field: &str, types: &[&str]) -> Result<Vec<Pattern>, Problem> {
    if types.len() > PATTERNS_MAX {
        return Err(Problem::invalid(field, format!("`{field}` has more than {PATTERNS_MAX} patterns")));
    }
    let parse = |text: &&str| {
        Pattern::parse(text).map_err(|error| Problem::invalid(field, format!("`{field}`: {text:?}: {error}")))
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
    responses((
        status = 200, description = "Events as they come", body = str, content_type = "text/event-stream",
        headers(("Sluiced-Client" = String, description = "The client's id, by which its token is replaced"))
    )),
    extensions(("x-problems" = json!([
        "invalid_request", "invalid_ticket", "types_not_allowed", "not_found", "stopping", "clients_max", "clients_per_principal_max", "nats_unavailable"
    ])))
)]
pub(super) async fn stream_named(
    State(state): State<Shared>,
    asker: Asker,
    Path(name): Path<String>,
    Query(query): Query<Resume>,
    connection: Option<Extension<Connection>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = SubscriptionId::parse(&name).map_err(|_| Problem::not_found("there is no stream of that name"))?;
    let named = state.hub.named().into_iter().find(|named| named.name == id && asker.sees(&id));
    let Some(named) = named else { return Err(refused(&stream::Error::NoSuchStream { name: id })) };
    asker.within(&named.types)?;
    let Resume { last_event_id, from, .. } = query;
    let place = Place { last_event_id, from, connection };
    listen(&state, &asker, Wanted::Named(id), named.types, place, &headers).await
}

/// The named streams.
#[derive(Serialize, ToSchema)]
pub(super) struct StreamList {
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
    /// How many events, of all types, JetStream has that the live tails of its streams have not taken yet; `null` when nobody
    /// listens, so that nothing is read, and when JetStream does not say it.
    lag: Option<u64>,
}

/// List the named streams
///
/// With their clients at this daemon, and how far it is behind in reading them.
#[utoipa::path(
    get,
    path = "/streams",
    tag = "streams",
    responses((status = 200, description = "All named streams", body = StreamList))
)]
pub(super) async fn list(State(state): State<Shared>, asker: Asker) -> axum::Json<StreamList> {
    let seen = state.hub.named().into_iter().filter(|named| asker.sees(&named.name));
    // At once: those of one stream share a question to JetStream.
    let streams = join_all(seen.map(async |named| {
        let types = named.types.iter().map(ToString::to_string).collect();
        let lag = state.hub.tail_lag(&named.name).await;
        NamedStream { name: named.name.to_string(), types, clients: named.clients, lag }
    }));
    axum::Json(StreamList { streams: streams.await })
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

/// Opens the stream of one client, who hears of nothing but `types`.
async fn listen(
    state: &Shared,
    asker: &Asker,
    wanted: Wanted,
    types: Vec<Pattern>,
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
    let named = match &wanted {
        Wanted::Named(id) => Some(id.clone()),
        Wanted::Types(_) => None,
    };
    let from = place.from.as_deref().map(begin).transpose()?.unwrap_or_default();
    let connection = place.connection.map(|Extension(connection)| connection);
    let principal = asker.principal().name().to_owned();
    let request = stream::Request { principal, wanted, cursor, from, connection };
    let client = state.hub.subscribe(request).await.map_err(|error| refused(&error))?;
    let seat = state.clients.seat(asker, named, types, client.watched());
    let id = HeaderValue::from_str(&seat.id()).map_err(|_| Problem::internal())?;
    let session = Session::new(client, seat);
    let compressed = gzip::is_asked(headers);
    let body = match compressed {
        true => Body::from_stream(Gzip::new(session, state.clients.compressor()).map(Ok::<_, Infallible>)),
        false => Body::from_stream(session.map(Ok::<_, Infallible>)),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect the response otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(CLIENT, id);
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
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

//! Reading events: pages of them, and one.
//!
//! They are read from JetStream itself. A cursor is a place in each stream that is listed: what is published later comes
//! before the first page and changes no other.

use std::collections::VecDeque;

use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::listen::parsed;
use crate::api::answer::headers;
use crate::api::cursor::{self, Question};
use crate::api::extract::{Path, Query, is_json};
use crate::api::paging::{limit, times};
use crate::api::principal::Asker;
use crate::api::problem::Code;
use crate::api::{Principal, Problem, State, trace};
use crate::domain::{Event, Pattern, StreamName};
use crate::ingest::{self, Heading, Nats, StreamConfig, Stretch};
use crate::telemetry::{chain, clock};

/// How many bytes of payloads a page has at most.
const PAGE_DATA_BYTES_MAX: usize = 4 << 20;
/// How many payloads of a page are read at a time.
const READS_AT_A_TIME: usize = 8;

/// What the routes work on.
#[derive(Clone)]
pub struct Access {
    /// The streams.
    pub nats: Nats,
}

/// The routes, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(access))
}

/// The routes, with nothing to work on yet.
pub(in crate::api) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(super::stats::stats)).routes(routes!(one))
}

/// Which events are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    /// Patterns of event types, with commas between them: `orders.*,users.>`. Every type, when it is not said.
    r#type: Option<String>,
    /// Only events of this stream.
    stream: Option<String>,
    /// Only events that were stored at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only events that were stored before this time.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Whether the newest or the oldest come first.
    #[serde(default)]
    #[param(inline)]
    order: Order,
    /// Whether each event comes with its payload.
    #[serde(default)]
    data: bool,
    /// How many events the page is to have.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    cursor: Option<String>,
}

/// Which events come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Newest,
    Oldest,
}

/// An event as it stands in its stream.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(super) struct Shown {
    /// The id that its publisher gave it, else `STREAM:SEQUENCE`.
    id: String,
    r#type: String,
    /// The NATS subject that it was published on.
    subject: String,
    stream: String,
    sequence: u64,
    #[schema(format = DateTime)]
    stored_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    headers: Vec<[String; 2]>,
    /// The size of its payload.
    bytes: usize,
    /// Why it could not be understood, when it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    undecodable: Option<String>,
    /// Its payload, where it is JSON or a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    /// Its payload, where it is neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    /// Its payload was asked for and left out, because the page would be too large: ask for the event itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    data_omitted: bool,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
#[schema(as = EventPage)]
pub(super) struct Page {
    events: Vec<Shown>,
    /// The `cursor` of the next page; `null` when there is none. A page may be short, even empty, and still have a next one.
    next: Option<String>,
}

impl Shown {
    fn heading(Heading { event, bytes }: &Heading) -> Self {
        Self {
            id: event.id.to_string(),
            r#type: event.kind.to_string(),
            subject: event.subject.to_string(),
            stream: event.position.stream.to_string(),
            sequence: event.position.sequence,
            stored_at: clock::rfc3339(event.time_ms),
            content_type: event.content_type.as_deref().map(ToOwned::to_owned),
            headers: headers(&event.headers),
            bytes: *bytes,
            undecodable: event.undecodable.as_deref().map(ToOwned::to_owned),
            data: None,
            data_base64: None,
            data_omitted: false,
        }
    }

    /// The event with its payload.
    pub(super) fn whole(event: &Event) -> Self {
        let heading = Heading { bytes: event.data.len(), event: Event { data: Default::default(), ..event.clone() } };
        let mut shown = Self::heading(&heading);
        (shown.data, shown.data_base64) = payload(event);
        shown
    }
}

/// A payload as JSON, as a text, or else in base64.
fn payload(event: &Event) -> (Option<Value>, Option<String>) {
    let as_json = event.content_type.as_deref().is_none_or(is_json);
    let parsed = as_json.then(|| serde_json::from_slice(&event.data).ok()).flatten();
    match (parsed, std::str::from_utf8(&event.data)) {
        (Some(value), _) => (Some(value), None),
        (None, Ok(text)) => (Some(Value::String(text.to_owned())), None),
        (None, Err(_)) => (None, Some(STANDARD.encode(&event.data))),
    }
}

/// The patterns of a `type` parameter, or all that the principal may see.
///
/// # Errors
/// When one is no pattern, there are too many, or one reaches beyond what the principal may see.
pub(super) fn patterns(text: Option<&str>, principal: &Principal) -> Result<Vec<Pattern>, Problem> {
    let Some(text) = text else { return Ok(principal.types().patterns().to_vec()) };
    let patterns = parsed("type", &text.split(',').collect::<Vec<_>>())?;
    match principal.outside(&patterns) {
        None => Ok(patterns),
        Some(pattern) => {
            let detail = format!("`type`: {pattern} reaches beyond the event types that you may see");
            Err(Problem::new(Code::TypesNotAllowed, detail))
        }
    }
}

/// The configured streams of a `stream` parameter.
///
/// # Errors
/// When there is none of that name.
pub(super) fn streams<'a>(nats: &'a Nats, name: Option<&str>) -> Result<Vec<&'a StreamConfig>, Problem> {
    let Some(name) = name else { return Ok(nats.streams().iter().collect()) };
    let found = StreamName::parse(name).ok().and_then(|name| nats.stream(&name));
    found.map(|stream| vec![stream]).ok_or_else(|| Problem::invalid("stream", format!("there is no stream {name}")))
}

/// The problem with streams that cannot be read.
pub(super) fn unavailable(error: &ingest::Error) -> Problem {
    warn!(error = %chain(error), "events could not be read");
    Problem::unavailable(Code::NatsUnavailable, "the stream cannot be read at the moment")
}

/// List events
///
/// The newest first, or the oldest. They are read from their streams: an event that a stream no longer has is not on the list.
#[utoipa::path(
    get,
    path = "/events",
    tag = "events",
    params(Listing),
    responses((status = 200, description = "A page of events", body = Page)),
    extensions(("x-problems" = json!(["invalid_request", "types_not_allowed", "nats_unavailable"])))
)]
pub(super) async fn list(
    Extension(access): Extension<Access>,
    asker: Asker,
    Query(asked): Query<Listing>,
) -> Result<Json<Page>, Problem> {
    let nats = &access.nats;
    let types = patterns(asked.r#type.as_deref(), asker.principal())?;
    let streams = streams(nats, asked.stream.as_deref())?;
    let (from_ms, to_ms) = times(asked.from.as_deref(), asked.to.as_deref())?;
    let limit = limit(asked.limit)?;
    let newest = asked.order == Order::Newest;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let order = if newest { "newest" } else { "oldest" };
    let question = Question::of(&[
        "events",
        order,
        &text(&asked.r#type),
        &text(&asked.stream),
        &text(&asked.from),
        &text(&asked.to),
    ]);
    let places = match &asked.cursor {
        None => None,
        Some(cursor) => Some(parse_places(&question.place(cursor)?).ok_or_else(cursor::wrong)?),
    };
    let mut found = Vec::new();
    for stream in streams {
        let mut stretch = Stretch { stream, types: &types, from: 1, until: u64::MAX };
        let place = match &places {
            None => None,
            // A stream that is not on the cursor has no more.
            Some(places) => match places.iter().find(|(name, _)| *name == stream.name) {
                Some((_, place)) => Some(*place),
                None => continue,
            },
        };
        let read = async {
            if let Some(from_ms) = from_ms {
                stretch.from = nats.sequence_at(&stream.name, from_ms).await?;
            }
            if let Some(to_ms) = to_ms {
                stretch.until = nats.sequence_at(&stream.name, to_ms).await?;
            }
            match newest {
                true => stretch.until = stretch.until.min(place.unwrap_or(u64::MAX)),
                false => stretch.from = stretch.from.max(place.unwrap_or(1)),
            }
            match newest {
                true => nats.newest(&stretch, limit).await,
                false => nats.oldest(&stretch, limit).await,
            }
        };
        let page = read.await.map_err(|error| unavailable(&error))?;
        found.push(Column { name: stream.name.clone(), events: page.events.into(), next: page.next });
    }
    let (events, places) = merge(found, limit, newest);
    let mut shown: Vec<Shown> = events.iter().map(Shown::heading).collect();
    if asked.data {
        add_data(nats, &events, &mut shown).await.map_err(|error| unavailable(&error))?;
    }
    let next = (!places.is_empty()).then(|| question.cursor(&write_places(&places)));
    Ok(Json(Page { events: shown, next }))
}

/// What was found in one stream.
struct Column {
    name: StreamName,
    events: VecDeque<Heading>,
    /// Where to go on when all of it was taken.
    next: Option<u64>,
}

/// The first events of all streams by their times, and where to go on in each stream that has more.
fn merge(mut columns: Vec<Column>, limit: usize, newest: bool) -> (Vec<Heading>, Vec<(StreamName, u64)>) {
    let mut merged = Vec::with_capacity(limit);
    while merged.len() < limit {
        let time = |column: &Column| column.events.front().map(|heading| heading.event.time_ms);
        let with_more = columns.iter_mut().filter(|column| !column.events.is_empty());
        let first = match newest {
            true => with_more.max_by_key(|column| time(column)),
            false => with_more.min_by_key(|column| time(column)),
        };
        let Some(column) = first else { break };
        merged.extend(column.events.pop_front());
    }
    let place = |column: &Column| match column.events.front() {
        None => column.next,
        Some(left) => Some(left.event.position.sequence + u64::from(newest)),
    };
    let places = columns.iter().filter_map(|column| Some((column.name.clone(), place(column)?))).collect();
    (merged, places)
}

/// A cursor's places as a text: `STREAM=SEQUENCE,STREAM=SEQUENCE`.
fn write_places(places: &[(StreamName, u64)]) -> String {
    places.iter().map(|(name, place)| format!("{name}={place}")).collect::<Vec<_>>().join(",")
}

fn parse_places(text: &str) -> Option<Vec<(StreamName, u64)>> {
    let parse = |place: &str| {
        let (name, place) = place.split_once('=')?;
        Some((StreamName::parse(name).ok()?, place.parse().ok()?))
    };
    text.split(',').map(parse).collect()
}

/// Adds payloads as far as a page may have them.
async fn add_data(nats: &Nats, events: &[Heading], shown: &mut [Shown]) -> Result<(), ingest::Error> {
    let mut room = PAGE_DATA_BYTES_MAX;
    let mut wanted = Vec::new();
    for (at, heading) in events.iter().enumerate() {
        match room.checked_sub(heading.bytes) {
            Some(left) => {
                room = left;
                wanted.push(at);
            }
            None => shown[at].data_omitted = true,
        }
    }
    let read = |at: usize| async move { (at, nats.event(&events[at].event.position).await) };
    let mut reads = stream::iter(wanted.into_iter().map(read)).buffered(READS_AT_A_TIME);
    while let Some((at, event)) = reads.next().await {
        // One that the stream has dropped in the meantime stays without.
        if let Some(event) = event? {
            (shown[at].data, shown[at].data_base64) = payload(&event);
        }
    }
    Ok(())
}

/// Get an event
///
/// By its id or by `STREAM:SEQUENCE`. An id is looked for among the newest events of each stream.
#[utoipa::path(
    get,
    path = "/events/{id}",
    tag = "events",
    params(("id" = String, Path, description = "The event's id, or `STREAM:SEQUENCE`")),
    responses((status = 200, description = "The event", body = Shown)),
    extensions(("x-problems" = json!(["not_found", "nats_unavailable"])))
)]
pub(super) async fn one(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<Shown>, Problem> {
    let event = trace::find(&access.nats, &id).await?;
    if !asker.principal().types().allows(&event.kind) {
        return Err(Problem::not_found(format!("there is no event {id}")));
    }
    Ok(Json(Shown::whole(&event)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Position;

    fn heading(stream: &str, sequence: u64, time_ms: u64) -> Heading {
        let stream = StreamName::parse(stream).expect("a name");
        let event = Event {
            id: "".into(),
            kind: "a".into(),
            subject: "a".into(),
            position: Position { stream, sequence },
            time_ms,
            headers: Vec::new(),
            content_type: None,
            data: Default::default(),
            undecodable: None,
        };
        Heading { event, bytes: 0 }
    }

    /// A page of a stream held in memory, as JetStream would answer.
    fn column(log: &[Heading], name: &str, place: Option<u64>, limit: usize, newest: bool) -> Column {
        let of = |heading: &&Heading| heading.event.position.stream.as_str() == name;
        let sequence = |heading: &&Heading| heading.event.position.sequence;
        let own = log.iter().filter(of);
        let mut left: Vec<&Heading> = match newest {
            true => own.filter(|heading| place.is_none_or(|until| sequence(heading) < until)).collect(),
            false => own.filter(|heading| place.is_none_or(|from| sequence(heading) >= from)).collect(),
        };
        left.sort_by_key(sequence);
        if newest {
            left.reverse();
        }
        let taken: VecDeque<Heading> = left.iter().take(limit).map(|heading| (*heading).clone()).collect();
        let last = taken.back().map(|heading| heading.event.position.sequence);
        let next = last.filter(|_| left.len() > limit).map(|last| if newest { last } else { last + 1 });
        Column { name: StreamName::parse(name).expect("a name"), events: taken, next }
    }

    proptest! {
        /// Going through the pages gives each event that was there at the beginning exactly once, whatever comes meanwhile.
        #[test]
        fn pages_leave_nothing_out_and_repeat_nothing_while_more_is_published(
            spread in proptest::collection::vec((any::<bool>(), 0..3_u64), 0..60),
            later in proptest::collection::vec(any::<bool>(), 0..20),
            limit in 1..9_usize,
            newest in any::<bool>(),
        ) {
            let (mut log, mut time_ms, mut last) = (Vec::new(), 0, [0_u64; 2]);
            let mut publish = |log: &mut Vec<Heading>, second: bool, step: u64| {
                time_ms += step;
                last[usize::from(second)] += 1 + step;
                log.push(heading(if second { "B" } else { "A" }, last[usize::from(second)], time_ms));
            };
            spread.iter().for_each(|(second, step)| publish(&mut log, *second, *step));
            let there: Vec<Position> = log.iter().map(|heading| heading.event.position.clone()).collect();
            let (mut seen, mut places, mut later) = (Vec::new(), None::<Vec<(StreamName, u64)>>, later.into_iter());
            loop {
                let of = |name: &str| match &places {
                    None => Some(None),
                    Some(places) => places.iter().find(|(known, _)| known.as_str() == name).map(|(_, place)| Some(*place)),
                };
                let columns = ["A", "B"].into_iter().filter_map(|name| Some(column(&log, name, of(name)?, limit, newest)));
                let (page, next) = merge(columns.collect(), limit, newest);
                prop_assert!(page.len() <= limit);
                seen.extend(page.into_iter().map(|heading| heading.event.position));
                if next.is_empty() {
                    break;
                }
                let read = parse_places(&write_places(&next)).expect("its own text");
                prop_assert_eq!(&read, &next);
                places = Some(read);
                if let Some(second) = later.next() {
                    publish(&mut log, second, 1);
                }
            }
            let mut of_then: Vec<Position> = seen.iter().filter(|position| there.contains(position)).cloned().collect();
            let count = seen.len();
            of_then.sort();
            seen.sort();
            seen.dedup();
            prop_assert_eq!(seen.len(), count, "nothing twice");
            let mut there = there;
            there.sort();
            prop_assert_eq!(&of_then, &there);
            prop_assert!(!newest || seen == there, "what comes later is on no page but a new first one");
        }

        #[test]
        fn places_are_read_or_refused_and_never_a_panic(text in ".{0,40}") {
            if let Some(places) = parse_places(&text) {
                prop_assert!(!places.is_empty());
            }
        }
    }
}

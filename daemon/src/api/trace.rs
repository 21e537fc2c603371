//! Where is my event? What each subscription makes, and has made, of one event.
//!
//! The verdict is recomputed: the event is read from the stream, and the subscription's plugins of now run on it. What
//! became of its deliveries is read: from the store, from the log, and from where the subscription stands in the stream.

use std::sync::Arc;

use axum::{Extension, Json};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Logged, Try};
use super::extract::{Path, Query};
use super::principal::Asker;
use super::problem::Code;
use super::subscriptions::blocking;
use super::{Problem, State};
use crate::deliver::Lane;
use crate::deliver::ledger::Standing;
use crate::domain::{DeliveryId, Event, Pattern, Position, StreamName, SubscriptionId};
use crate::ingest::{self, Nats, Searched};
use crate::plugin::{Chain, Passed};
use crate::store::{DeadLetter, Disposition, EventLog, LogEntry, Parked, Store};
use crate::stream::{Cursor, Named, Tag};
use crate::telemetry::{chain, clock};

/// The most subscriptions that one answer tells of.
const SUBSCRIPTIONS_MAX: usize = 100;
/// The most deliveries of one subscription that one answer tells of.
const PARTS_MAX: u32 = 100;

/// A running subscription, as a trace sees it.
pub struct Subscribed {
    /// Its lane.
    pub lane: Arc<Lane>,
    /// The event types that it asks for.
    pub types: Vec<Pattern>,
    /// Its plugins.
    pub chain: Arc<Chain>,
}

/// Where the running subscriptions are found.
pub trait Subscriptions: Send + Sync + 'static {
    /// The webhook subscriptions as they are now.
    fn subscribed(&self) -> Vec<Subscribed>;
    /// The named Server-Sent Events streams as they are now.
    fn named(&self) -> Vec<Named>;
}

/// Where events are found.
pub trait Events: Send + Sync + 'static {
    /// The names of the streams.
    fn streams(&self) -> Vec<StreamName>;
    /// The event at a place.
    fn event<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Option<Event>, ingest::Error>>;
    /// The tag of the stream of that name.
    fn tag<'a>(&'a self, stream: &'a StreamName) -> BoxFuture<'a, Result<Tag, ingest::Error>>;
    /// Looks for an id in every stream.
    fn search<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Searched>, ingest::Error>>;
}

impl Events for Nats {
    fn streams(&self) -> Vec<StreamName> {
        Self::streams(self).iter().map(|stream| stream.name.clone()).collect()
    }

    fn event<'a>(&'a self, position: &'a Position) -> BoxFuture<'a, Result<Option<Event>, ingest::Error>> {
        Box::pin(Self::event(self, position))
    }

    fn tag<'a>(&'a self, stream: &'a StreamName) -> BoxFuture<'a, Result<Tag, ingest::Error>> {
        Box::pin(async move { Ok(Tag::of(self.facts(stream).await?.identity)) })
    }

    fn search<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Searched>, ingest::Error>> {
        Box::pin(async move {
            let mut all = Vec::new();
            for stream in Self::streams(self) {
                all.push(Self::search(self, stream, id).await?);
            }
            Ok(all)
        })
    }
}

/// What the route works on.
#[derive(Clone)]
pub struct Access {
    /// The subscriptions.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// The streams.
    pub events: Arc<dyn Events>,
    /// What is on record.
    pub store: Store,
}

/// The route, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(access))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(trace))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Only this subscription, also when it does not match.
    subscription: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Trace {
    /// The event.
    event: Found,
    /// How far the log was read for it.
    log: Looked,
    /// The subscriptions that match its type.
    subscriptions: Vec<Told>,
    /// How many subscriptions do not match the event's type.
    unmatched: usize,
    /// How many match and are not told of, because the answer would be too long: ask for each by its name.
    left_out: usize,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TraceFound)]
struct Found {
    id: String,
    r#type: String,
    subject: String,
    stream: String,
    sequence: u64,
    stored_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    undecodable: Option<String>,
}

/// How far the log was read.
#[derive(Serialize, ToSchema)]
#[schema(as = TraceLooked)]
struct Looked {
    flushes: usize,
    /// Whether nothing can have been missed.
    complete: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TraceTold)]
struct Told {
    subscription: String,
    /// `webhook` or `sse`: what goes to listeners leaves no record, so that a stream has a verdict and no deliveries.
    target: &'static str,
    subject: Subject,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    /// Where the event stands for the subscription as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reads_from: Option<u64>,
    deliveries: Vec<Delivery>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TraceSubject)]
struct Subject {
    matches: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    patterns: Vec<String>,
}

/// What the plugins say now; they may have said something else when the event came.
#[derive(Serialize, ToSchema)]
#[schema(as = TraceVerdict)]
struct Verdict {
    recomputed: bool,
    /// `kept`, `dropped`, `faulted` or `undecodable`.
    result: &'static str,
    plugins: Vec<Plugin>,
    /// The plugin that decided, when one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TracePlugin)]
struct Plugin {
    role: &'static str,
    name: String,
    version: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TraceOutput)]
struct Output {
    part: u32,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TraceDelivery)]
struct Delivery {
    id: String,
    part: u32,
    /// `delivered`, `dropped`, `parked`, `dead`, `in_hand`, `held`, `not_reached`, `before_subscription`, `done` or
    /// `no_record`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_due: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_at: Option<String>,
    /// What the log has, oldest first.
    attempts: Vec<Logged>,
    /// What a parked delivery's or dead letter's own record has, oldest first.
    history: Vec<Try>,
}

/// Where is my event?
///
/// What each subscription makes of it now, and what became of its deliveries.
#[utoipa::path(
    get,
    path = "/events/{id}/trace",
    tag = "events",
    params(("id" = String, Path, description = "The event's id, or its place as STREAM:SEQUENCE"), Asked),
    responses((status = 200, description = "All that is known of it", body = Trace)),
    extensions(("x-problems" = json!(["not_found", "nats_unavailable", "store_unavailable"])))
)]
async fn trace(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Trace>, Problem> {
    let event = Arc::new(find(&*access.events, &id).await?);
    if !asker.principal().types().allows(&event.kind) {
        return Err(Problem::not_found(format!("there is no event {id} that you may see")));
    }
    let (store, position) = (access.store.clone(), event.position.clone());
    let log = Arc::new(blocking(move || store.event_log(&position)).await?);
    let (mut told, mut unmatched, mut left_out) = (Vec::new(), 0, 0);
    let mut all: Vec<One> = access.subscriptions.subscribed().into_iter().map(One::Webhook).collect();
    all.extend(access.subscriptions.named().into_iter().map(One::Stream));
    all.retain(|one| asker.sees(one.id()));
    all.sort_by(|a, b| a.id().cmp(b.id()));
    if let Some(name) = &asked.subscription {
        all.retain(|one| one.id().as_str() == name);
        if all.is_empty() {
            return Err(Problem::not_found(format!("there is no subscription {name}")));
        }
    }
    for one in all {
        let matches = one.types().iter().any(|pattern| pattern.matches(&event.kind));
        if !matches {
            unmatched += 1;
            if asked.subscription.is_none() {
                continue;
            }
        }
        if told.len() >= SUBSCRIPTIONS_MAX {
            left_out += 1;
            continue;
        }
        told.push(match one {
            One::Webhook(one) => tell(&access.store, one, &event, &log).await?,
            One::Stream(one) => tell_stream(&one, &event).await,
        });
    }
    let looked = Looked { flushes: log.flushes, complete: log.complete };
    Ok(Json(Trace { event: Found::of(&event), log: looked, subscriptions: told, unmatched, left_out }))
}

/// A subscription of either kind.
enum One {
    Webhook(Subscribed),
    Stream(Named),
}

impl One {
    fn id(&self) -> &SubscriptionId {
        match self {
            Self::Webhook(one) => one.lane.id(),
            Self::Stream(one) => &one.subscription.id,
        }
    }

    fn types(&self) -> &[Pattern] {
        match self {
            Self::Webhook(one) => &one.types,
            Self::Stream(one) => &one.subscription.types,
        }
    }
}

/// The place that a text is, such as `EVENTS:12`, or the `id:` of an event stream that has one stream alone; with the tag of
/// the stream, where the text has one.
fn place(text: &str, streams: &[StreamName]) -> Option<(Position, Option<Tag>)> {
    let cursor = Cursor::parse(text).ok()?;
    let (stream, seen) = cursor.only().filter(|(stream, _)| streams.contains(stream))?;
    Some((Position { stream: stream.clone(), sequence: seen.sequence }, seen.tag))
}

/// The place that a text is, or that of the event that has it as its id.
///
/// # Errors
/// When there is none, or the streams cannot be read.
pub(super) async fn position(events: &dyn Events, id: &str) -> Result<Position, Problem> {
    if let Some((position, tag)) = place(id, &events.streams()) {
        let stream = &position.stream;
        if let Some(tag) = tag
            && events.tag(stream).await.map_err(|error| unavailable(&error))? != tag
        {
            return Err(Problem::not_found(format!("{id} is of another stream than {stream}, which was made anew")));
        }
        return Ok(position);
    }
    let searched = events.search(id).await.map_err(|error| unavailable(&error))?;
    let found = searched.iter().find_map(|s| Some(Position { stream: s.stream.clone(), sequence: s.found? }));
    found.ok_or_else(|| not_found(id, &searched))
}

fn unavailable(error: &ingest::Error) -> Problem {
    error!(error = %chain(error), "the stream could not serve a trace");
    Problem::unavailable(Code::NatsUnavailable, "the stream cannot be read at the moment")
}

/// The event that an id or a place names.
///
/// # Errors
/// When there is none, or the streams cannot be read.
pub(super) async fn find(events: &dyn Events, id: &str) -> Result<Event, Problem> {
    let position = position(events, id).await?;
    let gone = || Problem::not_found(format!("{} has no message {} (any more)", position.stream, position.sequence));
    events.event(&position).await.map_err(|error| unavailable(&error))?.ok_or_else(gone)
}

fn not_found(id: &str, searched: &[Searched]) -> Problem {
    let place = |s: &Searched| {
        let end = if s.to_the_end { "the end" } else { "where the time for the search ended" };
        format!("{} from {} to {end}", s.stream, s.from)
    };
    let places: Vec<String> = searched.iter().map(place).collect();
    let places = places.join(", ");
    Problem::not_found(format!(
        "no event with the id {id:?} was found by its headers in {places}: ask with STREAM:SEQUENCE for an older one"
    ))
}

/// All about one subscription.
async fn tell(store: &Store, one: Subscribed, event: &Arc<Event>, log: &Arc<EventLog>) -> Result<Told, Problem> {
    let Subscribed { lane, types, chain } = one;
    let told = Told::of("webhook", lane.id(), &types, event);
    if !told.subject.matches {
        return Ok(told);
    }
    let verdict = verdict(&chain, event).await;
    let (standing, reads_from) = standing(&lane, &event.position);
    let own: Vec<LogEntry> = log.entries.iter().filter(|entry| entry.subscription == *lane.id()).cloned().collect();
    let (store, id, position) = (store.clone(), lane.id().clone(), event.position.clone());
    let computed = u32::try_from(verdict.outputs.len()).unwrap_or(u32::MAX);
    let recorded = own.iter().map(|entry| entry.parts).max().unwrap_or(0);
    // What was dropped, or failed as a whole, has the one delivery that would have been its first.
    let parts = computed.max(recorded).clamp(1, PARTS_MAX);
    let deliveries = blocking(move || {
        let began = store.registration(&id)?.is_some_and(|registration| {
            registration.starts_after.iter().any(|(s, after)| *s == position.stream && position.sequence <= *after)
        });
        let standing = if began { "before_subscription" } else { standing };
        let mut deliveries = Vec::new();
        for part in 0..parts {
            let delivery = DeliveryId::derive(&id, &position, part);
            let entries: Vec<&LogEntry> = own.iter().filter(|entry| entry.part == part).collect();
            let (parked, dead) = (store.parked(&delivery)?, store.dead_letter(&delivery)?);
            deliveries.push(Delivery::new(delivery, part, standing, &entries, parked.as_ref(), dead.as_ref()));
        }
        Ok((standing, deliveries))
    });
    let (standing, mut deliveries) = deliveries.await?;
    // A filter that drops an event leaves no record of it.
    if verdict.result == "dropped" && recorded == 0 {
        deliveries.retain(|delivery| !delivery.attempts.is_empty() || !delivery.history.is_empty());
    }
    Ok(Told { verdict: Some(verdict), standing: Some(standing), reads_from, deliveries, ..told })
}

/// All about one named stream.
async fn tell_stream(one: &Named, event: &Event) -> Told {
    let mut told = Told::of("sse", &one.subscription.id, &one.subscription.types, event);
    if told.subject.matches
        && let Some(chain) = one.process.chain()
    {
        told.verdict = Some(verdict(chain, event).await);
    }
    told
}

/// What the plugins make of the event now.
async fn verdict(chain: &Chain, event: &Event) -> Verdict {
    let plugins = chain.plugins().map(|(role, name, version)| {
        let (name, version) = (name.to_owned(), version.to_owned());
        Plugin { role, name, version }
    });
    let mut verdict = Verdict {
        recomputed: true,
        result: "kept",
        plugins: plugins.collect(),
        decided_by: None,
        reason: None,
        outputs: Vec::new(),
    };
    if let Some(reason) = &event.undecodable {
        (verdict.result, verdict.reason) = ("undecodable", Some(reason.to_string()));
        return verdict;
    }
    match chain.run(event).await.passed {
        Passed::Kept(outputs) => {
            verdict.outputs = (0..)
                .zip(outputs)
                .map(|(part, output)| Output {
                    part,
                    bytes: output.data.len(),
                    r#type: output.kind.map(Into::into),
                    content_type: output.content_type.map(Into::into),
                })
                .collect();
        }
        Passed::Dropped { plugin, reason } => {
            (verdict.result, verdict.decided_by, verdict.reason) = ("dropped", Some(plugin.into()), reason);
        }
        Passed::Faulted { fault, .. } => {
            verdict.result = "faulted";
            (verdict.decided_by, verdict.reason) = (Some(fault.plugin.to_string()), Some(fault.to_string()));
        }
    }
    verdict
}

/// Where the event stands in the subscription's ledger, and from where a held one reads.
fn standing(lane: &Lane, position: &Position) -> (&'static str, Option<u64>) {
    let state = lane.state();
    let Some(ledger) = state.ledger_of(&position.stream).map(|at| &state.ledgers[at]) else {
        return ("no_record", None);
    };
    let word = match ledger.standing(position.sequence) {
        Standing::InHand => "in_hand",
        Standing::Ahead => "held",
        Standing::NotOffered => "not_reached",
        Standing::Done => "done",
        Standing::Past => "no_record",
    };
    (word, ledger.cursor())
}

impl Told {
    /// What the event's type says, and nothing more.
    fn of(target: &'static str, id: &SubscriptionId, types: &[Pattern], event: &Event) -> Self {
        let pattern = types.iter().find(|pattern| pattern.matches(&event.kind));
        let subject = Subject {
            matches: pattern.is_some(),
            pattern: pattern.map(ToString::to_string),
            patterns: if pattern.is_some() { Vec::new() } else { types.iter().map(ToString::to_string).collect() },
        };
        let (subscription, deliveries) = (id.to_string(), Vec::new());
        Self { subscription, target, subject, verdict: None, standing: None, reads_from: None, deliveries }
    }
}

impl Found {
    fn of(event: &Event) -> Self {
        Self {
            id: event.id.to_string(),
            r#type: event.kind.to_string(),
            subject: event.subject.to_string(),
            stream: event.position.stream.to_string(),
            sequence: event.position.sequence,
            stored_at: clock::rfc3339(event.time_ms),
            content_type: event.content_type.as_deref().map(ToOwned::to_owned),
            bytes: event.data.len(),
            undecodable: event.undecodable.as_deref().map(ToOwned::to_owned),
        }
    }
}

impl Delivery {
    /// A delivery of which the store, the log and the subscription's ledger say so much.
    fn new(
        id: DeliveryId,
        part: u32,
        standing: &'static str,
        entries: &[&LogEntry],
        parked: Option<&Parked>,
        dead: Option<&DeadLetter>,
    ) -> Self {
        let last = entries.last().map(|entry| entry.disposition);
        let state = match (parked, dead, last) {
            (Some(_), _, _) => "parked",
            (None, Some(_), _) => "dead",
            // It was parked when the log was written, and is not any more: its end lies where the log was not searched.
            (None, None, Some(Disposition::Parked | Disposition::Dead)) => "no_record",
            (None, None, Some(ended)) => ended.as_str(),
            (None, None, None) => standing,
        };
        let history = parked.map(|p| &p.history).or(dead.map(|d| &d.history));
        Self {
            id: id.to_string(),
            part,
            state,
            next_due: parked.map(|parked| clock::rfc3339(parked.due_ms)),
            failed_at: dead.map(|letter| clock::rfc3339(letter.failed_ms)),
            attempts: entries.iter().map(|entry| Logged::from(*entry)).collect(),
            history: history.into_iter().flatten().map(Try::from).collect(),
        }
    }
}

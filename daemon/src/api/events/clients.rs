//! The clients that listen now: who they are, and new tokens for them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use super::gzip::Compressor;
use crate::api::cursor::{self, Question};
use crate::api::extract::{Path, Query};
use crate::api::paging::limit;
use crate::api::principal::Asker;
use crate::api::{Principal, Problem, State as Shared};
use crate::domain::{Pattern, SubscriptionId};
use crate::stream::{Pace, Watched};
use crate::telemetry::clock;

/// What the id of every client begins with; 16 hexadecimal digits follow.
const ID_PREFIX: &str = "cl_";

/// The clients. Cloning shares them.
#[derive(Clone)]
pub struct Clients(Arc<Book>);

struct Book {
    /// How long before its end a token's end is announced.
    notice: Duration,
    compressor: Compressor,
    open: Mutex<Open>,
}

struct Open {
    /// The number of the next client. It begins anywhere, so that no client of an earlier run has it.
    next: u64,
    by_number: BTreeMap<u64, Arc<Listener>>,
}

/// One client.
struct Listener {
    number: u64,
    /// The named stream that it listens to.
    named: Option<SubscriptionId>,
    /// The types that it hears of.
    types: Vec<Pattern>,
    from: Option<IpAddr>,
    since_ms: u64,
    /// Who it is; another token takes the place of the first.
    principal: watch::Sender<Principal>,
    /// Where it stands.
    watched: Watched,
}

/// A client's place among them, given back when it goes.
pub(super) struct Seat {
    clients: Clients,
    listener: Arc<Listener>,
}

impl Clients {
    /// Nobody yet. The end of a token is announced `notice` before.
    pub fn new(notice: Duration) -> Self {
        let next = u64::from(rand::random::<u32>()) << 32;
        let open = Mutex::new(Open { next, by_number: BTreeMap::new() });
        Self(Arc::new(Book { notice, compressor: Compressor::new(), open }))
    }

    /// What compresses frames for those who ask for it.
    pub(super) fn compressor(&self) -> Compressor {
        self.0.compressor.clone()
    }

    /// A place for one more. It hears of nothing but `types`.
    pub(super) fn seat(
        &self,
        asker: &Asker,
        named: Option<SubscriptionId>,
        types: Vec<Pattern>,
        watched: Watched,
    ) -> Seat {
        let principal = watch::Sender::new(asker.principal().clone());
        let mut open = self.0.open.lock();
        let number = open.next;
        open.next = number.wrapping_add(1);
        let (from, since_ms) = (asker.from(), clock::now_ms());
        let listener = Arc::new(Listener { number, named, types, from, since_ms, principal, watched });
        open.by_number.insert(number, Arc::clone(&listener));
        Seat { clients: self.clone(), listener }
    }

    fn find(&self, id: &str) -> Option<Arc<Listener>> {
        self.0.open.lock().by_number.get(&number_of(id)?).cloned()
    }
}

impl Seat {
    /// The client's id.
    pub(super) fn id(&self) -> String {
        self.listener.id()
    }

    /// Who it is, now and later.
    pub(super) fn principals(&self) -> watch::Receiver<Principal> {
        self.listener.principal.subscribe()
    }

    /// How long before its end a token's end is announced.
    pub(super) fn notice(&self) -> Duration {
        self.clients.0.notice
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.0.open.lock().by_number.remove(&self.listener.number);
    }
}

impl Listener {
    fn id(&self) -> String {
        format!("{ID_PREFIX}{:016x}", self.number)
    }
}

fn number_of(id: &str) -> Option<u64> {
    let digits = id.strip_prefix(ID_PREFIX).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Which clients.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientQuery {
    /// Only those of this named stream.
    stream: Option<String>,
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    cursor: Option<String>,
}

/// A page of clients.
#[derive(Serialize, ToSchema)]
pub(super) struct ClientPage {
    /// Those who listen now, the longest first.
    clients: Vec<ListeningClient>,
    /// The `cursor` of the next page; `null` when there is none.
    next: Option<String>,
}

/// How a client gets its events: from memory as they come; from the history of its stream; or it waits for its turn to have
/// that read, of which `limits.sse_readers` are at a time.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ClientState {
    Live,
    CatchingUp,
    WaitingForReader,
}

/// A client of an event stream.
#[derive(Serialize, ToSchema)]
struct ListeningClient {
    /// Its id.
    id: String,
    /// Who it is, as the audit log has it.
    principal: String,
    /// Whose it is; `null` is the operator.
    owner: Option<String>,
    /// The named stream that it listens to; `null` when it listens by types.
    stream: Option<String>,
    /// The patterns of the event types that it hears of.
    types: Vec<String>,
    /// How far it is: the `id:` that it was or will be given next.
    cursor: String,
    /// How it gets its events.
    state: ClientState,
    /// How many events, of all types, it is behind what the live tails of its streams have read; 0 when none of them is for
    /// it.
    lag: u64,
    /// The address that it asks from.
    address: Option<String>,
    /// Since when.
    #[schema(format = "date-time")]
    since: String,
    /// When what it is known by ends, and its stream with it.
    #[schema(format = "date-time")]
    expires_at: Option<String>,
}

impl ListeningClient {
    /// Nothing when it has just gone.
    fn of(listener: &Listener) -> Option<Self> {
        let standing = listener.watched.look()?;
        let principal = listener.principal.borrow().clone();
        let state = match standing.pace {
            Pace::Live => ClientState::Live,
            Pace::CatchingUp => ClientState::CatchingUp,
            Pace::Waiting => ClientState::WaitingForReader,
        };
        Some(Self {
            id: listener.id(),
            principal: principal.name().to_owned(),
            owner: principal.owner().map(ToString::to_string),
            stream: listener.named.as_ref().map(ToString::to_string),
            types: listener.types.iter().map(ToString::to_string).collect(),
            cursor: standing.cursor.to_string(),
            state,
            lag: standing.lag_events,
            address: listener.from.map(|from| from.to_string()),
            since: clock::rfc3339(listener.since_ms),
            expires_at: principal.validity().expires_ms.map(clock::rfc3339),
        })
    }
}

/// List the clients of event streams
///
/// Those of this daemon, as they are now, and how far each is: of all for the operator, its own for an owner.
#[utoipa::path(
    get,
    path = "/events/clients",
    tag = "streams",
    params(ClientQuery),
    responses((status = 200, description = "A page", body = ClientPage)),
    extensions(("x-problems" = json!(["invalid_request"])))
)]
pub(super) async fn list_clients(
    State(state): State<Shared>,
    asker: Asker,
    Query(query): Query<ClientQuery>,
) -> Result<Json<ClientPage>, Problem> {
    let limit = limit(query.limit)?;
    let question = Question::of(&["clients", query.stream.as_deref().unwrap_or_default()]);
    let place = |cursor| number_of(&question.place(cursor)?).ok_or_else(cursor::wrong);
    let after = query.cursor.as_deref().map(place).transpose()?;
    let begin = after.map_or(0, |after| after.saturating_add(1));
    let wanted = |listener: &Listener| {
        let of_stream = query.stream.as_deref();
        let named = of_stream.is_none_or(|name| listener.named.as_ref().is_some_and(|of| of.as_str() == name));
        named && asker.principal().sees(listener.principal.borrow().owner())
    };
    let mut found: Vec<Arc<Listener>> = {
        let open = state.clients.0.open.lock();
        let later = open.by_number.range(begin..).map(|(_, listener)| listener);
        later.filter(|listener| wanted(listener)).take(limit + 1).cloned().collect()
    };
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| question.cursor(&last.id()));
    let clients = found.iter().filter_map(|listener| ListeningClient::of(listener)).collect();
    Ok(Json(ClientPage { clients, next }))
}

/// What a client is known by now.
#[derive(Serialize, ToSchema)]
pub(super) struct Renewed {
    /// Its id.
    client: String,
    /// When its stream ends.
    #[schema(format = "date-time")]
    expires_at: Option<String>,
}

/// Give a client a new token
///
/// Sent with the new token, which must be of the same subject and allow what the client listens to. Its stream goes on without
/// a break, until the new token ends.
#[utoipa::path(
    post,
    path = "/events/clients/{id}/token",
    tag = "streams",
    params(("id" = String, Path, description = "The client's id: of the header `Sluiced-Client`, or of `token-expiring`")),
    responses((status = 200, description = "The new token is its own", body = Renewed)),
    extensions(("x-problems" = json!(["not_found", "types_not_allowed"])))
)]
pub(super) async fn renew(
    State(state): State<Shared>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<Renewed>, Problem> {
    let principal = asker.principal();
    let own = |listener: &Arc<Listener>| listener.principal.borrow().name() == principal.name();
    let missing = || Problem::not_found("no client of yours has that id");
    let listener = state.clients.find(&id).filter(own).ok_or_else(missing)?;
    asker.within(&listener.types)?;
    let mut expires_ms = None;
    listener.principal.send_if_modified(|own| {
        // What nothing ends is not made to end: a stream of the admin key's that is asked for with a session of it.
        let ends = own.validity().ends();
        if ends {
            expires_ms = principal.validity().expires_ms;
            *own = principal.clone();
        }
        ends
    });
    let expires_at = expires_ms.map(clock::rfc3339);
    Ok(Json(Renewed { client: listener.id(), expires_at }))
}

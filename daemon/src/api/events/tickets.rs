//! Tickets: what opens one event stream, once and soon, in the address. A browser's `EventSource` can send neither a key nor a
//! token, and an address is written to logs on its way: what it shows must be worth nothing afterwards.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::listen::parsed;
use crate::api::extract::JsonOrNone;
use crate::api::principal::Asker;
use crate::api::problem::Code;
use crate::api::{Principal, Problem, State as Shared};
use crate::domain::Pattern;
use crate::telemetry::clock;

/// What the text of every ticket begins with.
const TEXT_PREFIX: &str = "slt_";
/// How many random bytes follow, in hexadecimal digits.
const TEXT_RANDOM_BYTES: usize = 24;

/// Bounds of tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketLimits {
    /// How long a ticket opens something.
    pub lifetime: Duration,
    /// The most that are issued within one lifetime: no more than streams may be open.
    pub tickets_max: usize,
    /// The most that one principal is given within one lifetime.
    pub tickets_per_principal_max: usize,
}

/// The tickets. They are kept as digests and in memory only: a restart makes them worthless. Cloning shares them.
#[derive(Clone)]
pub struct Tickets(Arc<Shelf>);

struct Shelf {
    limits: TicketLimits,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Those that were not shown yet.
    unused: HashMap<[u8; 32], Principal>,
    /// All that were issued within a lifetime, the oldest first, with the names of those who have them.
    issued: VecDeque<(Instant, [u8; 32], Box<str>)>,
    /// How many of those each has.
    by_principal: HashMap<Box<str>, usize>,
}

impl Book {
    /// Forgets those whose time is over.
    fn expire(&mut self, now: Instant, lifetime: Duration) {
        while let Some((_, digest, name)) = self.issued.pop_front_if(|(at, ..)| *at + lifetime <= now) {
            self.unused.remove(&digest);
            if let Some(own) = self.by_principal.get_mut(&name) {
                *own -= 1;
                if *own == 0 {
                    self.by_principal.remove(&name);
                }
            }
        }
    }

    /// After how many seconds the oldest is forgotten that answers to the question.
    fn wait_s(&self, now: Instant, lifetime: Duration, of: impl Fn(&str) -> bool) -> u32 {
        let oldest = self.issued.iter().find(|(_, _, name)| of(name));
        let wait = oldest.map_or(lifetime, |(at, ..)| (*at + lifetime).saturating_duration_since(now));
        u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

impl Tickets {
    /// No tickets yet.
    pub fn new(limits: TicketLimits) -> Self {
        Self(Arc::new(Shelf { limits, book: Mutex::default() }))
    }

    /// A ticket for that principal.
    fn add(&self, principal: Principal) -> Result<String, Problem> {
        let TicketLimits { lifetime, tickets_max, tickets_per_principal_max } = self.0.limits;
        let (now, name) = (Instant::now(), Box::<str>::from(principal.name()));
        let mut book = self.0.book.lock();
        book.expire(now, lifetime);
        if book.issued.len() >= tickets_max {
            let detail = format!("{tickets_max} tickets within {} s are the limit", lifetime.as_secs());
            return Err(
                Problem::unavailable(Code::ClientsMax, detail).retry_after(book.wait_s(now, lifetime, |_| true))
            );
        }
        let own = book.by_principal.entry(name.clone()).or_default();
        if *own >= tickets_per_principal_max {
            let detail = format!("{tickets_per_principal_max} tickets within {} s are your limit", lifetime.as_secs());
            let wait_s = book.wait_s(now, lifetime, |of| *of == *name);
            return Err(Problem::new(Code::ClientsPerPrincipalMax, detail).retry_after(wait_s));
        }
        *own += 1;
        let mut random = [0; TEXT_RANDOM_BYTES];
        rand::fill(&mut random);
        let text = format!("{TEXT_PREFIX}{}", hex::encode(random));
        let digest: [u8; 32] = Sha256::digest(&text).into();
        book.issued.push_back((now, digest, name));
        book.unused.insert(digest, principal);
        Ok(text)
    }

    /// Who was given that ticket, and is still known. It is worth nothing from now on. Looking for a digest tells nobody how much of a ticket is
    /// right.
    pub(in crate::api) fn redeem(&self, text: &str) -> Option<Principal> {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let mut book = self.0.book.lock();
        book.expire(Instant::now(), self.0.limits.lifetime);
        book.unused.remove(&digest).filter(|principal| principal.validity().holds(clock::now_ms()))
    }
}

/// What a ticket is to open.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTicket {
    /// The patterns of event types that its stream may be about; all that the asker may listen to, when it is not said.
    #[schema(max_items = 64, example = json!(["orders.*"]))]
    types: Option<Vec<String>>,
}

/// A ticket.
#[derive(Serialize, ToSchema)]
pub(super) struct Ticket {
    /// Its text, for the only time: the `ticket` of an event stream's address.
    ticket: String,
    /// Until when it opens a stream.
    #[schema(format = "date-time")]
    expires_at: String,
    /// The event types that its stream may be about.
    types: Vec<String>,
}

/// Issue a ticket
///
/// It opens one event stream, once, within seconds, for those who can send no header, such as a browser's `EventSource`. Its
/// stream sees what the asker may see, counts as the asker's, and ends when what the asker is known by does.
#[utoipa::path(
    post,
    path = "/events/tickets",
    tag = "events",
    request_body = Option<NewTicket>,
    responses((status = 201, description = "It is valid from now on", body = Ticket)),
    extensions(("x-problems" = json!([
        "invalid_request", "types_not_allowed", "clients_per_principal_max", "clients_max"
    ])))
)]
pub(super) async fn issue(
    State(state): State<Shared>,
    asker: Asker,
    JsonOrNone(new): JsonOrNone<NewTicket>,
) -> Result<Response, Problem> {
    let principal = asker.principal().clone();
    let principal = match new.types {
        None => principal,
        Some(texts) => {
            let types = parsed("types", &texts.iter().map(String::as_str).collect::<Vec<_>>())?;
            asker.within(&types)?;
            principal.narrowed(types)
        }
    };
    let types = principal.types().patterns().iter().map(Pattern::to_string).collect();
    let ticket = state.tickets.add(principal)?;
    let lifetime_ms = u64::try_from(state.tickets.0.limits.lifetime.as_millis()).unwrap_or(u64::MAX);
    let expires_at = clock::rfc3339(clock::now_ms().saturating_add(lifetime_ms));
    let mut response = (StatusCode::CREATED, axum::Json(Ticket { ticket, expires_at, types })).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AllowList, Owner, Scopes};

    const LIFETIME: Duration = Duration::from_secs(30);

    fn tickets(tickets_max: usize, tickets_per_principal_max: usize) -> Tickets {
        Tickets::new(TicketLimits { lifetime: LIFETIME, tickets_max, tickets_per_principal_max })
    }

    fn of(owner: &str) -> Principal {
        Principal::token(Owner::parse(owner).expect("an owner"), AllowList::everything(), Scopes::OWNER)
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_for_one_and_opens_once_and_for_a_while_only() {
        let tickets = tickets(9, 9);
        let (one, other) = (tickets.add(of("u1")).expect("issued"), tickets.add(of("u2")).expect("issued"));
        assert_ne!(one, other);
        assert_eq!(tickets.redeem("slt_0"), None);
        assert_eq!(tickets.redeem(&one), Some(of("u1")));
        assert_eq!(tickets.redeem(&one), None, "once");
        tokio::time::advance(LIFETIME - Duration::from_millis(1)).await;
        assert_eq!(tickets.redeem(&other), Some(of("u2")));
        let late = tickets.add(of("u1")).expect("issued");
        tokio::time::advance(LIFETIME).await;
        assert_eq!(tickets.redeem(&late), None, "soon");
        let book = tickets.0.book.lock();
        assert!(book.unused.is_empty() && book.issued.is_empty() && book.by_principal.is_empty(), "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_only_so_many_used_or_not() {
        let tickets = tickets(3, 2);
        let code = |result: Result<String, Problem>| result.expect_err("too many").code();
        for _ in 0..2 {
            assert!(tickets.redeem(&tickets.add(of("u1")).expect("issued")).is_some());
        }
        assert_eq!(code(tickets.add(of("u1"))), Code::ClientsPerPrincipalMax);
        tokio::time::advance(LIFETIME / 2).await;
        tickets.add(of("u2")).expect("issued");
        assert_eq!(code(tickets.add(of("u2"))), Code::ClientsMax);
        tokio::time::advance(LIFETIME / 2).await;
        assert!(tickets.add(of("u1")).is_ok(), "the first two are forgotten");
    }
}

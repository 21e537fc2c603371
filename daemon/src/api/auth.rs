//! The gate before every route below `/api/v1`: who asks, how often, and whether the route is theirs; and afterwards, what
//! was changed or refused, for the audit log.

pub mod jwks;
mod provider;
pub mod token;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use self::token::{Refused, Tokens};
use super::access::{self, Route};
use super::document::BASE;
use super::events::tickets::Tickets;
use super::forwarded::Proxies;
use super::keys::ApiKeys;
use super::limit::{Counted, Limits};
use super::principal::Asker;
use super::problem::Code;
use super::session::{Credential, Sessions};
use super::trail::{Trail, Tried};
use super::{Owners, Principal, Problem};
use crate::domain::Scope;
use crate::store::Store;
use crate::telemetry::clock;

/// How many keys and tokens of one request are looked at.
const PRESENTED_MAX: usize = 4;

/// The digest of the admin key; the key itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey([u8; 32]);

impl AdminKey {
    /// The key with that text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Compares in a time that tells nothing of the key.
    fn is(&self, digest: &[u8; 32]) -> bool {
        digest.ct_eq(&self.0).into()
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The gate. Without an admin key and tokens it lets everybody in as the operator: for loopback only.
pub struct Gate {
    admin: Option<AdminKey>,
    tokens: Option<Tokens>,
    api_keys: Option<ApiKeys>,
    tickets: Option<Tickets>,
    limits: Limits,
    proxies: Proxies,
    trail: Trail,
    owners: Owners,
    sessions: Sessions,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate(…)")
    }
}

impl Gate {
    /// A gate that knows the admin key, when there is one, and limits nothing.
    pub fn new(admin: Option<AdminKey>) -> Self {
        Self {
            admin,
            tokens: None,
            api_keys: None,
            tickets: None,
            limits: Limits::new(0, 0),
            proxies: Proxies::default(),
            trail: Trail::new(None),
            owners: Owners::default(),
            sessions: Sessions::default(),
        }
    }

    /// The same, which trusts tokens as well.
    ///
    /// # Errors
    /// When a file of keys cannot be read.
    pub fn with_tokens(self, config: token::Config) -> Result<Self, jwks::Error> {
        Ok(Self { tokens: Some(Tokens::new(config)?), ..self })
    }

    /// The same, which knows the API keys as well.
    #[must_use]
    pub fn with_api_keys(self, api_keys: ApiKeys) -> Self {
        Self { api_keys: Some(api_keys), ..self }
    }

    /// The same, which lets tickets open event streams.
    #[must_use]
    pub fn with_tickets(self, tickets: Tickets) -> Self {
        Self { tickets: Some(tickets), ..self }
    }

    /// The same, with so many requests, and tests of webhooks, a minute; 0 is no limit.
    #[must_use]
    pub fn with_limits(self, requests_per_minute: u32, tests_per_minute: u32) -> Self {
        Self { limits: Limits::new(requests_per_minute, tests_per_minute), ..self }
    }

    /// The same, which believes those proxies where requests come from.
    #[must_use]
    pub fn with_proxies(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// The same, which puts on record what is changed, and what is refused.
    #[must_use]
    pub fn with_audit(self, store: Store) -> Self {
        Self { trail: Trail::new(Some(store)), ..self }
    }

    /// The same, which knows whose which subscription is.
    #[must_use]
    pub fn with_owners(self, owners: Owners) -> Self {
        Self { owners, ..self }
    }

    /// The sessions that it knows.
    pub fn sessions(&self) -> Sessions {
        self.sessions.clone()
    }

    /// Who sends that, and what in a header shows it. A key or a token goes before a cookie.
    async fn identify(
        &self,
        method: &Method,
        headers: &HeaderMap,
        route: Option<Route>,
    ) -> Result<(Principal, Option<Credential>), Problem> {
        let mut refused = None;
        let mut is_shown = false;
        for text in presented(headers).take(PRESENTED_MAX) {
            is_shown = true;
            let credential = Credential::text(text);
            match self.know(&credential).await {
                Ok(Some(principal)) => return Ok((principal, Some(credential))),
                Ok(None) => {}
                Err(problem) if problem.code() == Code::Unauthorized => return Err(problem),
                Err(problem) => refused = Some(problem),
            }
            // A link opens a session, and nothing else.
            if route.is_some_and(Route::opens_session)
                && let Some(link) = self.sessions.redeem(text, clock::now_ms())
                && let Some(principal) = self.know(&link).await?
            {
                return Ok((principal, Some(link)));
            }
        }
        if !is_shown
            && let Some(session) = self.sessions.find(method, headers, clock::now_ms())?
            && let Some(principal) = self.know(&session.credential).await?
        {
            return Ok((session.within(principal), None));
        }
        match refused {
            Some(problem) => Err(problem),
            None if self.admin.is_none() && self.tokens.is_none() => Ok((Principal::anybody(), None)),
            None if is_shown => Err(Problem::new(Code::Unauthorized, "the key is not known here, or was removed")),
            None => Err(Problem::unauthorized()),
        }
    }

    /// Who was given the ticket of that request's address; `None` when it shows none, or asks for what no ticket opens.
    fn by_ticket(&self, route: Option<Route>, request: &Request) -> Option<Result<Principal, Problem>> {
        let tickets = self.tickets.as_ref().filter(|_| route.is_some_and(|route| route.takes_tickets()))?;
        let text = request.uri().query()?.split('&').find_map(|part| part.strip_prefix("ticket="))?;
        let detail = "the ticket was used before, has expired, or was issued by another daemon: get a new one";
        Some(tickets.redeem(text).ok_or_else(|| Problem::new(Code::InvalidTicket, detail)))
    }

    /// Who shows that; `None` when it is nobody's.
    ///
    /// # Errors
    /// When it is somebody's, and not valid now.
    async fn know(&self, credential: &Credential) -> Result<Option<Principal>, Problem> {
        let (digest, token) = match credential {
            Credential::Link(principal) => return Ok(Some(principal.clone())),
            Credential::Text { digest, token } => (digest, token),
        };
        if self.admin.as_ref().is_some_and(|key| key.is(digest)) {
            return Ok(Some(Principal::admin()));
        }
        if let Some(api_keys) = &self.api_keys
            && let Some(principal) = api_keys.find(digest, clock::now_ms())?
        {
            return Ok(Some(principal));
        }
        match (&self.tokens, token) {
            (Some(tokens), Some(token)) => tokens.verify(token).await.map(Some).map_err(|error| not_verified(&error)),
            _ => Ok(None),
        }
    }
}

/// What a token is refused with.
fn not_verified(error: &Refused) -> Problem {
    match error {
        Refused::Expired => Problem::new(Code::TokenExpired, "the token has expired: get a new one"),
        Refused::Unavailable => Problem::unavailable(Code::JwksUnavailable, error.to_string()),
        other => Problem::new(Code::InvalidToken, format!("the token is refused: {other}")),
    }
}

/// Lets a request pass whose sender may take the route, and says who it is from.
pub(super) async fn guard(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let from = peer.map(|peer| gate.proxies.client(peer, request.headers()));
    let route = route(&request);
    let identified = match gate.by_ticket(route, &request) {
        Some(by_ticket) => by_ticket.map(|principal| (principal, None)),
        None => gate.identify(request.method(), request.headers(), route).await,
    };
    // The base has been taken off.
    let target = format!("{BASE}{}", request.uri().path());
    let tried = route.and_then(|route| route.action).map(|action| Tried { action, target, from });
    let (principal, counted, mut response) = match identified {
        Ok((principal, credential)) => {
            if let Some(credential) = credential.filter(|_| route.is_some_and(Route::opens_session)) {
                request.extensions_mut().insert(credential);
            }
            let (counted, response) = pass(&gate, &principal, route, from, request, next).await;
            (Some(principal), counted, response)
        }
        Err(problem) => {
            let counted = gate.limits.of_address(from);
            let problem = counted.map_or(Ok(()), Counted::allowed).err().unwrap_or(problem);
            (None, counted, problem.into_response())
        }
    };
    if let Some(tried) = tried {
        gate.trail.note(tried, principal.as_ref(), &mut response).await;
    }
    if let Some(counted) = counted {
        counted.put(response.headers_mut());
    }
    response
}

/// Lets a request of that principal pass, when it may take the route and has not sent too many.
async fn pass(
    gate: &Gate,
    principal: &Principal,
    route: Option<Route>,
    from: Option<IpAddr>,
    mut request: Request,
    next: Next,
) -> (Option<Counted>, Response) {
    let mut counted = gate.limits.of_principal(principal, from);
    if let Err(problem) = counted.map_or(Ok(()), Counted::allowed) {
        return (counted, problem.into_response());
    }
    if let Some(Err(problem)) = route.map(|route| permitted(principal, route)) {
        return (counted, problem.into_response());
    }
    if route.is_some_and(|route| route.action == Some(access::TEST)) {
        counted = gate.limits.of_test(principal, from).or(counted);
        if let Err(problem) = counted.map_or(Ok(()), Counted::allowed) {
            return (counted, problem.into_response());
        }
    }
    request.extensions_mut().insert(Asker::new(principal.clone(), gate.owners.clone()).asking_from(from));
    (counted, next.run(request).await)
}

/// The route that a request asks for; `None` when there is none, which is answered so.
fn route(request: &Request) -> Option<Route> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    access::route(request.method(), path.strip_prefix(BASE).unwrap_or(path))
}

/// # Errors
/// When the route is not the principal's.
fn permitted(principal: &Principal, route: Route) -> Result<(), Problem> {
    match route.scope {
        scope if principal.may(scope) => Ok(()),
        Scope::Admin => {
            Err(Problem::new(Code::OperatorOnly, "only the admin key, or an API key with `admin`, may do that"))
        }
        scope => Err(Problem::new(Code::InsufficientScope, format!("the key or token lacks the scope `{scope}`"))),
    }
}

/// The keys and tokens that a request shows.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = |value: &'_ [u8]| value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    let bearers = headers.get_all(AUTHORIZATION).iter().filter(move |value| bearer(value.as_bytes()));
    let tokens = bearers.map(|value| value.as_bytes()[7..].trim_ascii());
    headers.get_all("x-api-key").iter().map(|value| value.as_bytes()).chain(tokens)
}

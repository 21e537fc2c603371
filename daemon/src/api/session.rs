//! Sessions of the web console: a cookie that stands for a key, a token or a link for as long as that one is valid.
//!
//! A page's scripts cannot read the cookie (`HttpOnly`), and other sites cannot have it sent (`SameSite=Strict`). Against
//! what is left of request forgery, a change over it needs a header with a token that only the console's own origin can
//! read, and a browser that says that the request comes from there.
//!
//! Sessions and links are in memory: a restart ends them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::{CACHE_CONTROL, COOKIE, HOST, ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::principal::InUse;
use super::problem::Code;
use super::{Principal, Problem, State, portal};
use crate::telemetry::clock;

/// The name of the cookie.
const NAME: &str = "sluiced_session";
/// The header that a change over the cookie needs.
const CSRF_HEADER: &str = "x-csrf-token";
/// How long a session lasts.
const SESSION_TIME_MAX_MS: u64 = 8 * 3_600_000;
/// How long one lasts that is not used.
const SESSION_IDLE_MS_MAX: u64 = 30 * 60_000;
/// Sessions at a time; one more ends the one that was used longest ago.
const SESSIONS_MAX: usize = 10_000;
/// Links at a time that nobody has opened yet; one more ends the one that would end first.
const LINKS_MAX: usize = 10_000;
/// How many random bytes a cookie and a link have.
const RANDOM_BYTES: usize = 32;

/// What shows who somebody is.
#[derive(Clone)]
pub(super) enum Credential {
    /// A key or a token.
    Text {
        /// The digest, which keys are known by.
        digest: [u8; 32],
        /// The text itself when it may be a token, which must be verified each time.
        token: Option<Arc<[u8]>>,
    },
    /// A link that was opened, and who opens it.
    Link(Principal),
}

impl Credential {
    /// A key or a token.
    pub(super) fn text(text: &[u8]) -> Self {
        let is_token = text.iter().filter(|byte| **byte == b'.').count() == 2;
        Self::Text { digest: Sha256::digest(text).into(), token: is_token.then(|| text.into()) }
    }
}

/// Sessions and links. Cloning shares them.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    /// By the digest of the cookie.
    sessions: HashMap<[u8; 32], Session>,
    /// By the digest of the link.
    links: HashMap<[u8; 32], Link>,
}

struct Session {
    credential: Credential,
    made_ms: u64,
    /// Also for what goes on with it after the answer, such as event streams: they end with it, and while they go on it is
    /// in use.
    in_use: Arc<InUse>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.in_use.ended.cancel();
    }
}

/// A session of a request.
pub(super) struct Found {
    pub(super) credential: Credential,
    in_use: Arc<InUse>,
    expires_ms: u64,
}

impl Found {
    /// That principal, known for as long as the session.
    pub(super) fn within(self, principal: Principal) -> Principal {
        let validity = principal.validity().clone().within(self.in_use, self.expires_ms);
        principal.valid(validity)
    }
}

struct Link {
    principal: Principal,
    expires_ms: u64,
}

impl Session {
    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.expires_ms() || now_ms.saturating_sub(self.used_ms()) >= SESSION_IDLE_MS_MAX
    }

    fn expires_ms(&self) -> u64 {
        self.made_ms + SESSION_TIME_MAX_MS
    }

    fn used_ms(&self) -> u64 {
        self.in_use.used_ms.load(Ordering::Relaxed)
    }
}

impl Sessions {
    /// The session of the request's cookie, when it has one that is valid now.
    ///
    /// # Errors
    /// When the request may come from another site.
    pub(super) fn find(&self, method: &Method, headers: &HeaderMap, now_ms: u64) -> Result<Option<Found>, Problem> {
        let Some(cookie) = cookie(headers) else { return Ok(None) };
        let found = {
            let open = self.0.lock();
            let session = open.sessions.get(&digest(cookie)).filter(|session| !session.is_over(now_ms));
            session.map(|session| {
                session.in_use.used_ms.store(now_ms, Ordering::Relaxed);
                let (credential, in_use) = (session.credential.clone(), Arc::clone(&session.in_use));
                Found { credential, in_use, expires_ms: session.expires_ms() }
            })
        };
        if found.is_some() {
            is_own_site(method, headers, cookie)?;
        }
        Ok(found)
    }

    /// Begins a session and returns its cookie.
    fn begin(&self, credential: Credential, now_ms: u64) -> String {
        let cookie = random();
        let mut open = self.0.lock();
        open.sessions.retain(|_, session| !session.is_over(now_ms));
        if open.sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = open.sessions.iter().min_by_key(|(_, session)| session.used_ms()).map(|(key, _)| *key)
        {
            open.sessions.remove(&oldest);
        }
        let in_use = Arc::new(InUse { used_ms: now_ms.into(), ..InUse::default() });
        open.sessions.insert(digest(&cookie), Session { credential, made_ms: now_ms, in_use });
        cookie
    }

    /// When the session of that cookie ends.
    fn ends(&self, cookie: &str) -> Option<u64> {
        self.0.lock().sessions.get(&digest(cookie)).map(Session::expires_ms)
    }

    fn end(&self, cookie: &str) {
        self.0.lock().sessions.remove(&digest(cookie));
    }

    /// Makes a link that is good for one sign-in as that principal, and returns its text.
    pub(super) fn link(&self, principal: Principal, expires_ms: u64, now_ms: u64) -> String {
        let text = format!("{}{}", portal::TEXT_PREFIX, random());
        let mut open = self.0.lock();
        open.links.retain(|_, link| link.expires_ms > now_ms);
        if open.links.len() >= LINKS_MAX
            && let Some(first) = open.links.iter().min_by_key(|(_, link)| link.expires_ms).map(|(key, _)| *key)
        {
            open.links.remove(&first);
        }
        open.links.insert(digest(&text), Link { principal, expires_ms });
        text
    }

    /// Whom a link opens the console for. It opens nothing again.
    pub(super) fn redeem(&self, text: &[u8], now_ms: u64) -> Option<Credential> {
        if !text.starts_with(portal::TEXT_PREFIX.as_bytes()) {
            return None;
        }
        let link = self.0.lock().links.remove(&<[u8; 32]>::from(Sha256::digest(text)))?;
        (link.expires_ms > now_ms).then_some(Credential::Link(link.principal))
    }
}

fn random() -> String {
    let mut random = [0; RANDOM_BYTES];
    rand::fill(&mut random);
    hex::encode(random)
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// The token that belongs to a cookie: it tells nothing of it.
fn csrf_token(cookie: &str) -> String {
    hex::encode(&Sha256::new().chain_update("csrf ").chain_update(cookie).finalize()[..16])
}

/// The session's cookie of a request.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == NAME).map(|(_, value)| value)
}

/// # Errors
/// When the browser says that another site's page makes the request, or a change lacks the session's token.
fn is_own_site(method: &Method, headers: &HeaderMap, cookie: &str) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let refused = |detail: &str| Err(Problem::new(Code::CrossSite, detail.to_owned()));
    match (text("sec-fetch-site"), text(ORIGIN.as_str())) {
        (Some("same-origin" | "none"), _) | (None, None) => {}
        (Some(_), _) => return refused("the session's cookie is for the console's own pages"),
        // An old browser: the page's host must be the one that it asks.
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            if host.is_none() || host != text(HOST.as_str()) {
                return refused("the session's cookie is for the console's own pages");
            }
        }
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let shown = text(CSRF_HEADER).unwrap_or_default();
    match bool::from(shown.as_bytes().ct_eq(csrf_token(cookie).as_bytes())) {
        true => Ok(()),
        false => refused("send the session's `csrf_token` as X-CSRF-Token"),
    }
}

/// The routes, to be served below `/api/v1`.
pub(super) fn routes(sessions: Sessions) -> OpenApiRouter<State> {
    operations().layer(Extension(sessions))
}

/// The routes, described.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(begin_session, get_session, end_session))
}

/// A session of a browser.
#[derive(Serialize, ToSchema)]
#[schema(as = Session)]
struct Shown {
    /// To be sent as `X-CSRF-Token` with everything but GET.
    csrf_token: String,
    /// When it ends, though it be used; unused it ends after half an hour.
    #[schema(format = "date-time")]
    expires_at: String,
}

fn shown(status: StatusCode, cookie: &str, expires_ms: u64) -> Response {
    let shown = Shown { csrf_token: csrf_token(cookie), expires_at: clock::rfc3339(expires_ms) };
    let mut response = (status, Json(shown)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Begin a session
///
/// With a key, a token or a portal link in a header; the answer sets a cookie that stands for it in a browser, until it ends or
/// is removed itself.
#[utoipa::path(
    post,
    path = "/session",
    tag = "access",
    responses((status = 201, description = "The cookie is set", body = Shown)),
    extensions(("x-problems" = json!(["invalid_request"])))
)]
async fn begin_session(
    Extension(sessions): Extension<Sessions>,
    credential: Option<Extension<Credential>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Some(Extension(credential)) = credential else {
        let detail = "a session stands for a key, a token or a portal link: send one in a header";
        return Err(Problem::invalid("authorization", detail));
    };
    let now_ms = clock::now_ms();
    let cookie = sessions.begin(credential, now_ms);
    let mut response = shown(StatusCode::CREATED, &cookie, now_ms + SESSION_TIME_MAX_MS);
    // The browser itself says whether the page came over TLS, whatever stands before the daemon.
    let is_tls = headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    set_cookie(&mut response, &cookie, SESSION_TIME_MAX_MS / 1_000, is_tls);
    Ok(response)
}

/// Get the session of the request's cookie
#[utoipa::path(
    get,
    path = "/session",
    tag = "access",
    responses((status = 200, description = "It is valid", body = Shown)),
    extensions(("x-problems" = json!(["not_found"])))
)]
async fn get_session(Extension(sessions): Extension<Sessions>, headers: HeaderMap) -> Result<Response, Problem> {
    let found = cookie(&headers).and_then(|cookie| Some((cookie, sessions.ends(cookie)?)));
    let (cookie, ends_ms) = found.ok_or_else(|| Problem::not_found("the request has no cookie of a session"))?;
    Ok(shown(StatusCode::OK, cookie, ends_ms))
}

/// End the session of the request's cookie
#[utoipa::path(
    delete,
    path = "/session",
    tag = "access",
    responses((status = 204, description = "There is none any more"))
)]
async fn end_session(Extension(sessions): Extension<Sessions>, headers: HeaderMap) -> Response {
    if let Some(cookie) = cookie(&headers) {
        sessions.end(cookie);
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&mut response, "", 0, false);
    response
}

fn set_cookie(response: &mut Response, cookie: &str, seconds: u64, is_tls: bool) {
    let secure = if is_tls { "; Secure" } else { "" };
    let text = format!("{NAME}={cookie}; Path=/api/v1; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let value = HeaderValue::try_from(text).expect("hexadecimal digits and plain words stand in a header");
    response.headers_mut().insert(SET_COOKIE, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::principal::Validity;
    use crate::domain::Owner;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let name = |name: &str| http::HeaderName::try_from(name).expect("a name");
        pairs.iter().map(|(key, value)| (name(key), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    fn code(result: Result<Option<Found>, Problem>) -> Option<Code> {
        result.err().map(|problem| problem.code())
    }

    #[test]
    fn a_session_ends_by_time_by_idleness_and_by_word() {
        let sessions = Sessions::default();
        let cookie = sessions.begin(Credential::text(b"key"), 1_000);
        let sent = headers(&[("cookie", &format!("a=b; {NAME}={cookie}"))]);
        let is_open = |now_ms| sessions.find(&Method::GET, &sent, now_ms).expect("no other site").is_some();
        for step in 1..16 {
            assert!(is_open(1_000 + step * (SESSION_IDLE_MS_MAX - 1)), "{step}");
        }
        assert!(!is_open(1_000 + SESSION_TIME_MAX_MS), "it was used, and is over");
        let idle = sessions.begin(Credential::text(b"key"), 0);
        let sent = headers(&[("cookie", &format!("{NAME}={idle}"))]);
        assert!(sessions.find(&Method::GET, &sent, SESSION_IDLE_MS_MAX).expect("no other site").is_none());
        let ended = sessions.begin(Credential::text(b"key"), 0);
        sessions.end(&ended);
        let sent = headers(&[("cookie", &format!("{NAME}={ended}"))]);
        assert!(sessions.find(&Method::GET, &sent, 1).expect("no other site").is_none());
    }

    #[test]
    fn another_site_s_page_can_do_nothing_with_the_cookie() {
        let sessions = Sessions::default();
        let cookie = sessions.begin(Credential::text(b"key"), 0);
        let (sent, token) = (format!("{NAME}={cookie}"), csrf_token(&cookie));
        let ask = |method: Method, more: &[(&str, &str)]| {
            let all = [&[("cookie", &*sent), ("host", "console.example:8080")], more].concat();
            code(sessions.find(&method, &headers(&all), 1))
        };
        let refused = Some(Code::CrossSite);
        assert_eq!(ask(Method::GET, &[("sec-fetch-site", "same-origin")]), None);
        assert_eq!(ask(Method::GET, &[("sec-fetch-site", "cross-site")]), refused);
        assert_eq!(ask(Method::GET, &[("sec-fetch-site", "same-site")]), refused);
        assert_eq!(ask(Method::POST, &[("sec-fetch-site", "same-origin")]), refused, "no token");
        assert_eq!(ask(Method::POST, &[("sec-fetch-site", "same-origin"), (CSRF_HEADER, "wrong")]), refused);
        assert_eq!(ask(Method::POST, &[("sec-fetch-site", "same-origin"), (CSRF_HEADER, &token)]), None);
        assert_eq!(ask(Method::POST, &[("origin", "http://console.example:8080"), (CSRF_HEADER, &token)]), None);
        assert_eq!(ask(Method::POST, &[("origin", "http://evil.example"), (CSRF_HEADER, &token)]), refused);
        assert_eq!(ask(Method::DELETE, &[("origin", "null"), (CSRF_HEADER, &token)]), refused);
        assert!(!token.contains(&cookie[..8]));
    }

    #[test]
    fn a_link_opens_once_and_not_too_late() {
        let sessions = Sessions::default();
        let owner = Principal::of_owner(&Owner::parse("u1").expect("an owner"));
        let text = sessions.link(owner.clone(), 100, 0);
        assert!(matches!(sessions.redeem(text.as_bytes(), 99), Some(Credential::Link(_))));
        assert!(sessions.redeem(text.as_bytes(), 99).is_none(), "once");
        let late = sessions.link(owner, 100, 0);
        assert!(sessions.redeem(late.as_bytes(), 100).is_none());
        assert!(sessions.redeem(b"slk_0", 1).is_none());
    }

    #[test]
    fn what_goes_on_with_a_session_ends_with_it_whichever_way_it_ends() {
        let sessions = Sessions::default();
        let find = |cookie: &str, now_ms| {
            let sent = headers(&[("cookie", &format!("{NAME}={cookie}"))]);
            sessions.find(&Method::GET, &sent, now_ms).expect("no other site").expect("a session")
        };
        let principal = |cookie: &str, now_ms| find(cookie, now_ms).within(Principal::admin());
        let (ended, idle) = (sessions.begin(Credential::text(b"key"), 0), sessions.begin(Credential::text(b"key"), 0));
        let (of_ended, of_idle) = (principal(&ended, 0), principal(&idle, 0));
        assert_eq!(of_ended.validity().expires_ms, Some(SESSION_TIME_MAX_MS));
        assert!(of_ended.validity().holds(1) && of_idle.validity().holds(1));
        assert!(!of_ended.validity().holds(SESSION_TIME_MAX_MS));
        sessions.end(&ended);
        assert!(!of_ended.validity().holds(1) && of_idle.validity().holds(1));
        // What goes on uses it, and so it does not become idle.
        let in_use = of_idle.validity().session.clone().expect("it is of a session");
        in_use.used_ms.store(SESSION_IDLE_MS_MAX, Ordering::Relaxed);
        let later_ms = SESSION_IDLE_MS_MAX + 1;
        let of_other = principal(&sessions.begin(Credential::text(b"key"), later_ms), later_ms);
        assert!(of_idle.validity().holds(1));
        sessions.begin(Credential::text(b"key"), 2 * SESSION_IDLE_MS_MAX);
        assert!(!of_idle.validity().holds(1) && of_other.validity().holds(1), "it was idle when the next one came");
        // A key that ends before the session does so still.
        let validity = Validity { expires_ms: Some(5), ..Validity::default() };
        let cookie = sessions.begin(Credential::text(b"key"), 0);
        let short = find(&cookie, 0).within(Principal::admin().valid(validity));
        assert_eq!(short.validity().expires_ms, Some(5));
    }

    #[test]
    fn the_tables_have_a_bound() {
        let sessions = Sessions::default();
        for n in 0..SESSIONS_MAX as u64 + 5 {
            sessions.begin(Credential::text(b"key"), n);
        }
        assert_eq!(sessions.0.lock().sessions.len(), SESSIONS_MAX);
    }
}

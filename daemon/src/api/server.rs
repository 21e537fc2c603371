//! Binding, routing and the end.

use std::any::Any;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Fuse};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Method};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::{debug, error, warn};
use utoipa_axum::router::OpenApiRouter;

use super::document::EVENT_STREAM;
use super::event_types::EventTypes;
use super::events::clients::Clients;
use super::events::tickets::Tickets;
use super::listener::Listener;
use super::problem::Code;
use super::tls::{Acceptor, Tls};
use super::{Error, Gate, Problem, auth, console, document, events, limit, operate};
use crate::ingest::{self, Nats, Publish, Published};
use crate::stream::Hub;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The certificate for HTTPS; without one it is plain HTTP.
    pub tls: Option<Tls>,
    /// The largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Origins whose pages may call the API; `*` is any.
    pub cors_origins: Vec<String>,
    /// How long requests may go on after the stop.
    pub drain_timeout: Duration,
}

/// Where events are published.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes one.
    fn publish(&self, event: Publish) -> BoxFuture<'_, Result<Published, ingest::Error>>;
    /// Publishes several in their order, with an answer for each.
    fn publish_all(&self, events: Vec<Publish>) -> BoxFuture<'_, Vec<Result<Published, ingest::Error>>>;
}

impl Publisher for Nats {
    fn publish(&self, event: Publish) -> BoxFuture<'_, Result<Published, ingest::Error>> {
        Box::pin(Self::publish(self, event))
    }

    fn publish_all(&self, events: Vec<Publish>) -> BoxFuture<'_, Vec<Result<Published, ingest::Error>>> {
        Box::pin(Self::publish_all(self, events))
    }
}

/// What the API gives access to.
#[derive(Clone)]
pub struct State {
    /// Where events are published.
    pub publisher: Arc<dyn Publisher>,
    /// What is asked of events by their types.
    pub types: EventTypes,
    /// The event streams.
    pub hub: Hub,
    /// Who listens to them.
    pub clients: Clients,
    /// What opens them in the place of a key.
    pub tickets: Tickets,
    /// The metrics.
    pub metrics: Metrics,
    /// The condition of the daemon's parts.
    pub health: Health,
}

/// The interface, bound to its address. Until it runs it says only how the daemon is, and that it is still starting.
pub struct Server {
    local_addr: SocketAddr,
    /// All routes, for when it runs.
    router: Option<Router>,
    /// All routes, once it runs.
    open: Arc<OnceLock<Router>>,
    /// Set when it runs.
    running: CancellationToken,
    serving: Fuse<BoxFuture<'static, ()>>,
    /// Ends `serving`.
    closing: CancellationToken,
    drain_timeout: Duration,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// When the address cannot be bound, or the certificate cannot be used.
    pub async fn bind(config: &Config, metrics: Metrics, health: Health) -> Result<Self, Error> {
        let fail = |source| Error::Bind { listen: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
        let local_addr = listener.local_addr().map_err(fail)?;
        let acceptor = config.tls.as_ref().map(Acceptor::new).transpose()?;
        let open = Arc::<OnceLock<Router>>::default();
        let (running, closing) = (CancellationToken::new(), CancellationToken::new());
        let (late, early) = (Arc::clone(&open), starting(metrics, health));
        let (runs, closes) = (running.clone(), closing.clone());
        let router = Router::new().fallback(async move |request: Request| {
            // An `EventSource` comes back by itself when its connection breaks, and never again after an answer of 503.
            if late.get().is_none() && is_event_stream(&request) {
                runs.run_until_cancelled(closes.cancelled()).await;
            }
            let router = late.get().unwrap_or(&early).clone();
            router.oneshot(request).await
        });
        let serving = Listener::new(listener, acceptor).serve(router, closing.clone()).boxed().fuse();
        let drain_timeout = config.drain_timeout;
        Ok(Self { local_addr, router: None, open, running, serving, closing, drain_timeout })
    }

    /// The address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers during `work`, which is a part of the daemon's start.
    pub async fn answer_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => done,
            // It does not end before it is told to.
            () = &mut self.serving => work.await,
        }
    }

    /// Takes the routes that it is to have when it runs. `more` are routes below `/api/v1` that other modules add, behind
    /// the same `gate`.
    ///
    /// # Errors
    /// When an origin is not one.
    pub fn complete(
        &mut self,
        config: &Config,
        gate: Gate,
        state: State,
        more: OpenApiRouter<State>,
    ) -> Result<(), Error> {
        self.router = Some(router(config, gate, state, more)?);
        Ok(())
    }

    /// Serves until `stop`; then takes no more connections, and lets requests end within the drain timeout.
    pub async fn run(self, stop: CancellationToken) {
        if let Some(router) = self.router {
            // It runs once.
            drop(self.open.set(router));
            self.running.cancel();
        }
        let closing = async {
            stop.cancelled().await;
            self.closing.cancel();
            tokio::time::sleep(self.drain_timeout).await;
        };
        tokio::select! {
            () = self.serving => {}
            () = closing => warn!("connections are still open after the drain timeout, leaving them"),
        }
    }
}

/// Does it ask for an event stream?
fn is_event_stream(request: &Request) -> bool {
    let below = request.uri().path().strip_prefix(document::BASE);
    request.method() == Method::GET && below.is_some_and(|path| document::answer_type(path) == EVENT_STREAM)
}

/// What can be answered before the daemon has all its parts.
fn starting(metrics: Metrics, health: Health) -> Router {
    let (router, _) = operate::routes(metrics, health).split_for_parts();
    router
        .merge(console::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(async || {
            Problem::unavailable(Code::Starting, "the daemon is starting: /readyz says what it waits for")
        })
        .layer(from_fn(log))
}

/// All routes.
///
/// # Errors
/// When an origin is not one.
pub fn router(config: &Config, gate: Gate, state: State, more: OpenApiRouter<State>) -> Result<Router, Error> {
    let (api, below) = events::routes().merge(more).split_for_parts();
    let api = api
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn(acceptable))
        .layer(from_fn_with_state(Arc::new(gate), auth::guard));
    let (operate, open) = operate::routes(state.metrics.clone(), state.health.clone()).split_for_parts();
    let router = operate
        .merge(document::routes(&document::whole(open, below)))
        .merge(console::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .nest(document::BASE, api)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(config.body_bytes_max))
        .layer(cors(&config.cors_origins)?)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(log));
    Ok(router.with_state(state))
}

fn cors(origins: &[String]) -> Result<CorsLayer, Error> {
    let parse = |origin: &String| {
        HeaderValue::from_str(origin).map_err(|source| Error::Origin { origin: origin.clone(), source })
    };
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().map(parse).collect::<Result<Vec<_>, _>>()?),
    };
    let headers = ["x-api-key", "last-event-id", "cache-control"].map(HeaderName::from_static);
    Ok(CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(headers.into_iter().chain([AUTHORIZATION, CONTENT_TYPE]).collect::<Vec<_>>())
        .expose_headers(limit::HEADERS.into_iter().chain([RETRY_AFTER, LOCATION, events::CLIENT]).collect::<Vec<_>>()))
}

async fn not_found() -> Problem {
    Problem::not_found("no such path")
}

async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "the Allow header names those that it knows")
}

/// Refuses what could be answered only in a type that the asker does not take, before anything is done for it.
async fn acceptable(request: Request, next: Next) -> Response {
    let offered = document::answer_type(request.uri().path());
    let wanted: Vec<&str> = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if wanted.is_empty() || wanted.iter().any(|wanted| accepts(wanted, offered)) {
        return next.run(request).await;
    }
    Problem::new(Code::NotAcceptable, format!("the answer comes as {offered}")).into_response()
}

/// Does an `Accept` header take a media type?
fn accepts(header: &str, offered: &str) -> bool {
    let kind = offered.split('/').next().unwrap_or_default();
    header.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused = parts.any(|part| matches!(part.split_once('='), Some(("q", q)) if q.parse() == Ok(0.0)));
        let matches = range == "*/*" || range == offered || range.strip_suffix("/*") == Some(kind);
        matches && !refused
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is tower-http's")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    error!(panic = text.unwrap_or("not a text"), "a request handler panicked");
    Problem::internal().into_response()
}

/// One line a request, without its query, which may hold what is nobody's business.
async fn log(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let since = Instant::now();
    let response = next.run(request).await;
    debug!(%method, path, status = response.status().as_u16(), elapsed_ms = since.elapsed().as_millis(), "request");
    response
}

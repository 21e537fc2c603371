//! Binding, routing and the end.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, StatusCode};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::{debug, error, warn};

use super::{AdminKey, Error, Problem, auth, events, operate};
use crate::ingest::{self, Nats, Publish, Published};
use crate::stream::Hub;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The admin key. Without one everybody who can reach the address is let in: for loopback only.
    pub admin_key: Option<AdminKey>,
    /// The largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Origins whose pages may call the interface; `*` is any.
    pub cors_origins: Vec<String>,
    /// How long requests may go on after the stop.
    pub drain_timeout: Duration,
}

/// Where events are published.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes one.
    fn publish(&self, event: Publish) -> BoxFuture<'_, Result<Published, ingest::Error>>;
}

impl Publisher for Nats {
    fn publish(&self, event: Publish) -> BoxFuture<'_, Result<Published, ingest::Error>> {
        Box::pin(Self::publish(self, event))
    }
}

/// What the interface gives access to.
#[derive(Clone)]
pub struct State {
    /// Where events are published.
    pub publisher: Arc<dyn Publisher>,
    /// The event streams.
    pub hub: Hub,
    /// The metrics.
    pub metrics: Metrics,
    /// The condition of the daemon's parts.
    pub health: Health,
}

/// The interface, bound to its address.
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    router: Router,
    drain_timeout: Duration,
}

impl Server {
    /// Binds the address. `more` are routes below `/api/v1` that other modules add, behind the same key.
    ///
    /// # Errors
    /// When the address cannot be bound, or an origin is not one.
    pub async fn bind(config: Config, state: State, more: Router<State>) -> Result<Self, Error> {
        let fail = |source| Error::Bind { listen: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(fail)?;
        let local_addr = listener.local_addr().map_err(fail)?;
        let router = router(&config, state, more)?;
        Ok(Self { listener, local_addr, router, drain_timeout: config.drain_timeout })
    }

    /// The address that it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `stop`; then takes no more connections, and lets requests end within the drain timeout.
    ///
    /// # Errors
    /// When serving fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let listener = self.listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "could not turn delays off");
            }
        });
        let serve = axum::serve(listener, self.router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(self.drain_timeout).await;
        };
        tokio::select! {
            served = serve => served.map_err(Error::Serve),
            () = overdue => {
                warn!("connections are still open after the drain timeout, leaving them");
                Ok(())
            }
        }
    }
}

/// All routes.
///
/// # Errors
/// When an origin is not one.
pub fn router(config: &Config, state: State, more: Router<State>) -> Result<Router, Error> {
    let key = config.admin_key.clone().map(Arc::new);
    let api = Router::new()
        .route("/events", post(events::publish))
        .route("/events/stream", get(events::stream_types))
        .route("/streams", get(events::list))
        .route("/streams/{name}", get(events::stream_named))
        .merge(more)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(key, auth::authenticate));
    let router = Router::new()
        .route("/healthz", get(operate::healthz))
        .route("/readyz", get(operate::readyz))
        .route("/metrics", get(operate::metrics))
        .method_not_allowed_fallback(method_not_allowed)
        .nest("/api/v1", api)
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
        .allow_headers(headers.into_iter().chain([AUTHORIZATION, CONTENT_TYPE]).collect::<Vec<_>>()))
}

async fn not_found() -> Problem {
    Problem::not_found("no such path")
}

async fn method_not_allowed() -> Problem {
    let (status, title) = (StatusCode::METHOD_NOT_ALLOWED, "The path knows no such method");
    Problem::new(status, "method_not_allowed", title, "the Allow header names those that it knows")
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

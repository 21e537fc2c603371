//! One attempt: a signed POST to a vetted address, and its outcome.
//!
//! The status line decides. The body is read so that the connection can serve the next attempt, up to a cap and within
//! the attempt's total time; a body that is too long, breaks off or never ends costs the connection, not the outcome.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio::time::Sleep;

use crate::deliver::capture::Capture;
use crate::deliver::classify;
use crate::deliver::client::{Clients, Http};
use crate::deliver::connect;
use crate::deliver::connections::Link;
use crate::deliver::prepared::{Message, Prepared, Request};
use crate::deliver::proxy;
use crate::domain::Outcome;
use crate::telemetry::metrics::ClientMetrics;

/// The limits and habits of the client.
#[derive(Debug, Clone)]
pub struct Config {
    /// Networks that are let through although they are not the public internet.
    pub allow_cidrs: Vec<IpNet>,
    /// Ports that are refused at every address.
    pub deny_ports: Vec<u16>,
    /// The name servers to ask; without any, those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// The proxy that all requests go through.
    pub proxy: Option<proxy::Config>,
    /// The `User-Agent` of requests whose endpoint sets none.
    pub user_agent: String,
    /// The longest that making a connection may take, whatever the endpoint asks.
    pub connect_timeout_max: Duration,
    /// The most connections at a time, all endpoints together.
    pub connections_max: usize,
    /// How much of a response's body is read, in bytes. A longer one ends the connection.
    pub response_bytes_max: usize,
    /// The most connections kept open to one host while they have nothing to do.
    pub idle_connections_per_host_max: usize,
    /// How long a connection is kept open with nothing to do.
    pub idle_timeout: Duration,
    /// The longest wait that a `Retry-After` can ask for.
    pub retry_after_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_cidrs: Vec::new(),
            deny_ports: Vec::new(),
            dns_servers: Vec::new(),
            proxy: None,
            user_agent: concat!("sluiced/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout_max: Duration::from_secs(60),
            connections_max: 8_192,
            response_bytes_max: 64 * 1024,
            idle_connections_per_host_max: 64,
            idle_timeout: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(3_600),
        }
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user agent is no header value.
    #[error("the user agent is not a header value")]
    UserAgent,
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
}

/// Carries out attempts. Clones share their connections, which belong to the runtime that first used them.
#[derive(Clone)]
pub struct Client {
    clients: Arc<Clients>,
    user_agent: HeaderValue,
    response_bytes_max: usize,
    retry_after_max: Duration,
}

impl Client {
    /// A client with no connections yet. On a system without any trusted certificates every https endpoint will fail.
    ///
    /// # Errors
    /// When the user agent is not a header value, or TLS cannot be set up.
    pub fn new(config: &Config, metrics: &ClientMetrics) -> Result<Self, Error> {
        Ok(Self {
            clients: Arc::new(Clients::new(config, metrics).map_err(Error::Tls)?),
            user_agent: HeaderValue::from_str(&config.user_agent).map_err(|_| Error::UserAgent)?,
            response_bytes_max: config.response_bytes_max,
            retry_after_max: config.retry_after_max,
        })
    }

    /// Sends one request and says how it ended. It takes no longer than the endpoint's total time. Dropping the future
    /// gives the attempt up; the receiver may have seen the request all the same.
    pub async fn attempt(&self, target: &Prepared, request: Request<'_>) -> Outcome {
        let http = match self.clients.of(target) {
            Ok(http) => http,
            Err(error) => return classify::failed(&target.host, &error),
        };
        let Message { mut headers, body } = target.message(&request);
        headers.entry(USER_AGENT).or_insert_with(|| self.user_agent.clone());
        let mut post = http::Request::new(Full::new(body));
        *post.method_mut() = Method::POST;
        *post.uri_mut() = target.uri.clone();
        *post.headers_mut() = headers;
        let mut deadline = std::pin::pin!(tokio::time::sleep(target.total_timeout));
        let answer = tokio::select! {
            biased;
            answer = connect::within(target.connect_timeout, http.request(post)) => answer,
            () = &mut deadline => return classify::timed_out(&target.host, target.total_timeout),
        };
        let response = match answer {
            Ok(response) => response,
            Err(error) => return classify::failed(&target.host, &error),
        };
        let status = response.status();
        let retry_after_ms = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| classify::retry_after_ms(status, value.as_bytes(), request.now_ms, self.retry_after_max));
        let mut capture = Capture::of(target, response.headers());
        self.read(response, &mut capture, deadline).await;
        classify::answered(&target.host, status, &target.answer.statuses, retry_after_ms, capture.finish())
    }

    /// The client for requests that are not to an endpoint, and what it calls itself.
    pub(super) fn plain(&self) -> (&Http, &HeaderValue) {
        (self.clients.plain(), &self.user_agent)
    }

    /// Reads the body to its end, the cap or the deadline.
    async fn read(&self, response: Response<Incoming>, capture: &mut Capture<'_>, mut deadline: Pin<&mut Sleep>) {
        let resting = Resting::of(&response);
        let mut body = response.into_body();
        let mut left = self.response_bytes_max;
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = &mut deadline => return,
            };
            let Some(frame) = frame else {
                capture.ended();
                return resting.ended();
            };
            let Ok(frame) = frame else { return };
            let Some(chunk) = frame.data_ref() else { continue };
            capture.push(chunk);
            let Some(rest) = left.checked_sub(chunk.len()) else { return };
            left = rest;
        }
    }
}

/// The connection of an answer that has begun to come, to be told when the answer has ended.
struct Resting(Option<(Arc<Link>, u64)>);

impl Resting {
    /// Must be asked before anything else is awaited: after that the connection may serve the next request already.
    fn of(response: &Response<Incoming>) -> Self {
        // Requests share an HTTP/2 connection, so that the end of one does not say that it rests.
        let link = response.extensions().get::<Arc<Link>>().filter(|_| response.version() < Version::HTTP_2);
        Self(link.map(|link| (Arc::clone(link), link.writes())))
    }

    fn ended(self) {
        if let Some((link, writes)) = self.0 {
            link.rests(writes);
        }
    }
}

#[cfg(test)]
mod tests;

//! One attempt: a signed POST to a vetted address, and its outcome.
//!
//! The status line decides. The body is read so that the connection can serve the next attempt, up to a cap and within
//! the attempt's total time; a body that is too long, breaks off or never ends costs the connection, not the outcome.

use std::error::Error as _;
use std::pin::Pin;
use std::time::Duration;

use http::Method;
use http::header::RETRY_AFTER;
use ipnet::IpNet;
use tokio::time::Sleep;

use crate::deliver::address::Policy;
use crate::deliver::capture::Capture;
use crate::deliver::classify;
use crate::deliver::connect::{self, TimeoutLayer};
use crate::deliver::prepared::{Prepared, Request};
use crate::deliver::resolve::Resolver;
use crate::domain::Outcome;

/// The limits and habits of the client.
#[derive(Debug, Clone)]
pub struct Config {
    /// Networks that are let through although they are not the public internet.
    pub allow_cidrs: Vec<IpNet>,
    /// The `User-Agent` of requests whose endpoint sets none.
    pub user_agent: String,
    /// The longest that making a connection may take, whatever the endpoint asks. A name with several addresses gives
    /// each an equal part of it.
    pub connect_timeout_max: Duration,
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
            user_agent: concat!("sluiced/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout_max: Duration::from_secs(10),
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
    /// The HTTP client could not be set up: a user agent that is no header value, or TLS without any support.
    #[error("the HTTP client could not be set up")]
    Build(#[source] reqwest::Error),
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
}

/// Carries out attempts. Clones share their connections, which belong to the runtime that first used them.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    policy: Policy,
    response_bytes_max: usize,
    retry_after_max: Duration,
}

impl Client {
    /// A client with no connections yet. On a system without any trusted certificates every https endpoint will fail.
    ///
    /// # Errors
    /// When the user agent is not a header value, or TLS cannot be set up.
    pub fn new(config: &Config) -> Result<Self, Error> {
        // The client takes its cryptography from here. When the program has already chosen one, that one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Policy::new(config.allow_cidrs.iter().copied());
        let resolver = Resolver::new(policy.clone());
        let http = match builder(config, resolver.clone()).build() {
            Ok(http) => http,
            Err(error) if is_tls(&error) => {
                tracing::warn!("no trusted certificates found, https endpoints will fail");
                builder(config, resolver).tls_backend_preconfigured(distrustful()?).build().map_err(Error::Build)?
            }
            Err(error) => return Err(Error::Build(error)),
        };
        Ok(Self {
            http,
            policy,
            response_bytes_max: config.response_bytes_max,
            retry_after_max: config.retry_after_max,
        })
    }

    /// Sends one request and says how it ended. It takes no longer than the endpoint's total time. Dropping the future
    /// gives the attempt up; the receiver may have seen the request all the same.
    pub async fn attempt(&self, target: &Prepared, request: Request<'_>) -> Outcome {
        if let Some(address) = target.address
            && let Err(refused) = self.policy.permits(address)
        {
            return classify::refused(&target.host, refused);
        }
        let mut http = reqwest::Request::new(Method::POST, target.url.clone());
        let message = target.message(&request);
        *http.headers_mut() = message.headers;
        *http.body_mut() = Some(message.body.into());
        let mut deadline = std::pin::pin!(tokio::time::sleep(target.total_timeout));
        let answer = tokio::select! {
            biased;
            answer = connect::within(target.connect_timeout, self.http.execute(http)) => answer,
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

    /// Reads the body to its end, the cap or the deadline.
    async fn read(&self, mut response: reqwest::Response, capture: &mut Capture<'_>, mut deadline: Pin<&mut Sleep>) {
        let mut left = self.response_bytes_max;
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = response.chunk() => chunk,
                () = &mut deadline => return,
            };
            let Ok(chunk) = chunk else { return };
            let Some(chunk) = chunk else { return capture.ended() };
            capture.push(&chunk);
            let Some(rest) = left.checked_sub(chunk.len()) else { return };
            left = rest;
        }
    }
}

fn builder(config: &Config, resolver: Resolver) -> reqwest::ClientBuilder {
    // The client's own retries stay on: it sends again only what an HTTP/2 receiver said it has not looked at.
    reqwest::Client::builder()
        .user_agent(config.user_agent.as_str())
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // A proxy from the environment would dial addresses that nobody judged.
        .no_proxy()
        .dns_resolver(resolver)
        .connector_layer(TimeoutLayer)
        .connect_timeout(config.connect_timeout_max)
        .pool_max_idle_per_host(config.idle_connections_per_host_max)
        .pool_idle_timeout(config.idle_timeout)
        .tcp_nodelay(true)
        // Only the status matters: a receiver with one odd header has still answered.
        .http1_ignore_invalid_headers_in_responses(true)
}

/// Whether it is TLS that could not be set up, which happens where the system has no trusted certificates.
fn is_tls(error: &reqwest::Error) -> bool {
    std::iter::successors(error.source(), |error| (*error).source()).any(|error| error.is::<rustls::Error>())
}

/// TLS that trusts nobody.
fn distrustful() -> Result<rustls::ClientConfig, Error> {
    let provider = rustls::crypto::ring::default_provider().into();
    let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let roots = rustls::RootCertStore::empty();
    Ok(versions.map_err(Error::Tls)?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests;

//! A document that the operator named, read from a URL: one GET, bounded in time and size, without redirects.
//!
//! The address policy is for URLs that others name. The operator's own may lead anywhere, so the client for these has a
//! policy that lets all through.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::attempt::{self, Client, Config};
use super::connect;
use crate::telemetry::metrics::ClientMetrics;

/// How long a document may take in all.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections there are at a time, at most.
const FETCH_CONNECTIONS_MAX: usize = 4;

/// Why a document was not had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer came.
    #[error("no answer")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was not there in time.
    #[error("no answer within {FETCH_TIMEOUT:?}")]
    TimedOut,
    /// The answer was another one.
    #[error("the answer was {0}")]
    Status(StatusCode),
    /// The body broke off, or is too large.
    #[error("the body broke off, or is larger than {bytes_max} bytes")]
    Body {
        /// The most bytes that are read.
        bytes_max: usize,
    },
}

/// Reads one document, as often as it is asked for.
pub struct Fetcher {
    client: Client,
    uri: Uri,
    bytes_max: usize,
}

impl Fetcher {
    /// For the document at that URI: at most so many bytes of it, by way of the proxy and the name servers of `config`.
    ///
    /// # Errors
    /// When the client cannot be set up.
    pub fn new(uri: Uri, bytes_max: usize, config: Config, metrics: &ClientMetrics) -> Result<Self, attempt::Error> {
        let everything = [IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())];
        let config = Config {
            allow_cidrs: everything.into(),
            deny_ports: Vec::new(),
            connections_max: FETCH_CONNECTIONS_MAX,
            ..config
        };
        Ok(Self { client: Client::new(&config, metrics)?, uri, bytes_max })
    }

    /// The document as it is now.
    ///
    /// # Errors
    /// When it cannot be had whole in time.
    pub async fn fetch(&self) -> Result<Bytes, Error> {
        let (http, user_agent) = self.client.plain();
        let mut get = http::Request::new(Full::new(Bytes::new()));
        *get.uri_mut() = self.uri.clone();
        get.headers_mut().insert(USER_AGENT, user_agent.clone());
        get.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let document = async {
            let answer = connect::within(FETCH_TIMEOUT, http.request(get)).await;
            let answer = answer.map_err(|error| Error::Request(error.into()))?;
            if answer.status() != StatusCode::OK {
                return Err(Error::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), self.bytes_max).collect().await;
            body.map(|body| body.to_bytes()).map_err(|_| Error::Body { bytes_max: self.bytes_max })
        };
        tokio::time::timeout(FETCH_TIMEOUT, document).await.unwrap_or(Err(Error::TimedOut))
    }
}

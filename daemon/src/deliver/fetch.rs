//! What the operator named by its URL, asked: one request, bounded in time and size, without redirects.
//!
//! The address policy is for URLs that others name. The operator's own may lead anywhere, so the client for these has a
//! policy that lets all through.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
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

/// Asks at one URL, as often as it is told to.
pub struct Fetcher {
    client: Client,
    uri: Uri,
    bytes_max: usize,
}

impl Fetcher {
    /// For that URI: at most so many bytes of an answer, by way of the proxy and the name servers of `config`.
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
        let mut get = Request::new(Bytes::new());
        get.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.send(get).await?;
        if answer.status() == StatusCode::OK { Ok(answer.into_body()) } else { Err(Error::Status(answer.status())) }
    }

    /// Sends any request to that URI, and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// When no answer can be had whole in time.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let (http, user_agent) = self.client.plain();
        let mut request = request.map(Full::new);
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().insert(USER_AGENT, user_agent.clone());
        let answered = async {
            let answer = connect::within(FETCH_TIMEOUT, http.request(request)).await;
            let (head, body) = answer.map_err(|error| Error::Request(error.into()))?.into_parts();
            let body = Limited::new(body, self.bytes_max).collect().await;
            let body = body.map_err(|_| Error::Body { bytes_max: self.bytes_max })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(FETCH_TIMEOUT, answered).await.unwrap_or(Err(Error::TimedOut))
    }
}

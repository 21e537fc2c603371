//! Where spans go: the collector of the configuration, by way of the daemon's own HTTP client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::warn;

use super::{Error, parts};
use crate::config::Config;
use crate::deliver::fetch::{self, Fetcher};
use crate::telemetry;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::{Collector, Spans};

/// How much of a collector's answer is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long the log is silent of a collector that does not answer, after it said so.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// What makes the spans. Within the runtime that is to send them.
pub(super) fn spans(config: &Config, metrics: &Metrics) -> Result<Spans, Error> {
    let Some(collector) = &config.traces.collector else { return Ok(Spans::default()) };
    let uri = collector.url.clone();
    let fetcher = Fetcher::new(uri, ANSWER_BYTES_MAX, parts::client(config, usize::MAX), &metrics.client())?;
    let sender = Sender { fetcher: Arc::new(fetcher), runtime: Handle::current(), warned: Arc::default() };
    let to = Collector {
        url: collector.url.to_string(),
        headers: collector.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
        service_name: config.traces.service_name.clone(),
        sample_ratio: config.traces.sample_ratio,
    };
    Ok(Spans::to(to, sender)?)
}

/// Sends from the daemon's runtime what the exporter's own thread hands it.
#[derive(Clone)]
struct Sender {
    fetcher: Arc<Fetcher>,
    runtime: Handle,
    /// When the log last said that nothing gets through.
    warned: Arc<Mutex<Option<Instant>>>,
}

impl Sender {
    async fn send(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.fetcher.send(request).await;
        let trouble = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the answer was {}", answer.status())),
            Err(error) => Some(telemetry::chain(error)),
        };
        let mut warned = self.warned.lock();
        match trouble {
            None => *warned = None,
            Some(reason) if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) => {
                *warned = Some(Instant::now());
                warn!(reason, "the collector of traces.otlp_url does not take spans, they are lost");
            }
            Some(_) => {}
        }
        sent.map_err(|error: fetch::Error| error.into())
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl HttpClient for Sender {
    fn send_bytes<'a, 'f>(&'a self, request: Request<Bytes>) -> BoxFuture<'f, Result<Response<Bytes>, HttpError>>
    where
        'a: 'f,
        Self: 'f,
    {
        let sent = self.runtime.spawn(self.clone().send(request));
        Box::pin(async move { sent.await? })
    }
}

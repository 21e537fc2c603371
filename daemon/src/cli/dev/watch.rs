//! The demonstration as a client of the daemon's API: it listens to the wallboard, and reads the metrics for what a receiver
//! cannot see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{sleep, timeout};

use super::account::{Account, Mark};
use super::samples::summary;
use crate::telemetry::chain;

/// How long the daemon may take to be ready, and how often it is asked.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_INTERVAL: Duration = Duration::from_millis(50);
/// How often the metrics are read.
const METRICS_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait before a stream that ended is asked for again.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// The longest line of the stream, and the largest page of metrics, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 20;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A client of the daemon's API.
#[derive(Debug)]
pub(super) struct Watcher {
    http: Client<HttpConnector, Empty<Bytes>>,
    address: SocketAddr,
    key: String,
    account: Account,
}

impl Watcher {
    /// A client with that API key; it connects when it is run.
    pub(super) fn new(address: SocketAddr, key: &str, account: Account) -> Self {
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { http, address, key: key.to_owned(), account }
    }

    /// Waits until the daemon says that it is ready. What is published before its subscriptions begin is not theirs.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        let ready = async {
            while self.get("/readyz", "").await.is_err() {
                sleep(READY_INTERVAL).await;
            }
        };
        timeout(READY_TIMEOUT, ready).await.context("the daemon is not ready after a minute")
    }

    /// Listens to a named stream for ever, from the last frame it saw after each interruption.
    pub(super) async fn listen(&self, name: &str) {
        let (mut last_id, mut told) = (String::new(), String::new());
        loop {
            match self.listen_once(name, &mut last_id).await {
                Ok(()) => told.clear(),
                Err(error) => {
                    let text = format!("no stream: {}", chain(&*error));
                    if text != told {
                        self.account.line(Mark::Note, name, "", &text);
                        told = text;
                    }
                }
            }
            sleep(RECONNECT_DELAY).await;
        }
    }

    async fn listen_once(&self, name: &str, last_id: &mut String) -> Result<(), Error> {
        let mut body = self.get(&format!("/api/v1/streams/{name}"), last_id).await?;
        let (mut line, mut kind, mut data) = (Vec::new(), String::new(), String::new());
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame?.into_data() else { continue };
            for byte in bytes {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > TEXT_BYTES_MAX {
                        return Err("a line without an end".into());
                    }
                    continue;
                }
                let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                match text.split_once(": ") {
                    Some(("id", id)) => id.clone_into(last_id),
                    Some(("event", event)) => event.clone_into(&mut kind),
                    Some(("data", more)) => data.push_str(more),
                    _ if text.is_empty() && !data.is_empty() => {
                        let data = serde_json::from_str(&std::mem::take(&mut data)).unwrap_or_default();
                        let what = format!("sse id {last_id}  {}", summary(&data));
                        self.account.line(Mark::Streamed, name, &std::mem::take(&mut kind), &what);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Reads the metrics for ever, and tells what has changed in those that matter here.
    pub(super) async fn count(&self) {
        let mut before = BTreeMap::new();
        loop {
            sleep(METRICS_INTERVAL).await;
            // It fails while the daemon starts or stops, which its own lines tell.
            if let Ok(text) = self.metrics().await {
                let now = told(&text);
                for (metric, count) in &now {
                    let was = before.get(metric).copied().unwrap_or(0);
                    if *count != was {
                        self.tell(metric.0, &metric.1, was, *count);
                    }
                }
                before = now;
            }
        }
    }

    fn tell(&self, what: Told, subscription: &str, was: u64, now: u64) {
        let text = match what {
            Told::Filtered => format!("filtered out: {} ({now} so far)", now.saturating_sub(was)),
            Told::Failed => format!("given up and kept as dead letter: {} ({now} so far)", now.saturating_sub(was)),
            Told::Parked if now < was => return,
            Told::Parked => format!("waiting for their next attempt: {now}"),
            Told::Held if now > 0 => "held: its events wait in the stream".to_owned(),
            Told::Held => "caught up: live again".to_owned(),
        };
        self.account.line(Mark::Counted, subscription, "", &text);
    }

    async fn metrics(&self) -> Result<String, Error> {
        let body = Limited::new(self.get("/metrics", "").await?, TEXT_BYTES_MAX).collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn get(&self, path: &str, last_id: &str) -> Result<Incoming, Error> {
        let mut request = Request::get(format!("http://{}{path}", self.address)).header("x-api-key", &self.key);
        if !last_id.is_empty() {
            request = request.header("last-event-id", last_id);
        }
        let response = self.http.request(request.body(Empty::new())?).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => Err(format!("{path} answers {status}").into()),
        }
    }
}

/// The metrics that are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Filtered,
    Failed,
    Parked,
    Held,
}

/// The values of those metrics by subscription, out of a page of metrics. Counts of a demonstration are whole and small.
fn told(page: &str) -> BTreeMap<(Told, String), u64> {
    let mut found = BTreeMap::new();
    for line in page.lines() {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((labels, value)) = rest.split_once("} ") else { continue };
        let what = match name {
            "sluiced_events_filtered_total" => Told::Filtered,
            "sluiced_deliveries_total" if labels.contains("outcome=\"failed\"") => Told::Failed,
            "sluiced_parked" => Told::Parked,
            "sluiced_held" => Told::Held,
            _ => continue,
        };
        let subscription = labels.split(',').find_map(|label| label.strip_prefix("subscription=\"")?.strip_suffix('"'));
        if let (Some(subscription), Ok(value)) = (subscription, value.trim().parse()) {
            found.insert((what, subscription.to_owned()), value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_that_matter_are_found() {
        let page = "# TYPE sluiced_held gauge\nsluiced_held{subscription=\"chat\"} 1\n\
                    sluiced_deliveries_total{subscription=\"chat\",outcome=\"failed\"} 2\n\
                    sluiced_deliveries_total{subscription=\"chat\",outcome=\"delivered\"} 9\nsluiced_up 1\n";
        let chat = |what| ((what, "chat".to_owned()), if what == Told::Held { 1 } else { 2 });
        assert_eq!(told(page), BTreeMap::from([chat(Told::Held), chat(Told::Failed)]));
    }
}

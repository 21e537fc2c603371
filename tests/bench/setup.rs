//! What the cases share: the stream, the events and the daemon's configuration.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail};
use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde_json::Value;
use sluiced_tests::events::order;
use sluiced_tests::{SECRET, TestDaemon, TestNats};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::interval;

use crate::clock::now_us;
use crate::stats::percentile;

/// The stream of every case.
pub(crate) const STREAM: &str = "BENCH";
/// The subject of the events that are measured.
pub(crate) const SUBJECT: &str = "bench.order";
/// The subject of the events before the measurement.
pub(crate) const WARM_SUBJECT: &str = "bench.warm";

/// Requests at a time, of the bare loop as of the daemon.
pub(crate) const IN_FLIGHT_MAX: usize = 64;

/// What precedes the time of publishing in the body of a [`stamped`] event.
pub(crate) const SENT_KEY: &str = "\"sent_us\":";

/// Events that are published before their acknowledgements are waited for.
const UNACKED_MAX: usize = 500;

/// How much of the daemon's log an error shows.
const LOG_LINES: usize = 20;

/// The configuration that each case builds on: the stream, and the defaults.
pub(crate) fn base() -> String {
    format!("[[stream]]\nname = {STREAM:?}\nsubjects = [\"bench.>\"]\ntype_prefix = \"bench.\"\n")
}

/// A filter that keeps every event.
pub(crate) const FILTER: &str = r#"filters = [{ plugin = "jq", config = { expr = ".amount >= 0" } }]"#;

/// A webhook subscription with a filter that keeps everything and a transform that finds something to redact.
pub(crate) fn webhook(name: &str, types: &str, url: &str) -> String {
    format!(
        r#"
[[subscription]]
name = {name:?}
types = [{types:?}]
{FILTER}
transforms = [{{ plugin = "redact", config = {{ pointers = ["/card/number"] }} }}]
webhook = {{ url = {url:?}, secret = {SECRET:?}, max_in_flight = {IN_FLIGHT_MAX} }}
"#
    )
}

/// The three standard plugins in two subscriptions.
pub(crate) fn three_plugins() -> String {
    let url = "http://127.0.0.1:9/never-called";
    let rendered = format!(
        r#"
[[subscription]]
name = "chat"
types = ["order"]
transforms = [{{ plugin = "render", config = {{ template = "Order {{{{ data.number }}}}" }} }}]
webhook = {{ url = {url:?}, secret = {SECRET:?} }}
"#
    );
    base() + &webhook("bench", "order", url) + &rendered
}

/// An empty stream in file storage, in the place of the one before.
pub(crate) async fn fresh_stream(nats: &TestNats) {
    // It fails only when there is none yet.
    drop(nats.jetstream().await.delete_stream(STREAM).await);
    nats.create_stream(STREAM, &["bench.>"]).await;
}

/// A daemon that has compiled its plugins and registered its subscriptions, and is stopped again: its next start finds
/// all of that, as every start after the first does.
pub(crate) async fn warm_daemon(nats: &TestNats, config: &str) -> TestDaemon {
    let mut daemon = TestDaemon::start(nats, config).await;
    daemon.terminate().await;
    daemon
}

/// An error when the daemon has ended, with the end of its log.
pub(crate) fn alive(daemon: &mut TestDaemon) -> Result<()> {
    let Some(status) = daemon.process().ended() else { return Ok(()) };
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().collect();
    bail!("sluiced ended ({status}):\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
}

/// An order that carries the time of its publishing.
pub(crate) fn stamped(number: u64) -> Bytes {
    let mut order: Value = serde_json::from_slice(&order(number)).expect("an order is JSON");
    order["sent_us"] = now_us().into();
    Bytes::from(order.to_string())
}

/// Publishes stamped orders, one each `pace`; what is late is caught up at once. Returns the p99 of its own lateness in
/// microseconds, which has nothing to do with the daemon: it tells how far the machine can be trusted.
pub(crate) async fn publish(nats: &TestNats, subject: &'static str, events: u64, pace: Duration) -> Result<u64> {
    let client = nats.client().await;
    let mut pace = interval(pace);
    let mut late_us = Vec::new();
    for number in 0..events {
        let meant = pace.tick().await;
        late_us.push(u64::try_from(meant.elapsed().as_micros()).unwrap_or(u64::MAX));
        client.publish(subject, stamped(number)).await?;
    }
    client.flush().await?;
    late_us.sort_unstable();
    Ok(percentile(&late_us, 990))
}

/// Publishes the events of these numbers as fast as the stream stores them, each to its subject; one without is left out.
pub(crate) async fn fill(
    nats: &TestNats,
    numbers: Range<u64>,
    subject: impl Fn(u64) -> Option<String>,
    body: impl Fn(u64) -> Bytes,
) -> Result<()> {
    let jetstream = nats.jetstream().await;
    let mut unacked = Vec::new();
    for number in numbers {
        let Some(subject) = subject(number) else { continue };
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, format!("order-{number}"));
        unacked.push(jetstream.publish_with_headers(subject, headers, body(number)).await?.into_future());
        if unacked.len() >= UNACKED_MAX {
            try_join_all(unacked.drain(..)).await?;
        }
    }
    try_join_all(unacked).await?;
    Ok(())
}

/// A webhook subscription without plugins; `settings` are further keys of its webhook.
pub(crate) fn plain(name: &str, types: &str, url: &str, settings: &str) -> String {
    format!(
        "\n[[subscription]]\nname = {name:?}\ntypes = [{types:?}]\n\
         webhook = {{ url = {url:?}, secret = {SECRET:?}, {settings} }}\n"
    )
}

/// A bound that is never met on a machine that works.
pub(crate) fn time_max(events: u64) -> Duration {
    Duration::from_secs(60) + Duration::from_millis(5) * u32::try_from(events).unwrap_or(u32::MAX)
}

/// A loopback address that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Whether `/readyz` answers 200. Asks by hand: a refused connection costs next to nothing, an HTTP client would keep a core busy.
pub(crate) async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await.is_ok() && status.ends_with(b" 200")
}

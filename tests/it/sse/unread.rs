//! A client that reads nothing, over HTTP/1.1 and over HTTP/2.

use std::time::Duration;

use reqwest::{Client, Version};
use sluiced_tests::http::client;
use sluiced_tests::sse::{Auth, End};
use sluiced_tests::{ADMIN_KEY, SseClient};

use super::{LONG, ORDERS, SOON, SUBJECT, assert_in_order, connect, start};

/// A client that begins with HTTP/2.
pub(super) fn http2() -> Client {
    // What TLS needs is set up by the first client, though none of it is used here.
    drop(client());
    Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client")
}

#[tokio::test]
async fn heavy_a_client_that_reads_nothing_is_cut_off_and_comes_back_to_its_place() {
    is_cut_off_and_comes_back(client, Version::HTTP_11).await;
}

#[tokio::test]
async fn heavy_a_client_that_reads_nothing_over_http_2_is_cut_off_and_comes_back_to_its_place() {
    is_cut_off_and_comes_back(http2, Version::HTTP_2).await;
}

async fn is_cut_off_and_comes_back(by: fn() -> Client, version: Version) {
    // 30 MB: more than the sockets between them hold.
    const ALL: u64 = 30_000;
    let (nats, daemon) = start("[server]\nsse_heartbeat = \"1s\"\nsse_unread_timeout = \"3s\"\n").await;
    let (url, key) = (daemon.url(ORDERS), Auth::ApiKey(ADMIN_KEY));
    let mut client = SseClient::try_connect_by(&by(), &url, key, None).await.expect("it may listen");
    assert_eq!(client.version(), version);
    // One that has nothing to read is not one that does not read.
    let mut idle = connect(&daemon, "/api/v1/events/stream?types=nothing.*", None).await;
    nats.publish_orders(SUBJECT, 0..10).await;
    let mut seen = client.collect(10, SOON).await;
    nats.publish_orders(SUBJECT, 10..ALL).await;
    daemon.wait_metric("sluiced_sse_stalled_total", &[], 1.0).await;
    daemon.wait_metric("sluiced_sse_clients", &[], 1.0).await;

    // What was on its way is still there; then the connection is at its end.
    let end = loop {
        match client.try_next(LONG).await {
            Ok(event) => seen.push(event),
            Err(end) => break end,
        }
    };
    assert_ne!(end, End::TimedOut);
    let place = client.last_id().to_owned();
    assert!((seen.len() as u64) < ALL, "it cannot have had everything");
    let mut client = SseClient::try_connect_by(&by(), &url, key, Some(&place)).await.expect("it may come back");
    seen.extend(client.collect(ALL as usize - seen.len(), LONG).await);
    assert_in_order(&seen, 0..ALL);
    assert_eq!(idle.try_next(Duration::from_millis(50)).await, Err(End::TimedOut), "it is still connected");
}

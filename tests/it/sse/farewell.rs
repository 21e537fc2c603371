//! The stop: streams end at once, whether their clients read or not.

use std::time::Duration;

use sluiced_tests::sse::{Auth, End};
use sluiced_tests::{ADMIN_KEY, SseClient, wait_until};
use tokio::time::Instant;

use super::raw::Silent;
use super::unread::http2;
use super::{LONG, ORDERS, SOON, SUBJECT, connect, start};

#[tokio::test]
async fn heavy_clients_that_read_nothing_do_not_keep_the_daemon_from_its_end() {
    // 30 MB: more than the sockets between them hold.
    const ALL: u64 = 30_000;
    let (nats, mut daemon) = start("[server]\ndrain_timeout = \"60s\"\n").await;
    let mut idle = connect(&daemon, "/api/v1/events/stream?types=nothing.*", None).await;
    let mut live = connect(&daemon, "/api/v1/events/stream?types=live.*", None).await;
    let silent = [Silent::http1(&daemon).await, Silent::http2(&daemon).await];
    // This one's connection is read, and its stream has no window left.
    let unread = SseClient::try_connect_by(&http2(), &daemon.url(ORDERS), Auth::ApiKey(ADMIN_KEY), None).await;
    daemon.wait_metric("sluiced_sse_clients", &[], 5.0).await;
    nats.publish_orders(SUBJECT, 0..ALL).await;
    // What the sockets hold is taken, and more than the ring has is not.
    let behind = async || {
        let clients = daemon.request("GET", "/api/v1/events/clients", None).await.json();
        let lags = clients["clients"].as_array().expect("clients").iter().map(|client| client["lag"].as_u64());
        lags.filter(|lag| lag.is_some_and(|lag| lag > 1_000)).count() == 3
    };
    wait_until("three clients stand still", LONG, behind).await;
    nats.publish("events.live.x", "the last").await;
    assert_eq!(live.next_event(SOON).await.data, "the last");

    let began = Instant::now();
    assert_eq!(daemon.terminate().await.code(), Some(0));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "the stop took {took:?}");
    for reads in [&mut idle, &mut live] {
        assert_eq!(reads.try_next(SOON).await, Err(End::Closed), "in order");
    }
    assert!(daemon.log().contains("did not take their end"), "{}", daemon.log());
    drop((silent, unread));
}

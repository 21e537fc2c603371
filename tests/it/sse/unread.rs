//! A client that reads nothing.

use std::time::Duration;

use sluiced_tests::sse::End;

use super::{LONG, ORDERS, SOON, SUBJECT, assert_in_order, connect, start};

#[tokio::test]
async fn heavy_a_client_that_reads_nothing_is_cut_off_and_comes_back_to_its_place() {
    // 30 MB: more than the sockets between them hold.
    const ALL: u64 = 30_000;
    let (nats, daemon) = start("[server]\nsse_heartbeat = \"1s\"\nsse_unread_timeout = \"3s\"\n").await;
    let mut client = connect(&daemon, ORDERS, None).await;
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
    let mut client = connect(&daemon, ORDERS, Some(&place)).await;
    seen.extend(client.collect(ALL as usize - seen.len(), LONG).await);
    assert_in_order(&seen, 0..ALL);
    assert_eq!(idle.try_next(Duration::from_millis(50)).await, Err(End::TimedOut), "it is still connected");
}

//! Many clients that come back at once.

use futures_util::future::join_all;
use sluiced_tests::process::raise_open_files;
use sluiced_tests::sse::Auth;
use sluiced_tests::{ADMIN_KEY, SseClient, TestDaemon};

use super::{LONG, ORDERS, SUBJECT, assert_in_order, start};

/// `cargo xtask bench sse` has 5,000.
const CLIENTS: u64 = 1_200;
/// Clients whose place is older than what the daemon has in memory after its start.
const OLD: u64 = 6;
const READERS_MAX: usize = 2;
/// More than the live tail begins with, of events of a kilobyte.
const BEFORE: u64 = 9_000;
const ALL: u64 = BEFORE + 100;
/// How many events ago the places of the others are, at most: a minute's at two a second.
const PLACES_BACK: u64 = 120;

#[tokio::test]
async fn heavy_a_reconnect_storm_after_a_restart_misses_and_repeats_nothing() {
    raise_open_files();
    let limits = format!("[limits]\nsse_clients_per_principal = {CLIENTS}\nsse_readers = {READERS_MAX}\n");
    let (nats, mut daemon) = start(&limits).await;
    nats.publish_orders(SUBJECT, 0..BEFORE).await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
    let consumers = async || nats.stream_info("EVENTS").await.state.consumer_count;
    // The consumer of the deliveries stays; whatever event streams had is gone.
    assert_eq!(consumers().await, 1);
    daemon.restart().await;

    // One publishes, one looks at JetStream, and all clients come at once.
    let storm = join_all((0..CLIENTS).map(|client| come_back(&daemon, client)));
    let publish = async {
        for number in BEFORE..ALL {
            nats.publish_orders(SUBJECT, number..number + 1).await;
        }
    };
    let mut consumers_max = 0;
    let look = async {
        loop {
            consumers_max = consumers_max.max(consumers().await);
        }
    };
    tokio::select! {
        _ = async { tokio::join!(storm, publish) } => {}
        () = look => {}
    }
    // The readers, the live tail, and the consumer of the deliveries.
    assert!(consumers_max <= READERS_MAX + 2, "there were {consumers_max} consumers");
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.sum("sluiced_sse_gaps_total", &[]), 0.0);
    // All others were served from memory. One of the old may be overtaken once more where it enters that.
    let catch_ups = metrics.sum("sluiced_sse_catch_ups_total", &[]) as u64;
    assert!((OLD..=2 * OLD).contains(&catch_ups), "{catch_ups} catch-ups");
}

/// Comes back with a place of its own, and reads to the end.
async fn come_back(daemon: &TestDaemon, client: u64) {
    // Any spread will do, as long as neighbours are far apart.
    let spread = client * 7_919 % 1_000;
    let seen = match client < OLD {
        true => client * 10,
        false => BEFORE - spread % PLACES_BACK,
    };
    let place = format!("EVENTS:{seen}");
    let mut connected = SseClient::connect(&daemon.url(ORDERS), Auth::ApiKey(ADMIN_KEY), Some(&place)).await;
    let events = connected.collect((ALL - seen) as usize, LONG).await;
    assert_in_order(&events, seen..ALL);
}

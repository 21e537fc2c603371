//! Where a first connection begins.

use sluiced_tests::sse::Auth;
use sluiced_tests::{ADMIN_KEY, SseClient, wait_until};

use super::{ORDERS, SOON, SUBJECT, assert_nothing_more, connect, numbers, start};

#[tokio::test]
async fn a_first_connection_begins_where_it_says() {
    let (nats, daemon) = start("").await;
    nats.publish_orders(SUBJECT, 0..10).await;
    let stored_at = async |sequence: u64| {
        let answer = daemon.request("GET", &format!("/api/v1/events/EVENTS:{sequence}"), None).await;
        answer.json()["stored_at"].as_str().expect("a time").to_owned()
    };
    // A time between two lots, of the stream's own clock.
    let first = stored_at(10).await;
    let mut at = first.clone();
    wait_until("the clock has gone on", SOON, async || {
        let sequence = nats.publish("events.other", "not asked for").await;
        at = stored_at(sequence).await;
        at != first
    })
    .await;
    nats.publish_orders(SUBJECT, 10..20).await;
    for (from, expected) in [
        ("all".to_owned(), 0..20),
        ("5".to_owned(), 4..20),
        ("1".to_owned(), 0..20),
        (at, 10..20),
        ("now".to_owned(), 20..20),
    ] {
        let mut client = connect(&daemon, &format!("{ORDERS}&from={from}"), None).await;
        let got = client.collect((expected.end - expected.start) as usize, SOON).await;
        assert_eq!(numbers(&got), Vec::from_iter(expected), "{from}");
        assert_nothing_more(&mut client).await;
    }
    // A place that the client has already goes before.
    let mut client = connect(&daemon, &format!("{ORDERS}&from=all"), Some("EVENTS:8")).await;
    assert_eq!(numbers(&client.collect(12, SOON).await), Vec::from_iter(8..20));
    assert_nothing_more(&mut client).await;
    for from in ["", "0", "-1", "yesterday", "99999999999999999999"] {
        let url = daemon.url(&format!("{ORDERS}&from={from}"));
        let refused = SseClient::try_connect(&url, Auth::ApiKey(ADMIN_KEY), None).await;
        assert_eq!(refused.err(), Some(400), "{from:?}");
    }
}

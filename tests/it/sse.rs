//! Event streams: every client keeps its place, whatever happens to it or to the daemon.

mod begin;
mod farewell;
mod gone;
mod held;
mod raw;
mod storm;
mod unread;

use std::ops::Range;
use std::time::Duration;

use sluiced_tests::events::number_of;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::sse::{Auth, End};
use sluiced_tests::{ADMIN_KEY, SseClient, SseEvent, TestDaemon, TestNats, wait_until};

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(120);
const SUBJECT: &str = "events.orders.created";
const ORDERS: &str = "/api/v1/events/stream?types=orders.*";

#[tokio::test]
async fn a_client_that_comes_back_gets_exactly_what_it_missed() {
    let (nats, daemon) = start("").await;
    let mut client = connect(&daemon, ORDERS, None).await;
    nats.publish_orders(SUBJECT, 0..10).await;
    assert_eq!(numbers(&client.collect(10, SOON).await), Vec::from_iter(0..10));
    let last = client.last_id().to_owned();
    drop(client);
    nats.publish_orders(SUBJECT, 10..110).await;
    nats.publish("events.other", "not asked for").await;

    let mut client = connect(&daemon, ORDERS, Some(&last)).await;
    assert_eq!(numbers(&client.collect(100, SOON).await), Vec::from_iter(10..110));
    nats.publish_orders(SUBJECT, 110..111).await;
    assert_eq!(numbers(&client.collect(1, SOON).await), [110], "then it goes on live");
    assert_nothing_more(&mut client).await;
}

#[tokio::test]
async fn a_client_that_comes_back_to_a_restarted_daemon_gets_exactly_what_it_missed() {
    for how in ["stopped", "killed"] {
        let (nats, mut daemon) = start("").await;
        let mut client = connect(&daemon, ORDERS, None).await;
        nats.publish_orders(SUBJECT, 0..10).await;
        client.collect(10, SOON).await;
        let last = client.last_id().to_owned();
        if how == "stopped" {
            assert_eq!(daemon.terminate().await.code(), Some(0));
            assert_eq!(client.try_next(SOON).await, Err(End::Closed), "the stream ends in order");
        } else {
            daemon.kill9();
        }
        nats.publish_orders(SUBJECT, 10..60).await;
        daemon.restart().await;
        nats.publish_orders(SUBJECT, 60..110).await;

        let mut client = connect(&daemon, ORDERS, Some(&last)).await;
        assert_eq!(numbers(&client.collect(100, SOON).await), Vec::from_iter(10..110), "{how}");
        nats.publish_orders(SUBJECT, 110..120).await;
        assert_eq!(numbers(&client.collect(10, SOON).await), Vec::from_iter(110..120), "{how}");
        assert_nothing_more(&mut client).await;
    }
}

#[tokio::test]
async fn a_client_goes_from_one_daemon_to_another_on_the_same_nats_and_back() {
    let (nats, first) = start("").await;
    let second = TestDaemon::start(&nats, EVENTS).await;
    let (mut place, mut seen) = (None, Vec::new());
    for (turn, daemon) in [&first, &second, &first, &second].into_iter().enumerate() {
        let mut client = connect(daemon, ORDERS, place.as_deref()).await;
        let next = 10 * turn as u64;
        nats.publish_orders(SUBJECT, next..next + 10).await;
        // Some of it is left for the next one.
        seen.extend(client.collect(7, SOON).await);
        place = Some(client.last_id().to_owned());
    }
    let mut client = connect(&first, ORDERS, place.as_deref()).await;
    seen.extend(client.collect(40 - seen.len(), SOON).await);
    assert_in_order(&seen, 0..40);
    assert_nothing_more(&mut client).await;
}

#[tokio::test]
async fn a_client_that_saw_no_event_yet_still_comes_back_to_its_place() {
    let (nats, daemon) = start("").await;
    let mut client = connect(&daemon, ORDERS, None).await;
    let greeted = async || {
        drop(client.try_next(Duration::from_millis(50)).await);
        !client.last_id().is_empty()
    };
    wait_until("the client is told its place", SOON, greeted).await;
    let place = client.last_id().to_owned();
    drop(client);
    nats.publish_orders(SUBJECT, 0..20).await;
    let mut client = connect(&daemon, ORDERS, Some(&place)).await;
    assert_eq!(numbers(&client.collect(20, SOON).await), Vec::from_iter(0..20));
}

#[tokio::test]
async fn heavy_a_client_that_pauses_reads_on_from_its_place_while_others_read_live() {
    const ALL: u64 = 40_000;
    let (nats, daemon) = start("").await;
    let mut paused = connect(&daemon, ORDERS, None).await;
    let mut quick = connect(&daemon, ORDERS, None).await;
    nats.publish_orders(SUBJECT, 0..100).await;
    paused.collect(100, SOON).await;
    let before = daemon.rss_bytes();
    // 40 MB: more than sockets and the ring of recent events hold, so that it must go back to the stream.
    let publish = nats.publish_orders(SUBJECT, 100..ALL);
    let (_, seen) = tokio::join!(publish, quick.collect(ALL as usize, LONG));
    assert_in_order(&seen, 0..ALL);
    let growth = daemon.rss_bytes().saturating_sub(before);
    assert!(growth < 100 << 20, "the daemon grew from {before} bytes by {growth}");

    let more = async {
        nats.publish_orders(SUBJECT, ALL..ALL + 5_000).await;
    };
    let (seen, ()) = tokio::join!(paused.collect((ALL - 100 + 5_000) as usize, LONG), more);
    assert_in_order(&seen, 100..ALL + 5_000);
    assert_in_order(&quick.collect(5_000, LONG).await, ALL..ALL + 5_000);
    nats.publish_orders(SUBJECT, ALL + 5_000..ALL + 5_010).await;
    assert_in_order(&paused.collect(10, SOON).await, ALL + 5_000..ALL + 5_010);
    assert!(daemon.metrics().await.sum("sluiced_sse_catch_ups_total", &[]) >= 1.0);
    assert_eq!(daemon.metrics().await.sum("sluiced_sse_gaps_total", &[]), 0.0);
}

#[tokio::test]
async fn heavy_clients_that_come_and_go_under_load_miss_and_repeat_nothing() {
    const ALL: u64 = 10_000;
    let (nats, daemon) = start("").await;
    let mut client = connect(&daemon, ORDERS, None).await;
    nats.publish_orders(SUBJECT, 0..1).await;
    let mut seen = client.collect(1, SOON).await;
    let come_and_go = async {
        while seen.len() < ALL as usize {
            let more = (ALL as usize - seen.len()).min(379);
            seen.extend(client.collect(more, LONG).await);
            let last = client.last_id().to_owned();
            client = connect(&daemon, ORDERS, Some(&last)).await;
        }
    };
    tokio::join!(nats.publish_orders(SUBJECT, 1..ALL), come_and_go);
    assert_in_order(&seen, 0..ALL);
}

#[tokio::test]
async fn history_that_is_gone_is_announced() {
    let (nats, mut daemon) = start("").await;
    let mut client = connect(&daemon, ORDERS, None).await;
    nats.publish_orders(SUBJECT, 0..10).await;
    client.collect(10, SOON).await;
    let last = client.last_id().to_owned();
    daemon.kill9();
    nats.publish_orders(SUBJECT, 10..60).await;
    nats.purge("EVENTS").await;
    nats.publish_orders(SUBJECT, 60..65).await;
    daemon.restart().await;

    let mut client = connect(&daemon, ORDERS, Some(&last)).await;
    let gap = client.next_event(SOON).await;
    assert_eq!(gap.event, "gap");
    let said: serde_json::Value = serde_json::from_str(&gap.data).expect("a gap is JSON");
    assert_eq!((said["asked"].as_u64(), said["available"].as_u64()), (Some(11), Some(61)), "{said}");
    assert_eq!(said["missing_at_most"], 50, "{said}");
    assert_eq!(numbers(&client.collect(5, SOON).await), Vec::from_iter(60..65));
    assert!(daemon.metrics().await.sum("sluiced_sse_gaps_total", &[]) >= 1.0);

    // From the gap on it has a place again, and is not told twice.
    let mut client = connect(&daemon, ORDERS, Some(&gap.id)).await;
    assert_eq!(numbers(&client.collect(5, SOON).await), Vec::from_iter(60..65));
}

#[tokio::test]
async fn an_idle_stream_carries_heartbeats_and_its_place() {
    let (nats, daemon) = start("[server]\nsse_heartbeat = \"1s\"\n").await;
    let mut client = connect(&daemon, ORDERS, None).await;
    let beats = async || {
        assert_eq!(client.try_next(Duration::from_millis(50)).await, Err(End::TimedOut));
        client.comments() >= 4
    };
    wait_until("it has heard heartbeats", SOON, beats).await;
    assert!(client.retry_ms().is_some_and(|retry_ms| retry_ms >= 1_000), "{:?}", client.retry_ms());
    let before = client.last_id().to_owned();
    // Events that it did not ask for move its place, so that it need not read them again.
    for _ in 0..3 {
        nats.publish("events.other", "not asked for").await;
    }
    let moved = async || {
        assert_eq!(client.try_next(Duration::from_millis(50)).await, Err(End::TimedOut));
        client.last_id() != before
    };
    wait_until("its place has moved", SOON, moved).await;
}

#[tokio::test]
async fn a_named_stream_has_its_filter_and_transform_live_and_in_history() {
    let table = r#"
[[subscription]]
name = "wallboard"
types = ["orders.>"]
filters = [{ plugin = "jq", config = { expr = ".amount % 2 == 0" } }]
transforms = [{ plugin = "redact", config = { pointers = ["/card/number"] } }]
sse = {}
"#;
    const WALLBOARD: &str = "/api/v1/streams/wallboard";
    let nats = TestNats::start().await;
    let mut daemon = TestDaemon::start(&nats, &format!("{EVENTS}{table}")).await;
    let mut client = connect(&daemon, WALLBOARD, None).await;
    let even = |range: Range<u64>| range.filter(|n| n % 2 == 0).collect::<Vec<_>>();
    nats.publish_orders(SUBJECT, 0..100).await;
    let live = client.collect(50, SOON).await;
    assert_eq!(numbers(&live), even(0..100));
    assert!(live.iter().all(|e| e.event == "orders.created" && !e.data.contains("4111111111111111")));
    let last = live[24].id.clone();

    let mut again = connect(&daemon, WALLBOARD, Some(&last)).await;
    assert_eq!(again.collect(25, SOON).await, live[25..], "the same from memory");
    daemon.restart().await;
    let mut again = connect(&daemon, WALLBOARD, Some(&last)).await;
    assert_eq!(again.collect(25, SOON).await, live[25..], "the same from history");
    nats.publish_orders(SUBJECT, 100..110).await;
    assert_eq!(numbers(&again.collect(5, SOON).await), even(100..110));
    assert_nothing_more(&mut again).await;
}

#[tokio::test]
async fn an_event_stream_needs_the_key() {
    let (_nats, daemon) = start("").await;
    let url = daemon.url(ORDERS);
    for refused in [Auth::None, Auth::ApiKey("wrong"), Auth::Bearer("wrong"), Auth::ApiKey("")] {
        assert_eq!(SseClient::try_connect(&url, refused, None).await.err(), Some(401), "{refused:?}");
    }
    for taken in [Auth::ApiKey(ADMIN_KEY), Auth::Bearer(ADMIN_KEY)] {
        assert!(SseClient::try_connect(&url, taken, None).await.is_ok(), "{taken:?}");
    }
    let key = Auth::ApiKey(ADMIN_KEY);
    for (path, status) in [
        ("/api/v1/streams/unknown", 404),
        ("/api/v1/events/stream?types=a..b", 400),
        ("/api/v1/events/stream?last_event_id=nonsense", 400),
    ] {
        assert_eq!(SseClient::try_connect(&daemon.url(path), key, None).await.err(), Some(status), "{path}");
    }
}

async fn start(head: &str) -> (TestNats, TestDaemon) {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, &format!("{head}{EVENTS}")).await;
    (nats, daemon)
}

async fn connect(daemon: &TestDaemon, path: &str, last_event_id: Option<&str>) -> SseClient {
    SseClient::connect(&daemon.url(path), Auth::ApiKey(ADMIN_KEY), last_event_id).await
}

fn numbers(events: &[SseEvent]) -> Vec<u64> {
    events.iter().map(|event| number_of(event.data.as_bytes()).expect("an order has a number")).collect()
}

/// Like comparing with the whole range, but says only where it goes wrong.
fn assert_in_order(events: &[SseEvent], expected: Range<u64>) {
    assert_eq!(events.len() as u64, expected.end - expected.start);
    let wrong = numbers(events).into_iter().zip(expected).find(|(seen, expected)| seen != expected);
    assert_eq!(wrong, None, "(seen, expected)");
}

/// What was published a moment ago has passed: nothing else is on its way.
async fn assert_nothing_more(client: &mut SseClient) {
    assert_eq!(client.try_next(Duration::from_millis(300)).await, Err(End::TimedOut));
}

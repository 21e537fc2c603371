//! History that is gone: discarded by the stream's own limits, purged while it is about to be read, or of a stream that was
//! deleted and made anew. A plain client is told, and told what.

use async_nats::jetstream::stream::Config;
use serde_json::{Value, json};
use sluiced_tests::setup::EVENTS;
use sluiced_tests::sse::{Auth, End};
use sluiced_tests::{ADMIN_KEY, SseClient, SseEvent, TestDaemon, TestNats, port, wait_until};

use super::held::HeldNats;
use super::{LONG, ORDERS, SOON, SUBJECT, assert_in_order, assert_nothing_more, connect, numbers, start};

const KEPT: i64 = 20;

fn told(gap: &SseEvent) -> Value {
    assert_eq!(gap.event, "gap", "{gap:?}");
    serde_json::from_str(&gap.data).expect("a gap is JSON")
}

/// What an id says beside the sequence: which stream of that name it is of.
fn tag(id: &str) -> &str {
    let parts: Vec<&str> = id.split(':').collect();
    assert!(parts.len() == 3 && parts[0] == "EVENTS" && parts[2].len() == 6, "{id}");
    parts[2]
}

#[tokio::test]
async fn what_the_stream_s_own_limit_discarded_is_told_with_both_ids_and_the_reason() {
    let nats = TestNats::start().await;
    let limited = Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        max_messages: KEPT,
        ..Config::default()
    };
    nats.create_stream_with(limited).await;
    let mut daemon = TestDaemon::start(&nats, EVENTS).await;
    let mut client = connect(&daemon, ORDERS, None).await;
    nats.publish_orders(SUBJECT, 0..10).await;
    client.collect(10, SOON).await;
    let last = client.last_id().to_owned();
    let tag = tag(&last).to_owned();
    assert_eq!(last, format!("EVENTS:10:{tag}"));
    // What it had in memory would serve it still.
    daemon.kill9();
    nats.publish_orders(SUBJECT, 10..60).await;
    daemon.restart().await;

    let mut client = connect(&daemon, ORDERS, Some(&last)).await;
    let gap = client.next_event(SOON).await;
    assert_eq!(gap.id, format!("EVENTS:40:{tag}"), "it has a place behind the gap");
    let expected = json!({
        "stream": "EVENTS", "reason": "discarded", "asked": 11, "asked_id": last, "available": 41,
        "available_id": format!("EVENTS:41:{tag}"), "missing_at_most": 30,
    });
    assert_eq!(told(&gap), expected);
    assert_eq!(numbers(&client.collect(20, SOON).await), Vec::from_iter(40..60));
    nats.publish_orders(SUBJECT, 60..61).await;
    assert_eq!(numbers(&client.collect(1, SOON).await), [60], "and live");
    // One more was discarded meanwhile, and is still in memory.
    let mut client = connect(&daemon, ORDERS, Some(&gap.id)).await;
    assert_eq!(numbers(&client.collect(21, SOON).await), Vec::from_iter(40..61));
}

#[tokio::test]
async fn a_purge_between_the_opening_of_a_reader_and_its_first_page_is_told() {
    /// More than the live tail begins with: the beginning must be read from the stream.
    const ALL: u64 = 9_000;
    const PURGED: u64 = 5_000;
    let nats = TestNats::start().await;
    let between = HeldNats::start(&nats).await;
    let config = format!("[nats]\nurl = {:?}\n{EVENTS}", between.url());
    let daemon = TestDaemon::start(&nats, &config).await;
    nats.publish_orders(SUBJECT, 0..ALL).await;
    nats.wait_drained("EVENTS", "sluiced", LONG).await;
    // The live tail begins near the end.
    let mut live = connect(&daemon, ORDERS, None).await;
    between.hold("\"batch\":32,");
    let mut client = connect(&daemon, ORDERS, Some("EVENTS:9")).await;
    between.wait_held(SOON).await;
    let stream = nats.jetstream().await.get_stream("EVENTS").await.expect("the stream");
    stream.purge().sequence(PURGED + 1).await.expect("a purge");
    between.release();

    let gap = client.next_event(SOON).await;
    let said = told(&gap);
    assert_eq!((&said["reason"], &said["missing_at_most"]), (&json!("discarded"), &json!(PURGED - 9)), "{said}");
    assert_eq!((&said["asked"], &said["available"]), (&json!(10), &json!(PURGED + 1)), "{said}");
    assert_eq!(said["asked_id"].as_str().map(|id| id.starts_with("EVENTS:9:")), Some(true), "{said}");
    let came = client.collect((ALL - PURGED) as usize, LONG).await;
    assert_in_order(&came, PURGED..ALL);
    nats.publish_orders(SUBJECT, ALL..ALL + 1).await;
    assert_eq!(
        (numbers(&client.collect(1, SOON).await), numbers(&live.collect(1, SOON).await)),
        (vec![ALL], vec![ALL])
    );
}

/// Comes back as soon as it is let in: the daemon may be starting.
async fn come_back(daemon: &TestDaemon, place: &str) -> SseClient {
    let mut client = None;
    wait_until("it is let in", SOON, async || {
        client = SseClient::try_connect(&daemon.url(ORDERS), Auth::ApiKey(ADMIN_KEY), Some(place)).await.ok();
        client.is_some()
    })
    .await;
    client.expect("it has just connected")
}

/// Listens until so many frames came, over as many connections as it takes.
async fn collect_over_breaks(daemon: &TestDaemon, client: &mut SseClient, frames: usize) -> Vec<SseEvent> {
    let mut came = Vec::new();
    while came.len() < frames {
        match client.try_next(SOON).await {
            Ok(event) => came.push(event),
            Err(End::TimedOut) => panic!("{} of {frames} frames: {came:?}", came.len()),
            Err(End::Closed | End::Broken) => {
                let place = client.last_id().to_owned();
                *client = come_back(daemon, &place).await;
            }
        }
    }
    came
}

async fn make_anew(nats: &TestNats, numbers: std::ops::Range<u64>) {
    nats.delete_stream("EVENTS").await;
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders(SUBJECT, numbers).await;
}

fn assert_replaced(came: &[SseEvent], last: &str, expected: std::ops::Range<u64>) {
    let said = told(&came[0]);
    let new = tag(&came[1].id);
    assert_ne!(new, tag(last), "it is another stream");
    let expected_gap = json!({
        "stream": "EVENTS", "reason": "replaced", "asked": 11, "asked_id": last, "available": 1,
        "available_id": format!("EVENTS:1:{new}"), "missing_at_most": null,
    });
    assert_eq!(said, expected_gap);
    assert_eq!(numbers(&came[1..]), Vec::from_iter(expected));
}

#[tokio::test]
async fn a_place_in_a_stream_that_was_made_anew_skips_nothing_of_the_new_one() {
    // The daemon is away meanwhile; it runs, with nobody connected; it runs, and the client is connected.
    for case in ["away", "nobody", "connected"] {
        // Where it listens stays the same when the daemon begins again.
        let (nats, mut daemon) = start(&format!("[server]\nlisten = \"127.0.0.1:{}\"\n", port::free())).await;
        let mut client = connect(&daemon, ORDERS, None).await;
        nats.publish_orders(SUBJECT, 0..10).await;
        client.collect(10, SOON).await;
        let last = client.last_id().to_owned();
        let connected = (case == "connected").then_some(client);
        if case == "away" {
            daemon.kill9();
        }
        // More events than before: the sequence alone would find its place among them.
        make_anew(&nats, 100..130).await;
        if case == "away" {
            daemon.restart().await;
        }
        let mut client = match connected {
            Some(client) => client,
            None => come_back(&daemon, &last).await,
        };
        let came = collect_over_breaks(&daemon, &mut client, 31).await;
        assert_replaced(&came, &last, 100..130);
        nats.publish_orders(SUBJECT, 130..135).await;
        let more = collect_over_breaks(&daemon, &mut client, 5).await;
        assert_eq!(numbers(&more), Vec::from_iter(130..135), "{case}");
        assert_nothing_more(&mut client).await;
    }
}

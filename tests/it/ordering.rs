//! Order: strict and by key, over failures, a hold and a kill.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use rand::RngExt as _;
use serde_json::json;
use sluiced_tests::events::order;
use sluiced_tests::random::seeded;
use sluiced_tests::receiver::Received;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const LONG: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);

/// Failures are part of these tests: they are not to look like a dead endpoint.
const HEAD: &str = "[delivery]\nbreaker = { attempts_min = 1000 }\n";

fn ordered(receiver: &TestReceiver, ordering: &str) -> Webhook {
    Webhook::new("ordered", receiver)
        .with("ordering", format_args!("{ordering:?}"))
        .with("retry", r#"{ max_attempts = 50, base = "20ms", factor = 1, max = "20ms", jitter = 0 }"#)
}

/// Answers 500 to so many of ten requests, at random.
fn flaky(of_ten: u32) -> Behaviour {
    Behaviour::custom(move |_| Reply::status(if rand::rng().random_range(0..10) < of_ten { 500 } else { 200 }))
}

#[tokio::test]
async fn strict_order_holds_under_random_failures_and_a_kill() {
    const EVENTS: u64 = 300;
    let mut random = seeded();
    let nats = TestNats::start().await;
    let (receiver, other) = (TestReceiver::start_verifying(SECRET), TestReceiver::start_verifying(SECRET));
    receiver.set(flaky(3));
    let webhooks = [ordered(&receiver, "strict"), Webhook::new("other", &other)];
    let mut daemon = TestDaemon::start(&nats, &config(HEAD, &webhooks)).await;
    nats.publish_orders("events.orders.created", 0..EVENTS / 2).await;
    for _ in 0..2 {
        let requests = receiver.counts().requests;
        receiver.wait_for(requests + random.random_range(20..80), LONG).await;
        daemon.kill9();
        daemon.restart().await;
        nats.publish_orders("events.orders.created", EVENTS / 2..EVENTS * 3 / 4).await;
    }
    nats.publish_orders("events.orders.created", EVENTS * 3 / 4..EVENTS).await;
    other.wait_for_numbers(0..EVENTS, LONG).await;
    receiver.wait_for_numbers(0..EVENTS, LONG).await;
    assert_first_receipts_in_order(&receiver.received());
    assert_eq!(receiver.counts().in_flight_max, 1);
    let parked = async || daemon.reading("sluiced_parked", "ordered").await == 0;
    wait_until("nothing is parked", SOON, parked).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
}

#[tokio::test]
async fn strict_order_keeps_the_parts_of_an_event_in_order() {
    const EVENTS: u64 = 40;
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    receiver.set(flaky(4));
    let webhook = ordered(&receiver, "strict").transform("jq", r#"{ expr = ".items[]" }"#);
    let daemon = TestDaemon::start(&nats, &config(HEAD, &[webhook])).await;
    for event in 0..EVENTS {
        let items: Vec<_> = (0..3).map(|part| serde_json::json!({ "number": event * 3 + part })).collect();
        nats.publish("events.baskets.sold", serde_json::json!({ "items": items }).to_string()).await;
    }
    receiver.wait_for_numbers(0..EVENTS * 3, LONG).await;
    assert_first_receipts_in_order(&receiver.received());
    daemon.wait_metric("sluiced_parked", &[("subscription", "ordered")], 0.0).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "delivered")], (EVENTS * 3) as f64).await;
    daemon.wait_metric("sluiced_events_received_total", &[("subscription", "ordered")], EVENTS as f64).await;
}

#[tokio::test]
async fn one_bad_key_waits_while_other_keys_flow_also_over_a_kill() {
    const EVENTS: u64 = 600;
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    let bad = |request: &Received| request.number().is_some_and(|number| number % 10 == 3);
    receiver.set(Behaviour::custom(move |request| Reply::status(if bad(request) { 500 } else { 200 })));
    let webhook = ordered(&receiver, "key").with("order_key", r#"{ header = "X-Tenant" }"#);
    let webhook = webhook.with("head_of_line", r#""wait""#);
    let mut daemon = TestDaemon::start(&nats, &config(HEAD, &[webhook])).await;
    publish_of_ten_tenants(&nats, 0..EVENTS).await;
    let of_others = |received: &[Received]| received.iter().filter(|r| !bad(r)).count() as u64;
    let others_have = async || of_others(&receiver.received()) >= EVENTS * 9 / 10;
    wait_until("the other keys have flowed", LONG, others_have).await;
    let numbers_of_bad = |received: &[Received]| {
        let mut numbers: Vec<_> = received.iter().filter(|r| bad(r)).filter_map(Received::number).collect();
        numbers.dedup();
        numbers
    };
    assert_eq!(numbers_of_bad(&receiver.received()), [3], "only the first of the bad key was tried");
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let status = daemon.request("GET", "/api/v1/subscriptions/ordered", None).await.json();
    assert_eq!(status["order"]["blocked_keys"], 1, "{status}");

    daemon.kill9();
    daemon.restart().await;
    publish_of_ten_tenants(&nats, EVENTS..EVENTS + 100).await;
    let others_have = async || of_others(&receiver.received()) >= (EVENTS + 100) * 9 / 10;
    wait_until("the other keys flow again", LONG, others_have).await;
    assert_eq!(numbers_of_bad(&receiver.received()), [3], "the key is still blocked after the restart");

    receiver.set(Behaviour::Ok);
    receiver.wait_for_numbers(0..EVENTS + 100, LONG).await;
    assert_order_within_tenants(&receiver.received());
    daemon.wait_held("ordered", false, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
}

#[tokio::test]
async fn a_key_with_more_events_than_the_window_holds_the_subscription_and_loses_nothing() {
    const EVENTS: u64 = 1_200;
    let nats = TestNats::start().await;
    let (receiver, other) = (TestReceiver::start_verifying(SECRET), TestReceiver::start_verifying(SECRET));
    receiver.set(Behaviour::custom(|request| Reply::status(if request.number() == Some(0) { 500 } else { 200 })));
    let webhook = ordered(&receiver, "key").with("order_key", "{ token = 2 }").with("head_of_line", r#""wait""#);
    let daemon = TestDaemon::start(&nats, &config(HEAD, &[webhook, Webhook::new("other", &other)])).await;
    nats.publish_orders("events.orders.eu", 0..EVENTS).await;
    other.wait_for_numbers(0..EVENTS, LONG).await;
    daemon.wait_held("ordered", true, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert_eq!(receiver.numbers().len(), 1, "nothing went past the first");
    let status = daemon.request("GET", "/api/v1/subscriptions/ordered", None).await.json();
    assert_eq!(status["parked"], 1, "one body is stored, the others wait in the stream: {status}");
    receiver.set(Behaviour::Ok);
    receiver.wait_for_numbers(0..EVENTS, LONG).await;
    assert_first_receipts_in_order(&receiver.received());
    daemon.wait_held("ordered", false, SOON).await;
}

#[tokio::test]
async fn what_fails_for_good_becomes_a_dead_letter_and_the_order_goes_on() {
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    receiver.set(Behaviour::custom(|request| match request.number() {
        Some(2) => Reply::status(422),
        Some(5) => Reply::status(500),
        _ => Reply::status(200),
    }));
    let webhook = Webhook::new("ordered", &receiver).with("ordering", r#""strict""#).retry_after(&["10ms", "10ms"]);
    let daemon = TestDaemon::start(&nats, &config(HEAD, &[webhook])).await;
    nats.publish_orders("events.orders.created", 0..10).await;
    receiver.wait_for_numbers(0..10, LONG).await;
    assert_first_receipts_in_order(&receiver.received());
    let books = daemon.accounted("ordered", 10).await;
    assert_eq!((books.delivered, books.failed), (8, 2));
    let tries = receiver.numbers();
    assert_eq!((tries[&2], tries[&5]), (1, 3));
}

/// Publishes orders of the given numbers, each of the tenant that its last digit names.
async fn publish_of_ten_tenants(nats: &TestNats, numbers: std::ops::Range<u64>) {
    let jetstream = nats.jetstream().await;
    for number in numbers {
        let mut headers = HeaderMap::new();
        headers.insert("X-Tenant", format!("t{}", number % 10));
        let sent = jetstream.publish_with_headers("events.orders.created", headers, order(number)).await;
        sent.expect("the server takes it").await.expect("a stream stores it");
    }
}

fn first_receipts(received: &[Received]) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    received.iter().filter_map(Received::number).filter(|number| seen.insert(*number)).collect()
}

fn assert_first_receipts_in_order(received: &[Received]) {
    let first = first_receipts(received);
    let early = first.windows(2).find(|pair| pair[0] > pair[1]);
    assert!(early.is_none(), "{early:?} came the wrong way round");
}

fn assert_order_within_tenants(received: &[Received]) {
    let mut last = BTreeMap::new();
    for number in first_receipts(received) {
        let before = last.insert(number % 10, number);
        assert!(before.is_none_or(|before| before < number), "{before:?} came before {number}");
    }
}

#[tokio::test]
async fn what_is_replayed_or_resent_waits_for_nothing_and_nothing_waits_for_it() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let is_replayed = |request: &Received| !request.header("sluiced-replay").is_empty();
    // Replayed orders below 4 are to be tried again in an hour, and so is the live order 20; 5 is refused at first.
    receiver.set(Behaviour::custom(move |request| {
        let number = request.number().expect("an order has a number");
        Reply::status(match (is_replayed(request), number) {
            (true, 0..4) | (false, 20) => 503,
            (false, 5) if request.attempt() == 1 => 400,
            _ => 200,
        })
    }));
    let webhook = Webhook::new("crm", &receiver).with("ordering", "\"strict\"").retry_after(&["1h", "1h"]);
    let daemon = TestDaemon::start(&nats, &config(HEAD, &[webhook])).await;
    nats.publish_orders("events.orders.created", 0..10).await;
    receiver.wait_for_numbers(0..10, SOON).await;
    let replay = async |from: u64, to: u64| {
        let asked = json!({ "from": from, "to": to, "rate": 1000 });
        let job = crate::replay::begin(&daemon, "replay", asked).await;
        crate::replay::comes_to(&daemon, &job["id"], "done").await["counts"].clone()
    };
    let counts = replay(1, 5).await;
    assert_eq!((&counts["parked"], &counts["delivered"]), (&json!(4), &json!(1)), "parked ones hold up no others");
    nats.publish_orders("events.orders.created", 10..20).await;
    receiver.wait_for_numbers(0..20, SOON).await;
    assert_eq!(daemon.request("GET", "/api/v1/subscriptions/crm", None).await.json()["order"]["blocked_keys"], 0);

    nats.publish_orders("events.orders.created", 20..25).await;
    daemon.wait_held("crm", true, SOON).await;
    let letters = daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters", None).await.json();
    let path =
        format!("/api/v1/subscriptions/crm/dead-letters/{}", letters["dead_letters"][0]["id"].as_str().expect("one"));
    assert_eq!(daemon.request("POST", &format!("{path}/resend"), None).await.status, 202);
    let resent = async || receiver.received().iter().any(|r| r.number() == Some(5) && r.attempt() == 2);
    wait_until("the resent one does not wait for the blocked order", SOON, resent).await;
    let counts = replay(11, 20).await;
    assert_eq!(counts["delivered"], 10, "neither do replayed ones: {counts}");
    let live = receiver.received().iter().filter(|r| !is_replayed(r)).filter_map(Received::number).max();
    assert_eq!(live, Some(20), "those behind the blocked one still wait");
}

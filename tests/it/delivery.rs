//! From a published event to a signed request: the main job, and every way that it can end.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};
use sluiced::domain::{DeliveryId, Position, StreamName, SubscriptionId};
use sluiced_tests::events::order;
use sluiced_tests::setup::{EVENTS, config};
use sluiced_tests::{Behaviour, Received, Reply, SECRET, TestDaemon, TestNats, TestReceiver, Webhook};

mod disposition;
mod parts;
mod restart;

const SOON: Duration = Duration::from_secs(60);
/// The daemon's consumer, unless configured otherwise.
const CONSUMER: &str = "sluiced";

#[tokio::test]
async fn a_thousand_orders_pass_filter_and_transform_and_arrive_signed() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let hook = Webhook::to("crm", &receiver.url("/hook"))
        .types(&["orders.created"])
        .filter("jq", r#"{ expr = ".amount >= 200" }"#)
        .transform("redact", r#"{ pointers = ["/card/number"] }"#)
        .with("headers", r#"{ X-Team = "sales" }"#);
    let daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish_orders("events.orders.created", 0..1_200).await;

    receiver.wait_for_numbers(200..1_200, SOON).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    let books = daemon.accounted("crm", 1_200).await;
    assert_eq!((books.delivered, books.filtered), (1_000, 200));
    let received = receiver.received();
    assert_eq!(received.len(), 1_000, "none came twice");
    assert!(received.iter().all(|request| request.verified == Some(true)), "each signature is right");
    let ids: HashSet<&str> = received.iter().map(Received::webhook_id).collect();
    assert_eq!(ids.len(), 1_000, "each delivery has its own id");
    for request in &received {
        is_as_it_should_be(request);
    }
}

/// The request of the daemon's subscription `crm` for an order that was published first in its stream, the numbers from 0.
fn is_as_it_should_be(request: &Received) {
    let number = request.number().expect("the number is left in place");
    assert_eq!(request.path, "/hook");
    assert_eq!(request.webhook_id(), delivery_id("crm", "EVENTS", number + 1, 0));
    assert_eq!(request.header("sluiced-event-id"), format!("order-{number}"));
    assert_eq!(request.header("sluiced-event-type"), "orders.created");
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("x-team"), "sales");
    assert_eq!(request.attempt(), 1);
    let mut expected: Value = serde_json::from_slice(&order(number)).expect("an order is JSON");
    expected["card"]["number"] = json!("***");
    assert_eq!(serde_json::from_slice::<Value>(&request.body).expect("what arrives is JSON"), expected);
}

/// The id of a delivery, as a receiver sees it.
fn delivery_id(subscription: &str, stream: &str, sequence: u64, part: u32) -> String {
    let subscription = SubscriptionId::parse(subscription).expect("a valid name");
    let stream = StreamName::parse(stream).expect("a valid name");
    DeliveryId::derive(&subscription, &Position { stream, sequence }, part).to_string()
}

#[tokio::test]
async fn a_receiver_that_fails_twice_gets_the_same_delivery_a_third_time() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    receiver.set(Behaviour::fail_times(2, 500));
    let hook = Webhook::to("crm", &receiver.url("/hook")).retry_after(&["50ms", "50ms", "1h"]);
    let daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish("events.orders.created", order(7)).await;

    receiver.wait_for(3, SOON).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("subscription", "crm"), ("outcome", "delivered")], 1.0).await;
    let books = daemon.accounted("crm", 1).await;
    assert_eq!((books.delivered, books.parked), (1, 0));
    let received = receiver.received();
    assert_eq!(received.iter().map(Received::attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(received.iter().all(|request| request.webhook_id() == delivery_id("crm", "EVENTS", 1, 0)));
    assert!(received.iter().all(|request| request.body == order(7) && request.verified == Some(true)));
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.sum("sluiced_attempts_total", &[("outcome", "status")]), 2.0);
    assert_eq!(metrics.sum("sluiced_attempts_total", &[("outcome", "delivered")]), 1.0);
    assert_eq!(metrics.sum("sluiced_parked", &[("subscription", "crm")]), 0.0);
}

#[tokio::test]
async fn of_many_that_wait_each_is_tried_again_once() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(|request| Reply::status(if request.attempt() < 3 { 503 } else { 200 })));
    let hook = Webhook::to("crm", &receiver.url("/hook")).retry_after(&["200ms", "200ms", "1h"]);
    // The breaker would hold the events back, and then they would not wait in the store.
    let config = config("", &[hook.with("max_in_flight", "8")]) + "[delivery]\nbreaker = { attempts_min = 1000 }\n";
    let daemon = TestDaemon::start(&nats, &config).await;
    nats.publish_orders("events.orders.created", 0..300).await;

    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "delivered")], 300.0).await;
    let books = daemon.accounted("crm", 300).await;
    assert_eq!((books.delivered, books.parked), (300, 0));
    let attempts: HashSet<(String, u32)> =
        receiver.received().iter().map(|request| (request.webhook_id().to_owned(), request.attempt())).collect();
    assert_eq!((attempts.len(), receiver.counts().requests), (900, 900), "three attempts each, and none of them twice");
}

#[tokio::test]
async fn one_event_goes_to_every_subscription_that_matches_and_to_no_other() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hook = |name: &str, types: &[&str]| Webhook::to(name, &receiver.url(&format!("/{name}"))).types(types);
    let hooks = [
        hook("exact", &["orders.eu.created"]),
        hook("one-token", &["orders.*.created"]),
        hook("rest", &["orders.>"]),
        hook("twice", &["orders.>", "orders.eu.*"]),
        hook("other", &["orders.*", "payments.>", "orders.us.created"]),
    ];
    let daemon = TestDaemon::start(&nats, &config("", &hooks)).await;
    nats.publish("events.orders.eu.created", order(1)).await;
    nats.publish("events.orders.us.deleted", order(2)).await;
    nats.publish("events.stock.low", order(3)).await;
    nats.publish("events.payments.done", order(4)).await;

    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    for (name, numbers) in
        [("exact", vec![1]), ("one-token", vec![1]), ("rest", vec![1, 2]), ("twice", vec![1, 2]), ("other", vec![4])]
    {
        let books = daemon.accounted(name, numbers.len() as u64).await;
        assert_eq!(books.delivered, numbers.len() as u64, "{name}");
        assert_eq!(numbers_at(&receiver, &format!("/{name}")), numbers, "{name}");
    }
}

#[tokio::test]
async fn many_types_are_asked_for_with_few_subjects_and_each_goes_where_it_belongs() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hook = |n: u64| Webhook::to(&format!("s{n}"), &receiver.url("/")).types(&[&format!("tenant{n}.orders")]);
    let hooks: Vec<Webhook> = (0..400).map(hook).collect();
    let daemon = TestDaemon::start(&nats, &config("", &hooks)).await;
    let asked = nats.consumer_info("EVENTS", CONSUMER).await.expect("the daemon's consumer").config.filter_subjects;
    assert_eq!(asked, ["events.*.orders"]);
    for n in [7, 399, 400] {
        nats.publish(&format!("events.tenant{n}.orders"), order(n)).await;
    }

    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    for n in [7, 399] {
        assert_eq!(daemon.accounted(&format!("s{n}"), 1).await.delivered, 1);
    }
    assert_eq!(numbers_at(&receiver, "/"), [7, 399]);
    daemon.wait_metric("sluiced_ingest_unmatched_total", &[], 1.0).await;
}

/// The order numbers that came in at a path, in ascending order.
fn numbers_at(receiver: &TestReceiver, path: &str) -> Vec<u64> {
    let received = receiver.received();
    let mut numbers: Vec<u64> =
        received.iter().filter(|request| request.path == path).filter_map(Received::number).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn a_subscription_reads_every_stream_that_has_its_types() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let streams = format!(
        "{EVENTS}[[stream]]\nname = \"SHOP\"\nsubjects = [\"shop.orders.>\", \"shop.stock.*\"]\ntype_prefix = \"shop.\"\ncreate = true\n"
    );
    let both = Webhook::to("both", &receiver.url("/both")).types(&["orders.*"]);
    let stock = Webhook::to("stock", &receiver.url("/stock")).types(&["stock.>"]);
    let daemon = TestDaemon::start(&nats, &[streams, both.toml(), stock.toml()].concat()).await;
    nats.publish_orders("events.orders.created", 0..50).await;
    nats.publish_orders("shop.orders.created", 50..100).await;
    nats.publish_orders("shop.stock.low", 100..120).await;

    receiver.wait_for_numbers(0..120, SOON).await;
    for (stream, name, received) in [("EVENTS", "both", 100), ("SHOP", "stock", 20)] {
        nats.wait_drained(stream, CONSUMER, SOON).await;
        assert_eq!(daemon.accounted(name, received).await.delivered, received);
    }
    assert_eq!(numbers_at(&receiver, "/both"), (0..100).collect::<Vec<_>>());
    assert_eq!(numbers_at(&receiver, "/stock"), (100..120).collect::<Vec<_>>());
    let received = receiver.received();
    let id_of = |number| received.iter().find(|request| request.number() == Some(number)).map(Received::webhook_id);
    assert_eq!(id_of(3), Some(&*delivery_id("both", "EVENTS", 4, 0)));
    assert_eq!(id_of(53), Some(&*delivery_id("both", "SHOP", 4, 0)), "the stream is part of the id");
}

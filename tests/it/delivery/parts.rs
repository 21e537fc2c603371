//! A transform that makes several outputs of one event: each is a delivery of its own.

use super::*;

/// An event with a list of parts, each of which says its place in it.
fn basket(parts: u64) -> String {
    json!({ "items": (0..parts).map(|part| json!({ "number": part })).collect::<Vec<_>>() }).to_string()
}

fn splitting(url: &str) -> Webhook {
    Webhook::to("items", url).transform("jq", r#"{ expr = ".items[]" }"#)
}

#[tokio::test]
async fn each_part_is_delivered_once_under_its_own_id() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let daemon = TestDaemon::start(&nats, &config("", &[splitting(&receiver.url("/hook"))])).await;
    nats.publish("events.baskets.sold", basket(5)).await;
    nats.publish("events.baskets.sold", basket(0)).await;

    receiver.wait_for_numbers(0..5, SOON).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    let received = receiver.received();
    assert_eq!(received.len(), 5);
    for request in &received {
        let part = u32::try_from(request.number().expect("a part")).expect("small");
        assert_eq!(request.webhook_id(), delivery_id("items", "EVENTS", 1, part));
        assert_eq!((request.header("sluiced-event-id"), request.verified), ("EVENTS:1", Some(true)));
    }
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "delivered")], 5.0).await;
    daemon.wait_metric("sluiced_events_filtered_total", &[("subscription", "items")], 1.0).await;
    daemon.wait_metric("sluiced_events_received_total", &[("subscription", "items")], 2.0).await;
}

#[tokio::test]
async fn a_part_that_fails_is_tried_again_alone_also_after_a_restart() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(|request| Reply::status(if request.number() == Some(2) { 500 } else { 200 })));
    let hook = splitting(&receiver.url("/hook")).retry_after(&["6s", "1h"]);
    let mut daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish("events.baskets.sold", basket(4)).await;

    receiver.wait_for_numbers(0..4, SOON).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    daemon.wait_metric("sluiced_parked", &[("subscription", "items")], 1.0).await;
    daemon.kill9();
    receiver.set(Behaviour::Ok);
    daemon.restart().await;

    receiver.wait_for(5, SOON).await;
    daemon.wait_metric("sluiced_parked", &[("subscription", "items")], 0.0).await;
    let received = receiver.received();
    let again = received.last().expect("there are five");
    assert_eq!((again.number(), again.attempt()), (Some(2), 2));
    assert_eq!(again.webhook_id(), delivery_id("items", "EVENTS", 1, 2));
    assert_eq!(received.len(), 5, "the other parts came once");
}

#[tokio::test]
async fn one_part_can_end_as_a_dead_letter_while_the_others_arrive() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(|request| Reply::status(if request.number() == Some(1) { 422 } else { 200 })));
    let daemon = TestDaemon::start(&nats, &config("", &[splitting(&receiver.url("/hook"))])).await;
    nats.publish("events.baskets.sold", basket(3)).await;

    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "delivered")], 2.0).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "failed")], 1.0).await;
    assert_eq!(receiver.counts().requests, 3);
}

//! A crash while an event with several parts is on record by halves, and its records lie deep in the log.

use super::*;

/// How many parts an order has, and how many of them the receiver takes before the crash.
const PARTS: u64 = 20;
const TAKEN: u64 = 12;
/// Flushes that come after the parts' records: more than a start reads for the sake of held subscriptions.
const OTHERS: u64 = 1_100;
const NEVER: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn parts_on_record_of_an_event_that_is_not_whole_are_not_sent_again() {
    let nats = TestNats::start().await;
    let (parts, others) = (TestReceiver::start(), TestReceiver::start());
    let split = format!("{{ expr = \".number as $n | range({PARTS}) | {{number: ($n * 100 + .)}}\" }}");
    let hooks = [
        Webhook::new("parts", &parts)
            .types(&["orders.created"])
            .transform("jq", &split)
            .with("max_in_flight", IN_FLIGHT_MAX)
            .with("timeout", "\"5m\""),
        // One at a time: each is a flush of its own.
        Webhook::new("others", &others).types(&["pings.sent"]).with("max_in_flight", 1),
    ];
    let head = "[delivery]\nhold_after = \"1m\"\n";
    let mut daemon = TestDaemon::start(&nats, &config(head, &hooks)).await;
    let ask = async |daemon: &TestDaemon, wish: &str| {
        let answer = daemon.request("POST", &format!("/api/v1/subscriptions/parts/{wish}"), Some(&json!({}))).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
    };
    // Acked for the sake of the position, and taken by the reader.
    ask(&daemon, "disable").await;
    nats.publish_orders("events.orders.created", 7..8).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    parts.set(Behaviour::custom(|request| {
        let taken = request.number().is_some_and(|number| number % 100 < TAKEN);
        Reply { delay: if taken { Duration::ZERO } else { NEVER }, ..Reply::status(200) }
    }));
    ask(&daemon, "enable").await;
    parts.wait_for(TAKEN + IN_FLIGHT_MAX, SOON).await;
    let delivered = [("subscription", "parts"), ("outcome", "delivered")];
    daemon.wait_metric("sluiced_deliveries_total", &delivered, TAKEN as f64).await;
    nats.publish_orders("events.pings.sent", 100..100 + OTHERS).await;
    others.wait_for_numbers(100..100 + OTHERS, 2 * SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;

    daemon.kill9();
    parts.set(Behaviour::Ok);
    daemon.restart().await;
    parts.wait_for_numbers(700..700 + PARTS, SOON).await;
    daemon.wait_held("parts", false, SOON).await;
    let numbers = parts.numbers();
    assert!((700..700 + TAKEN).all(|part| numbers[&part] == 1), "what was on record came once: {numbers:?}");
    assert!(repeated(&parts) <= IN_FLIGHT_MAX, "{numbers:?}");
}

//! A rate limit holds for every attempt, and only its own subscription waits for it.

use std::time::Duration;

use sluiced_tests::receiver::Received;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const LONG: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

/// Attempts a second of the limited webhook, and those at once after a quiet time.
const RATE: usize = 50;
const BURST: usize = 20;
const IN_FLIGHT_MAX: usize = 10;

fn limited(receiver: &TestReceiver) -> Webhook {
    let limit = format!("{{ rate = {RATE}, burst = {BURST} }}");
    Webhook::new("limited", receiver).with("rate_limit", limit).with("max_in_flight", IN_FLIGHT_MAX)
}

#[tokio::test]
async fn a_rate_limit_holds_live_and_while_catching_up_and_no_neighbour_waits() {
    const EVENTS: u64 = 600;
    let nats = TestNats::start().await;
    let (slow, fast) = (TestReceiver::start_verifying(SECRET), TestReceiver::start_verifying(SECRET));
    let webhooks = [limited(&slow), Webhook::new("fast", &fast)];
    let daemon = TestDaemon::start(&nats, &config("", &webhooks)).await;
    let status = daemon.request("GET", "/api/v1/subscriptions/limited", None).await.json();
    assert_eq!(status["rate_limit"], serde_json::json!({ "rate": RATE, "per_ms": 1000, "burst": BURST }));

    nats.publish_orders("events.orders.created", 0..EVENTS).await;
    fast.wait_for_numbers(0..EVENTS, LONG).await;
    assert!(slow.counts().requests < EVENTS, "the fast one did not wait for the limited one");
    daemon.wait_held("limited", true, LONG).await;
    slow.wait_for_numbers(0..EVENTS, LONG).await;
    daemon.wait_held("limited", false, LONG).await;
    assert_rate_kept(&slow.received());
    assert_rate_used(&slow.received());
    assert_eq!(daemon.accounted("limited", EVENTS).await.delivered, EVENTS);
    assert_eq!(slow.counts().requests, EVENTS, "nothing came twice");
}

#[tokio::test]
async fn attempts_after_a_failure_count_too() {
    const EVENTS: u64 = 100;
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    receiver.set(Behaviour::fail_times(100, 500));
    let webhook = limited(&receiver).retry_after(&["100ms", "100ms", "100ms", "100ms"]);
    let head = "[delivery]\nbreaker = { attempts_min = 1000 }\n";
    let daemon = TestDaemon::start(&nats, &config(head, &[webhook])).await;
    nats.publish_orders("events.orders.created", 0..EVENTS).await;
    assert_eq!(daemon.accounted("limited", EVENTS).await.received, EVENTS);
    let empty = async || daemon.reading("sluiced_parked", "limited").await == 0;
    wait_until("nothing is parked", LONG, empty).await;
    assert_eq!(receiver.counts().requests, EVENTS + 100);
    assert_rate_kept(&receiver.received());
}

#[tokio::test]
async fn a_reload_changes_the_rate_at_once() {
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    let webhook = |rate: &str| Webhook::new("limited", &receiver).with("rate_limit", rate);
    let mut daemon = TestDaemon::start(&nats, &config("", &[webhook(r#"{ rate = 1, per = "1h", burst = 3 }"#)])).await;
    nats.publish_orders("events.orders.created", 0..200).await;
    receiver.wait_for(3, LONG).await;
    daemon.write_config(&config("", &[webhook("{ rate = 0 }")]));
    daemon.reload();
    receiver.wait_for_numbers(0..200, LONG).await;
    assert_eq!(receiver.counts().requests, 200);
}

/// No window of a second has more than its share. Requests may be read late, and then as many more as can be under way come
/// together with it.
fn assert_rate_kept(received: &[Received]) {
    let most = BURST + RATE + IN_FLIGHT_MAX;
    for (first, from) in received.iter().enumerate() {
        let within = received[first..].iter().take_while(|r| r.at - from.at < SECOND).count();
        assert!(within <= most, "{within} requests within a second, {most} are allowed");
    }
}

/// What waits is sent as fast as the limit allows, or a third slower on a busy machine.
fn assert_rate_used(received: &[Received]) {
    let (Some(first), Some(last)) = (received.first(), received.last()) else { panic!("nothing came") };
    let took = (last.at - first.at).as_secs_f64();
    let fair = (received.len() - BURST) as f64 / RATE as f64;
    assert!(took <= fair * 1.5 + 2.0, "{} requests took {took} s, {fair} s were enough", received.len());
}

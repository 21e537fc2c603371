//! Every row of the disposition table: what happens to an event, what JetStream is told, and what is on record.

use async_nats::HeaderMap;
use sluiced_tests::Accounting;

use super::*;

/// One subscription `crm` whose receiver answers as told, and one order that is published.
struct Case {
    nats: TestNats,
    receiver: TestReceiver,
    daemon: TestDaemon,
}

impl Case {
    /// Publishes order 1 to a receiver with that behaviour, with two attempts 50 ms apart unless the change says otherwise.
    async fn new(behaviour: Behaviour, change: impl FnOnce(Webhook) -> Webhook) -> Self {
        let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
        receiver.set(behaviour);
        let hook = change(Webhook::to("crm", &receiver.url("/hook")).retry_after(&["50ms"]));
        let daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
        nats.publish("events.orders.created", order(1)).await;
        Self { nats, receiver, daemon }
    }

    /// The books once the order is accounted for and nothing of it is left in JetStream or waiting for an attempt.
    async fn ended(&self) -> Accounting {
        self.nats.wait_drained("EVENTS", CONSUMER, SOON).await;
        self.daemon.wait_metric("sluiced_events_received_total", &[("subscription", "crm")], 1.0).await;
        self.daemon.wait_metric("sluiced_in_flight", &[("subscription", "crm")], 0.0).await;
        self.daemon.wait_metric("sluiced_parked", &[("subscription", "crm")], 0.0).await;
        self.daemon.accounted("crm", 1).await
    }

    /// The one dead letter, as the API shows it.
    async fn dead_letter(&self) -> Value {
        let page = self.daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters", None).await.json();
        let letters = page["dead_letters"].as_array().unwrap_or_else(|| panic!("no dead letters: {page}"));
        assert_eq!(letters.len(), 1, "{page}");
        letters[0].clone()
    }

    async fn attempts(&self, result: &str) -> f64 {
        self.daemon.metrics().await.sum("sluiced_attempts_total", &[("subscription", "crm"), ("outcome", result)])
    }
}

#[tokio::test]
async fn what_nobody_asks_for_is_not_even_fetched() {
    let case = Case::new(Behaviour::Ok, |hook| hook.types(&["orders.created"])).await;
    case.nats.publish("events.orders.deleted", order(2)).await;
    case.nats.publish("events.orders.created", order(3)).await;
    case.receiver.wait_for(2, SOON).await;
    case.nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    case.daemon.wait_metric("sluiced_ingest_received_total", &[("stream", "EVENTS")], 2.0).await;
    assert_eq!(numbers_at(&case.receiver, "/hook"), [1, 3]);
}

#[tokio::test]
async fn what_a_filter_drops_is_acked_and_counted() {
    let case = Case::new(Behaviour::Ok, |hook| hook.filter("jq", r#"{ expr = ".amount > 1" }"#)).await;
    assert_eq!(case.ended().await.filtered, 1);
    assert_eq!(case.receiver.counts().requests, 0);
}

#[tokio::test]
async fn what_is_answered_with_2xx_is_delivered() {
    for status in [200, 201, 204, 299] {
        let case = Case::new(Behaviour::Status(status), |hook| hook).await;
        assert_eq!(case.ended().await.delivered, 1, "{status}");
        assert_eq!(case.receiver.counts().requests, 1);
    }
}

#[tokio::test]
async fn a_passing_failure_is_parked_and_tried_again() {
    for status in [408, 425, 429, 500, 502, 503, 599] {
        let case = Case::new(Behaviour::fail_times(1, status), |hook| hook).await;
        assert_eq!(case.ended().await.delivered, 1, "{status}");
        assert_eq!(case.receiver.counts().requests, 2, "{status}");
        assert_eq!((case.attempts("status").await, case.attempts("delivered").await), (1.0, 1.0), "{status}");
    }
}

#[tokio::test]
async fn a_final_answer_makes_a_dead_letter_at_once() {
    let answers = [Behaviour::Status(400), Behaviour::Status(404), Behaviour::Status(301), Behaviour::Redirect];
    for answer in answers {
        let shown = format!("{answer:?}");
        let case = Case::new(answer, |hook| hook).await;
        assert_eq!(case.ended().await.failed, 1, "{shown}");
        case.daemon.wait_metric("sluiced_dead_letters", &[], 1.0).await;
        let letter = case.dead_letter().await;
        assert_eq!((letter["class"].as_str(), letter["attempts"].as_u64()), (Some("status"), Some(1)), "{letter}");
        assert_eq!(letter["body"].as_str().map(str::as_bytes), Some(&order(1)[..]), "{shown}");
        assert_eq!(case.receiver.counts().requests, 1, "{shown} is neither tried again nor followed");
    }
}

#[tokio::test]
async fn what_fails_to_the_end_is_a_dead_letter() {
    let case = Case::new(Behaviour::Status(500), |hook| hook).await;
    assert_eq!(case.ended().await.failed, 1);
    case.daemon.wait_metric("sluiced_dead_letters", &[], 1.0).await;
    let letter = case.dead_letter().await;
    assert_eq!((letter["status"].as_u64(), letter["attempts"].as_u64()), (Some(500), Some(2)), "{letter}");
    assert_eq!(letter["id"].as_str(), Some(&*delivery_id("crm", "EVENTS", 1, 0)), "{letter}");
    assert_eq!(case.receiver.received().iter().map(Received::attempt).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_receiver_that_asks_for_patience_gets_it() {
    let behaviour = Behaviour::custom(|request| match request.attempt() {
        1 => Reply::status(429).header("retry-after", "1"),
        _ => Reply::default(),
    });
    let case = Case::new(behaviour, |hook| hook).await;
    assert_eq!(case.ended().await.delivered, 1);
    let received = case.receiver.received();
    assert_eq!(received.iter().map(Received::attempt).collect::<Vec<_>>(), [1, 2]);
    let waited = received[1].at - received[0].at;
    assert!(
        waited >= Duration::from_millis(950),
        "the attempt was due after 50 ms, but it asked for a second: {waited:?}"
    );
}

#[tokio::test]
async fn the_patience_that_one_answer_asks_for_holds_for_the_whole_endpoint() {
    let behaviour = Behaviour::custom(|request| match (request.number(), request.attempt()) {
        (Some(1), 1) => Reply::status(503).header("retry-after", "3"),
        _ => Reply::default(),
    });
    let case = Case::new(behaviour, |hook| hook).await;
    assert_eq!(case.daemon.accounted("crm", 1).await.parked, 1);
    case.nats.publish_orders("events.orders.created", 2..12).await;
    case.receiver.wait_for_numbers(1..12, SOON).await;
    let asked_at = case.receiver.received()[0].at;
    let too_early = |request: &&Received| request.at - asked_at < Duration::from_millis(2_950);
    assert_eq!(case.receiver.received().iter().skip(1).filter(too_early).count(), 0);
    case.nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    assert_eq!(case.daemon.accounted("crm", 11).await.delivered, 11);
    assert_eq!(case.receiver.counts().requests, 12, "none came twice");
}

#[tokio::test]
async fn a_refused_connection_is_a_passing_failure() {
    let (nats, mut receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.stop();
    let hook = Webhook::to("crm", &receiver.url("/hook")).retry_after(&["500ms"; 60]);
    let daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish("events.orders.created", order(1)).await;
    assert_eq!(daemon.accounted("crm", 1).await.parked, 1);
    receiver.resume();
    let case = Case { nats, receiver, daemon };
    assert_eq!(case.ended().await.delivered, 1);
    assert!(case.attempts("network").await >= 1.0);
}

#[tokio::test]
async fn a_broken_connection_is_a_passing_failure() {
    let case = Case::new(Behaviour::Reset, |hook| hook).await;
    assert_eq!(case.ended().await.failed, 1);
    assert_eq!(case.attempts("network").await, 2.0);
}

#[tokio::test]
async fn no_answer_in_time_is_a_passing_failure() {
    let timed = |hook: Webhook| hook.with("timeout", "\"1s\"").with("connect_timeout", "\"1s\"");
    let case = Case::new(Behaviour::Hang, timed).await;
    assert_eq!(case.ended().await.failed, 1);
    assert_eq!(case.attempts("timeout").await, 2.0);
    case.receiver.wait_for(2, SOON).await;
    assert_eq!(case.receiver.counts().requests, 2);
}

#[tokio::test]
async fn a_receiver_that_is_gone_disables_its_subscription_and_later_events_wait_in_the_stream() {
    let mut case = Case::new(Behaviour::Status(410), |hook| hook).await;
    let books = case.ended().await;
    assert_eq!((books.failed, case.attempts("gone").await), (1, 1.0));
    case.receiver.set(Behaviour::Ok);
    case.nats.publish_orders("events.orders.created", 2..7).await;
    // Acked only once the position in the store lies before them.
    case.nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    assert_eq!(case.daemon.metrics().await.metric("sluiced_held", &[("subscription", "crm")]), 1.0);
    let log = case.daemon.log();
    assert!(log.contains("the subscription is disabled") && log.contains("410 Gone"), "{log}");

    case.daemon.kill9();
    case.daemon.restart().await;
    case.nats.publish_orders("events.orders.created", 7..9).await;
    case.nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    assert_eq!(case.daemon.metrics().await.metric("sluiced_held", &[("subscription", "crm")]), 1.0);
    let status = case.daemon.request("GET", "/api/v1/subscriptions/crm", None).await.json();
    assert_eq!(status["state"], "disabled", "{status}");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("410 Gone")), "{status}");
    assert_eq!(case.receiver.counts().requests, 1, "nothing more is sent");

    let enabled = case.daemon.request("POST", "/api/v1/subscriptions/crm/enable", None).await;
    assert_eq!(enabled.status, 200, "{enabled:?}");
    assert_eq!(case.daemon.accounted("crm", 7).await.delivered, 7);
    assert_eq!(numbers_at(&case.receiver, "/hook"), (1..9).collect::<Vec<_>>(), "each once, and 1 is a dead letter");
    case.daemon.wait_metric("sluiced_held", &[("subscription", "crm")], 0.0).await;
    case.nats.publish_orders("events.orders.created", 9..10).await;
    case.receiver.wait_for_numbers(9..10, SOON).await;
    case.nats.wait_drained("EVENTS", CONSUMER, SOON).await;
}

#[tokio::test]
async fn what_cannot_be_understood_is_a_dead_letter() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hook = Webhook::to("crm", &receiver.url("/hook")).filter("jq", r#"{ expr = "true" }"#);
    let daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/cloudevents+json");
    const BROKEN: &str = r#"{ "specversion": "1.0", "id": "#;
    nats.publish_with("events.orders.created", headers, BROKEN).await;
    let case = Case { nats, receiver, daemon };
    assert_eq!(case.ended().await.failed, 1);
    let letter = case.dead_letter().await;
    assert_eq!((letter["class"].as_str(), letter["body"].as_str()), (Some("undecodable"), Some(BROKEN)), "{letter}");
    assert_eq!(case.receiver.counts().requests, 0);
}

#[tokio::test]
async fn an_address_of_this_machine_is_refused_unless_it_is_allowed() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let url = receiver.url("/address");
    let by_name = format!("http://localhost:{}/name", receiver.address().port());
    let hooks = config("", &[Webhook::to("address", &url), Webhook::to("name", &by_name)]);
    let refusing = TestDaemon::start(&nats, &format!("{hooks}[delivery]\nallow_cidrs = []\n")).await;
    nats.publish("events.orders.created", order(1)).await;
    for name in ["address", "name"] {
        assert_eq!(refusing.accounted(name, 1).await.failed, 1, "{name}");
        let refused = [("subscription", name), ("outcome", "address_refused")];
        assert_eq!(refusing.metrics().await.sum("sluiced_attempts_total", &refused), 1.0, "{name}");
    }
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    assert_eq!(receiver.counts().connections, 0, "it is not even connected to");
    drop(refusing);

    let allowing = TestDaemon::start(&nats, &hooks).await;
    nats.publish("events.orders.created", order(2)).await;
    for name in ["address", "name"] {
        assert_eq!(allowing.accounted(name, 1).await.delivered, 1, "{name}");
    }
    assert_eq!((numbers_at(&receiver, "/address"), numbers_at(&receiver, "/name")), (vec![2], vec![2]));
}

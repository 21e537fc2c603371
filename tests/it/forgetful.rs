//! Streams that forget what is acked, by work-queue or interest retention: nothing can be read again there, so that what an
//! endpoint cannot take is parked with its body, up to a bound, and beyond it the stream waits.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use sluiced_tests::http::try_request;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const SUBJECT: &str = "events.orders.created";

async fn stream(retention: RetentionPolicy) -> TestNats {
    let nats = TestNats::start().await;
    let subjects = vec!["events.>".to_owned()];
    nats.create_stream_with(Config { name: "EVENTS".to_owned(), subjects, retention, ..Default::default() }).await;
    nats
}

/// One endpoint that works, and one that is dead until it is told otherwise, whose deliveries are tried often.
fn hooks(works: &TestReceiver, dead: &TestReceiver) -> [Webhook; 2] {
    dead.set(Behaviour::Status(503));
    let often = ["300ms"; 20];
    let breaker = r#"{ attempts_min = 2, probe = "100ms", probe_max = "200ms" }"#;
    [
        Webhook::new("works", works),
        Webhook::new("dead", dead).with("breaker", breaker).with("max_in_flight", 8).retry_after(&often),
    ]
}

async fn is_empty(nats: &TestNats) {
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let empty = async || nats.stream_info("EVENTS").await.state.messages == 0;
    wait_until("the stream has forgotten everything", SOON, empty).await;
}

#[tokio::test]
async fn a_dead_endpoint_of_a_work_queue_costs_the_others_nothing_and_loses_nothing() {
    a_dead_endpoint_loses_nothing(RetentionPolicy::WorkQueue).await;
}

#[tokio::test]
async fn a_dead_endpoint_of_a_stream_with_interest_retention_costs_the_others_nothing_and_loses_nothing() {
    a_dead_endpoint_loses_nothing(RetentionPolicy::Interest).await;
}

async fn a_dead_endpoint_loses_nothing(retention: RetentionPolicy) {
    let (nats, works, dead) = (stream(retention).await, TestReceiver::start(), TestReceiver::start());
    let mut waited = 0;
    if retention == RetentionPolicy::WorkQueue {
        waited = 10;
        nats.publish_orders(SUBJECT, 0..waited).await;
    }
    let mut daemon = TestDaemon::start(&nats, &config("", &hooks(&works, &dead))).await;
    assert!(daemon.log().contains("forgets what is acked"), "{}", daemon.log());
    nats.publish_orders(SUBJECT, waited..300).await;
    works.wait_for_numbers(0..300, SOON).await;
    is_empty(&nats).await;
    daemon.wait_metric("sluiced_parked", &[("subscription", "dead")], 300.0).await;
    daemon.accounted("works", 300).await;
    daemon.kill9();
    dead.set(Behaviour::Ok);
    daemon.restart().await;
    dead.wait_for_numbers(0..300, SOON).await;
    daemon.wait_metric("sluiced_parked", &[("subscription", "dead")], 0.0).await;
    daemon.wait_held("dead", false, SOON).await;
    nats.publish_orders(SUBJECT, 300..310).await;
    dead.wait_for_numbers(300..310, SOON).await;
    works.wait_for_numbers(300..310, SOON).await;
    is_empty(&nats).await;
    assert_eq!(works.counts().requests, 310, "each once");
}

#[tokio::test]
async fn beyond_the_bound_a_work_queue_waits_and_says_so_and_a_crash_loses_nothing() {
    let nats = stream(RetentionPolicy::WorkQueue).await;
    let (works, dead) = (TestReceiver::start(), TestReceiver::start());
    let text = config("[delivery]\nmax_overflow = 50", &hooks(&works, &dead));
    let mut daemon = TestDaemon::start(&nats, &text).await;
    nats.publish_orders(SUBJECT, 0..400).await;
    let dead_one = [("subscription", "dead")];
    daemon.wait_metric("sluiced_overflow_full", &dead_one, 1.0).await;
    // The bound, and what was under way when the endpoint came to be left alone.
    let at_bound = async || (50..=60).contains(&daemon.reading("sluiced_parked", "dead").await);
    wait_until("as much is parked as may be", SOON, at_bound).await;
    works.wait_for(50, SOON).await;
    let noted = async || {
        let report = try_request("GET", &daemon.url("/readyz"), None, None).await.expect("it answers");
        let note = report.json()["components"]["overflow"]["note"].as_str().unwrap_or_default().to_owned();
        report.status == 200 && note.contains("dead")
    };
    wait_until("readiness tells of it", SOON, noted).await;
    assert!(nats.stream_info("EVENTS").await.state.messages > 0, "the stream keeps the rest");
    daemon.kill9();
    daemon.restart().await;
    daemon.wait_metric("sluiced_overflow_full", &dead_one, 1.0).await;
    dead.set(Behaviour::Ok);
    dead.wait_for_numbers(0..400, SOON).await;
    works.wait_for_numbers(0..400, SOON).await;
    daemon.wait_metric("sluiced_overflow_full", &dead_one, 0.0).await;
    is_empty(&nats).await;
}

#[tokio::test]
async fn a_disabled_subscription_of_a_work_queue_goes_on_where_it_stopped() {
    let nats = stream(RetentionPolicy::WorkQueue).await;
    let (works, late) = (TestReceiver::start(), TestReceiver::start());
    let text = config("", &[Webhook::new("works", &works), Webhook::new("late", &late)]);
    let daemon = TestDaemon::start(&nats, &text).await;
    let path = |what: &str| format!("/api/v1/subscriptions/late/{what}");
    let off = serde_json::json!({ "reason": "on purpose" });
    assert!(daemon.request("POST", &path("disable"), Some(&off)).await.status < 300);
    nats.publish_orders(SUBJECT, 0..200).await;
    works.wait_for_numbers(0..200, SOON).await;
    is_empty(&nats).await;
    assert_eq!(late.counts().requests, 0);
    assert!(daemon.request("POST", &path("enable"), None).await.status < 300);
    late.wait_for_numbers(0..200, SOON).await;
    daemon.wait_held("late", false, SOON).await;
    daemon.accounted("late", 200).await;
}

#[tokio::test]
async fn what_needs_history_is_refused_on_a_work_queue() {
    let nats = stream(RetentionPolicy::WorkQueue).await;
    let receiver = TestReceiver::start();
    let says = async |hook: Webhook, text: &str| {
        let mut daemon = TestDaemon::builder(&nats, &config("", &[hook])).launch();
        let ended = daemon.process().wait_ended(SOON).await;
        assert!(!ended.success() && daemon.log().contains(text), "{text}: {}", daemon.log());
    };
    says(Webhook::new("crm", &receiver).with("ordering", "\"strict\""), "has `ordering` and reads stream EVENTS").await;
    let all = Webhook::new("crm", &receiver).subscribed_with("deliver_from", "\"all\"");
    says(all, "has `deliver_from` and reads stream EVENTS").await;

    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    let replay = serde_json::json!({ "from": "all" });
    let refused = daemon.request("POST", "/api/v1/subscriptions/crm/replay", Some(&replay)).await;
    assert!(refused.status >= 400 && refused.body.contains("no history to replay"), "{}", refused.body);
    let refused = daemon.request("GET", "/api/v1/events/stream?types=orders.*", None).await;
    assert!(refused.status == 400 && refused.body.contains("webhooks only"), "{}", refused.body);
    let strict = Webhook::new("strict", &receiver).with("ordering", "\"strict\"");
    daemon.write_config(&config("", &[Webhook::new("crm", &receiver), strict]));
    let refused = async || daemon.log().contains("the changed configuration is refused");
    wait_until("the reload is refused", SOON, refused).await;
    nats.publish_orders(SUBJECT, 0..5).await;
    receiver.wait_for_numbers(0..5, SOON).await;
}

#[tokio::test]
async fn a_stream_that_keeps_events_for_less_long_than_they_are_retried_is_told_of() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let (subjects, max_age) = (vec!["events.>".to_owned()], Duration::from_secs(60));
    nats.create_stream_with(Config { name: "EVENTS".to_owned(), subjects, max_age, ..Default::default() }).await;
    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    assert!(daemon.log().contains("keeps events for less long than deliveries are retried"), "{}", daemon.log());
}

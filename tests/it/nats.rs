//! NATS goes away in every way it can, and the daemon goes on by itself.

use std::time::Duration;

use sluiced_tests::http::try_request;
use sluiced_tests::setup::config;
use sluiced_tests::{SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn heavy_a_killed_nats_server_comes_back_mid_run_and_nothing_is_lost() {
    const EVENTS: u64 = 20_000;
    let (mut nats, receiver, daemon) = daemon_with_a_backlog(EVENTS).await;
    receiver.wait_for(EVENTS / 4, LONG).await;
    nats.kill();
    wait_until("the daemon sees it", LONG, async || status(&daemon, "/readyz").await == 503).await;
    nats.restart().await;
    receiver.wait_for(EVENTS / 2, LONG).await;
    nats.restart().await;
    assert_all_came_once(&nats, &receiver, &daemon, EVENTS).await;
}

#[tokio::test]
async fn heavy_a_consumer_deleted_mid_run_is_made_again_and_nothing_is_lost() {
    const EVENTS: u64 = 10_000;
    let (nats, receiver, daemon) = daemon_with_a_backlog(EVENTS).await;
    for part in 1..4 {
        receiver.wait_for(part * EVENTS / 4, LONG).await;
        nats.delete_consumer("EVENTS", "sluiced").await;
    }
    assert_all_came_once(&nats, &receiver, &daemon, EVENTS).await;
    assert!(daemon.log().matches("consumer is open").count() >= 3, "it was made again each time");
}

#[tokio::test]
async fn heavy_a_server_that_announces_its_end_is_left_and_found_again() {
    const EVENTS: u64 = 10_000;
    let (mut nats, receiver, daemon) = daemon_with_a_backlog(EVENTS).await;
    receiver.wait_for(EVENTS / 2, LONG).await;
    nats.lame_duck();
    wait_until("the daemon is told", LONG, async || daemon.log().contains("announces its shutdown")).await;
    nats.restart().await;
    assert_all_came_once(&nats, &receiver, &daemon, EVENTS).await;
}

#[tokio::test]
async fn readiness_is_red_with_the_cause_while_nats_is_down_and_green_again() {
    let mut nats = TestNats::start().await;
    let receiver = TestReceiver::start();
    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("all", &receiver)])).await;
    nats.kill();
    wait_until("readiness is red", LONG, async || status(&daemon, "/readyz").await == 503).await;
    let report = try_request("GET", &daemon.url("/readyz"), None, None).await.expect("it answers");
    let parts = &report.json()["components"];
    assert_eq!(parts["nats"]["ready"], false, "{report:?}");
    assert!(parts["nats"]["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{report:?}");
    assert_eq!(parts["store"]["ready"], true, "{report:?}");
    assert_eq!(status(&daemon, "/healthz").await, 200);
    nats.restart().await;
    wait_until("readiness is green", LONG, async || status(&daemon, "/readyz").await == 200).await;
    assert_eq!(status(&daemon, "/healthz").await, 200);
    nats.publish_orders("events.orders.created", 0..1).await;
    receiver.wait_for_numbers(0..1, LONG).await;
    daemon.accounted("all", 1).await;
}

#[tokio::test]
async fn a_daemon_that_starts_without_nats_answers_says_why_and_begins_when_nats_comes() {
    let mut nats = TestNats::start().await;
    let receiver = TestReceiver::start();
    let text = config("", &[Webhook::new("all", &receiver)]);
    nats.kill();
    let mut daemon = TestDaemon::builder(&nats, &text).launch();
    daemon.wait_answering().await;
    wait_until("it tries again", LONG, async || daemon.log().contains("nats does not answer")).await;
    assert_eq!(status(&daemon, "/healthz").await, 200);
    let report = try_request("GET", &daemon.url("/readyz"), None, None).await.expect("it answers");
    assert_eq!(report.status, 503);
    let parts = &report.json()["components"];
    let cause = parts["nats"]["cause"].as_str().unwrap_or_default();
    let says = ["cannot connect to NATS", &nats.url(), "refused", "trying again"];
    assert!(says.iter().all(|text| cause.contains(text)), "{cause}");
    assert_eq!(parts["store"]["ready"], true, "{report:?}");
    let event = serde_json::json!({ "type": "orders.created", "data": {} });
    let refused = daemon.request("POST", "/api/v1/events", Some(&event)).await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("starting")));
    assert!(daemon.request("GET", "/metrics", None).await.body.contains("# EOF"));
    nats.restart().await;
    daemon.wait_ready().await;
    nats.publish_orders("events.orders.created", 0..1).await;
    receiver.wait_for_numbers(0..1, LONG).await;
    daemon.accounted("all", 1).await;
}

#[tokio::test]
async fn what_nats_and_the_configuration_do_not_agree_about_ends_the_start() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let text = config("", &[Webhook::new("all", &receiver)]).replace("create = true", "create = false");
    let mut daemon = TestDaemon::builder(&nats, &text).launch();
    let ended = daemon.process().wait_ended(LONG).await;
    assert_eq!(ended.code(), Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("stream EVENTS does not exist"), "{}", daemon.log());
}

/// A daemon that has just begun on a stream of `events` orders, so that what happens next happens mid-run.
async fn daemon_with_a_backlog(events: u64) -> (TestNats, TestReceiver, TestDaemon) {
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    let mut daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("all", &receiver)])).await;
    assert!(daemon.terminate().await.success());
    nats.publish_orders("events.orders.created", 0..events).await;
    daemon.restart().await;
    (nats, receiver, daemon)
}

/// Everything came, and nothing twice: what JetStream sends again is recognised.
async fn assert_all_came_once(nats: &TestNats, receiver: &TestReceiver, daemon: &TestDaemon, events: u64) {
    receiver.wait_for_numbers(0..events, LONG).await;
    nats.wait_drained("EVENTS", "sluiced", LONG).await;
    assert_eq!(receiver.counts().requests, events, "some came twice");
    assert_eq!(receiver.counts().unverified, 0);
    let books = daemon.accounted("all", events).await;
    assert_eq!(books.delivered, events);
}

async fn status(daemon: &TestDaemon, path: &str) -> u16 {
    try_request("GET", &daemon.url(path), None, None).await.map_or(0, |answer| answer.status)
}

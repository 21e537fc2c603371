//! SIGTERM: everything that was taken is finished, parked or handed back, within the grace period.

use std::time::Duration;

use rustix::process::Signal;
use sluiced_tests::setup::config;
use sluiced_tests::sse::{Auth, End};
use sluiced_tests::{ADMIN_KEY, Behaviour, SECRET, SseClient, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_stop_lets_a_slow_webhook_end_beside_an_idle_event_stream() {
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    receiver.set(Behaviour::Slow(Duration::from_secs(2)));
    let head = "[server]\ndrain_timeout = \"15s\"";
    let mut daemon = TestDaemon::start(&nats, &config(head, &[Webhook::new("all", &receiver)])).await;
    let mut idle = idle_client(&daemon).await;
    nats.publish_orders("events.orders.created", 0..3).await;
    wait_until("three attempts are under way", SOON, async || receiver.counts().in_flight == 3).await;

    let began = Instant::now();
    assert_eq!(daemon.terminate().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "the stop took {:?}", began.elapsed());
    assert_eq!(end_of(&mut idle).await, End::Closed);

    receiver.set(Behaviour::Ok);
    daemon.restart().await;
    nats.publish_orders("events.orders.created", 3..4).await;
    receiver.wait_for_numbers(0..4, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert_eq!(receiver.counts().requests, 4, "what was finished before the stop is not sent again");
    daemon.accounted("all", 1).await;
}

#[tokio::test]
async fn a_stop_parks_an_attempt_that_does_not_end_in_time() {
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    receiver.set(Behaviour::Hang);
    let head = "[server]\ndrain_timeout = \"1s\"";
    let webhook = Webhook::new("all", &receiver).with("timeout", "\"60s\"").with("max_in_flight", 2);
    let mut daemon = TestDaemon::start(&nats, &config(head, &[webhook])).await;
    let mut idle = idle_client(&daemon).await;
    nats.publish_orders("events.orders.created", 0..10).await;
    wait_until("the lane is busy", SOON, async || receiver.counts().in_flight == 2).await;

    let began = Instant::now();
    assert_eq!(daemon.terminate().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "the stop took {:?}", began.elapsed());
    assert_eq!(end_of(&mut idle).await, End::Closed);

    receiver.set(Behaviour::Ok);
    daemon.restart().await;
    receiver.wait_for_numbers(0..10, LONG).await;
    nats.wait_drained("EVENTS", "sluiced", LONG).await;
    wait_until("nothing is parked", SOON, async || daemon.reading("sluiced_parked", "all").await == 0).await;
    assert_eq!(receiver.counts().requests, 12, "only the two attempts that were cut short are made again");
    assert_eq!(daemon.reading("sluiced_deliveries_total", "all").await, 10);
    let mut ids: Vec<_> = receiver.received().iter().map(|r| r.webhook_id().to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10);
}

#[tokio::test]
async fn a_second_signal_ends_the_daemon_at_once() {
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start();
    receiver.set(Behaviour::Hang);
    let head = "[server]\ndrain_timeout = \"10m\"";
    let webhook = Webhook::new("all", &receiver).with("timeout", "\"5m\"");
    let mut daemon = TestDaemon::start(&nats, &config(head, &[webhook])).await;
    nats.publish_orders("events.orders.created", 0..1).await;
    receiver.wait_for(1, SOON).await;
    daemon.process().signal(Signal::TERM);
    wait_until("it is stopping", SOON, async || daemon.log().contains("asks for a clean stop")).await;
    let began = Instant::now();
    let status = daemon.terminate().await;
    assert!(began.elapsed() < Duration::from_secs(5), "the end took {:?}", began.elapsed());
    assert_eq!(status.code(), Some(1), "an end that was not clean says so");

    receiver.set(Behaviour::Ok);
    receiver.forget();
    daemon.restart().await;
    receiver.wait_for_numbers(0..1, LONG).await;
}

#[tokio::test]
async fn heavy_stops_in_the_middle_of_10_000_events_lose_nothing_and_repeat_nothing() {
    const EVENTS: u64 = 10_000;
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    let mut daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("all", &receiver)])).await;
    let stop_often = async {
        for part in 1..5 {
            receiver.wait_for(part * EVENTS / 5, LONG).await;
            assert_eq!(daemon.terminate().await.code(), Some(0));
            daemon.restart().await;
        }
    };
    tokio::join!(nats.publish_orders("events.orders.created", 0..EVENTS), stop_often);
    receiver.wait_for_numbers(0..EVENTS, LONG).await;
    nats.wait_drained("EVENTS", "sluiced", LONG).await;
    assert_eq!(receiver.counts().requests, EVENTS, "some came twice");
    assert_eq!(receiver.counts().unverified, 0);
}

async fn idle_client(daemon: &TestDaemon) -> SseClient {
    let url = daemon.url("/api/v1/events/stream?types=nothing.of.this");
    SseClient::connect(&url, Auth::ApiKey(ADMIN_KEY), None).await
}

async fn end_of(client: &mut SseClient) -> End {
    client.try_next(SOON).await.expect_err("nothing of its type was published")
}

//! A stream is deleted, and another one of its name is made: its sequences begin again, and nothing of it is taken for
//! something of the old one.

use std::time::Duration;

use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const SUBJECT: &str = "events.orders.created";

/// A daemon that has delivered 20 orders to `works`, and holds them for `dead`.
struct Case {
    nats: TestNats,
    works: TestReceiver,
    dead: TestReceiver,
    daemon: TestDaemon,
}

#[tokio::test]
async fn a_stream_made_anew_while_the_daemon_was_away_is_delivered_whole_and_the_gap_is_told() {
    let mut case = Case::start().await;
    assert!(case.daemon.terminate().await.success());
    // As many events as before, and more: their sequences tell nothing.
    case.make_anew(100..130).await;
    case.daemon.restart().await;
    case.assert_all_is_delivered_and_told().await;
}

#[tokio::test]
async fn a_stream_made_anew_while_the_daemon_runs_is_delivered_whole_and_the_gap_is_told() {
    let mut case = Case::start().await;
    let id = case.daemon.process().id();
    case.make_anew(100..130).await;
    let begun_again = async || case.daemon.log().matches("built").count() >= 2;
    wait_until("it has begun again", SOON, begun_again).await;
    case.daemon.wait_ready().await;
    assert_eq!(case.daemon.process().id(), id, "it is the same process");
    case.assert_all_is_delivered_and_told().await;
}

impl Case {
    async fn start() -> Self {
        let (nats, works, dead) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
        nats.create_stream("EVENTS", &["events.>"]).await;
        dead.set(Behaviour::Status(503));
        let hooks = [
            Webhook::new("works", &works),
            Webhook::new("dead", &dead).with("breaker", "{ attempts_min = 2 }").retry_after(&["1h"]),
        ];
        let daemon = TestDaemon::start(&nats, &config("", &hooks)).await;
        nats.publish_orders(SUBJECT, 0..20).await;
        works.wait_for_numbers(0..20, SOON).await;
        daemon.wait_held("dead", true, SOON).await;
        nats.wait_drained("EVENTS", "sluiced", SOON).await;
        Self { nats, works, dead, daemon }
    }

    async fn make_anew(&self, numbers: std::ops::Range<u64>) {
        self.nats.delete_stream("EVENTS").await;
        self.nats.create_stream("EVENTS", &["events.>"]).await;
        self.nats.publish_orders(SUBJECT, numbers).await;
    }

    async fn assert_all_is_delivered_and_told(&self) {
        self.works.wait_for_numbers(100..130, SOON).await;
        self.dead.set(Behaviour::Ok);
        self.dead.wait_for_numbers(100..130, SOON).await;
        for name in ["works", "dead"] {
            let status = self.daemon.request("GET", &format!("/api/v1/subscriptions/{name}"), None).await.json();
            let gaps = status["status"]["gaps"].as_array().or_else(|| status["gaps"].as_array()).cloned();
            let gap = gaps.as_ref().and_then(|gaps| gaps.first()).unwrap_or_else(|| panic!("no gap in {status}"));
            assert_eq!((gap["stream"].as_str(), gap["cause"].as_str()), (Some("EVENTS"), Some("replaced")), "{gap}");
        }
        assert!(self.daemon.log().contains("the stream was made anew"), "{}", self.daemon.log());
        self.nats.publish_orders(SUBJECT, 130..140).await;
        self.works.wait_for_numbers(130..140, SOON).await;
        self.dead.wait_for_numbers(130..140, SOON).await;
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        assert_eq!(self.works.counts().requests, 60, "each once");
    }
}

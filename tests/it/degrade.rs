//! Clean degradation: what the daemon needs fails for a while. Readiness says so and why, nothing is acked without a record,
//! nothing is lost, and it goes on by itself.

use std::time::Duration;

use serde_json::Value;
use sluiced_tests::http::try_request;
use sluiced_tests::setup::config;
use sluiced_tests::{Accounting, Behaviour, Reply, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

mod clock;
mod handed_back;

const SOON: Duration = Duration::from_secs(60);
const IN_FLIGHT_MAX: u64 = 8;
const BEFORE: u64 = 200;
const EVENTS: u64 = 400;

/// Two subscriptions whose records are of every kind: one that takes everything at the second attempt, one that refuses.
struct Case {
    nats: TestNats,
    taking: TestReceiver,
    refusing: TestReceiver,
    daemon: TestDaemon,
}

#[tokio::test]
async fn a_full_disk_stops_the_acks_and_heals_without_a_restart() {
    let mut case = Case::start().await;
    // What sled writes next lies far behind this.
    case.daemon.limit_file_bytes(Some(64 << 10));
    case.publish_to_a_store_that_cannot_write("File too large").await;
    case.daemon.limit_file_bytes(None);
    case.assert_all_ends_well().await;
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_stops_the_acks_and_heals_without_a_restart() {
    let case = Case::start().await;
    case.daemon.arm("store.before_write = read-only\nstore.opening = read-only");
    case.publish_to_a_store_that_cannot_write("Read-only").await;
    case.daemon.arm("");
    case.assert_all_ends_well().await;
}

#[tokio::test]
async fn a_disk_that_takes_writes_and_fails_to_keep_them_stops_the_acks_and_heals_without_a_restart() {
    let case = Case::start().await;
    case.daemon.arm("store.before_sync = full");
    case.publish_to_a_store_that_cannot_write("space").await;
    case.daemon.arm("");
    case.assert_all_ends_well().await;
}

#[tokio::test]
async fn nats_and_the_daemon_killed_together_lose_nothing_and_repeat_only_what_was_in_flight() {
    let mut case = Case::start().await;
    case.nats.publish_orders("events.orders.created", BEFORE..EVENTS).await;
    case.refusing.wait_for(BEFORE + 20, SOON).await;
    case.nats.kill();
    case.daemon.kill9();
    case.daemon.launch();
    let log = case.daemon.log().len();
    let waits = async || case.daemon.log()[log..].contains("nats does not answer");
    wait_until("it waits for nats", SOON, waits).await;
    case.nats.restart().await;
    case.daemon.wait_ready().await;
    case.assert_all_ends_after_a_kill().await;
}

impl Case {
    async fn start() -> Self {
        let nats = TestNats::start().await;
        let (taking, refusing) = (TestReceiver::start_verifying(SECRET), TestReceiver::start_verifying(SECRET));
        taking.set(Behaviour::custom(|request| Reply::status(if request.attempt() == 1 { 503 } else { 200 })));
        refusing.set(Behaviour::Status(422));
        let hook = |name, receiver| {
            Webhook::new(name, receiver).with("max_in_flight", IN_FLIGHT_MAX).retry_after(&["50ms", "50ms"])
        };
        let text = config(
            "[delivery]\nbreaker = { attempts_min = 1000, failure_ratio = 1.0 }",
            &[hook("taking", &taking), hook("refusing", &refusing)],
        );
        let daemon = TestDaemon::builder(&nats, &text).failpoints().limits_files().start().await;
        let case = Self { nats, taking, refusing, daemon };
        case.nats.publish_orders("events.orders.created", 0..BEFORE).await;
        case.wait_ended(BEFORE).await;
        case
    }

    async fn wait_ended(&self, events: u64) {
        self.refusing.wait_for_numbers(0..events, SOON).await;
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        let delivered = [("subscription", "taking"), ("outcome", "delivered")];
        self.daemon.wait_metric("sluiced_deliveries_total", &delivered, events as f64).await;
        self.daemon.wait_metric("sluiced_dead_letters", &[], events as f64).await;
    }

    /// Publishes to a daemon whose store fails with that cause. Each lane goes no further than its slots, and nothing is
    /// acked.
    async fn publish_to_a_store_that_cannot_write(&self, cause: &str) {
        let floor = self.ack_floor().await;
        self.nats.publish_orders("events.orders.created", BEFORE..EVENTS).await;
        wait_until("readiness is red", SOON, async || self.store_condition().await["ready"] == false).await;
        let told = self.store_condition().await["cause"].as_str().unwrap_or_default().to_owned();
        assert!(told.contains(cause), "the cause is {told:?}");
        // It tries again and again to open the store, and is not to begin anything meanwhile.
        let tries = || self.daemon.log().matches("store still cannot write").count();
        if cause != "space" {
            wait_until("it has tried to open the store again", SOON, async || tries() >= 2).await;
        }
        assert_eq!(self.ack_floor().await, floor, "nothing is acked without a record");
        let consumer = self.nats.consumer_info("EVENTS", "sluiced").await.expect("the daemon has a consumer");
        assert_eq!(consumer.num_ack_pending as u64 + consumer.num_pending, EVENTS - BEFORE);
        for (receiver, attempts) in [(&self.taking, 2 * BEFORE), (&self.refusing, BEFORE)] {
            let begun = receiver.counts().requests - attempts;
            assert!(begun <= IN_FLIGHT_MAX, "{begun} attempts were begun that could not be recorded");
        }
        let alive = try_request("GET", &self.daemon.url("/healthz"), None, None).await;
        assert_eq!(alive.map(|answer| answer.status), Some(200));
    }

    async fn assert_all_ends_well(&self) {
        wait_until("readiness is green", SOON, async || self.store_condition().await["ready"] == true).await;
        self.wait_ended(EVENTS).await;
        assert_eq!(self.taking.counts().requests, 2 * EVENTS, "each order came twice: refused, and taken");
        assert_eq!(self.refusing.counts().requests, EVENTS, "each order came once");
        for (name, receiver) in [("taking", &self.taking), ("refusing", &self.refusing)] {
            let books = Accounting::of(&self.daemon.metrics().await, name);
            assert!(books.balances() && books.received == EVENTS && books.parked == 0, "{name}: {books:?}");
            assert_eq!(receiver.counts().unverified, 0);
        }
    }

    /// Waits until everything has ended after a kill: nothing is lost, and repeated is only what was in flight.
    async fn assert_all_ends_after_a_kill(&self) {
        self.refusing.wait_for_numbers(0..EVENTS, SOON).await;
        // A lane that is full is held, and the stream is drained before it has everything.
        self.taking.wait_for(2 * EVENTS, SOON).await;
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        self.daemon.wait_metric("sluiced_dead_letters", &[], EVENTS as f64).await;
        self.daemon.wait_metric("sluiced_parked", &[], 0.0).await;
        let (taking, refusing) = (self.taking.counts().requests, self.refusing.counts().requests);
        assert!((2 * EVENTS..=2 * EVENTS + IN_FLIGHT_MAX).contains(&taking), "{taking} requests");
        assert!((EVENTS..=EVENTS + IN_FLIGHT_MAX).contains(&refusing), "{refusing} requests");
    }

    async fn ack_floor(&self) -> u64 {
        let consumer = self.nats.consumer_info("EVENTS", "sluiced").await;
        consumer.expect("the daemon has a consumer").ack_floor.stream_sequence
    }

    async fn store_condition(&self) -> Value {
        let report = try_request("GET", &self.daemon.url("/readyz"), None, None).await.expect("it answers");
        report.json()["components"]["store"].clone()
    }
}

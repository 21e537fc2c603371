//! Many endpoints that hang at once: JetStream hands out only so many messages unacknowledged, and none of them may be kept
//! from the others for long.

use std::time::Duration;

use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, SECRET, TestDaemon, TestNats, TestReceiver, Webhook};

/// Far less than the timeout of those that hang, and than a wait for each of them in turn.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn heavy_many_lanes_that_fill_up_once_do_not_add_up_to_a_long_wait() {
    let all = Many::start(300, 100).await;
    all.assert_the_good_one_goes_on().await;
}

#[tokio::test]
async fn heavy_many_lanes_that_hang_do_not_use_up_what_may_be_unacknowledged() {
    // Fewer than a lane takes (a queue of 64, and 2 attempts), so that none is full; all together they are more than the
    // 20,000 messages that JetStream hands out unacknowledged.
    let all = Many::start(350, 60).await;
    all.assert_the_good_one_goes_on().await;
    let told = all.daemon.log().contains("too many messages are unacknowledged");
    assert!(told, "the limit was never near");
}

/// A healthy endpoint beside many that hang, each with events of its own.
struct Many {
    nats: TestNats,
    good: TestReceiver,
    _bad: TestReceiver,
    daemon: TestDaemon,
}

impl Many {
    async fn start(hanging: u64, events_each: u64) -> Self {
        let nats = TestNats::start().await;
        let (good, bad) = (TestReceiver::start_verifying(SECRET), TestReceiver::start());
        bad.set(Behaviour::Hang);
        let webhook = |n| {
            Webhook::new(&format!("hanging-{n}"), &bad)
                .types(&[&format!("hanging.{n}")])
                .with("timeout", "\"2m\"")
                .with("max_in_flight", 2)
        };
        let mut webhooks: Vec<_> = (0..hanging).map(webhook).collect();
        webhooks.push(Webhook::new("good", &good).types(&["good"]));
        let daemon = TestDaemon::start(&nats, &config("", &webhooks)).await;
        for n in 0..hanging {
            nats.publish_orders(&format!("events.hanging.{n}"), n * events_each..(n + 1) * events_each).await;
        }
        Self { nats, good, _bad: bad, daemon }
    }

    async fn assert_the_good_one_goes_on(&self) {
        let began = tokio::time::Instant::now();
        self.nats.publish_orders("events.good", 1_000_000..1_001_000).await;
        self.good.wait_for_numbers(1_000_000..1_001_000, SOON).await;
        eprintln!("the good one had all of its events after {:?}", began.elapsed());
        assert_eq!(self.daemon.reading("sluiced_held", "good").await, 0);
    }
}

//! Bad neighbours: an endpoint that hangs, refuses or is slow delays only itself, costs one position, and misses nothing.

use std::ops::Range;
use std::time::Duration;

use rand::RngExt as _;
use sluiced::domain::{StreamName, SubscriptionId};
use sluiced::store::{self, Store};
use sluiced_tests::random::seeded;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(180);

/// The lane of the endpoint that fails.
const IN_FLIGHT_MAX: u64 = 16;
const BREAKER_FAILURES: u64 = 5;
/// What fails before the breaker opens: a full lane, and what took the slots of its first failures.
const PARKED_MAX: u64 = IN_FLIGHT_MAX + BREAKER_FAILURES - 1;
/// How much larger the daemon may grow while an endpoint is held: far less than the bodies that it does not take.
const GROWTH_BYTES_MAX: u64 = 32 << 20;

/// The timeout of an endpoint that hangs: each attempt costs as much.
const HANGING: &str = "1s";
/// That of one that answers, so that none of its answers is too late on a machine that does much else: what is too late comes
/// again.
const ANSWERING: &str = "30s";

const HEAD: &str = r#"
[delivery]
breaker = { attempts_min = 5, probe = "200ms", probe_max = "1s" }
"#;

/// A healthy endpoint and a bad one, beside each other.
struct Neighbours {
    nats: TestNats,
    good: TestReceiver,
    bad: TestReceiver,
    daemon: TestDaemon,
}

#[tokio::test]
async fn heavy_an_endpoint_that_never_answers_is_held_and_misses_none_of_20_000_events() {
    const EVENTS: u64 = 20_000;
    let mut all = Neighbours::start(HANGING).await;
    all.bad.set(Behaviour::Hang);
    let before = all.daemon.rss_bytes();
    all.publish_and_deliver_to_the_good_one(0..EVENTS).await;
    all.assert_bad_is_held_at_the_cost_of_a_position().await;
    let growth = all.daemon.rss_bytes().saturating_sub(before);
    eprintln!("grew from {before} bytes by {growth}");
    assert!(growth <= GROWTH_BYTES_MAX, "the daemon grew from {before} bytes by {growth}");

    all.assert_bad_recovers_and_goes_on_live(EVENTS).await;
    let good = all.daemon.accounted("good", EVENTS + 100).await;
    assert_eq!((good.delivered, all.good.counts().requests), (EVENTS + 100, EVENTS + 100));
    let bad = all.daemon.accounted("bad", EVENTS + 100).await;
    assert_eq!((bad.delivered, bad.parked, bad.failed), (EVENTS + 100, 0, 0));
}

#[tokio::test]
async fn heavy_an_endpoint_that_answers_500_is_held_and_misses_nothing() {
    let mut all = Neighbours::start(ANSWERING).await;
    all.bad.set(Behaviour::Status(500));
    all.publish_and_deliver_to_the_good_one(0..5_000).await;
    all.assert_bad_is_held_at_the_cost_of_a_position().await;
    all.assert_bad_recovers_and_goes_on_live(5_000).await;
    let bad = all.daemon.accounted("bad", 5_100).await;
    assert_eq!((bad.delivered, bad.parked, bad.failed), (5_100, 0, 0));
    all.daemon.accounted("good", 5_100).await;
}

#[tokio::test]
async fn heavy_an_endpoint_that_refuses_connections_is_held_and_misses_nothing() {
    let mut all = Neighbours::start(ANSWERING).await;
    all.bad.stop();
    all.publish_and_deliver_to_the_good_one(0..5_000).await;
    all.assert_bad_is_held_at_the_cost_of_a_position().await;
    all.bad.resume();
    all.assert_bad_recovers_and_goes_on_live(5_000).await;
    let bad = all.daemon.accounted("bad", 5_100).await;
    assert_eq!((bad.delivered, bad.parked, bad.failed), (5_100, 0, 0));
    assert_eq!(all.bad.counts().requests, 5_100, "what was refused never came, and what came was taken");
    all.daemon.accounted("good", 5_100).await;
}

#[tokio::test]
async fn heavy_a_slow_endpoint_is_held_beside_a_fast_one_and_misses_nothing() {
    const EVENTS: u64 = 5_000;
    let mut all = Neighbours::start(ANSWERING).await;
    all.bad.set(Behaviour::Slow(Duration::from_millis(200)));
    all.publish_and_deliver_to_the_good_one(0..EVENTS).await;
    assert!(all.bad.counts().requests < EVENTS / 2, "the good one did not wait for the bad one");
    assert_eq!(all.daemon.reading("sluiced_held", "bad").await, 1);
    all.assert_bad_recovers_and_goes_on_live(EVENTS).await;
    assert_eq!(all.bad.counts().requests, EVENTS + 100, "nothing came twice");
    all.daemon.accounted("bad", EVENTS + 100).await;
    all.daemon.accounted("good", EVENTS + 100).await;
}

#[tokio::test]
async fn heavy_a_kill_while_held_loses_nothing_and_the_store_has_one_position() {
    const EVENTS: u64 = 5_000;
    let mut all = Neighbours::start(HANGING).await;
    all.bad.set(Behaviour::Hang);
    all.publish_and_deliver_to_the_good_one(0..EVENTS).await;
    all.assert_bad_is_held_at_the_cost_of_a_position().await;
    all.daemon.kill9();
    all.assert_store_has_one_position_and_few_bodies();
    all.daemon.restart().await;
    assert_eq!(all.daemon.reading("sluiced_held", "bad").await, 1, "it is still held after the restart");
    all.assert_bad_recovers_and_goes_on_live(EVENTS).await;
}

#[tokio::test]
async fn heavy_kills_while_catching_up_lose_nothing() {
    const EVENTS: u64 = 5_000;
    let mut random = seeded();
    let mut all = Neighbours::start(ANSWERING).await;
    all.bad.set(Behaviour::Status(503));
    all.publish_and_deliver_to_the_good_one(0..EVENTS).await;
    all.daemon.wait_held("bad", true, SOON).await;
    let failed = all.bad.counts().requests;
    all.bad.set(Behaviour::Ok);
    all.bad.forget();
    for kill in 0..5 {
        let taken = kill * EVENTS / 5 + random.random_range(1..EVENTS / 5);
        all.bad.wait_for(failed + taken, LONG).await;
        all.daemon.kill9();
        all.daemon.restart().await;
    }
    all.assert_bad_recovers_and_goes_on_live(EVENTS).await;
    let repeated = all.bad.received().len() as u64 - (EVENTS + 100);
    assert!(repeated <= 5 * IN_FLIGHT_MAX, "{repeated} were repeated after 5 kills");
}

#[tokio::test]
async fn heavy_kills_around_the_rejoin_lose_nothing() {
    const ROUNDS: u64 = 8;
    const EVENTS: u64 = 500;
    let mut random = seeded();
    let mut all = Neighbours::start(ANSWERING).await;
    for round in 0..ROUNDS {
        let events = round * EVENTS..(round + 1) * EVENTS;
        all.bad.set(Behaviour::Status(503));
        all.nats.publish_orders("events.orders.created", events.start..events.end - 100).await;
        all.daemon.wait_held("bad", true, SOON).await;
        all.bad.set(Behaviour::Ok);
        // The last hundred come while it catches up, so that the tail moves under the rejoin.
        let rest = all.nats.publish_orders("events.orders.created", events.end - 100..events.end);
        let distinct = events.end - random.random_range(0..130);
        let bad = &all.bad;
        let near_the_end = wait_until("it has nearly caught up", LONG, async || {
            let taken = bad.received().iter().filter(|r| r.number().is_some_and(|n| n < distinct)).count();
            taken as u64 >= distinct.saturating_sub(150)
        });
        tokio::join!(rest, near_the_end);
        if round % 2 == 0 {
            all.daemon.wait_held("bad", false, LONG).await;
        }
        all.daemon.kill9();
        all.daemon.restart().await;
    }
    all.assert_bad_recovers_and_goes_on_live(ROUNDS * EVENTS).await;
    all.good.wait_for_numbers(0..ROUNDS * EVENTS + 100, LONG).await;
}

#[tokio::test]
async fn heavy_a_slow_endpoint_alone_slows_the_stream_and_nothing_is_sent_again_for_lateness() {
    const EVENTS: u64 = 20_000;
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    // 40 a second: what JetStream hands out ahead waits for longer than its ack wait of 30 seconds.
    receiver.set(Behaviour::Slow(Duration::from_millis(50)));
    let webhook = Webhook::new("slow", &receiver).with("max_in_flight", 2);
    let daemon = TestDaemon::start(&nats, &config("", &[webhook])).await;
    let before = daemon.rss_bytes();
    nats.publish_orders("events.orders.created", 0..EVENTS).await;
    receiver.wait_for(1_800, LONG).await;

    let consumer = nats.consumer_info("EVENTS", "sluiced").await.expect("the daemon has a consumer");
    assert_eq!(consumer.num_redelivered, 0);
    assert!(consumer.num_ack_pending <= 2_000, "{} are handed out", consumer.num_ack_pending);
    assert_eq!(daemon.reading("sluiced_held", "slow").await, 0, "with nobody to wait for it, it is not held");
    let growth = daemon.rss_bytes().saturating_sub(before);
    assert!(growth <= GROWTH_BYTES_MAX, "the daemon grew from {before} bytes by {growth}");

    receiver.set(Behaviour::Ok);
    receiver.wait_for_numbers(0..EVENTS, LONG).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert_eq!(receiver.counts().requests, EVENTS, "some came twice");
    assert_eq!(receiver.counts().in_flight_max, 2);
    assert_eq!(daemon.accounted("slow", EVENTS).await.delivered, EVENTS);
}

#[tokio::test]
async fn a_reload_takes_effect_while_a_hanging_endpoint_alone_keeps_the_stream_waiting() {
    let nats = TestNats::start().await;
    let (hanging, added) = (TestReceiver::start(), TestReceiver::start_verifying(SECRET));
    hanging.set(Behaviour::Hang);
    let first = Webhook::new("hanging", &hanging).with("timeout", "\"5m\"").with("max_in_flight", 2);
    let mut daemon = TestDaemon::start(&nats, &config("", std::slice::from_ref(&first))).await;
    nats.publish_orders("events.orders.created", 0..500).await;
    hanging.wait_for(2, SOON).await;
    daemon.write_config(&config("", &[first, Webhook::new("added", &added)]));
    daemon.reload();
    let reloaded = async || daemon.log().contains("configuration reloaded");
    wait_until("the configuration is reloaded", SOON, reloaded).await;
    nats.publish_orders("events.orders.created", 500..600).await;
    added.wait_for_numbers(500..600, SOON).await;
    assert!(added.numbers().keys().all(|number| *number >= 500), "it begins with what is published from now on");
    daemon.wait_held("hanging", true, SOON).await;
}

#[tokio::test]
async fn history_discarded_while_an_endpoint_is_held_is_counted_as_a_gap() {
    let all = Neighbours::start(ANSWERING).await;
    all.bad.set(Behaviour::Status(503));
    all.publish_and_deliver_to_the_good_one(0..500).await;
    all.daemon.wait_held("bad", true, SOON).await;
    assert!(all.bad.counts().requests < 250);
    all.nats.purge("EVENTS").await;
    all.bad.set(Behaviour::Ok);
    let counted = async || all.daemon.reading("sluiced_gap_events_total", "bad").await;
    wait_until("the gap is counted", SOON, async || counted().await > 0).await;
    let gap = counted().await;
    assert!((250..=500).contains(&gap), "a gap of {gap} events");
    assert!(all.daemon.log().contains("history was discarded before it was read"));
    // With nothing left to probe with, the next event tells that the endpoint works again.
    all.nats.publish_orders("events.orders.created", 500..600).await;
    all.bad.wait_for_numbers(500..600, SOON).await;
    all.daemon.wait_held("bad", false, SOON).await;
    let taken = all.bad.numbers().len() as u64;
    assert!(gap + taken >= 600, "{gap} discarded and {taken} delivered of 600");
}

impl Neighbours {
    /// Both healthy at first. The bad one's attempts have so much time.
    async fn start(timeout: &str) -> Self {
        let nats = TestNats::start().await;
        let (good, bad) = (TestReceiver::start_verifying(SECRET), TestReceiver::start_verifying(SECRET));
        let webhooks = [
            Webhook::new("good", &good),
            Webhook::new("bad", &bad)
                .with("timeout", format_args!("{timeout:?}"))
                .with("connect_timeout", format_args!("{timeout:?}"))
                .with("max_in_flight", IN_FLIGHT_MAX)
                .with("retry", r#"{ max_attempts = 50, base = "500ms", factor = 2, max = "2s", jitter = 0.1 }"#),
        ];
        let daemon = TestDaemon::start(&nats, &config(HEAD, &webhooks)).await;
        Self { nats, good, bad, daemon }
    }

    /// Publishes, and waits until the healthy endpoint has received everything: nobody waits for the bad one.
    async fn publish_and_deliver_to_the_good_one(&self, numbers: Range<u64>) {
        self.nats.publish_orders("events.orders.created", numbers.clone()).await;
        self.good.wait_for_numbers(numbers, LONG).await;
    }

    async fn assert_bad_is_held_at_the_cost_of_a_position(&self) {
        self.daemon.wait_held("bad", true, SOON).await;
        // Everything is acked, although the bad endpoint has nearly none of it: its position stands for the rest.
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        let parked = self.daemon.reading("sluiced_parked", "bad").await;
        eprintln!("{parked} parked");
        assert!(parked <= PARKED_MAX, "{parked} parked, at most {PARKED_MAX}");
        assert_eq!(self.daemon.reading("sluiced_held", "good").await, 0);
        assert_eq!(self.daemon.reading("sluiced_deliveries_total", "bad").await, 0);
    }

    /// It answers again, gets all that it missed, reads live, and gets what is published after that.
    async fn assert_bad_recovers_and_goes_on_live(&mut self, published: u64) {
        self.bad.set(Behaviour::Ok);
        self.bad.wait_for_numbers(0..published, LONG).await;
        self.daemon.wait_held("bad", false, SOON).await;
        self.nats.publish_orders("events.orders.created", published..published + 100).await;
        self.bad.wait_for_numbers(0..published + 100, SOON).await;
        self.nats.wait_drained("EVENTS", "sluiced", LONG).await;
        self.daemon.wait_held("bad", false, SOON).await;
        let daemon = &self.daemon;
        wait_until("nothing is parked", LONG, async || daemon.reading("sluiced_parked", "bad").await == 0).await;
        assert_eq!(self.bad.counts().unverified + self.good.counts().unverified, 0);
    }

    /// Looks into the store of a daemon that is not running.
    fn assert_store_has_one_position_and_few_bodies(&self) {
        let store = Store::open(store::Config::new(self.daemon.data_dir().join("store"))).expect("the store opens");
        let stream = StreamName::parse("EVENTS").expect("a stream name");
        let recovered = store.recover(&[(stream, 0)]).expect("the store can be read");
        let held: Vec<_> = recovered.iter().filter(|r| r.position.is_some()).map(|r| r.subscription.as_str()).collect();
        assert_eq!(held, ["bad"]);
        let counts = |name| store.counts(&SubscriptionId::parse(name).expect("a name"));
        assert!(counts("bad").parked <= PARKED_MAX, "{:?}", counts("bad"));
        assert_eq!((counts("bad").dead, counts("good").parked, counts("good").dead), (0, 0, 0));
    }
}

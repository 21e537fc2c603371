//! kill -9 of the daemon: nothing is lost, and little comes twice.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rand::RngExt as _;
use sluiced::domain::SubscriptionId;
use sluiced::store::{self, Store};
use sluiced_tests::random::seeded;
use sluiced_tests::setup::config;
use sluiced_tests::{Accounting, Behaviour, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

/// Longer than JetStream waits before it sends again what a killed daemon had in hand.
const AFTER_A_KILL: Duration = Duration::from_secs(120);
const KILLS: u64 = 5;

#[tokio::test]
async fn heavy_five_kills_at_random_instants_lose_none_of_20_000_events() {
    const EVENTS: u64 = 20_000;
    let mut random = seeded();
    let nats = TestNats::start().await;
    let (all, even) = (TestReceiver::start_verifying(SECRET), TestReceiver::start_verifying(SECRET));
    let webhooks = [
        Webhook::new("all", &all).with("max_in_flight", 32),
        Webhook::new("even", &even)
            .with("max_in_flight", 16)
            .subscribed_with("filters", r#"[{ plugin = "jq", config = { expr = ".number % 2 == 0" } }]"#)
            .subscribed_with("transforms", r#"[{ plugin = "redact", config = { pointers = ["/card/number"] } }]"#),
    ];
    let mut daemon = TestDaemon::start(&nats, &config("", &webhooks)).await;
    let mut instants: Vec<u64> = (0..KILLS).map(|_| random.random_range(100..EVENTS - 100)).collect();
    instants.sort_unstable();

    let kill_often = async {
        for instant in &instants {
            all.wait_for(*instant, AFTER_A_KILL).await;
            daemon.kill9();
            daemon.restart().await;
        }
    };
    tokio::join!(nats.publish_orders("events.orders.created", 0..EVENTS), kill_often);

    all.wait_for_numbers(0..EVENTS, AFTER_A_KILL).await;
    nats.wait_drained("EVENTS", "sluiced", AFTER_A_KILL).await;
    // It may be held: then its events are acked for the sake of its position, and it still reads on.
    let all_even = async || even.numbers().len() as u64 >= EVENTS / 2;
    wait_until("every even order has come", AFTER_A_KILL, all_even).await;
    nats.wait_drained("EVENTS", "sluiced", AFTER_A_KILL).await;
    let evens = even.numbers();
    assert_eq!(evens.len() as u64, EVENTS / 2, "every even order came, and no odd one");
    assert!(evens.keys().all(|number| number % 2 == 0));
    assert_few_and_recognisable_duplicates(&all, EVENTS, KILLS * 32);
    assert_few_and_recognisable_duplicates(&even, EVENTS / 2, KILLS * 16);
    assert!(even.received().iter().all(|r| !String::from_utf8_lossy(&r.body).contains("4111111111111111")));
    for subscription in ["all", "even"] {
        let books = Accounting::of(&daemon.metrics().await, subscription);
        assert!(books.balances() && books.parked == 0 && books.failed == 0, "{subscription}: {books:?}");
    }
}

#[tokio::test]
async fn a_kill_while_deliveries_are_parked_loses_none_of_them() {
    const EVENTS: u64 = 300;
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    receiver.set(Behaviour::Status(503));
    let webhook = Webhook::new("all", &receiver).retry_after(&["2s"; 30]);
    let mut daemon =
        TestDaemon::start(&nats, &config("[delivery]\nbreaker = { attempts_min = 1000 }\n", &[webhook])).await;
    nats.publish_orders("events.orders.created", 0..EVENTS).await;
    let parked = async || daemon.reading("sluiced_parked", "all").await == EVENTS;
    wait_until("every delivery is parked", AFTER_A_KILL, parked).await;
    daemon.kill9();
    receiver.set(Behaviour::Ok);
    receiver.forget();
    // Looked at while nothing is delivered: they are due soon.
    let store = Store::open(store::Config::new(daemon.data_dir().join("store"))).expect("the store opens");
    let counts = store.counts(&SubscriptionId::parse("all").expect("a name"));
    assert_eq!(counts.parked, EVENTS, "all are known after the kill");
    drop(store);
    daemon.restart().await;
    receiver.wait_for_numbers(0..EVENTS, AFTER_A_KILL).await;
    wait_until("nothing is parked", AFTER_A_KILL, async || daemon.reading("sluiced_parked", "all").await == 0).await;
    assert!(receiver.received().iter().all(|request| request.attempt() >= 2));
    nats.wait_drained("EVENTS", "sluiced", AFTER_A_KILL).await;
    assert_few_and_recognisable_duplicates(&receiver, EVENTS, 0);
    let books = Accounting::of(&daemon.metrics().await, "all");
    assert_eq!((books.delivered, books.failed, books.parked), (EVENTS, 0, 0));
}

/// Nothing but `events` deliveries, each under an id of its own, of which at most `duplicates_max` came again.
fn assert_few_and_recognisable_duplicates(receiver: &TestReceiver, events: u64, duplicates_max: u64) {
    let mut ids: HashMap<u64, BTreeSet<String>> = HashMap::new();
    let received = receiver.received();
    for request in &received {
        let number = request.number().expect("an order has a number");
        ids.entry(number).or_default().insert(request.webhook_id().to_owned());
    }
    let all: BTreeSet<&String> = ids.values().flatten().collect();
    assert_eq!((ids.len() as u64, all.len() as u64), (events, events), "each order has one id, and no two share one");
    let duplicates = received.len() as u64 - events;
    eprintln!("{duplicates} of at most {duplicates_max} duplicates");
    assert!(duplicates <= duplicates_max, "{duplicates} duplicates, at most {duplicates_max}");
    assert_eq!(receiver.counts().unverified, 0);
}

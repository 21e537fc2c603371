//! The set of subscriptions changes while the daemon runs, and nothing is lost by it.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use sluiced_tests::events::order;
use sluiced_tests::paths::plugin_dir;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, TestDaemon, TestNats, TestReceiver, Webhook, daemon, wait_until};

mod broken;

const SOON: Duration = Duration::from_secs(60);
const RELOADED: &str = "configuration reloaded";

/// Waits until the daemon's log has a text.
async fn logged(daemon: &TestDaemon, text: &str) {
    wait_until(&format!("the log has {text:?}"), SOON, async || daemon.log().contains(text)).await;
}

async fn wait_for_numbers_of(name: &str, receiver: &TestReceiver, expected: &[u64]) {
    let there = async || expected.iter().all(|number| receiver.numbers_of(name).contains(number));
    wait_until(&format!("{name} has received {} orders", expected.len()), SOON, there).await;
}

#[tokio::test]
async fn a_new_subscription_begins_now_and_misses_nothing_that_is_published_during_the_reload() {
    begins_now_without_a_gap("orders.>").await;
}

#[tokio::test]
async fn a_new_subscription_to_types_that_nobody_asked_for_begins_now_too() {
    begins_now_without_a_gap("stock.>").await;
}

/// Adds a subscription to `orders.>` while orders are published, to a daemon whose other subscription has those types.
async fn begins_now_without_a_gap(types_of_other: &str) {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let other = Webhook::new("other", &receiver).types(&[types_of_other]);
    let daemon = TestDaemon::start(&nats, &config("", std::slice::from_ref(&other))).await;
    let (published, stop) = (Cell::new(0), Cell::new(false));
    let publish = async {
        while !stop.get() {
            nats.publish_orders("events.orders.created", published.get()..published.get() + 10).await;
            published.set(published.get() + 10);
        }
    };
    let reload = async {
        wait_until("there is some history", SOON, async || published.get() >= 100).await;
        let before = published.get();
        daemon.write_config(&config("", &[other, Webhook::new("late", &receiver)]));
        logged(&daemon, RELOADED).await;
        let after = published.get() + 10;
        wait_until("more is published", SOON, async || published.get() >= after + 100).await;
        stop.set(true);
        before..=after
    };
    let ((), reloading) = tokio::join!(publish, reload);

    let last = published.get() - 1;
    wait_for_numbers_of("late", &receiver, &[last]).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let received = receiver.numbers_of("late");
    let first = received[0];
    assert!(reloading.contains(&first), "it began with {first}, the reload was during {reloading:?}");
    assert_eq!(received, (first..=last).collect::<Vec<_>>(), "each once, without a gap");
    assert_eq!(daemon.accounted("late", last + 1 - first).await.delivered, last + 1 - first);
    if types_of_other == "orders.>" {
        // It may be held for a moment: then the stream is drained before it has everything.
        wait_for_numbers_of("other", &receiver, &[last]).await;
        assert_eq!(receiver.numbers_of("other"), (0..=last).collect::<Vec<_>>(), "the other one notices nothing");
    }
}

#[tokio::test]
async fn a_changed_subscription_goes_on_where_it_was() {
    let (nats, old, new) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
    let before = Webhook::new("crm", &old).with("max_in_flight", "4");
    let daemon = TestDaemon::start(&nats, &config("", &[before])).await;
    // At this pace the old endpoint would need two minutes for all of them.
    old.set(Behaviour::custom(|request| Reply {
        delay: Duration::from_secs(if request.number().is_some_and(|number| number < 20) { 0 } else { 2 }),
        ..Reply::default()
    }));
    nats.publish_orders("events.orders.created", 0..300).await;
    old.wait_for(20, SOON).await;
    let after = Webhook::new("crm", &new).filter("jq", r#"{ expr = ".amount != 250" }"#);
    daemon.write_config(&config("", &[after]));

    wait_for_numbers_of("crm", &new, &[299]).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let books = daemon.accounted("crm", 300).await;
    assert_eq!((books.delivered, books.filtered), (299, 1));
    let mut all = old.numbers_of("crm");
    all.extend(new.numbers_of("crm"));
    all.sort_unstable();
    assert_eq!(all, (0..300).filter(|number| *number != 250).collect::<Vec<_>>(), "each once, at one or the other");
}

#[tokio::test]
async fn a_parked_delivery_goes_to_the_changed_endpoint() {
    let (nats, old, new) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
    old.set(Behaviour::Status(500));
    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &old).retry_after(&["1h"])])).await;
    nats.publish("events.orders.created", order(1)).await;
    assert_eq!(daemon.accounted("crm", 1).await.parked, 1);
    daemon.write_config(&config("", &[Webhook::new("crm", &new)]));
    logged(&daemon, RELOADED).await;
    let parked = daemon.request("GET", "/api/v1/deliveries?status=pending", None).await.json();
    let retry = format!("/api/v1/deliveries/{}/retry", parked["deliveries"][0]["id"].as_str().expect("an id"));
    assert_eq!(daemon.request("POST", &retry, None).await.status, 202);

    new.wait_for(1, SOON).await;
    daemon.wait_metric("sluiced_parked", &[], 0.0).await;
    assert_eq!((old.counts().requests, new.received()[0].attempt()), (1, 2));
}

#[tokio::test]
async fn a_reload_does_not_wait_for_an_endpoint_that_hangs() {
    let (nats, hanging, working) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
    hanging.set(Behaviour::Hang);
    let patient = Webhook::new("crm", &hanging).with("timeout", "\"2m\"").with("max_in_flight", "4");
    let mut daemon = TestDaemon::start(&nats, &config("[server]\ndrain_timeout = \"1s\"", &[patient])).await;
    // More than its lane takes, and there is no other subscription that could go on: the stream is the queue.
    nats.publish_orders("events.orders.created", 0..500).await;
    hanging.wait_for(4, SOON).await;
    let both = [Webhook::new("crm", &working), Webhook::new("new", &working).types(&["stock.>"])];
    daemon.write_config(&config("[server]\ndrain_timeout = \"1s\"", &both));

    logged(&daemon, RELOADED).await;
    wait_for_numbers_of("crm", &working, &(4..500).collect::<Vec<_>>()).await;
    nats.publish("events.stock.low", order(500)).await;
    wait_for_numbers_of("new", &working, &[500]).await;
    // The attempts that still hang are cut short and parked, and made at the new endpoint.
    assert_eq!(daemon.terminate().await.code(), Some(0));
    daemon.restart().await;
    wait_for_numbers_of("crm", &working, &(0..501).collect::<Vec<_>>()).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert_eq!(working.numbers_of("crm").len(), 501, "each once");
}

#[tokio::test]
async fn a_removed_subscription_gets_nothing_more_and_leaves_nothing_unacked() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(|request| Reply {
        delay: Duration::from_secs(if request.path == "/gone" { 3 } else { 0 }),
        ..Default::default()
    }));
    let gone = Webhook::new("gone", &receiver).with("max_in_flight", "1");
    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("stays", &receiver), gone])).await;
    nats.publish_orders("events.orders.created", 0..20).await;
    wait_for_numbers_of("gone", &receiver, &[0]).await;
    daemon.write_config(&config("", &[Webhook::new("stays", &receiver)]));
    logged(&daemon, RELOADED).await;
    nats.publish_orders("events.orders.created", 20..40).await;

    wait_for_numbers_of("stays", &receiver, &(0..40).collect::<Vec<_>>()).await;
    nats.wait_drained("EVENTS", "sluiced", Duration::from_secs(60)).await;
    assert_eq!(receiver.numbers_of("stays").len(), 40, "each once");
    assert!(receiver.numbers_of("gone").len() <= 3, "what was under way, and not the queue behind it");
}

#[tokio::test]
async fn a_subscription_that_comes_back_begins_now() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let (stays, leaves) = (Webhook::new("stays", &receiver), Webhook::new("leaves", &receiver));
    let both = config("", &[stays.clone(), leaves]);
    let daemon = TestDaemon::start(&nats, &both).await;
    nats.publish_orders("events.orders.created", 0..10).await;
    assert_eq!(daemon.accounted("leaves", 10).await.delivered, 10);
    daemon.write_config(&config("", &[stays]));
    logged(&daemon, "subscription removed").await;
    nats.publish_orders("events.orders.created", 10..20).await;
    assert_eq!(daemon.accounted("stays", 20).await.delivered, 20);
    daemon.write_config(&both);
    logged(&daemon, "subscription added").await;
    wait_until("both reloads are over", SOON, async || daemon.log().matches(RELOADED).count() >= 2).await;
    nats.publish_orders("events.orders.created", 20..30).await;

    wait_for_numbers_of("leaves", &receiver, &(20..30).collect::<Vec<_>>()).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert_eq!(daemon.accounted("stays", 30).await.delivered, 30);
    let expected: Vec<u64> = (0..10).chain(20..30).collect();
    assert_eq!(receiver.numbers_of("leaves"), expected, "neither again nor what was published in between");
}

#[tokio::test]
async fn a_signal_reloads_a_file_that_cannot_be_watched() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("one", &receiver)])).await;
    // The folder of the link is watched, not that of the file behind it.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let file = elsewhere.path().join("real.toml");
    fs::copy(daemon.config_path(), &file).expect("copied");
    fs::remove_file(daemon.config_path()).expect("removed");
    std::os::unix::fs::symlink(&file, daemon.config_path()).expect("a link");
    let two = config("", &[Webhook::new("one", &receiver), Webhook::new("two", &receiver)]);
    fs::write(&file, daemon::complete(&two, &daemon.data_dir(), &nats.url(), &plugin_dir())).expect("written");
    daemon.reload();
    logged(&daemon, "subscription added").await;
    logged(&daemon, RELOADED).await;
    nats.publish("events.orders.created", order(1)).await;
    wait_for_numbers_of("two", &receiver, &[1]).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
}

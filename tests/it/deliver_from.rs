//! Where a new subscription begins: now, with all, at a time, at a sequence; and that nothing is lost on the way.

use std::cell::Cell;
use std::time::Duration;

use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const RELOADED: &str = "configuration reloaded";
const SUBJECT: &str = "events.orders.created";

async fn state_of(daemon: &TestDaemon, name: &str) -> String {
    let answer = daemon.request("GET", &format!("/api/v1/subscriptions/{name}"), None).await;
    answer.json()["state"].as_str().unwrap_or_default().to_owned()
}

async fn live(daemon: &TestDaemon, name: &str) {
    let state = async || state_of(daemon, name).await == "live";
    wait_until(&format!("{name} reads live"), SOON, state).await;
}

async fn reloads(daemon: &TestDaemon, times: usize) {
    let there = async || daemon.log().matches(RELOADED).count() >= times;
    wait_until(&format!("{times} reloads"), SOON, there).await;
}

/// The time at which JetStream stored a sequence, as RFC 3339 has it.
async fn stored_at(nats: &TestNats, sequence: u64) -> String {
    let stream = nats.jetstream().await.get_stream("EVENTS").await.expect("the stream exists");
    let message = stream.get_raw_message(sequence).await.expect("the message exists");
    sluiced::telemetry::clock::rfc3339(u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).expect("now"))
}

#[tokio::test]
async fn deliver_from_at_the_first_start_with_all_a_sequence_a_time_or_now() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders(SUBJECT, 0..300).await;
    nats.publish("events.stock.low", "{}").await;
    // Sequences begin with 1, orders with 0; a time in between, so that the two halves are stored at different ones.
    let told = stored_at(&nats, 301).await;
    wait_until("the clock has moved on", SOON, async || sluiced::telemetry::clock::rfc3339(now()) > told).await;
    nats.publish_orders(SUBJECT, 300..400).await;
    let time = stored_at(&nats, 302).await;
    let webhook = |name: &str, from: &str| {
        Webhook::new(name, &receiver).types(&["orders.>"]).subscribed_with("deliver_from", from)
    };
    let webhooks = [
        webhook("all", "\"all\""),
        webhook("sequence", "351"),
        webhook("table", "{ EVENTS = 391 }"),
        webhook("time", &format!("{time:?}")),
        webhook("date", &time),
        webhook("past", "\"2001-01-01T00:00:00+02:00\""),
        webhook("now", "\"now\""),
        Webhook::new("default", &receiver).types(&["orders.>"]),
        webhook("later", "406"),
    ];
    let mut daemon = TestDaemon::start(&nats, &config("", &webhooks)).await;
    nats.publish_orders(SUBJECT, 400..410).await;

    let firsts = [
        ("all", 0),
        ("sequence", 349),
        ("table", 389),
        ("time", 300),
        ("date", 300),
        ("past", 0),
        ("now", 400),
        ("default", 400),
        ("later", 404),
    ];
    for (name, first) in firsts {
        let expected: Vec<u64> = (first..410).collect();
        wait_until(&format!("{name} has all from {first}"), SOON, async || receiver.numbers_of(name) == expected).await;
        live(&daemon, name).await;
    }
    // It counts once.
    assert_eq!(daemon.terminate().await.code(), Some(0));
    daemon.restart().await;
    nats.publish_orders(SUBJECT, 410..420).await;
    for (name, first) in firsts {
        let expected: Vec<u64> = (first..420).collect();
        wait_until(&format!("{name} goes on"), SOON, async || receiver.numbers_of(name) == expected).await;
    }
}

#[tokio::test]
async fn deliver_from_all_by_a_reload_reads_history_and_goes_on_live_without_a_gap() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let other = Webhook::new("other", &receiver).types(&["stock.>"]);
    let daemon = TestDaemon::start(&nats, &config("", std::slice::from_ref(&other))).await;
    nats.publish_orders(SUBJECT, 0..2_000).await;
    let all = Webhook::new("all", &receiver).subscribed_with("deliver_from", "\"all\"");
    let publish = nats.publish_orders(SUBJECT, 2_000..4_000);
    let reload = async {
        daemon.write_config(&config("", &[other, all]));
        reloads(&daemon, 1).await;
    };
    tokio::join!(publish, reload);

    wait_until("all have come", SOON, async || receiver.numbers_of("all").len() >= 4_000).await;
    live(&daemon, "all").await;
    nats.publish_orders(SUBJECT, 4_000..4_010).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let expected: Vec<u64> = (0..4_010).collect();
    wait_until("the last have come", SOON, async || receiver.numbers_of("all") == expected).await;
    assert_eq!(daemon.accounted("all", 4_010).await.delivered, 4_010);
}

#[tokio::test]
async fn deliver_from_has_no_effect_for_a_subscription_that_is_known() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let webhook = Webhook::new("crm", &receiver);
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders(SUBJECT, 0..5).await;
    let mut daemon = TestDaemon::start(&nats, &config("", std::slice::from_ref(&webhook))).await;
    let all = config("", &[webhook.subscribed_with("deliver_from", "\"all\"")]);
    daemon.write_config(&all);
    reloads(&daemon, 1).await;
    nats.publish_orders(SUBJECT, 5..10).await;
    receiver.wait_for(5, SOON).await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
    daemon.restart().await;
    nats.publish_orders(SUBJECT, 10..15).await;
    receiver.wait_for(10, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert_eq!(receiver.numbers_of("crm"), (5..15).collect::<Vec<_>>());
}

#[tokio::test]
async fn deliver_from_a_sequence_that_is_gone_shows_the_gap() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders(SUBJECT, 0..10).await;
    nats.purge("EVENTS").await;
    nats.publish_orders(SUBJECT, 10..20).await;
    let webhook = |name: &str, from: &str| Webhook::new(name, &receiver).subscribed_with("deliver_from", from);
    let daemon = TestDaemon::start(&nats, &config("", &[webhook("third", "3"), webhook("all", "\"all\"")])).await;
    for name in ["third", "all"] {
        let expected: Vec<u64> = (10..20).collect();
        wait_until(&format!("{name} has the rest"), SOON, async || receiver.numbers_of(name) == expected).await;
    }
    assert_eq!(daemon.reading("sluiced_gap_events_total", "third").await, 8);
    assert_eq!(daemon.reading("sluiced_gap_events_total", "all").await, 0, "all is what there is");
}

#[tokio::test]
async fn deliver_from_all_survives_a_kill_while_the_endpoint_is_slow() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders(SUBJECT, 0..300).await;
    receiver.set(Behaviour::Slow(Duration::from_millis(20)));
    let all = Webhook::new("all", &receiver).subscribed_with("deliver_from", "\"all\"").with("max_in_flight", 4);
    let mut daemon = TestDaemon::start(&nats, &config("", &[all])).await;
    for requests in [20, 60, 100] {
        receiver.wait_for(requests, SOON).await;
        daemon.kill9();
        daemon.restart().await;
    }
    nats.publish_orders(SUBJECT, 300..320).await;
    receiver.wait_for_numbers(0..320, SOON).await;
    live(&daemon, "all").await;
    let repeated: u64 = receiver.numbers().values().map(|times| times - 1).sum();
    assert!(repeated <= 3 * 4, "{repeated} repeated");
}

#[tokio::test]
async fn a_kill_right_after_a_subscription_was_added_loses_nothing_of_it() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let other = Webhook::new("other", &receiver).types(&["stock.>"]);
    let mut daemon = TestDaemon::start(&nats, &config("", std::slice::from_ref(&other))).await;
    let (published, mut webhooks) = (Cell::new(0), vec![other]);
    let publish = async |orders: u64| {
        nats.publish_orders(SUBJECT, published.get()..published.get() + orders).await;
        published.set(published.get() + orders);
    };
    for round in 0..4 {
        let name = format!("late-{round}");
        webhooks.push(Webhook::new(&name, &receiver).types(&["orders.>"]));
        let crashed = Cell::new(false);
        let go_on = async {
            while !crashed.get() {
                publish(5).await;
            }
        };
        let crash = async {
            daemon.write_config(&config("", &webhooks));
            let added = format!("added subscription={name}");
            wait_until("it is added", SOON, async || daemon.log().contains(&added)).await;
            daemon.kill9();
            let before = published.get();
            wait_until("more is published", SOON, async || published.get() >= before + 20).await;
            crashed.set(true);
            before
        };
        let ((), before) = tokio::join!(go_on, crash);
        daemon.restart().await;
        publish(5).await;
        let last = published.get() - 1;
        let there = async || receiver.numbers_of(&name).last() == Some(&last);
        wait_until("it has caught up", SOON, there).await;
        nats.wait_drained("EVENTS", "sluiced", SOON).await;
        let mut received = receiver.numbers_of(&name);
        received.dedup();
        assert!(received[0] <= before + 5, "round {round}: it began with {}, added before {before}", received[0]);
        assert_eq!(received, (received[0]..=last).collect::<Vec<_>>(), "round {round}");
    }
}

#[tokio::test]
async fn one_that_was_removed_before_a_restart_comes_back_as_a_new_one() {
    let (nats, mut receiver) = (TestNats::start().await, TestReceiver::start());
    let (stays, leaves) = (Webhook::new("stays", &receiver), Webhook::new("leaves", &receiver));
    let both = config("", &[stays.clone(), leaves]);
    let mut daemon = TestDaemon::start(&nats, &both).await;
    receiver.stop();
    nats.publish_orders(SUBJECT, 0..40).await;
    let held = async || state_of(&daemon, "leaves").await == "held";
    wait_until("it is held", SOON, held).await;
    let parked = daemon.reading("sluiced_parked", "leaves").await;
    daemon.write_config(&config("", &[stays]));
    reloads(&daemon, 1).await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
    daemon.write_config(&both);
    daemon.restart().await;
    receiver.resume();
    nats.publish_orders(SUBJECT, 40..50).await;

    live(&daemon, "leaves").await;
    wait_until("the new ones come", SOON, async || receiver.numbers_of("leaves").ends_with(&[48, 49])).await;
    let old = receiver.numbers_of("leaves").iter().filter(|number| **number < 40).count() as u64;
    assert!(old <= parked, "what was parked is its own, and {old} came of what was skipped");
    assert_eq!(state_of(&daemon, "leaves").await, "live");
}

fn now() -> u64 {
    sluiced::telemetry::clock::now_ms()
}

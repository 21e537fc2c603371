//! Redrive: dead letters are sent again, those of a filter, at a rate.

use std::time::Duration;

use serde_json::json;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

use crate::replay::{begin, comes_to, job, wish};

const SOON: Duration = Duration::from_secs(60);
const SUBJECT: &str = "events.orders.created";

/// A daemon whose subscription `crm` has dead letters: orders below `of_400` for a 400, those after it for a 404.
async fn with_dead_letters(nats: &TestNats, receiver: &TestReceiver, orders: u64, of_400: u64) -> TestDaemon {
    receiver.set(Behaviour::custom(move |request| {
        let status = if request.number().is_some_and(|number| number < of_400) { 400 } else { 404 };
        Reply { status, ..Default::default() }
    }));
    let webhook = Webhook::new("crm", receiver).with("max_in_flight", 4);
    let daemon = TestDaemon::start(nats, &config("", &[webhook])).await;
    nats.publish_orders(SUBJECT, 0..orders).await;
    assert_eq!(daemon.accounted("crm", orders).await.failed, orders);
    receiver.set(Behaviour::Ok);
    receiver.forget();
    daemon
}

async fn dead(daemon: &TestDaemon) -> u64 {
    let answer = daemon.request("GET", "/api/v1/subscriptions/crm", None).await;
    answer.json()["dead_letters"].as_u64().expect("a count")
}

#[tokio::test]
async fn redrive_sends_the_dead_letters_of_a_filter_again_as_it_counted_first() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = with_dead_letters(&nats, &receiver, 30, 10).await;
    let dry = begin(&daemon, "redrive", json!({ "status": 400, "dry_run": true })).await;
    let dry = comes_to(&daemon, &dry["id"], "done").await;
    assert_eq!((&dry["kind"], &dry["counts"]["deliveries"]), (&json!("redrive"), &json!(10)));
    assert_eq!((receiver.received().len(), dead(&daemon).await), (0, 30), "it counts only");

    let real = begin(&daemon, "redrive", json!({ "status": 400, "class": "status", "rate": 1000 })).await;
    let real = comes_to(&daemon, &real["id"], "done").await;
    assert_eq!(real["counts"]["deliveries"], 10);
    receiver.wait_for_numbers(0..10, SOON).await;
    wait_until("nothing is parked", SOON, async || daemon.reading("sluiced_parked", "crm").await == 0).await;
    assert_eq!((receiver.received().len(), dead(&daemon).await), (10, 20));
    assert!(receiver.received().iter().all(|request| request.attempt() == 2), "the attempts go on");

    let none = begin(&daemon, "redrive", json!({ "until": "2001-01-01T00:00:00Z" })).await;
    assert_eq!(comes_to(&daemon, &none["id"], "done").await["counts"]["seen"], 0);
    let rest = daemon.request("POST", "/api/v1/subscriptions/crm/redrive", None).await;
    assert_eq!(rest.status, 202, "all of them, when nothing is said");
    comes_to(&daemon, &rest.json()["id"], "done").await;
    receiver.wait_for_numbers(0..30, SOON).await;
    wait_until("no letter is left", SOON, async || dead(&daemon).await == 0).await;
    let bad = daemon.request("POST", "/api/v1/subscriptions/crm/redrive", Some(&json!({ "since": "soon" }))).await;
    assert_eq!((bad.status, bad.json()["errors"][0]["field"].clone()), (400, json!("since")));
}

#[tokio::test]
async fn redrive_can_be_paused_and_survives_a_kill_and_sends_none_twice() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    const LETTERS: u64 = 120;
    let mut daemon = with_dead_letters(&nats, &receiver, LETTERS, LETTERS).await;
    // All of them would take 12 seconds: time enough for what is wished meanwhile.
    let asked = begin(&daemon, "redrive", json!({ "rate": 10 })).await;
    let id = &asked["id"];
    let came = async |orders: u64| {
        wait_until("some are sent", SOON, async || receiver.numbers().len() as u64 >= orders).await;
    };
    let at_rest = async |daemon: &TestDaemon| {
        wait_until("nothing is under way", SOON, async || daemon.reading("sluiced_parked", "crm").await == 0).await;
        receiver.numbers().len() as u64
    };
    came(8).await;
    wish(&daemon, id, "pause").await;
    at_rest(&daemon).await;
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(job(&daemon, id).await["state"], "paused");
    // A letter that was being taken when it was paused may have been sent since.
    let sent = at_rest(&daemon).await;
    assert_eq!((sent < LETTERS, dead(&daemon).await), (true, LETTERS - sent));
    daemon.kill9();
    daemon.restart().await;
    assert_eq!((at_rest(&daemon).await, dead(&daemon).await), (sent, LETTERS - sent), "it stays paused");
    wish(&daemon, id, "resume").await;
    came(sent + 8).await;
    daemon.kill9();
    daemon.restart().await;
    comes_to(&daemon, id, "done").await;
    receiver.wait_for_numbers(0..LETTERS, SOON).await;
    wait_until("no letter is left", SOON, async || dead(&daemon).await == 0).await;
    let twice: u64 = receiver.numbers().values().map(|times| times - 1).sum();
    assert!(twice <= 4, "{twice} were sent twice: no more than were in flight at the kill");
}

#[tokio::test]
async fn redrive_does_not_exhaust_letters_at_an_endpoint_that_is_still_dead() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = with_dead_letters(&nats, &receiver, 60, 60).await;
    receiver.set(Behaviour::Status(503));
    let asked = begin(&daemon, "redrive", json!({ "rate": 1000 })).await;
    daemon.wait_held("crm", true, SOON).await;
    let waiting = job(&daemon, &asked["id"]).await;
    assert_eq!(waiting["state"], "running");
    assert!(dead(&daemon).await > 0, "the rest stays where it is: {waiting}");
    wish(&daemon, &asked["id"], "cancel").await;
    comes_to(&daemon, &asked["id"], "cancelled").await;
}

#[tokio::test]
async fn a_dead_letter_that_a_replay_has_under_way_is_not_sent_again_beside_it() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = with_dead_letters(&nats, &receiver, 3, 3).await;
    let letters = daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters", None).await.json();
    let id = letters["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    // Long enough for the wish.
    receiver.set(Behaviour::Slow(Duration::from_secs(5)));
    let replay = begin(&daemon, "replay", json!({ "from": "all", "rate": 1000 })).await;
    wait_until("the replay has them under way", SOON, async || receiver.received().len() == 3).await;
    let resend = format!("/api/v1/subscriptions/crm/dead-letters/{id}/resend");
    assert_eq!(daemon.request("POST", &resend, None).await.status, 409, "it is under way");
    comes_to(&daemon, &replay["id"], "done").await;
    wait_until("no letter is left", SOON, async || dead(&daemon).await == 0).await;
    let books = daemon.accounted("crm", 6).await;
    assert_eq!((books.parked, books.delivered, books.resent), (0, 3, 0), "{books:?}");
    assert_eq!(receiver.received().len(), 3);
}

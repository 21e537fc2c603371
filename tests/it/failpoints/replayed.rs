//! A crash within a replay: it goes on where it was, and repeats no attempt whose outcome is on record.

use sluiced_tests::daemon::ADMIN_KEY;
use sluiced_tests::http::try_request;
use sluiced_tests::receiver::Received;

use super::*;
use crate::replay::comes_to;

/// Events that are replayed, each with so many parts.
const EVENTS: u64 = 12;
const PARTS: u64 = 3;

/// Places and visits, and how many attempts may be repeated: those whose outcome was not durable, of one slot.
const CRASHES: &[(Place, RangeInclusive<u64>, u64)] = &[
    (Place::Answered, 1..=30, 1),
    (Place::BeforeWrite, 2..=15, 1),
    (Place::BeforeFlush, 2..=15, 1),
    (Place::BeforeSync, 2..=15, 1),
    // The outcome is durable, and with it the mark in the job's record: the next daemon knows of it.
    (Place::Flushed, 2..=10, 0),
    (Place::Flushed, 11..=20, 0),
    (Place::Flushed, 21..=30, 0),
];

#[tokio::test]
async fn a_replay_that_is_cut_off_repeats_only_what_was_in_flight_also_in_the_middle_of_an_event() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let webhook = Webhook::new("crm", &receiver)
        .transform("jq", r#"{ expr = ".number as $n | (0, 1, 2) | {number: ($n * 3 + .)}" }"#)
        .with("max_in_flight", 1);
    let mut daemon = TestDaemon::builder(&nats, &config("", &[webhook])).failpoints().start().await;
    nats.publish_orders("events.orders.created", 0..EVENTS).await;
    receiver.wait_for_numbers(0..EVENTS * PARTS, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let mut random = seeded();
    for (place, visits, repeated_max) in CRASHES {
        let what = format!("{} at visit {}", place.name(), random.random_range(visits.clone()));
        eprintln!("{what}");
        receiver.forget();
        daemon.arm(&what.replace(" at visit ", " = abort @ "));
        let wanted = json!({ "from": 1, "rate": 10_000 });
        let path = daemon.url("/api/v1/subscriptions/crm/replay");
        // It may end before it has answered.
        drop(try_request("POST", &path, Some(ADMIN_KEY), Some(&wanted)).await);
        daemon.wait_aborted().await;
        daemon.arm("");
        daemon.restart().await;
        let newest = daemon.request("GET", "/api/v1/jobs", None).await.json()["jobs"][0]["id"].clone();
        let done = comes_to(&daemon, &newest, "done").await;
        let mut came: HashMap<u64, u64> = HashMap::new();
        for number in receiver.received().iter().filter_map(Received::number) {
            *came.entry(number).or_default() += 1;
        }
        assert_eq!(came.len() as u64, EVENTS * PARTS, "{what}: nothing is missing");
        let repeated: u64 = came.values().map(|times| times - 1).sum();
        assert!(repeated <= *repeated_max, "{what}: {repeated} attempts were repeated: {came:?}");
        let counts = &done["counts"];
        let expected = (EVENTS, EVENTS * PARTS, EVENTS * PARTS);
        let counted = ["seen", "deliveries", "delivered"].map(|count| counts[count].as_u64().expect("a count"));
        assert_eq!(counted, <[u64; 3]>::from(expected), "{what}: each delivery counts once");
    }
}

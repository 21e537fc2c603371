//! Everything that can become of an event, at once: a crash at any place of it.

use super::*;

/// Orders of a case: each of them goes to all subscriptions.
const ORDERS: u64 = 40;
/// How many of a case's orders have bodies that are kept in files.
const LARGE_EVERY: u64 = 8;
const LARGE_BYTES: usize = 70_000;

const ROUNDS: usize = 2;

const HEAD: &str = r#"
[delivery]
breaker = { attempts_min = 1000, failure_ratio = 1.0 }
[store]
log_retention = "1h"
"#;

pub(super) const CRASHES: &[Crash] = &[
    (Place::Answered, 1..=150),
    (Place::DueTaken, 1..=60),
    (Place::BodyWritten, 1..=2),
    (Place::BeforeWrite, 1..=6),
    (Place::BeforeFlush, 1..=6),
    (Place::BeforeSync, 1..=6),
    (Place::Flushed, 1..=6),
    (Place::BeforeAck, 1..=3),
    (Place::Opening, 1..=1),
];

/// They come when an hour has passed; a partition is dropped when the one after it is an hour old.
pub(super) const CRASHES_OF_THE_LOG: &[Crash] = &[
    (Place::PartitionBegun, 1..=1),
    (Place::PartitionBegun, 1..=1),
    (Place::Expiring, 1..=1),
    (Place::PartitionBegun, 1..=1),
    (Place::Expiring, 1..=1),
];

/// Subscriptions whose deliveries end in every way.
struct Mixed {
    nats: TestNats,
    daemon: TestDaemon,
    receivers: Vec<(&'static str, TestReceiver)>,
    published: u64,
    random: StdRng,
}

#[tokio::test]
async fn a_crash_at_any_place_loses_nothing_and_repeats_only_what_was_in_flight() {
    let mut all = Mixed::start().await;
    for _ in 0..ROUNDS {
        for (place, visits) in CRASHES {
            let visit = all.random.random_range(visits.clone());
            all.crash(*place, visit, "").await;
        }
    }
}

#[tokio::test]
async fn a_crash_while_the_log_changes_its_partition_loses_nothing() {
    let mut all = Mixed::start().await;
    for (hours, (place, _)) in (2..).step_by(2).zip(CRASHES_OF_THE_LOG) {
        all.crash(*place, 1, &format!("clock = {}\n", hours * 3_600_000)).await;
    }
}

impl Mixed {
    async fn start() -> Self {
        let nats = TestNats::start().await;
        let names = ["plain", "parts", "retried", "dead", "even"];
        let receivers = names.map(|name| (name, TestReceiver::start()));
        let hook = |name: &str| {
            let (_, receiver) = receivers.iter().find(|(other, _)| *other == name).expect("it is one of them");
            Webhook::new(name, receiver).with("max_in_flight", IN_FLIGHT_MAX).retry_after(&["100ms", "100ms"])
        };
        let hooks = [
            hook("plain"),
            hook("parts").transform("jq", r#"{ expr = ".number as $n | (0, 1) | {number: ($n * 10 + .)}" }"#),
            hook("retried"),
            hook("dead"),
            hook("even").filter("jq", r#"{ expr = ".number % 2 == 0" }"#),
        ];
        for (name, receiver) in &receivers {
            receiver.set(match *name {
                "parts" => Behaviour::custom(|r| {
                    let second = r.number().is_some_and(|n| n % 10 == 1);
                    Reply::status(if second && r.attempt() == 1 { 503 } else { 200 })
                }),
                "retried" => Behaviour::custom(|r| Reply::status(if r.attempt() < 3 { 503 } else { 200 })),
                "dead" => Behaviour::Status(422),
                _ => Behaviour::Ok,
            });
        }
        let text = config(HEAD, &hooks);
        let daemon = TestDaemon::builder(&nats, &text).failpoints().start().await;
        Self { nats, daemon, receivers: receivers.into(), published: 0, random: seeded() }
    }

    fn receiver(&self, name: &str) -> &TestReceiver {
        &self.receivers.iter().find(|(other, _)| *other == name).expect("it is one of them").1
    }

    /// Publishes orders to a daemon that ends at that visit of a place, starts it again, and sees that all is as it should.
    async fn crash(&mut self, place: Place, visit: u64, also: &str) {
        let what = format!("{} at visit {visit}", place.name());
        eprintln!("{what}");
        let before: Vec<u64> = self.receivers.iter().map(|(_, receiver)| repeated(receiver)).collect();
        let orders = self.published..self.published + ORDERS;
        self.daemon.arm(&format!("{also}{} = abort @ {visit}\n", place.name()));
        if place == Place::Opening {
            // Only a start comes to it.
            self.daemon.launch();
        }
        self.publish(orders.clone()).await;
        self.daemon.wait_aborted().await;
        self.published = orders.end;
        let parked = whole::assert_whole(&self.daemon);
        self.daemon.arm(also);
        self.daemon.restart().await;

        self.wait_ended(orders.clone()).await;
        for ((name, receiver), before) in self.receivers.iter().zip(before) {
            assert_no_more_repeated(name, &what, receiver, before);
            self.assert_accounted(name, parked.get(*name).copied().unwrap_or(0)).await;
        }
        assert_eq!(self.receiver("even").numbers().len() as u64, self.published / 2, "{what}: only even orders");
        self.daemon.wait_metric("sluiced_dead_letters", &[], self.published as f64).await;
    }

    async fn publish(&self, orders: Range<u64>) {
        for number in orders {
            let note = "x".repeat(if number % LARGE_EVERY == 0 { LARGE_BYTES } else { 100 });
            self.nats.publish("events.orders.created", json!({ "number": number, "note": note }).to_string()).await;
        }
    }

    /// Waits until these orders have ended for every subscription, and nothing is left of them anywhere.
    async fn wait_ended(&self, orders: Range<u64>) {
        for name in ["plain", "dead"] {
            self.receiver(name).wait_for_numbers(orders.clone(), SOON).await;
        }
        let all_parts = async || {
            let seen = self.receiver("parts").numbers();
            orders.clone().all(|number| seen.contains_key(&(number * 10)) && seen.contains_key(&(number * 10 + 1)))
        };
        wait_until("every part has come", SOON, all_parts).await;
        self.receiver("retried").wait_for_numbers(orders, SOON).await;
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        for (name, _) in &self.receivers {
            self.daemon.wait_metric("sluiced_parked", &[("subscription", name)], 0.0).await;
            self.daemon.wait_metric("sluiced_in_flight", &[("subscription", name)], 0.0).await;
        }
        let thrice = attempts(self.receiver("retried")).keys().filter(|(_, attempt)| *attempt == 3).count() as u64;
        assert_eq!(thrice, self.published, "each retried delivery came to its third attempt");
    }

    /// The books since the start: what was parked before it ends too.
    async fn assert_accounted(&self, name: &str, parked_before: u64) {
        let books = Accounting::of(&self.daemon.metrics().await, name);
        if name != "parts" {
            let ended = books.delivered + books.filtered + books.failed + books.parked;
            assert_eq!(books.received + parked_before, ended, "{name}: {books:?} after {parked_before} were parked");
        }
    }
}

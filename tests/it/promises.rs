//! The promises, over a random sequence of what operators, publishers, receivers and the machine do to a daemon.
//!
//! The model is what a receiver may count on: every event comes, in the order of its key where an order is kept, signed
//! with a secret that is valid, and twice only around a kill or for a replay that says so.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::RngExt as _;
use sluiced_tests::random::seeded;

use self::world::{KEYS, Ordering, Sub, World};

const STEPS: usize = 70;
/// How long a request may be under way between its signature and its receipt, on a machine that has more to do.
const UNDER_WAY_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn any_sequence_of_what_can_happen_keeps_the_promises() {
    let mut random = seeded();
    let mut world = World::start().await;
    for step in 0..STEPS {
        let sub = random.random_range(0..world.subs.len());
        let kind = random.random_range(0..100);
        eprintln!("step {step}: {kind} of {}", world.subs[sub].name);
        match kind {
            0..=29 => world.publish(random.random_range(1..15)).await,
            30..=41 => world.subs[sub].endpoint(random.random_range(0..3)),
            42..=51 => world.turn_off_or_on(sub).await,
            52..=61 => world.rotate(sub, random.random_bool(0.5)).await,
            62..=74 => {
                let to = random.random_range(1..=world.published.max(1));
                world.replay(sub, random.random_range(1..=to)).await;
            }
            75..=82 => world.order_otherwise(random.random_range(0..3)).await,
            83..=92 => world.kill().await,
            93..=95 => world.stop().await,
            // Whatever is under way gets some time.
            _ => world.settle_a_little().await,
        }
    }
    world.finish().await;
    for sub in &world.subs {
        eprintln!("{}: {} requests, {} kills", sub.name, sub.receiver.received().len(), world.kills);
        assert_every_event_came(sub, world.published);
        assert_twice_only_around_a_kill(sub, world.kills);
        assert_order(sub);
        assert_signatures(sub);
    }
}

fn assert_every_event_came(sub: &Sub, published: u64) {
    let accepted = sub.accepted.lock();
    let missing: Vec<u64> =
        (0..published).filter(|number| !accepted.iter().any(|receipt| receipt.number == *number)).collect();
    assert!(missing.is_empty(), "{} never had {missing:?}", sub.name);
    for (job, from, to) in &sub.replays {
        // What would come anyway is left to come by itself.
        let of_job = |number: &u64| accepted.iter().any(|receipt| receipt.number == *number && receipt.job == *job);
        let ends = (from - 1..*to).filter(of_job).count();
        assert!(ends as u64 + sub.left[job] >= to + 1 - from, "{}: replay {job} of {from} to {to}", sub.name);
    }
}

/// What was accepted is not sent again, but for what a kill cut off: at most what was in flight.
fn assert_twice_only_around_a_kill(sub: &Sub, kills: u64) {
    let mut times: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for receipt in sub.accepted.lock().iter() {
        *times.entry((receipt.number, receipt.job.clone())).or_default() += 1;
    }
    let again: u64 = times.values().map(|times| times - 1).sum();
    assert!(again <= kills * sub.in_flight_max, "{}: {again} came again, by {kills} kills", sub.name);
}

/// The first receipts are in order, key by key, among what was published and accepted while that order was in effect.
fn assert_order(sub: &Sub) {
    let accepted = sub.accepted.lock();
    for epoch in &sub.epochs {
        if epoch.ordering == Ordering::None {
            continue;
        }
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let own = |number: u64| epoch.numbers.contains(&number);
        for receipt in accepted.iter().filter(|receipt| receipt.job.is_empty()) {
            let during = receipt.at >= epoch.since && epoch.until.is_none_or(|until| receipt.at <= until);
            if !seen.insert(receipt.number) || !own(receipt.number) || !during {
                continue;
            }
            let key = if epoch.ordering == Ordering::Strict { 0 } else { receipt.number % KEYS };
            if let Some(before) = last.insert(key, receipt.number) {
                assert!(before < receipt.number, "{}: {before} came before {}", sub.name, receipt.number);
            }
        }
    }
}

/// Each request is signed with a secret that was valid when it was made, and with the newest one.
fn assert_signatures(sub: &Sub) {
    for request in sub.receiver.received() {
        let valid = sub.secrets.iter().filter(|secret| {
            let ended = secret.ended.is_some_and(|ended| request.at > ended + UNDER_WAY_MAX);
            secret.asked <= request.at && !ended
        });
        let of = valid.map(|secret| &secret.text).filter(|text| request.verifies(text)).count();
        assert!(of > 0, "{}: a request is signed with no secret that is valid", sub.name);
        let ended = sub.secrets.iter().filter(|s| s.ended.is_some_and(|ended| request.at > ended + UNDER_WAY_MAX));
        for secret in ended {
            assert!(!request.verifies(&secret.text), "{}: a secret that has ended still signs", sub.name);
        }
        let newest = sub.secrets.iter().rev().find(|secret| secret.made + UNDER_WAY_MAX < request.at);
        if let Some(newest) = newest {
            let is_newer = |s: &&world::Secret| s.asked > newest.asked && s.asked <= request.at;
            let by_newer = sub.secrets.iter().filter(is_newer).any(|secret| request.verifies(&secret.text));
            assert!(request.verifies(&newest.text) || by_newer, "{}: not signed with the newest", sub.name);
        }
    }
}

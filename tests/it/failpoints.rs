//! Crashes at chosen places of the daemon's work: whatever it was about to do, nothing is lost, little comes twice, and no
//! change is there by half.

use std::collections::{BTreeSet, HashMap};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;
use sluiced::failpoint::Place;
use sluiced_tests::paths::workspace;
use sluiced_tests::random::seeded;
use sluiced_tests::setup::config;
use sluiced_tests::{Accounting, Behaviour, Reply, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

mod held;
mod migrated;
mod mixed;
mod operated;
mod parts;
mod registered;
mod replayed;
mod whole;

const SOON: Duration = Duration::from_secs(60);
/// The lane of each subscription: what may come twice after a crash.
const IN_FLIGHT_MAX: u64 = 8;

/// A place, and at which visit of it the daemon may end. A range begins late where the first visits tell nothing.
type Crash = (Place, RangeInclusive<u64>);

/// The tests that have a crash at each place: their tables together are [`Place::ALL`].
#[test]
fn every_place_has_a_crash_test() {
    let tables = [mixed::CRASHES, mixed::CRASHES_OF_THE_LOG, held::CRASHES, registered::CRASHES, migrated::CRASHES];
    let tested: BTreeSet<&str> = tables.into_iter().flatten().map(|(place, _)| place.name()).collect();
    let all: BTreeSet<&str> = Place::ALL.iter().map(|place| place.name()).collect();
    assert_eq!(all.difference(&tested).collect::<Vec<_>>(), Vec::<&&str>::new(), "these places have no crash test");
    let document = std::fs::read_to_string(workspace().join("docs/architecture.md")).expect("it can be read");
    let unsaid: Vec<_> = all.iter().filter(|name| !document.contains(&format!("`{name}`"))).collect();
    assert!(unsaid.is_empty(), "docs/architecture.md does not say what a crash at {unsaid:?} costs");
}

/// What each request of a receiver was for, and how often it came: (webhook-id, attempt) to count.
fn attempts(receiver: &TestReceiver) -> HashMap<(String, u32), u64> {
    let mut attempts = HashMap::new();
    for request in receiver.received() {
        *attempts.entry((request.webhook_id().to_owned(), request.attempt())).or_default() += 1;
    }
    attempts
}

/// How many requests of a receiver were made again.
fn repeated(receiver: &TestReceiver) -> u64 {
    attempts(receiver).values().map(|count| count - 1).sum()
}

fn assert_no_more_repeated(name: &str, what: &str, receiver: &TestReceiver, before: u64) {
    let repeated = repeated(receiver) - before;
    assert!(repeated <= IN_FLIGHT_MAX, "{what}: {repeated} attempts of {name} were repeated");
}

//! Looks into the store of a daemon that has crashed: every change is there whole or not at all.

use std::collections::{HashMap, HashSet};

use sluiced::domain::SubscriptionId;
use sluiced::store::{self, DeadFilter, Disposition, Store};
use sluiced_tests::TestDaemon;

const PAGE: usize = 100;

/// Checks that the newest word of the log on each delivery agrees with what is parked and what is dead, that the counts
/// agree with what is there, and that every body can be read. Returns how many deliveries each subscription has parked.
pub(super) fn assert_whole(daemon: &TestDaemon) -> HashMap<String, u64> {
    let store = Store::open(store::Config::new(daemon.data_dir().join("store"))).expect("the store opens");
    let mut parked = HashMap::new();
    for (subscription, _) in store.registrations().expect("registrations can be read") {
        let counts = store.counts(&subscription);
        assert_eq!(counts.parked as usize, parked_of(&store, &subscription), "{subscription}: parked deliveries");
        let all = DeadFilter::default();
        assert_eq!(counts.dead as usize, dead_of(&store, &subscription, &all), "{subscription}: dead letters");
        assert_log_agrees(&store, &subscription);
        parked.insert(subscription.as_str().to_owned(), counts.parked);
    }
    parked
}

fn parked_of(store: &Store, subscription: &SubscriptionId) -> usize {
    let (mut found, mut after) = (0, None);
    loop {
        let page = store.parked_page(subscription, after.as_ref(), u64::MAX, PAGE).expect("parked ones can be read");
        let Some((last, _)) = page.last() else { return found };
        for (key, parked) in &page {
            let by_id = store.parked(&key.delivery).expect("it can be read by its id");
            assert_eq!(by_id.as_ref(), Some(parked), "the index leads to it");
        }
        found += page.len();
        after = Some(last.clone());
    }
}

/// How many dead letters a filter finds.
pub(super) fn dead_of(store: &Store, subscription: &SubscriptionId, filter: &DeadFilter) -> usize {
    let (mut found, mut before) = (0, None);
    loop {
        let page = store.dead_letters(subscription, filter, before.as_ref(), PAGE);
        let page = page.expect("dead letters can be read");
        found += page.letters.len();
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

fn assert_log_agrees(store: &Store, subscription: &SubscriptionId) {
    let (mut seen, mut before) = (HashSet::new(), None);
    loop {
        let page = store.deliveries(subscription, before, PAGE).expect("the log can be read");
        for (_, entry) in &page.entries {
            let id = entry.delivery();
            if !seen.insert(id) {
                continue;
            }
            let parked = store.parked(&id).expect("it can be read").is_some();
            let dead = store.dead_letter(&id).expect("it can be read").is_some();
            let whole = match entry.disposition {
                Disposition::Parked => parked && !dead,
                // A dead letter that is sent again is parked; the log says so with its next attempt.
                Disposition::Dead => parked != dead,
                _ => !parked && !dead,
            };
            assert!(whole, "{subscription}: parked {parked}, dead letter {dead}: {entry:?}");
        }
        before = page.next;
        if before.is_none() {
            return;
        }
    }
}

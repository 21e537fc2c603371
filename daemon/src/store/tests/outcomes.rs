//! Listings of deliveries: by the index and without it the same, page by page.

use super::super::index::BLOCK_FLUSHES;
use super::*;

fn finished(subscription: &str, sequence: u64) -> Change {
    Change::Finished(entry(subscription, sequence))
}

/// A log of some hundred flushes: `busy` is in each, `rare` in one of a hundred, `once` in a single one.
fn filled(store: &Store) -> u64 {
    let flushes = 3 * BLOCK_FLUSHES + 40;
    for n in 1..=flushes {
        let mut changes = vec![finished("busy", n), finished("busy", n + 10_000)];
        changes.extend((n % 100 == 0).then(|| finished("rare", n)));
        changes.extend((n == 7).then(|| finished("once", n)));
        store.commit(&changes).expect("commit");
    }
    flushes
}

/// All sequences of a filter, page by page, newest first.
fn all(store: &Store, filter: &LogFilter, limit: usize) -> Vec<u64> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = store.log_page(filter, before, limit).expect("page");
        assert!(page.entries.len() <= limit);
        found.extend(page.entries.iter().map(|(_, entry)| entry.position.sequence));
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

fn of(names: &[&str]) -> LogFilter {
    LogFilter { subscriptions: Some(names.iter().map(|name| sub(name)).collect()), ..LogFilter::default() }
}

#[test]
fn the_index_changes_nothing_but_how_much_is_read() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let flushes = filled(&store);
    let filters = [
        of(&["busy"]),
        of(&["rare"]),
        of(&["once"]),
        of(&["rare", "once"]),
        of(&["nobody"]),
        LogFilter::default(),
        LogFilter { since_ms: Some(entry("x", 300).at_ms), until_ms: Some(entry("x", 500).at_ms), ..of(&["rare"]) },
        LogFilter { disposition: Some(Disposition::Dead), ..of(&["busy"]) },
    ];
    let without: Vec<Vec<u64>> = filters.iter().map(|filter| all(&store, filter, 7)).collect();
    assert_eq!(without[1], [800, 700, 600, 500, 400, 300, 200, 100]);
    assert_eq!((without[0].len() as u64, &without[2][..]), (2 * flushes, &[7][..]));
    assert_eq!((&without[6][..], without[7].len()), (&[400, 300][..], 0));
    assert_eq!(without[5].len() as u64, 2 * flushes + 8 + 1);

    assert_eq!(store.index_log(|| true).expect("index"), 0, "told to stop at once");
    assert_eq!(store.index_log(|| false).expect("index"), 3);
    assert_eq!(store.index_log(|| false).expect("index"), 0, "the last flushes are no block yet");
    for limit in [1, 7, 100] {
        let with: Vec<Vec<u64>> = filters.iter().map(|filter| all(&store, filter, limit)).collect();
        assert_eq!(with, without, "pages of {limit}");
    }
    // What comes after is found too, and a store that is opened again knows the same.
    store.commit(&[finished("rare", 900)]).expect("commit");
    drop(store);
    let store = open(&dir);
    assert_eq!(all(&store, &of(&["rare"]), 3)[..3], [900, 800, 700]);
    assert_eq!(store.index_log(|| false).expect("index"), 0);
}

#[test]
fn a_cursor_stays_where_it_is_while_more_is_written() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    filled(&store);
    let first = store.log_page(&of(&["rare"]), None, 3).expect("page");
    store.commit(&[finished("rare", 1_000), finished("rare", 1_001)]).expect("commit");
    store.index_log(|| false).expect("index");
    let second = store.log_page(&of(&["rare"]), first.next, 3).expect("page");
    let sequences = |page: &DeliveryPage| page.entries.iter().map(|(_, e)| e.position.sequence).collect::<Vec<_>>();
    assert_eq!((sequences(&first), sequences(&second)), (vec![800, 700, 600], vec![500, 400, 300]));
}

#[test]
fn a_delivery_is_found_by_its_id_wherever_it_lies() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    filled(&store);
    let find = |subscription: &str, sequence| {
        let id = DeliveryId::derive(&sub(subscription), &at(sequence), 0);
        store.logged(&id).expect("search").map(|entry| (entry.position.sequence, entry.attempt))
    };
    for indexed in [false, true] {
        for (subscription, sequence) in [("once", 7), ("busy", 1), ("busy", 10_500), ("rare", 800)] {
            assert_eq!(find(subscription, sequence), Some((sequence, 1)), "{subscription} {sequence} {indexed}");
        }
        assert_eq!((find("once", 8), find("nobody", 7)), (None, None));
        store.index_log(|| false).expect("index");
    }
    // The newest entry counts.
    store.commit(&[Change::Finished(LogEntry { attempt: 2, ..entry("once", 7) })]).expect("commit");
    assert_eq!(find("once", 7), Some((7, 2)));
}

#[test]
fn what_is_parked_is_listed_by_subscription_and_due_time_and_can_be_hastened() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    for (subscription, sequence, due_ms) in [("crm", 1, 500), ("crm", 2, 400), ("wall", 3, 300), ("b", 4, 900)] {
        store.commit(&[park(parked(subscription, sequence, due_ms))]).expect("commit");
    }
    let list = |of: Option<&[SubscriptionId]>, limit| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.parked_list(of, |_| true, after.as_ref(), limit).expect("page");
            found.extend(page.deliveries.iter().map(|parked| parked.position.sequence));
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    };
    for limit in [1, 2, 100] {
        assert_eq!(list(None, limit), [4, 2, 1, 3], "pages of {limit}");
        assert_eq!(list(Some(&[sub("wall"), sub("crm"), sub("nobody")]), limit), [2, 1, 3]);
    }
    let id = parked("b", 4, 0).delivery;
    assert_eq!(store.whereabouts(&id).expect("read"), Some(Whereabouts::Parked { due_ms: 900 }));
    assert_eq!(store.hasten(&sub("crm"), &id, 100).expect("write"), Hastened::Unknown, "another one's");
    assert_eq!(store.hasten(&sub("b"), &id, 100).expect("write"), Hastened::Due);
    assert_eq!(store.whereabouts(&id).expect("read"), Some(Whereabouts::Parked { due_ms: 100 }));
    assert_eq!(store.hasten(&sub("b"), &id, 200).expect("write"), Hastened::Due);
    let kept = store.parked(&id).expect("read").expect("parked");
    assert_eq!((kept.due_ms, totals(&store)), (100, counts(4, 0)), "never later, and still the only one");
}

#[test]
fn dead_letters_of_some_subscriptions_are_merged_by_time() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    for (subscription, sequence, failed_ms) in [("a", 1, 10), ("b", 2, 20), ("c", 3, 30), ("a", 4, 40), ("b", 5, 50)] {
        store.commit(&[bury(dead(subscription, sequence, failed_ms))]).expect("commit");
    }
    for limit in [1, 2, 100] {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let filter = DeadFilter::default();
            let page = store.dead_letters_among(&[sub("a"), sub("b")], &filter, before, limit).expect("page");
            found.extend(page.letters.iter().map(|letter| letter.position.sequence));
            let Some(next) = page.next else { break };
            before = Some((next.failed_ms, next.delivery));
        }
        assert_eq!(found, [5, 4, 2, 1], "pages of {limit}");
    }
}

#[test]
fn descriptions_of_event_types_are_kept() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let name = |text: &str| crate::domain::Subject::parse(text).expect("a type");
    let record = |text: &str| EventTypeRecord { created_ms: 1, updated_ms: 2, text: text.as_bytes().into() };
    for (kind, text) in [("b.c", "1"), ("a", "2"), ("b.c", "3")] {
        store.put_event_type(&name(kind), &record(text)).expect("write");
    }
    drop(store);
    let store = open(&dir);
    assert_eq!(store.event_types().expect("read"), [(name("a"), record("2")), (name("b.c"), record("3"))]);
    store.remove_event_type(&name("a")).expect("write");
    assert_eq!(store.event_types().expect("read").len(), 1);
}

//! What is on record at start, pages of the log, partitions and their end.

use super::super::GapCause;
use super::super::recover::recover;
use super::*;

fn recorded(store: &Store, floors: &[(StreamName, u64)]) -> Vec<(String, Vec<u64>)> {
    let places = store.recover(floors).expect("recover").into_iter();
    places.map(|p| (p.subscription.to_string(), p.recorded.iter().map(|r| r.sequence).collect())).collect()
}

fn finished(subscription: &str, sequence: u64) -> Change {
    Change::Finished(entry(subscription, sequence))
}

#[test]
fn only_the_tail_is_read() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    for n in 0..300 {
        store.commit(&[finished("crm", 2 * n + 1), finished("wall", 2 * n + 2)]).expect("commit");
    }
    drop(store);
    let store = open(&dir);
    let floors = [(stream("EVENTS"), 590)];
    let expected =
        [("crm".to_owned(), vec![591, 593, 595, 597, 599]), ("wall".to_owned(), vec![592, 594, 596, 598, 600])];
    assert_eq!(recorded(&store, &floors), expected);
    let (_, flushes) = recover(&store.engine().expect("open"), &floors).expect("recover");
    assert_eq!(flushes, 6, "five with something new and the one that ends the search");
    let (none, flushes) = recover(&store.engine().expect("open"), &[(stream("EVENTS"), 600)]).expect("recover");
    assert_eq!((none.len(), flushes), (0, 1));
    let (_, flushes) = recover(&store.engine().expect("open"), &[(stream("SILENT"), 0)]).expect("recover");
    assert_eq!(flushes, 1, "a stream without records ends the search at once");
}

#[test]
fn what_a_held_subscription_recorded_after_its_position_is_found_below_the_floor() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let position = position_at(at(8));
    store.commit(&[finished("crm", 7), Change::Hold { subscription: sub("crm"), position }]).expect("commit");
    store.commit(&[finished("crm", 9), finished("wall", 20)]).expect("commit");
    store.commit(&[finished("crm", 8), finished("wall", 21)]).expect("commit");
    drop(store);
    let found = recorded(&open(&dir), &[(stream("EVENTS"), 20)]);
    assert_eq!(found, [("crm".to_owned(), vec![8, 9]), ("wall".to_owned(), vec![21])]);
}

#[test]
fn a_late_old_record_does_not_end_the_search_too_early() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    for sequence in [5, 9, 3, 2] {
        store.commit(&[finished("crm", sequence)]).expect("commit");
    }
    drop(store);
    let store = open(&dir);
    store.commit(&[finished("crm", 1)]).expect("commit");
    assert_eq!(recorded(&store, &[(stream("EVENTS"), 4)]), [("crm".to_owned(), vec![5, 9])]);
}

#[test]
fn every_kind_of_entry_counts_once_as_on_record_with_its_parts() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let part = |part, parts| Change::Finished(LogEntry { part, parts, ..entry("crm", 5) });
    store.commit(&[part(1, 2), park(parked("crm", 6, 10)), bury(dead("crm", 7, 10))]).expect("commit");
    store
        .commit(&[Change::FinishParked { delivery: parked("crm", 6, 0).delivery, log: entry("crm", 6) }])
        .expect("commit");
    let recovered = store.recover(&[(stream("EVENTS"), 0)]).expect("recover");
    let found: Vec<_> = recovered[0].recorded.iter().map(|r| (r.sequence, r.part, r.parts)).collect();
    assert_eq!(found, [(5, 1, 2), (6, 0, 1), (7, 0, 1)]);
}

#[test]
fn a_stream_made_anew_leaves_its_past_behind() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let events = stream("EVENTS");
    assert_eq!(store.bind_stream(&events, 1).expect("bind"), StreamBinding::New);
    let registration = Registration { starts_after: vec![(events.clone(), 3)], ..Registration::default() };
    store.put_registration(&sub("crm"), &registration).expect("put");
    let position = position_at(at(8));
    store
        .commit(&[
            finished("crm", 500),
            Change::Hold { subscription: sub("crm"), position },
            Change::Checkpoint { stream: events.clone(), ack_floor: 499 },
        ])
        .expect("commit");
    drop(store);
    let store = open(&dir);
    assert_eq!(store.bind_stream(&events, 1).expect("bind"), StreamBinding::Known);
    assert_eq!(recorded(&store, &[(events.clone(), 0)]), [("crm".to_owned(), vec![500])]);
    assert_eq!(store.bind_stream(&events, 2).expect("bind"), StreamBinding::Replaced);
    assert_eq!(recorded(&store, &[(events.clone(), 0)]), [("crm".to_owned(), vec![])]);
    assert_eq!(store.checkpoint(&events).expect("read"), None);
    let crm = store.registration(&sub("crm")).expect("read").expect("it stays");
    assert_eq!(crm.starts_after, [(events.clone(), 0)]);
    let gap = &crm.gaps[0];
    assert_eq!((gap.from, gap.available, gap.cause, gap.events), (8, 1, GapCause::Replaced, 0));
    let recovered = store.recover(&[(events.clone(), 0)]).expect("recover");
    assert_eq!(recovered[0].position.as_ref().map(|p| p.position.clone()), Some(at(1)), "it begins with the new one");
    store.commit(&[finished("crm", 2)]).expect("commit");
    drop(store);
    assert_eq!(recorded(&open(&dir), &[(events, 0)]), [("crm".to_owned(), vec![2])]);
}

#[test]
fn the_log_is_paged_newest_first() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    for n in 0..10 {
        let changes: Vec<Change> = (0..5).flat_map(|k| [finished("crm", 5 * n + k + 1), finished("x", 1)]).collect();
        store.commit(&changes).expect("commit");
    }
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let page = store.deliveries(&sub("crm"), before, 7).expect("page");
        seen.extend(page.entries.iter().map(|(_, entry)| entry.position.sequence));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=50).rev().collect::<Vec<u64>>());
    let newest = store.deliveries(&sub("crm"), None, 1).expect("page").entries.remove(0).1;
    assert_eq!(newest, entry("crm", 50));
    assert_eq!(newest.delivery(), DeliveryId::derive(&sub("crm"), &at(50), 0));
    assert_eq!(store.deliveries(&sub("nobody"), None, 100).expect("page"), DeliveryPage::default());
}

#[test]
fn retention_drops_whole_partitions_and_never_the_newest() {
    let dir = TempDir::new().expect("tempdir");
    let config = Config { log_partition: Duration::ZERO, log_retention: Duration::from_secs(3600), ..config(&dir) };
    let store = Store::open(config.clone()).expect("open");
    for sequence in 1..=4 {
        assert!(store.commit(&[finished("crm", sequence)]).expect("commit"), "a partition for each flush");
    }
    let engine = store.engine().expect("open");
    let expire = |now_ms| partition::expire(&engine, now_ms, &config).expect("expire");
    assert_eq!(expire(now_ms()), Expired::default());
    assert_eq!(expire(now_ms() + 7_200_000), Expired { by_age: 3, by_size: 0 });
    drop(engine);
    drop(store);
    let store = Store::open(config).expect("open");
    let left = store.deliveries(&sub("crm"), None, 10).expect("page").entries;
    assert_eq!(left.iter().map(|(key, entry)| (key.flush, entry.position.sequence)).collect::<Vec<_>>(), [(4, 4)]);
    store.commit(&[finished("crm", 5)]).expect("commit");
    assert_eq!(store.deliveries(&sub("crm"), None, 10).expect("page").entries[0].0.flush, 5);
    assert_eq!(store.expire().expect("expire"), Expired::default());
}

//! What the log has of one event, found without reading all of it.

use super::super::search::STRETCH_FLUSHES_MAX;
use super::*;

fn finished(subscription: &str, sequence: u64) -> Change {
    Change::Finished(entry(subscription, sequence))
}

fn found(store: &Store, sequence: u64) -> Vec<(String, Disposition)> {
    let log = store.event_log(&at(sequence)).expect("search");
    log.entries.iter().map(|entry| (entry.subscription.to_string(), entry.disposition)).collect()
}

#[test]
fn an_event_is_found_in_the_flushes_that_can_have_it() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    assert_eq!(store.event_log(&at(1)).expect("search"), EventLog { complete: true, ..EventLog::default() });
    for n in 1..=200 {
        store.commit(&[finished("crm", n), finished("wall", n)]).expect("commit");
    }
    // One that was taken up late: an old sequence in a new flush.
    store.commit(&[finished("late", 7), finished("crm", 201)]).expect("commit");
    let both = [("crm".to_owned(), Disposition::Delivered), ("wall".to_owned(), Disposition::Delivered)];
    assert_eq!(found(&store, 150), both);
    assert_eq!(found(&store, 7).last(), Some(&("late".to_owned(), Disposition::Delivered)));
    assert_eq!(found(&store, 999), []);
    let log = store.event_log(&at(190)).expect("search");
    assert_eq!((log.flushes, log.complete), (12, true), "from the first flush that reaches it to the end");
    let other = Position { stream: stream("OTHER"), sequence: 1 };
    assert_eq!(store.event_log(&other).expect("search").entries, []);
}

#[test]
fn what_an_older_stream_of_the_name_had_is_not_found() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    store.bind_stream(&stream("EVENTS"), 1).expect("bind");
    store.commit(&[finished("old", 5)]).expect("commit");
    store.bind_stream(&stream("EVENTS"), 2).expect("bind");
    store.commit(&[finished("new", 5)]).expect("commit");
    assert_eq!(found(&store, 5), [("new".to_owned(), Disposition::Delivered)]);
}

#[test]
fn the_search_leaps_to_when_the_next_attempt_was_due() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let due_ms = 1_700_000_900_000;
    let detail = Detail { took_ms: 5, due_ms: Some(due_ms), message: "busy".into(), response: None };
    let waits = LogEntry { disposition: Disposition::Parked, detail: Some(Box::new(detail)), ..entry("crm", 1) };
    store.commit(&[Change::Park { parked: Box::new(parked("crm", 1, due_ms)), log: waits }]).expect("commit");
    // Far more flushes than one stretch of the search reads, written without syncing each.
    let engine = store.engine().expect("open");
    let tree = engine.partition(2, now_ms(), store.config()).expect("partition").0.tree;
    let others = STRETCH_FLUSHES_MAX as u64 + 5_000;
    for n in 2..others {
        let one = LogEntry { at_ms: 1_700_000_000_000 + n * 30, ..entry("crm", n) };
        tree.insert(n.to_be_bytes(), value(&[one], n)).expect("insert");
    }
    let arrived = LogEntry { attempt: 2, at_ms: due_ms + 10, ..entry("crm", 1) };
    tree.insert(others.to_be_bytes(), value(&[arrived], others)).expect("insert");
    let log = store.event_log(&at(1)).expect("search");
    let attempts: Vec<u32> = log.entries.iter().map(|entry| entry.attempt).collect();
    assert_eq!((attempts, log.complete), (vec![1, 2], false));
    assert!(log.flushes < STRETCH_FLUSHES_MAX + 100, "{}", log.flushes);
}

/// A flush's value, in a stream that had reached `max` before.
fn value(entries: &[LogEntry], max: u64) -> Vec<u8> {
    let mut builder = super::super::log::Builder::default();
    for entry in entries {
        builder.push(entry);
    }
    builder.finish(&Running::from([(stream("EVENTS"), max)]))
}

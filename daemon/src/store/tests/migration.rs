//! A store that an older version wrote is opened, and all of it is found.

use std::fs;
use std::path::Path;

use super::super::keys::{self, kind};
use super::golden::{dead_v1, entries_v1, parked_v1, v1};
use super::*;

/// A store of format 1 with one record of each kind, as version 1 wrote them.
fn write_format_1(dir: &Path) {
    drop(Store::open(Config::new(dir)).expect("a new store"));
    fs::write(dir.join("format"), "1\n").expect("format");
    let db = sled::Config::new().path(dir.join("sled")).segment_size(16 << 20).open().expect("database");
    let state = db.open_tree("state").expect("state");
    let log = db.open_tree(keys::partition(1, 1_700_000_000_000)).expect("log");
    let parked = parked_v1();
    let dead_id = DeliveryId::derive(&sub("wall"), &at(42), 0);
    // Format 1 in the data, the place of a parked delivery, and that of a dead letter, written out.
    let format = hex::decode("0101").expect("hex");
    let parked_at = hex::decode("01000363726d0500").expect("hex");
    let dead_at = hex::decode("01010477616c6c0500").expect("hex");
    for (key, value) in [
        (keys::META_FORMAT.to_vec(), format),
        (keys::of_subscription(kind::REGISTRATION, &sub("crm")), v1("registration")),
        (keys::held(&sub("crm"), &stream("EVENTS")), v1("position")),
        (keys::of_stream(kind::CHECKPOINT, &stream("EVENTS")), v1("number")),
        (keys::timed(kind::PARKED, &sub("crm"), 5, &parked.delivery), v1("parked")),
        (keys::by_id(&parked.delivery), parked_at),
        (keys::timed(kind::DEAD, &sub("wall"), 5, &dead_id), v1("dead")),
        (keys::by_id(&dead_id), dead_at),
        (keys::of_subscription(kind::COUNTS, &sub("crm")), hex::decode("010100").expect("hex")),
        (keys::of_subscription(kind::COUNTS, &sub("wall")), hex::decode("010001").expect("hex")),
    ] {
        state.insert(key, value).expect("insert");
    }
    log.insert(1u64.to_be_bytes(), v1("log")).expect("insert");
    db.flush().expect("flush");
}

#[test]
fn a_store_of_format_1_is_read_and_brought_up_to_date() {
    let dir = TempDir::new().expect("tempdir");
    let path = dir.path().join("store");
    write_format_1(&path);
    for round in ["first", "second"] {
        let store = open(&dir);
        assert_eq!(store.parked(&parked_v1().delivery).expect("read"), Some(parked_v1()), "{round}");
        let letters = store.dead_letters(&sub("wall"), &DeadFilter::default(), None, 10).expect("page").letters;
        let dead_id = DeliveryId::derive(&sub("wall"), &at(42), 0);
        let expected = DeadLetter { subscription: sub("wall"), delivery: dead_id, ..dead_v1() };
        assert_eq!(letters, [expected]);
        let busy = DeadFilter { class: Some("status".into()), status: Some(503), ..DeadFilter::default() };
        assert_eq!(store.dead_letters(&sub("wall"), &busy, None, 10).expect("page").letters, letters, "by reason");
        assert_eq!(store.dead_letters_of_all(&busy, None, 10).expect("page").letters, letters, "by time");
        assert!(store.counts(&sub("wall")).dead_bytes > 100, "{:?}", store.counts(&sub("wall")));
        assert_eq!(totals(&store), counts(1, 1));
        let registration = store.registration(&sub("crm")).expect("read").expect("known");
        assert_eq!(registration.disabled.map(|d| (d.reason, d.since_ms)), Some(("gone".into(), 0)));
        assert_eq!(store.checkpoint(&stream("EVENTS")).expect("read"), Some(300));
        let page = store.deliveries(&sub("crm"), None, 10).expect("page");
        let expected = entries_v1().into_iter().filter(|e| e.subscription == sub("crm")).count();
        assert_eq!(page.entries.len(), expected);
        let recovered = store.recover(&[(stream("EVENTS"), 0)]).expect("recover");
        assert_eq!(recovered.len(), 2, "crm with its position, and wall");
        assert_eq!(fs::read_to_string(path.join("format")).expect("format").trim(), "2");
    }
    let store = open(&dir);
    store.commit(&[park(Parked { history: vec![attempt(1)], ..parked_v1() })]).expect("a record is written anew");
    let read = store.parked(&parked_v1().delivery).expect("read").expect("parked");
    assert_eq!(read.history, [attempt(1)]);
}

#[test]
fn a_daemon_of_format_1_would_refuse_this_store() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let stored = store.engine().expect("open").state.get(keys::META_FORMAT).expect("read").expect("format");
    assert_eq!(stored.to_vec(), [1, 2], "in version 1, so that it can be read, and above 1");
}

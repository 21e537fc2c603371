//! Retention of dead letters, by age, by size, in bounded steps, with nothing left behind; and of the log by its size.

use super::super::keys::kind;
use super::*;

const HOUR_MS: u64 = 3_600_000;

fn open_with(dir: &TempDir, change: impl FnOnce(&mut Config)) -> Store {
    let mut config = Config { dead_letter_retention: Duration::from_secs(3600), ..config(dir) };
    change(&mut config);
    Store::open(config).expect("store opens")
}

#[test]
fn dead_letters_that_are_too_old_go_in_bounded_steps_oldest_first() {
    let dir = TempDir::new().expect("tempdir");
    let store = open_with(&dir, |config| config.publish_dead_letters = true);
    let letters: Vec<_> = (0..600).map(|n| bury(dead(if n % 2 == 0 { "crm" } else { "wall" }, n, 1000 + n))).collect();
    store.commit(&letters).expect("commit");
    store.commit(&[park(parked("crm", 700, 10))]).expect("a parked delivery, of any age, is none");
    let step = |now_ms| store.expire_dead_letters_at(now_ms).expect("a step");
    assert_eq!(step(HOUR_MS + 1000), Expired::default(), "the oldest is as old as it may be");
    let now_ms = HOUR_MS + 1000 + 598;
    assert_eq!(step(now_ms), Expired { by_age: EXPIRE_LETTERS_MAX, by_size: 0 });
    assert_eq!(dead_sequences(&store, "crm").len(), 100, "a page of those that are left");
    assert_eq!((totals(&store), step(now_ms).by_age, step(now_ms).by_age), (counts(1, 344), 256, 86));
    assert_eq!(step(now_ms), Expired::default());
    assert_eq!((dead_sequences(&store, "crm"), dead_sequences(&store, "wall")), (vec![598], vec![599]));
    let state = store.engine().expect("open").state.clone();
    for kind in [kind::DEAD, kind::DEAD_BY_TIME, kind::DEAD_BY_REASON, kind::UNPUBLISHED] {
        assert_eq!(state.scan_prefix([kind]).count(), 2, "{}", char::from(kind));
    }
}

#[test]
fn dead_letters_beyond_the_size_go_oldest_first_with_their_files() {
    let dir = TempDir::new().expect("tempdir");
    let large = vec![7u8; INLINE_BODY_BYTES_MAX + 1];
    let store = open_with(&dir, |config| config.dead_letter_bytes_max = 3 * large.len() as u64);
    for n in [4, 2, 3, 1] {
        let letter = DeadLetter { content: content(&large), ..dead("crm", n, n) };
        store.commit(&[bury(letter)]).expect("commit");
    }
    assert_eq!(store.expire_dead_letters_at(100).expect("a step"), Expired { by_age: 0, by_size: 2 });
    assert_eq!(dead_sequences(&store, "crm"), [4, 3]);
    assert_eq!(std::fs::read_dir(dir.path().join("store/bodies")).expect("bodies").count(), 2);
    assert_eq!(store.expire_dead_letters_at(100).expect("a step"), Expired::default());
    drop(store);
    let store = open_with(&dir, |config| config.dead_letter_bytes_max = 1);
    assert_eq!(store.expire_dead_letters_at(100).expect("a step").total(), 2, "the bytes are known after a restart");
    assert_eq!(store.totals(), Counts::default());
}

#[test]
fn a_damaged_entry_of_the_index_does_not_stop_the_retention() {
    let dir = TempDir::new().expect("tempdir");
    let store = open_with(&dir, |_| {});
    let [lost, damaged, whole] = [1, 2, 3].map(|n| dead("crm", n, n));
    let (lost_id, damaged_id) = (lost.delivery, damaged.delivery);
    store.commit(&[lost, damaged, whole].map(bury)).expect("commit");
    let state = store.engine().expect("open").state.clone();
    state.remove(keys::by_id(&lost_id)).expect("remove");
    state.insert(keys::by_id(&damaged_id), &[9u8][..]).expect("insert");
    let step = || store.expire_dead_letters_at(2 * HOUR_MS).expect("a step");
    assert_eq!((step().by_age, step().by_age), (1, 0));
}

/// A store whose log may have so many bytes, and what one commit adds to it.
fn log_of(dir: &TempDir, log_bytes_max: u64) -> (Store, Config) {
    let config = Config { log_bytes_max, ..config(dir) };
    (Store::open(config.clone()).expect("opens"), config)
}

/// Writes flushes of half a KiB each, and acks what lies so far behind.
fn fill_log(store: &Store, sequences: std::ops::RangeInclusive<u64>, acked_behind: u64) {
    for n in sequences {
        let detail = Detail { message: "x".repeat(500).into(), ..Detail::default() };
        let log = LogEntry { disposition: Disposition::Dropped, detail: Some(Box::new(detail)), ..entry("crm", n) };
        let ack_floor = n.saturating_sub(acked_behind);
        store
            .commit(&[Change::Finished(log), Change::Checkpoint { stream: stream("EVENTS"), ack_floor }])
            .expect("commit");
    }
}

fn first_in_log(store: &Store) -> u64 {
    let partitions = store.engine().expect("open").partitions();
    partitions.first().map_or(0, |partition| partition.first_flush)
}

#[test]
fn the_log_beyond_its_size_goes_by_whole_partitions_oldest_first() {
    let dir = TempDir::new().expect("tempdir");
    let (store, config) = log_of(&dir, 80 << 10);
    fill_log(&store, 1..=100, 0);
    assert_eq!(store.expire().expect("expire"), Expired::default(), "50 KiB are not too much");
    fill_log(&store, 101..=300, 0);
    let partitions = store.engine().expect("open").partitions().len();
    assert!((14..=17).contains(&partitions), "of 10 KiB each: {partitions}");
    let before = store.log_bytes().expect("bytes");
    assert!((150_000..180_000).contains(&before), "{before}");
    let expired = store.expire().expect("expire");
    assert!(expired.by_age == 0 && (6..=9).contains(&expired.by_size), "{expired:?}");
    let (bytes, first) = (store.log_bytes().expect("bytes"), first_in_log(&store));
    assert!((60 << 10..=80 << 10).contains(&bytes), "{bytes}");
    let recorded = store.recover(&[(stream("EVENTS"), 0)]).expect("recover").remove(0).recorded;
    let sequences: Vec<u64> = recorded.iter().map(|r| r.sequence).collect();
    assert_eq!(sequences, (first..=300).collect::<Vec<_>>(), "the newest are all there");
    drop(store);
    let store = Store::open(config.clone()).expect("opens");
    let found = store.log_bytes().expect("bytes");
    assert!(found.abs_diff(bytes) < bytes / 20, "{found} after a restart, {bytes} before");
    fill_log(&store, 301..=302, 0);
    let more = store.log_bytes().expect("bytes") - found;
    assert!((1_000..1_300).contains(&more), "what is written is added: {more}");
    assert_eq!(store.expire().expect("expire"), Expired::default());
    drop(store);
    let store = Store::open(Config { log_bytes_max: 1, ..config }).expect("opens");
    store.expire().expect("expire");
    assert_eq!(store.engine().expect("open").partitions().len(), 1, "never the newest");
    assert_eq!(store.recover(&[(stream("EVENTS"), 301)]).expect("recover").len(), 1);
}

#[test]
fn what_may_come_again_stays_in_the_log_whatever_its_size() {
    let dir = TempDir::new().expect("tempdir");
    let (store, config) = log_of(&dir, 8 << 10);
    fill_log(&store, 1..=100, 60);
    let expired = store.expire().expect("expire");
    assert!(expired.by_size > 10, "{expired:?}");
    assert!((30..=41).contains(&first_in_log(&store)), "40 is the ack floor: {}", first_in_log(&store));
    let engine = store.engine().expect("open");
    let an_hour_later = partition::expire(&engine, now_ms() + HOUR_MS + 1, &config).expect("expire");
    assert!(an_hour_later.by_size > 10, "{an_hour_later:?}");
    drop(engine);
    // The reader of a held subscription may bring again what was recorded of late, though it is acked.
    let position = position_at(at(150));
    store.commit(&[Change::Hold { subscription: sub("crm"), position }]).expect("commit");
    let first = first_in_log(&store);
    fill_log(&store, 101..=200, 0);
    assert_eq!((store.expire().expect("expire"), first_in_log(&store)), (Expired::default(), first));
    store.commit(&[Change::Unhold { subscription: sub("crm"), stream: stream("EVENTS") }]).expect("commit");
    assert!(store.expire().expect("expire").by_size > 10);
}

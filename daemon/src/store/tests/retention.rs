//! Retention of dead letters: by age, by size, in bounded steps, with nothing left behind.

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

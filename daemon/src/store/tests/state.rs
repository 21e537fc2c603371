//! What is parked, dead, held and registered.

use super::*;
use crate::domain::RangeSet;

fn page(store: &Store, subscription: &str, until: u64, limit: usize) -> Vec<u64> {
    let page = store.parked_page(&sub(subscription), None, until, limit).expect("page");
    page.iter().map(|(_, parked)| parked.position.sequence).collect()
}

#[test]
fn parked_deliveries_come_in_due_order_and_only_when_due() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let changes: Vec<Change> =
        [(1, 300), (2, 100), (3, 200), (4, 900)].map(|(s, due)| park(parked("crm", s, due))).into();
    store.commit(&changes).expect("commit");
    // Another subscription whose id begins with the first one's.
    store.commit(&[park(parked("crm2", 9, 1))]).expect("commit");
    assert_eq!(page(&store, "crm", 99, 10), [] as [u64; 0]);
    assert_eq!(page(&store, "crm", 300, 10), [2, 3, 1]);
    assert_eq!(page(&store, "crm", 300, 2), [2, 3]);
    let first = store.parked_page(&sub("crm"), None, 900, 2).expect("page");
    let rest = store.parked_page(&sub("crm"), Some(&first[1].0), u64::MAX, 2).expect("page");
    assert_eq!(rest.iter().map(|(k, _)| k.due_ms).collect::<Vec<_>>(), [300, 900]);
    assert_eq!(store.next_due_ms(&sub("crm")).expect("due"), Some(100));
    assert_eq!(store.next_due_ms(&sub("cr")).expect("due"), None);
    let due = store.subscriptions_with_parked().expect("due");
    assert_eq!(due, [(sub("crm"), 100), (sub("crm2"), 1)]);
    assert_eq!(rest[0].1, parked("crm", 1, 300));
}

#[test]
fn parking_again_moves_and_finishing_removes() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    store.commit(&[park(parked("crm", 1, 100))]).expect("commit");
    store.commit(&[park(parked("crm", 1, 700))]).expect("commit");
    assert_eq!(page(&store, "crm", 699, 10), [] as [u64; 0]);
    assert_eq!(page(&store, "crm", 700, 10), [1]);
    assert_eq!(totals(&store), counts(1, 0));
    let delivery = parked("crm", 1, 700).delivery;
    assert_eq!(store.parked(&delivery).expect("read"), Some(parked("crm", 1, 700)));
    let finish = Change::FinishParked { delivery, log: entry("crm", 1) };
    store.commit(std::slice::from_ref(&finish)).expect("commit");
    store.commit(&[finish]).expect("a second time is no error");
    assert_eq!(totals(&store), counts(0, 0));
    assert_eq!(store.next_due_ms(&sub("crm")).expect("due"), None);
    assert_eq!(store.parked(&delivery).expect("read"), None);
}

#[test]
fn a_life_within_one_group_leaves_only_its_end() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let delivery = parked("crm", 1, 0).delivery;
    store
        .commit(&[
            park(parked("crm", 1, 100)),
            park(parked("crm", 1, 200)),
            bury(dead("crm", 1, 300)),
            Change::Resend(Box::new(parked("crm", 1, 400))),
            park(parked("crm", 2, 500)),
            Change::FinishParked { delivery: parked("crm", 2, 0).delivery, log: entry("crm", 2) },
        ])
        .expect("commit");
    assert_eq!(page(&store, "crm", 1000, 10), [1]);
    assert_eq!(store.counts(&sub("crm")), counts(1, 0));
    assert_eq!(store.dead_letter(&delivery).expect("read"), None);
    assert_eq!(store.next_due_ms(&sub("crm")).expect("due"), Some(400));
}

#[test]
fn dead_letters_come_newest_first_and_can_be_sent_again() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    store.commit(&[park(parked("crm", 1, 100))]).expect("commit");
    let letters: Vec<Change> = (1..=5).map(|n| bury(dead("crm", n, n * 10))).collect();
    store.commit(&letters).expect("commit");
    assert_eq!(totals(&store), counts(0, 5), "the parked one became a dead letter");
    let all = DeadFilter::default();
    let first = store.dead_letters(&sub("crm"), &all, None, 2).expect("page");
    let next = store.dead_letters(&sub("crm"), &all, first.next.as_ref(), 100).expect("page");
    let sequences: Vec<u64> = first.letters.iter().chain(&next.letters).map(|l| l.position.sequence).collect();
    assert_eq!((sequences, next.next), (vec![5, 4, 3, 2, 1], None));
    assert_eq!(first.letters[0], dead("crm", 5, 50));
    store.commit(&[Change::Resend(Box::new(parked("crm", 3, 77)))]).expect("commit");
    store.commit(&[Change::Remove(dead("crm", 4, 0).delivery)]).expect("commit");
    assert_eq!(totals(&store), counts(1, 3));
    drop(store);
    assert_eq!(totals(&open(&dir)), counts(1, 3), "counts are kept");
}

#[test]
fn registrations_positions_and_checkpoints_stay() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let starts_after = vec![(stream("EVENTS"), 9)];
    let registration = Registration { first_seen_ms: 5, starts_after, ..Registration::default() };
    store.put_registration(&sub("crm"), &registration).expect("put");
    let mut recorded_above = RangeSet::new();
    recorded_above.insert_range(12, 15);
    let held = PositionRecord { recorded_above, ..position_at(at(10)) };
    store
        .commit(&[
            Change::Hold { subscription: sub("crm"), position: held.clone() },
            Change::Hold { subscription: sub("old"), position: held.clone() },
            Change::Unhold { subscription: sub("old"), stream: stream("EVENTS") },
            Change::Checkpoint { stream: stream("EVENTS"), ack_floor: 8 },
            Change::Disable { subscription: sub("crm"), disabled: disabled() },
        ])
        .expect("commit");
    drop(store);
    let store = open(&dir);
    let known = store.registration(&sub("crm")).expect("read").expect("known");
    let updated_ms = known.updated_ms;
    assert!(updated_ms > 0);
    assert_eq!(known, Registration { disabled: Some(disabled()), updated_ms, ..registration });
    assert_eq!(store.registrations().expect("read"), [(sub("crm"), known)]);
    assert_eq!(store.checkpoint(&stream("EVENTS")).expect("read"), Some(8));
    assert_eq!(store.checkpoint(&stream("OTHER")).expect("read"), None);
    let recovered = store.recover(&[]).expect("recover");
    assert_eq!(recovered.len(), 1);
    assert_eq!(recovered[0].position, Some(held));
    store.remove_registration(&sub("crm")).expect("remove");
    assert_eq!(store.registrations().expect("read"), []);
    assert_eq!(store.recover(&[]).expect("recover"), []);
}

fn disabled() -> Disabled {
    Disabled { reason: "410".into(), since_ms: 9, endpoint: Some(3) }
}

#[test]
fn a_registration_is_amended_by_changes() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let (cause, events) = (GapCause::Discarded, 5);
    let gap = |from| GapRecord { stream: stream("EVENTS"), from, available: from + 5, at_ms: 7, cause, events };
    let mut changes: Vec<Change> =
        (0..20).map(|n| Change::Gap { subscription: sub("crm"), gap: gap(n * 10) }).collect();
    changes.push(Change::Failing { subscription: sub("crm"), since_ms: Some(77) });
    changes.push(Change::Disable { subscription: sub("crm"), disabled: disabled() });
    store.commit(&changes).expect("commit");
    let read = || store.registration(&sub("crm")).expect("read").expect("known");
    let last: Vec<GapRecord> = (4..20).map(|n| gap(n * 10)).collect();
    assert_eq!((read().gaps, read().failing_since_ms), (last, Some(77)));
    assert!(read().disabled.is_some());
    store.commit(&[Change::Enable { subscription: sub("crm") }]).expect("commit");
    assert_eq!((read().disabled, read().failing_since_ms, read().gaps.len()), (None, None, GAPS_MAX));
}

#[test]
fn a_history_keeps_its_newest_attempts_and_responses() {
    let mut history = Vec::new();
    let large = Response { body: Bytes::from(vec![7; HISTORY_RESPONSE_BYTES_MAX / 2]), ..Response::default() };
    for number in 1..=HISTORY_ATTEMPTS_MAX as u32 + 5 {
        add_attempt(&mut history, Attempt { response: Some(large.clone()), ..attempt(number) });
    }
    let numbers: Vec<u32> = history.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, (6..=HISTORY_ATTEMPTS_MAX as u32 + 5).collect::<Vec<_>>());
    let with: Vec<u32> = history.iter().filter(|a| a.response.is_some()).map(|a| a.number).collect();
    assert_eq!(with, [HISTORY_ATTEMPTS_MAX as u32 + 4, HISTORY_ATTEMPTS_MAX as u32 + 5]);
}

#[test]
fn large_bodies_live_in_files_as_long_as_they_are_needed() {
    let dir = TempDir::new().expect("tempdir");
    let files = || std::fs::read_dir(dir.path().join("store/bodies")).expect("bodies").count();
    let large = vec![7u8; INLINE_BODY_BYTES_MAX + 1];
    let big = |due| Parked { content: content(&large), ..parked("crm", 1, due) };
    let store = open(&dir);
    store.commit(&[park(big(100)), park(parked("crm", 2, 50))]).expect("commit");
    assert_eq!(files(), 1);
    store.commit(&[park(big(200))]).expect("commit");
    let letter = DeadLetter { content: content(&large), ..dead("crm", 1, 300) };
    store.commit(&[bury(letter.clone())]).expect("commit");
    assert_eq!(files(), 1, "the same body keeps its file");
    drop(store);
    std::fs::write(dir.path().join("store/bodies/stray.new"), b"torn").expect("write");
    std::fs::write(dir.path().join(format!("store/bodies/{}-{}", "0".repeat(32), "0".repeat(16))), b"x")
        .expect("write");
    let store = open(&dir);
    assert_eq!(files(), 1, "strays are swept away");
    assert_eq!(store.dead_letter(&letter.delivery).expect("read"), Some(letter.clone()));
    store.commit(&[Change::Resend(Box::new(big(400)))]).expect("commit");
    assert_eq!(store.parked_page(&sub("crm"), None, 400, 10).expect("page")[1].1, big(400));
    store.commit(&[Change::FinishParked { delivery: letter.delivery, log: entry("crm", 1) }]).expect("commit");
    assert_eq!(files(), 0);
    assert!(store.size_on_disk().expect("size") > 0);
}

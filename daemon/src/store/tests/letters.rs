//! Dead letters: listings by filter, sending again, removing, and what is left of them then.

use super::super::keys::{self, kind};
use super::*;

fn letter(subscription: &str, sequence: u64, failed_ms: u64, class: &str, status: Option<u16>) -> DeadLetter {
    let failure = LastFailure { class: class.into(), status, message: "no".into() };
    DeadLetter { failure, ..dead(subscription, sequence, failed_ms) }
}

/// Five letters of `crm`, one of `crm2`, at the times 10, 20 and so on.
fn filled(dir: &TempDir) -> Store {
    let store = open(dir);
    let letters = [
        letter("crm", 1, 10, "status", Some(400)),
        letter("crm", 2, 20, "timeout", None),
        letter("crm2", 3, 30, "status", Some(400)),
        letter("crm", 4, 40, "status", Some(500)),
        letter("crm", 5, 50, "status", Some(400)),
        letter("crm", 6, 60, "gone", Some(410)),
    ];
    store.commit(&letters.map(bury)).expect("commit");
    store
}

fn found(store: &Store, filter: &DeadFilter) -> Vec<u64> {
    let page = store.dead_letters(&sub("crm"), filter, None, 100).expect("page");
    assert_eq!(page.next, None);
    let keys = store.dead_letter_keys(&sub("crm"), filter, None, 100).expect("keys");
    assert_eq!(keys, page.letters.iter().map(DeadLetter::key).collect::<Vec<_>>());
    page.letters.iter().map(|letter| letter.position.sequence).collect()
}

fn anywhere(store: &Store, filter: &DeadFilter) -> Vec<u64> {
    let page = store.dead_letters_of_all(filter, None, 100).expect("page");
    page.letters.iter().map(|letter| letter.position.sequence).collect()
}

#[test]
fn dead_letters_are_found_by_class_status_and_time() {
    let dir = TempDir::new().expect("tempdir");
    let store = filled(&dir);
    let all = DeadFilter::default;
    let class = |word: &str| DeadFilter { class: Some(word.into()), ..all() };
    assert_eq!(found(&store, &all()), [6, 5, 4, 2, 1]);
    assert_eq!(found(&store, &class("status")), [5, 4, 1]);
    assert_eq!(found(&store, &class("stat")), [] as [u64; 0]);
    assert_eq!(found(&store, &class("timeout")), [2]);
    let status = |status| DeadFilter { status: Some(status), ..all() };
    assert_eq!(found(&store, &status(400)), [5, 1]);
    assert_eq!(found(&store, &DeadFilter { status: Some(400), ..class("status") }), [5, 1]);
    assert_eq!(found(&store, &DeadFilter { status: Some(400), ..class("gone") }), [] as [u64; 0]);
    let between = |since, until| DeadFilter { since_ms: Some(since), until_ms: Some(until), ..all() };
    assert_eq!(found(&store, &between(20, 50)), [4, 2]);
    assert_eq!(found(&store, &between(50, 20)), [] as [u64; 0]);
    assert_eq!(found(&store, &DeadFilter { class: Some("status".into()), ..between(20, 51) }), [5, 4]);
    assert_eq!(anywhere(&store, &all()), [6, 5, 4, 3, 2, 1]);
    assert_eq!(anywhere(&store, &status(400)), [5, 3, 1]);
    assert_eq!(anywhere(&store, &between(20, 50)), [4, 3, 2]);
}

#[test]
fn pages_follow_on_each_other_also_while_letters_come_and_go() {
    let dir = TempDir::new().expect("tempdir");
    let store = filled(&dir);
    let status = DeadFilter { class: Some("status".into()), ..DeadFilter::default() };
    let first = store.dead_letters(&sub("crm"), &status, None, 1).expect("page");
    store.commit(&[bury(letter("crm", 9, 90, "status", Some(400)))]).expect("a newer one");
    store.commit(&[Change::Remove(first.letters[0].delivery)]).expect("the cursor's own goes");
    let next = store.dead_letters(&sub("crm"), &status, first.next.as_ref(), 1).expect("page");
    assert_eq!(next.letters[0].position.sequence, 4);
    let all = DeadFilter::default();
    let mut before = None;
    let mut seen = Vec::new();
    loop {
        let page = store.dead_letters_of_all(&all, before, 2).expect("page");
        seen.extend(page.letters.iter().map(|letter| letter.position.sequence));
        let Some(next) = page.next else { break };
        before = Some((next.failed_ms, next.delivery));
    }
    assert_eq!(seen, [9, 6, 4, 3, 2, 1]);
}

#[test]
fn a_dead_letter_is_sent_again_once() {
    let dir = TempDir::new().expect("tempdir");
    let store = filled(&dir);
    let id = dead("crm", 5, 0).delivery;
    let other = dead("crm2", 3, 0).delivery;
    let unknown = dead("crm", 77, 0).delivery;
    let answers = store.resend(&sub("crm"), &[id, unknown, other]).expect("resend");
    assert_eq!(answers, [Resent::Parked, Resent::Unknown, Resent::Unknown], "the third is another subscription's");
    assert_eq!(store.resend(&sub("crm"), &[id]).expect("resend"), [Resent::UnderWay]);
    let parked = store.parked(&id).expect("read").expect("parked");
    assert_eq!((parked.attempts, parked.resent_after, parked.history.len()), (8, 8, 8));
    assert_eq!((totals(&store), found(&store, &DeadFilter::default())), (counts(1, 5), vec![6, 4, 2, 1]));
    store.commit(&[Change::FinishParked { delivery: id, log: entry("crm", 5) }]).expect("it arrives");
    // A wish that was made before it arrived, and is written after.
    store.commit(&[Change::Resend(Box::new(parked))]).expect("commit");
    assert_eq!(totals(&store), counts(0, 5), "what has arrived is not sent once more");
}

#[test]
fn what_leaves_leaves_nothing_behind() {
    let dir = TempDir::new().expect("tempdir");
    let store = Store::open(Config { publish_dead_letters: true, ..config(&dir) }).expect("store opens");
    let large = vec![7u8; INLINE_BODY_BYTES_MAX + 1];
    let big = DeadLetter { content: content(&large), ..letter("crm", 1, 10, "status", Some(400)) };
    store.commit(&[bury(big.clone()), bury(letter("crm", 2, 20, "timeout", None))]).expect("commit");
    assert!(store.totals().dead_bytes > large.len() as u64, "{:?}", store.totals());
    let again = DeadLetter { failed_ms: 30, ..big.clone() };
    store.commit(&[bury(again)]).expect("it is given up again, elsewhere in every index");
    assert_eq!(dead_sequences(&store, "crm"), [1, 2]);
    assert_eq!(anywhere(&store, &DeadFilter::default()), [1, 2]);
    let ids = [big.delivery, dead("crm", 2, 0).delivery];
    assert_eq!(store.remove_dead_letters(&sub("crm"), &ids).expect("remove"), 2);
    assert_eq!(store.remove_dead_letters(&sub("crm"), &ids).expect("remove"), 0);
    assert_eq!(store.totals(), Counts::default());
    let state = store.engine().expect("open").state.clone();
    for kind in [kind::DEAD, kind::DEAD_BY_TIME, kind::DEAD_BY_REASON, kind::UNPUBLISHED, kind::BY_ID] {
        assert_eq!(state.scan_prefix([kind]).count(), 0, "{}", char::from(kind));
    }
    assert_eq!(state.scan_prefix(keys::of_subscription(kind::COUNTS, &sub("crm"))).count(), 0);
}

#[test]
fn a_dead_letter_is_to_be_published_until_it_is() {
    let dir = TempDir::new().expect("tempdir");
    let store = Store::open(Config { publish_dead_letters: true, ..config(&dir) }).expect("store opens");
    let letters: Vec<_> = (1..=20).map(|n| bury(dead("crm", n, 10 * n))).collect();
    store.commit(&letters).expect("commit");
    let page = |after| store.unpublished(after).expect("a page");
    let marks = |page: &[Unpublished]| page.iter().map(|one| (one.failed_ms, one.delivery)).collect::<Vec<_>>();
    let first = page(None);
    assert_eq!((first.len(), first[0].failed_ms), (UNPUBLISHED_MAX, 10), "oldest first");
    let letter = first[1].letter.as_ref().expect("it is read").as_ref().expect("a dead letter");
    assert_eq!(*letter, dead("crm", 2, 20));
    let rest = page(marks(&first).pop());
    assert_eq!(rest.iter().map(|one| one.failed_ms).collect::<Vec<_>>(), [170, 180, 190, 200]);
    store.mark_published(&marks(&first)).expect("marks");
    store.commit(&[bury(dead("crm", 1, 500))]).expect("it is given up again");
    store.remove_dead_letters(&sub("crm"), &[dead("crm", 17, 0).delivery]).expect("remove");
    drop(store);
    // The marks last, also while nothing is published.
    let store = open(&dir);
    let left: Vec<_> = store.unpublished(None).expect("a page").iter().map(|one| one.failed_ms).collect();
    assert_eq!(left, [180, 190, 200, 500]);
    assert_eq!(store.totals().dead, 19, "publishing removes none");
}

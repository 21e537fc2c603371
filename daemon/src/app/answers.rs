//! Requests that make a webhook and have a key of their own (`Idempotency-Key`): each is done once, and answered alike
//! whenever it comes again.
//!
//! The answers lie in the store, each beside its webhook and written together with it; here is only which key is whose. They
//! are kept for a day, in a bounded number, and no longer than the webhook.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::api::webhooks::RequestKey;
use crate::domain::SubscriptionId;
use crate::store::Answer;

/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// How many answers are kept; of more the oldest are forgotten.
const ANSWERS_MAX: usize = 10_000;

type Key = [u8; 32];

/// Which keys are known. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    by_key: HashMap<Key, Entry>,
    /// The same, oldest first.
    by_age: BTreeSet<(u64, Key)>,
    /// Keys of requests that are being done.
    in_hand: HashSet<Key>,
}

struct Entry {
    id: SubscriptionId,
    request: Key,
    at_ms: u64,
}

/// What is to be done with a request that has a key.
pub(super) enum Seen {
    /// It is new: do it. While the guard lives, others with the key are told to wait.
    New(InHand),
    /// It was done: it made that webhook.
    Done(SubscriptionId),
    /// The key belongs to a request with another body.
    Other,
    /// It is being done.
    InHand,
}

/// A request is being done.
pub(super) struct InHand {
    answers: Answers,
    key: Key,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.answers.0.lock().in_hand.remove(&self.key);
    }
}

impl Answers {
    /// Looks at a request.
    pub(super) fn look(&self, wanted: &RequestKey, now_ms: u64) -> Seen {
        let mut known = self.0.lock();
        let Known { by_key, in_hand, .. } = &mut *known;
        match by_key.get(&wanted.key).filter(|entry| !is_over(entry.at_ms, now_ms)) {
            Some(entry) if entry.request == wanted.request => Seen::Done(entry.id.clone()),
            Some(_) => Seen::Other,
            None if in_hand.insert(wanted.key) => Seen::New(InHand { answers: self.clone(), key: wanted.key }),
            None => Seen::InHand,
        }
    }

    /// Takes in what was answered. Returns the webhooks whose answers are to be forgotten for it.
    pub(super) fn add(&self, id: &SubscriptionId, answer: &Answer, now_ms: u64) -> Vec<SubscriptionId> {
        let mut known = self.0.lock();
        let entry = Entry { id: id.clone(), request: answer.request, at_ms: answer.at_ms };
        let mut over = Vec::new();
        if let Some(before) = known.by_key.insert(answer.key, entry) {
            known.by_age.remove(&(before.at_ms, answer.key));
            over.push(before.id);
        }
        known.by_age.insert((answer.at_ms, answer.key));
        while let Some(&(at_ms, key)) = known.by_age.first()
            && (is_over(at_ms, now_ms) || known.by_age.len() > ANSWERS_MAX)
        {
            known.by_age.remove(&(at_ms, key));
            over.extend(known.by_key.remove(&key).map(|entry| entry.id));
        }
        over.retain(|one| one != id);
        over
    }

    /// Forgets the answer of a webhook that is no more.
    pub(super) fn forget(&self, id: &SubscriptionId) {
        let mut known = self.0.lock();
        let found = known.by_key.iter().find(|(_, entry)| entry.id == *id).map(|(key, entry)| (entry.at_ms, *key));
        if let Some((at_ms, key)) = found {
            known.by_key.remove(&key);
            known.by_age.remove(&(at_ms, key));
        }
    }
}

fn is_over(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) >= KEPT_FOR.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn wanted(key: u8, request: u8) -> RequestKey {
        RequestKey { key: [key; 32], request: [request; 32] }
    }

    fn id(n: usize) -> SubscriptionId {
        SubscriptionId::parse(&format!("wh_{n}")).expect("valid")
    }

    fn answer(key: Key, at_ms: u64) -> Answer {
        Answer { key, request: [1; 32], at_ms, secret: "".into() }
    }

    #[test]
    fn a_request_is_done_once_for_a_day() {
        let answers = Answers::default();
        let Seen::New(in_hand) = answers.look(&wanted(1, 1), 0) else { panic!("new") };
        assert!(matches!(answers.look(&wanted(1, 1), 0), Seen::InHand));
        assert!(matches!(answers.look(&wanted(2, 1), 0), Seen::New(_)));
        assert_eq!(answers.add(&id(1), &answer([1; 32], 5), 5), []);
        drop(in_hand);
        assert!(matches!(answers.look(&wanted(1, 1), 6), Seen::Done(of) if of == id(1)));
        assert!(matches!(answers.look(&wanted(1, 2), 6), Seen::Other));
        assert!(matches!(answers.look(&wanted(1, 2), DAY_MS + 5), Seen::New(_)), "it is over");
        assert_eq!(answers.add(&id(2), &answer([2; 32], DAY_MS + 5), DAY_MS + 5), [id(1)]);
        answers.forget(&id(2));
        assert!(matches!(answers.look(&wanted(2, 1), DAY_MS + 5), Seen::New(_)));
    }

    #[test]
    fn of_too_many_the_oldest_are_forgotten() {
        let answers = Answers::default();
        let key = |n: usize| -> Key { std::array::from_fn(|at| (n >> (8 * (at % 4))) as u8) };
        for n in 0..ANSWERS_MAX {
            assert_eq!(answers.add(&id(n), &answer(key(n), n as u64), n as u64), []);
        }
        let at_ms = ANSWERS_MAX as u64;
        assert_eq!(answers.add(&id(ANSWERS_MAX), &answer(key(ANSWERS_MAX), at_ms), at_ms), [id(0)]);
    }
}

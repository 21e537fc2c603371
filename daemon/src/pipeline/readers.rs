//! Who may read history: a bounded number of subscriptions at a time, oldest position first, and each in its turn.
//!
//! A reader that has had its turn gives way when others wait, and comes again in the next round: so a subscription whose
//! endpoint is slow cannot keep the others from catching up, however old its position is.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The permits, and those who wait for one. Cloning shares them.
#[derive(Clone)]
pub struct Readers(Arc<Mutex<Inner>>);

struct Inner {
    free: usize,
    /// The round of whoever got a permit last.
    round: u64,
    tickets: u64,
    waiting: BTreeMap<Place, oneshot::Sender<Permit>>,
}

/// A place in the queue: smaller ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    round: u64,
    /// When the oldest event that is to be read was published, in milliseconds since the Unix epoch.
    oldest_ms: u64,
    ticket: u64,
}

/// The right to read, until it is dropped.
pub struct Permit {
    readers: Readers,
    round: u64,
}

/// The wait for a permit. Dropping it leaves the queue.
pub struct Waiting {
    readers: Readers,
    place: Place,
    granted: oneshot::Receiver<Permit>,
}

impl Readers {
    /// So many permits.
    pub fn new(permits: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner { free: permits, round: 0, tickets: 0, waiting: BTreeMap::new() })))
    }

    /// Waits for a permit. `oldest_ms` is when the oldest event that is to be read was published, in milliseconds since the
    /// Unix epoch, 0 when that is not known; `last_round` is the round of the last permit that the asker had.
    pub fn acquire(&self, oldest_ms: u64, last_round: Option<u64>) -> Waiting {
        let mut inner = self.0.lock();
        // With several permits some of the next round are out before the last of this one are back: whoever is back late
        // misses no turn by it, and whoever was away for long does not get what it missed at once.
        let round = last_round.map_or(inner.round, |last| inner.round.saturating_sub(1).max(last + 1));
        inner.tickets += 1;
        let place = Place { round, oldest_ms, ticket: inner.tickets };
        let (grant, granted) = oneshot::channel();
        inner.waiting.insert(place, grant);
        drop(inner);
        self.hand_out();
        Waiting { readers: self.clone(), place, granted }
    }

    /// Does anybody wait?
    pub fn is_awaited(&self) -> bool {
        !self.0.lock().waiting.is_empty()
    }

    /// Gives what is free to whoever is first.
    fn hand_out(&self) {
        loop {
            let (grant, round) = {
                let mut inner = self.0.lock();
                if inner.free == 0 {
                    return;
                }
                let Some((place, grant)) = inner.waiting.pop_first() else { return };
                inner.free -= 1;
                inner.round = inner.round.max(place.round);
                (grant, place.round)
            };
            // To one who no longer waits: the permit comes back by its drop.
            drop(grant.send(Permit { readers: self.clone(), round }));
        }
    }
}

impl Permit {
    /// The round that it was given in: to be named when asking again.
    pub fn round(&self) -> u64 {
        self.round
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.readers.0.lock().free += 1;
        self.readers.hand_out();
    }
}

impl Future for Waiting {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let granted = std::task::ready!(Pin::new(&mut self.granted).poll(cx));
        Poll::Ready(granted.expect("whoever waits is in the queue, and leaves it only with a permit"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let gone = self.readers.0.lock().waiting.remove(&self.place);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn has(waiting: &mut Waiting) -> Option<Permit> {
        waiting.now_or_never()
    }

    #[test]
    fn the_oldest_position_comes_first() {
        let readers = Readers::new(1);
        let permit = has(&mut readers.acquire(50, None)).expect("one is free");
        let mut waiting: Vec<_> = [30, 10, 20].map(|oldest| readers.acquire(oldest, None)).into();
        assert!(readers.is_awaited() && waiting.iter_mut().all(|one| has(one).is_none()));
        drop(permit);
        let permit = has(&mut waiting[1]).expect("the oldest");
        assert!(has(&mut waiting[0]).is_none() && has(&mut waiting[2]).is_none());
        drop(permit);
        drop(has(&mut waiting[2]).expect("the next oldest"));
        assert!(has(&mut waiting[0]).is_some() && !readers.is_awaited());
    }

    #[test]
    fn who_has_had_a_turn_comes_after_those_who_wait_however_old_its_position() {
        let readers = Readers::new(1);
        let first = has(&mut readers.acquire(1, None)).expect("one is free");
        let mut young = readers.acquire(99, None);
        let round = first.round();
        let mut again = readers.acquire(1, Some(round));
        drop(first);
        let second = has(&mut young).expect("its turn");
        assert!(has(&mut again).is_none());
        drop(second);
        assert!(has(&mut again).is_some_and(|permit| permit.round() > round));
    }

    #[test]
    fn who_leaves_the_queue_takes_no_permit_with_it() {
        let readers = Readers::new(1);
        let permit = has(&mut readers.acquire(1, None)).expect("one is free");
        let (gone, granted_and_gone) = (readers.acquire(2, None), readers.acquire(3, None));
        drop(gone);
        drop(permit);
        drop(granted_and_gone);
        assert!(!readers.is_awaited() && has(&mut readers.acquire(4, None)).is_some());
    }

    proptest! {
        #[test]
        fn nobody_waits_while_another_has_more_than_two_turns_or_three_where_most_have_a_permit(
            permits in 1usize..6, ages in prop::collection::vec(0u64..5, 6..20),
        ) {
            let readers = Readers::new(permits);
            let mut waiting: Vec<_> = ages.iter().map(|age| Some(readers.acquire(*age, None))).collect();
            // How many turns each other had since one began to wait.
            let mut passed_by = vec![vec![0u32; ages.len()]; ages.len()];
            for _ in 0..ages.len() * 5 {
                let mut held = Vec::new();
                for (index, place) in waiting.iter_mut().enumerate() {
                    if let Some(permit) = place.as_mut().and_then(has) {
                        held.push((index, permit));
                        *place = None;
                    }
                }
                prop_assert!(held.len() <= permits && !held.is_empty());
                for (index, permit) in held {
                    passed_by.iter_mut().for_each(|turns| turns[index] += 1);
                    passed_by[index] = vec![0; ages.len()];
                    // Asked for before it gives way, as whoever has not finished does.
                    waiting[index] = Some(readers.acquire(ages[index], Some(permit.round())));
                    drop(permit);
                }
                let most = *passed_by.iter().flatten().max().expect("some");
                // With more than two permits, and most of those who want one having it, the rest of a round goes out
                // together with the beginning of the next.
                let turns_max = if permits > 2 && ages.len() < permits * 2 { 3 } else { 2 };
                prop_assert!(most <= turns_max, "{:?}", passed_by);
            }
        }
    }
}

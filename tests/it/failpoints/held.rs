//! Crashes while a subscription is held, catches up and goes back to reading live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::*;

const ORDERS: u64 = 120;

const HEAD: &str = "[delivery]\nbreaker = { attempts_min = 3, probe = \"100ms\", probe_max = \"200ms\" }\n";

/// The first visits are those of the case: the position is written when the hold begins, while it catches up, and at last
/// to be removed.
pub(super) const CRASHES: &[Crash] = &[
    (Place::Held, 1..=1),
    (Place::PositionSaved, 1..=1),
    (Place::PositionSaved, 2..=8),
    (Place::Answered, 1..=100),
    (Place::BeforeFlush, 1..=8),
    (Place::Rejoined, 1..=1),
];

/// A healthy endpoint and one that fails for a while.
struct Pair {
    nats: TestNats,
    good: TestReceiver,
    daemon: TestDaemon,
    _bad: TestReceiver,
    failing: Arc<AtomicBool>,
    /// How often the bad endpoint has taken each order.
    taken: Arc<Mutex<HashMap<u64, u64>>>,
    published: u64,
}

#[tokio::test]
async fn a_crash_around_a_hold_loses_nothing_and_repeats_only_what_was_in_flight() {
    let mut random = seeded();
    let mut pair = Pair::start().await;
    for (place, visits) in CRASHES {
        pair.crash(*place, random.random_range(visits.clone())).await;
    }
}

impl Pair {
    async fn start() -> Self {
        let nats = TestNats::start().await;
        let (good, bad) = (TestReceiver::start(), TestReceiver::start());
        let hook = |name, receiver| {
            let waits = r#"{ max_attempts = 100, base = "200ms", factor = 1, max = "1s", jitter = 0.1 }"#;
            Webhook::new(name, receiver).with("max_in_flight", IN_FLIGHT_MAX).with("retry", waits)
        };
        let text = config(HEAD, &[hook("good", &good), hook("bad", &bad)]);
        let daemon = TestDaemon::builder(&nats, &text).failpoints().start().await;
        let (failing, taken) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<HashMap<u64, u64>>>::default());
        let (fails, takes) = (Arc::clone(&failing), Arc::clone(&taken));
        bad.set(Behaviour::custom(move |request| {
            if fails.load(Ordering::Relaxed) {
                return Reply::status(503);
            }
            *takes.lock().entry(request.number().expect("an order has a number")).or_default() += 1;
            Reply::status(200)
        }));
        Self { nats, good, daemon, _bad: bad, failing, taken, published: 0 }
    }

    fn taken_again(&self) -> u64 {
        self.taken.lock().values().map(|count| count - 1).sum()
    }

    /// The bad endpoint fails, is held, answers again and catches up; somewhere on this way the daemon ends.
    async fn crash(&mut self, place: Place, visit: u64) {
        let what = format!("{} at visit {visit}", place.name());
        eprintln!("{what}");
        let orders = self.published..self.published + ORDERS;
        self.published = orders.end;
        self.failing.store(true, Ordering::Relaxed);
        let before = (repeated(&self.good), self.taken_again());
        let at_once = matches!(place, Place::Held) || (place == Place::PositionSaved && visit == 1);
        let armed = format!("{} = abort @ {visit}\n", place.name());
        if at_once {
            self.daemon.arm(&armed);
        }
        self.nats.publish_orders("events.orders.created", orders.clone()).await;
        if !at_once {
            self.daemon.wait_held("bad", true, SOON).await;
            self.good.wait_for_numbers(orders.clone(), SOON).await;
            self.daemon.arm(&armed);
            self.failing.store(false, Ordering::Relaxed);
        }
        self.daemon.wait_aborted().await;
        whole::assert_whole(&self.daemon);
        self.daemon.arm("");
        self.failing.store(false, Ordering::Relaxed);
        self.daemon.restart().await;

        self.good.wait_for_numbers(orders.clone(), SOON).await;
        let all_taken = async || orders.clone().all(|number| self.taken.lock().contains_key(&number));
        wait_until("the bad endpoint has taken every order", SOON, all_taken).await;
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        self.daemon.wait_held("bad", false, SOON).await;
        self.daemon.wait_metric("sluiced_parked", &[("subscription", "bad")], 0.0).await;
        assert_no_more_repeated("good", &what, &self.good, before.0);
        let twice = self.taken_again() - before.1;
        assert!(twice <= IN_FLIGHT_MAX, "{what}: {twice} orders were taken twice by the bad endpoint");
    }
}

//! A thousand endpoints that are dead while many events come.

use tokio::time::Instant;

use super::*;

const DEAD: u64 = 1_000;
const EVENTS: u64 = 20_000;
/// The types of the events: each dead endpoint wants one of them, and thereby 100 events.
const TYPES: u64 = 200;
/// How much more the store may grow beside dead endpoints than without them, in bytes.
const STORE_BYTES_MAX: u64 = 10 << 20;
const LONG: Duration = Duration::from_secs(300);

/// A daemon with a healthy endpoint and perhaps a thousand dead ones, which have had every event.
struct Run {
    daemon: TestDaemon,
    _nats: TestNats,
    good: TestReceiver,
    dead: TestReceiver,
    /// How much the store grew, in bytes.
    growth: u64,
}

impl Run {
    async fn start(endpoints: u64) -> Self {
        let nats = TestNats::start().await;
        let (mut dead, good) = (TestReceiver::start_counting(), TestReceiver::start());
        dead.stop();
        let head =
            "[delivery]\nmax_in_flight = 4\nbreaker = { attempts_min = 3, probe = \"2s\", probe_max = \"10s\" }\n";
        let mut webhooks = vec![orders("good", &good).with("max_in_flight", 32)];
        let wants = |n: u64| format!("orders.k{}", n % TYPES);
        webhooks.extend((0..endpoints).map(|n| Webhook::new(&format!("dead-{n}"), &dead).types(&[&wants(n)])));
        let daemon = TestDaemon::start(&nats, &config(head, &webhooks)).await;
        let before = store_bytes(&daemon).await;
        let began = Instant::now();
        for part in 0..TYPES {
            let numbers = part * EVENTS / TYPES..(part + 1) * EVENTS / TYPES;
            nats.publish_orders(&format!("events.orders.k{part}"), numbers).await;
        }
        good.wait_for_numbers(0..EVENTS, LONG).await;
        eprintln!("beside {endpoints} dead ones the healthy one had its {EVENTS} events after {:?}", began.elapsed());
        let failing = async || daemon.metrics().await.sum("sluiced_failing", &[]) as u64 == endpoints;
        wait_until("all dead ones count as failing", LONG, failing).await;
        let growth = store_bytes(&daemon).await.saturating_sub(before);
        let parked = daemon.metrics().await.sum("sluiced_parked", &[]);
        eprintln!("the store grew by {growth} bytes, {parked} deliveries are parked");
        Self { daemon, _nats: nats, good, dead, growth }
    }
}

async fn store_bytes(daemon: &TestDaemon) -> u64 {
    daemon.metrics().await.metric("sluiced_store_bytes", &[]) as u64
}

#[tokio::test]
async fn heavy_a_thousand_dead_endpoints_cost_positions_and_a_healthy_one_sees_nothing_of_them() {
    let without = Run::start(0).await.growth;
    let mut run = Run::start(DEAD).await;
    let cost = run.growth.saturating_sub(without);
    assert!(cost <= STORE_BYTES_MAX, "dead endpoints cost {cost} bytes of the store");
    run.daemon.accounted("good", EVENTS).await;
    assert_eq!(run.good.counts().requests, EVENTS, "nothing came twice to the healthy one");

    let began = Instant::now();
    run.dead.resume();
    let daemon = &run.daemon;
    let held = async || daemon.metrics().await.sum("sluiced_held", &[]) as u64;
    wait_until("all have caught up", LONG, async || held().await == 0).await;
    let taken = async || daemon.metrics().await.sum("sluiced_deliveries_total", &[("outcome", "delivered")]) as u64;
    let expected = EVENTS + EVENTS / TYPES * DEAD;
    wait_until("all is delivered", LONG, async || taken().await == expected).await;
    eprintln!("{} deliveries were made good after {:?}", expected - EVENTS, began.elapsed());
}

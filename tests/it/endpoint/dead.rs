//! A thousand endpoints that are dead while many events come.

use std::time::Instant;

use super::*;

const DEAD: u64 = 1_000;
const EVENTS: u64 = 20_000;
/// How much the store may grow by what a dead endpoint costs.
const STORE_BYTES_MAX: u64 = 10 << 20;
const LONG: Duration = Duration::from_secs(420);

/// Each dead endpoint wants one event in so many, so that the books stay small enough for a test.
fn config_of(dead: &TestReceiver, good: &TestReceiver) -> String {
    let head = "[delivery]\nmax_in_flight = 4\nbreaker = { attempts_min = 3, probe = \"2s\", probe_max = \"10s\" }\n";
    let mut webhooks = vec![Webhook::new("good", good).types(&["orders.>"]).with("max_in_flight", 32)];
    webhooks
        .extend((0..DEAD).map(|n| Webhook::new(&format!("dead-{n}"), dead).types(&[&format!("orders.k{}", n % 50)])));
    config(head, &webhooks)
}

#[tokio::test]
async fn heavy_a_thousand_dead_endpoints_cost_positions_and_a_healthy_one_sees_nothing_of_them() {
    let nats = TestNats::start().await;
    let (mut dead, good) = (TestReceiver::start_counting(), TestReceiver::start());
    dead.stop();
    let daemon = TestDaemon::start(&nats, &config_of(&dead, &good)).await;
    let bytes = async || daemon.metrics().await.metric("sluiced_store_bytes", &[]) as u64;
    let before = bytes().await;
    let began = Instant::now();
    for part in 0..50 {
        let numbers = part * EVENTS / 50..(part + 1) * EVENTS / 50;
        nats.publish_orders(&format!("events.orders.k{part}"), numbers).await;
    }
    good.wait_for_numbers(0..EVENTS, LONG).await;
    eprintln!("the healthy one had all {EVENTS} events after {:?}", began.elapsed());
    daemon.accounted("good", EVENTS).await;
    let failing = async || daemon.metrics().await.sum("sluiced_failing", &[]) as u64 == DEAD;
    wait_until("all dead ones count as failing", LONG, failing).await;
    let growth = bytes().await.saturating_sub(before);
    let parked = daemon.metrics().await.sum("sluiced_parked", &[]);
    eprintln!("the store grew by {growth} bytes, {parked} deliveries are parked");
    assert!(growth <= STORE_BYTES_MAX, "the store grew by {growth} bytes");

    let began = Instant::now();
    dead.resume();
    let held = async || daemon.metrics().await.sum("sluiced_held", &[]) as u64;
    wait_until("all have caught up", LONG, async || held().await == 0).await;
    let taken = async || daemon.metrics().await.sum("sluiced_deliveries_total", &[("outcome", "delivered")]) as u64;
    let expected = EVENTS + EVENTS * DEAD / 50;
    wait_until("all is delivered", LONG, async || taken().await == expected).await;
    eprintln!("{} deliveries were made good after {:?}", expected - EVENTS, began.elapsed());
}

//! The clock is set forward and back while deliveries wait, and across a restart.

use super::*;

const HOUR_MS: i64 = 3_600_000;

struct Parked {
    nats: TestNats,
    receiver: TestReceiver,
    daemon: TestDaemon,
}

impl Parked {
    /// A daemon whose clock has that offset, with one delivery parked for so long.
    async fn new(offset_ms: i64, wait: &str) -> Self {
        let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
        receiver.set(Behaviour::Status(503));
        let hook = Webhook::new("crm", &receiver).retry_after(&[wait, wait]);
        let daemon = TestDaemon::builder(&nats, &config("", &[hook])).failpoints().launch();
        let mut parked = Self { nats, receiver, daemon };
        parked.set_clock(offset_ms);
        parked.daemon.wait_ready().await;
        parked.nats.publish_orders("events.orders.created", 0..1).await;
        parked.daemon.wait_metric("sluiced_parked", &[("subscription", "crm")], 1.0).await;
        parked.receiver.set(Behaviour::Ok);
        parked
    }

    fn set_clock(&self, offset_ms: i64) {
        self.daemon.arm(&format!("clock = {offset_ms}"));
    }

    /// A clock that was set moves nothing by itself; the next event does.
    async fn publish_and_wait_until_all_is_delivered(&self) {
        self.nats.publish_orders("events.orders.created", 1..2).await;
        self.daemon.wait_metric("sluiced_parked", &[("subscription", "crm")], 0.0).await;
        self.daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "delivered")], 2.0).await;
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        assert_eq!(self.receiver.counts().requests, 3);
        assert!(self.daemon.accounted("crm", 2).await.balances());
    }
}

#[tokio::test]
async fn a_clock_set_forward_makes_what_waits_due() {
    let parked = Parked::new(0, "1h").await;
    parked.set_clock(2 * HOUR_MS);
    parked.publish_and_wait_until_all_is_delivered().await;
}

#[tokio::test]
async fn a_clock_set_back_by_days_does_not_keep_a_delivery_waiting_for_days() {
    let parked = Parked::new(72 * HOUR_MS, "1h").await;
    parked.set_clock(0);
    parked.publish_and_wait_until_all_is_delivered().await;
}

#[tokio::test]
async fn a_clock_set_back_by_years_across_a_restart_keeps_nothing_waiting_and_loses_no_record() {
    let mut parked = Parked::new(24 * 365 * 10 * HOUR_MS, "1h").await;
    parked.daemon.kill9();
    parked.set_clock(0);
    parked.daemon.restart().await;
    parked.receiver.wait_for_numbers(0..1, SOON).await;
    parked.daemon.wait_metric("sluiced_parked", &[("subscription", "crm")], 0.0).await;
    parked.nats.publish_orders("events.orders.created", 1..2).await;
    parked.receiver.wait_for_numbers(1..2, SOON).await;
    parked.nats.wait_drained("EVENTS", "sluiced", SOON).await;
    parked.daemon.kill9();
    parked.daemon.restart().await;
    parked.nats.publish_orders("events.orders.created", 2..3).await;
    parked.receiver.wait_for_numbers(2..3, SOON).await;
    assert_eq!(parked.receiver.counts().requests, 4, "what is on record is recognised, whatever the clock said then");
}

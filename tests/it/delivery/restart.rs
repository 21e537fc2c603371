//! What waits for its next attempt outlives the daemon, however it ends.

use sluiced_tests::wait_until;
use tokio::time::Instant;

use super::*;

/// Long enough for the daemon to be ended, started and ready before the attempt is due, even on a busy machine; it does
/// no harm when it is not.
const WAIT: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_retry_that_is_due_after_a_clean_restart_still_happens() {
    the_retry_happens_after(async |daemon, _| {
        let ended = daemon.terminate().await;
        assert_eq!(ended.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_retry_that_is_due_after_a_kill_still_happens() {
    the_retry_happens_after(async |daemon, _| daemon.kill9()).await;
}

#[tokio::test]
async fn a_retry_that_fell_due_while_the_daemon_was_down_happens_at_its_start() {
    the_retry_happens_after(async |daemon, failed_at| {
        daemon.kill9();
        wait_until("the attempt is due", SOON, async || failed_at.elapsed() > WAIT).await;
    })
    .await;
}

async fn the_retry_happens_after(end: impl AsyncFnOnce(&mut TestDaemon, Instant)) {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    receiver.set(Behaviour::Status(503));
    let hook = Webhook::to("crm", &receiver.url("/hook")).retry_after(&["6s", "1h"]);
    let mut daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish("events.orders.created", order(7)).await;
    assert_eq!(daemon.accounted("crm", 1).await.parked, 1);
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;

    let failed_at = receiver.received()[0].at;
    end(&mut daemon, failed_at).await;
    receiver.set(Behaviour::Ok);
    daemon.restart().await;

    receiver.wait_for(2, SOON).await;
    daemon.wait_metric("sluiced_parked", &[("subscription", "crm")], 0.0).await;
    let received = receiver.received();
    assert_eq!(received.iter().map(Received::attempt).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(received[0].webhook_id(), received[1].webhook_id());
    assert_eq!((&received[1].body, received[1].verified), (&order(7), Some(true)));
    let waited = received[1].at - received[0].at;
    assert!(waited >= WAIT - Duration::from_millis(100), "not before its time: {waited:?}");
    let metrics = daemon.metrics().await;
    let delivered = [("subscription", "crm"), ("outcome", "delivered")];
    assert_eq!(metrics.sum("sluiced_deliveries_total", &delivered), 1.0, "this run delivered it");
    assert_eq!(metrics.sum("sluiced_events_received_total", &[]), 0.0, "it did not come from the stream again");
}

#[tokio::test]
async fn what_is_on_record_is_not_sent_again_after_a_kill() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hook = Webhook::to("crm", &receiver.url("/hook"));
    let mut daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish_orders("events.orders.created", 0..100).await;
    assert_eq!(daemon.accounted("crm", 100).await.delivered, 100);

    daemon.kill9();
    daemon.restart().await;
    nats.publish_orders("events.orders.created", 100..110).await;
    receiver.wait_for_numbers(0..110, SOON).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    assert_eq!(receiver.counts().requests, 110, "each came once");
}

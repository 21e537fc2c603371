//! While the store cannot write for long, JetStream gets back what the daemon has in hand, and sends it again.

use super::*;

const CANNOT_WRITE: &str = "store.before_write = read-only\nstore.opening = read-only";

#[tokio::test]
async fn what_cannot_be_recorded_is_handed_back_and_recognised_when_it_comes_again() {
    let case = Case::start().await;
    let floor = case.ack_floor().await;
    case.daemon.arm(CANNOT_WRITE);
    case.publish_to_a_store_that_cannot_write("Read-only").await;
    case.wait_redelivered().await;
    assert_eq!(case.ack_floor().await, floor, "nothing is acked without a record");
    case.daemon.arm("");
    case.assert_all_ends_well().await;
}

#[tokio::test]
async fn what_was_handed_back_by_a_daemon_that_died_comes_to_the_next_one() {
    let mut case = Case::start().await;
    case.daemon.arm(CANNOT_WRITE);
    case.publish_to_a_store_that_cannot_write("Read-only").await;
    case.wait_redelivered().await;
    case.daemon.kill9();
    case.daemon.arm("");
    case.daemon.restart().await;
    case.assert_all_ends_after_a_kill().await;
}

impl Case {
    /// Waits until JetStream has sent messages again that the daemon handed back.
    async fn wait_redelivered(&self) {
        let again = async || {
            let consumer = self.nats.consumer_info("EVENTS", "sluiced").await;
            consumer.is_some_and(|consumer| consumer.num_redelivered > 0)
        };
        wait_until("jetstream sends again what was handed back", SOON, again).await;
    }
}

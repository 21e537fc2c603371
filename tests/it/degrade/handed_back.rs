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
    case.refusing.wait_for_numbers(0..EVENTS, SOON).await;
    // A lane that is full is held, and the stream is drained before it has everything.
    case.taking.wait_for(2 * EVENTS, SOON).await;
    case.nats.wait_drained("EVENTS", "sluiced", SOON).await;
    case.daemon.wait_metric("sluiced_dead_letters", &[], EVENTS as f64).await;
    case.daemon.wait_metric("sluiced_parked", &[], 0.0).await;
    let (taking, refusing) = (case.taking.counts().requests, case.refusing.counts().requests);
    assert!((2 * EVENTS..=2 * EVENTS + IN_FLIGHT_MAX).contains(&taking), "{taking} requests");
    assert!((EVENTS..=EVENTS + IN_FLIGHT_MAX).contains(&refusing), "{refusing} requests");
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

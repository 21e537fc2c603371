//! Few readers for many held subscriptions: each has its turn.

use super::*;

/// One reader at a time.
const ONE_READER: &str = r#"
[delivery]
max_readers = 1
breaker = { attempts_min = 5, probe = "100ms", probe_max = "300ms" }
"#;

#[tokio::test]
async fn heavy_with_one_reader_all_held_subscriptions_progress_although_one_is_slow_and_one_stays_dead() {
    const EVENTS: u64 = 3_000;
    let nats = TestNats::start().await;
    let receivers: Vec<TestReceiver> = (0..6).map(|_| TestReceiver::start()).collect();
    receivers.iter().for_each(|receiver| receiver.set(Behaviour::Status(503)));
    let webhooks: Vec<Webhook> =
        receivers.iter().enumerate().map(|(n, receiver)| orders(&format!("s{n}"), receiver)).collect();
    // One request at a time, a quarter of a second each: it alone would need minutes.
    let slow = webhooks[0].clone().with("max_in_flight", 1);
    let webhooks: Vec<Webhook> = std::iter::once(slow).chain(webhooks.into_iter().skip(1)).collect();
    let daemon = TestDaemon::start(&nats, &config(ONE_READER, &webhooks)).await;
    nats.publish_orders(SUBJECT, 0..EVENTS).await;
    for n in 0..6 {
        daemon.wait_held(&format!("s{n}"), true, SOON).await;
    }
    receivers[0].set(Behaviour::Slow(Duration::from_millis(250)));
    receivers[0].wait_for(receivers[0].counts().requests + 3, SOON).await;
    // From here on the slow one reads, the last stays dead, and the others come back.
    receivers[1..5].iter().for_each(|receiver| receiver.set(Behaviour::Ok));
    for (n, receiver) in receivers.iter().enumerate().take(5).skip(1) {
        receiver.wait_for_numbers(0..EVENTS, Duration::from_secs(120)).await;
        daemon.wait_held(&format!("s{n}"), false, SOON).await;
    }
    assert!(receivers[0].counts().requests < EVENTS, "the others did not wait for the slow one");
    let before = receivers[0].counts().requests;
    receivers[0].wait_for(before + 4, SOON).await;
    assert_eq!(status(&daemon, "s5").await["failing"], true);
    let lag = daemon.reading("sluiced_lag_events", "s5").await;
    assert!(lag > EVENTS - 500, "the dead one is {lag} behind");
    receivers[5].set(Behaviour::Ok);
    receivers[5].wait_for_numbers(0..EVENTS, Duration::from_secs(120)).await;
    let lags = async || daemon.reading("sluiced_lag_events", "s5").await;
    wait_until("its lag is gone", SOON, async || lags().await == 0).await;
}

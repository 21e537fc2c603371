//! Crashes while a reload adds a subscription.

use super::*;

pub(super) const CRASHES: &[Crash] =
    &[(Place::Retargeted, 1..=1), (Place::Registering, 1..=1), (Place::Registered, 1..=1), (Place::BeforeFlush, 1..=1)];

#[tokio::test]
async fn a_crash_while_a_subscription_is_added_loses_nothing_of_the_others_nor_of_the_new_one() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut hooks = vec![Webhook::new("old", &receiver).types(&["orders.created"])];
    let mut daemon = TestDaemon::builder(&nats, &config("", &hooks)).failpoints().start().await;
    let mut published = 0;
    for (place, _) in CRASHES {
        let name = format!("new-{}", place.name().replace('.', "-"));
        eprintln!("{name}");
        nats.publish_orders("events.orders.created", published..published + 10).await;
        wait_for_all(&nats, &receiver, published + 10).await;
        daemon.arm(&format!("{} = abort\n", place.name()));
        let added = TestReceiver::start();
        hooks.push(Webhook::new(&name, &added).types(&[">"]));
        daemon.write_config(&config("", &hooks));
        daemon.reload();
        daemon.wait_aborted().await;
        whole::assert_whole(&daemon);
        nats.publish_orders("events.orders.created", published + 10..published + 20).await;
        daemon.arm("");
        daemon.restart().await;
        nats.publish_orders("events.orders.created", published + 20..published + 30).await;
        published += 30;

        // One that was registered has all that came after that; one that was not begins at the restart.
        let begin = published - if *place == Place::Registered { 20 } else { 10 };
        added.wait_for_numbers(begin..published, SOON).await;
        wait_for_all(&nats, &receiver, published).await;
        assert!(added.numbers().keys().all(|number| *number >= begin), "{name} begins when it is registered");
        assert_eq!((repeated(&receiver), repeated(&added)), (0, 0), "{name}: nothing was in flight");
    }
}

#[tokio::test]
async fn all_subscriptions_of_a_start_are_registered_by_one_write() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hooks: Vec<_> = (0..50).map(|number| Webhook::new(&format!("hook-{number}"), &receiver)).collect();
    let mut daemon = TestDaemon::builder(&nats, &config("", &hooks)).failpoints().start().await;
    assert!(daemon.terminate().await.success());
    let more: Vec<_> = (50..100).map(|number| Webhook::new(&format!("hook-{number}"), &receiver)).collect();
    daemon.write_config(&config("", &more));
    daemon.arm(&format!("{} = abort @ 2\n", Place::Registering.name()));
    daemon.restart().await;
}

async fn wait_for_all(nats: &TestNats, receiver: &TestReceiver, published: u64) {
    receiver.wait_for_numbers(0..published, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
}

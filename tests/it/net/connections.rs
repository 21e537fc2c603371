//! How many connections there are: the bound, who makes room, and a system that has no descriptors left.

use std::time::Duration;

use sluiced::deliver::attempt::Config;
use sluiced::deliver::{Client, Prepared};
use sluiced::domain::{Endpoint, EndpointTls, FailureClass};
use sluiced::telemetry::metrics::ClientMetrics;
use sluiced_tests::process::limit_open_files;
use sluiced_tests::setup::config;
use sluiced_tests::tls::Manner;
use sluiced_tests::{Behaviour, TestCa, TestDaemon, TestNats, TestReceiver, TlsReceiver, Webhook, wait_until};

use super::{SOON, endpoint, is_delivered, loopback, request, retried};

fn client(connections_max: usize) -> (Client, ClientMetrics) {
    let metrics = ClientMetrics::default();
    let client = Client::new(&Config { connections_max, ..loopback() }, &metrics).expect("a client");
    (client, metrics)
}

fn prepared(endpoint: &Endpoint) -> Prepared {
    Prepared::new(endpoint).expect("valid")
}

#[tokio::test]
async fn more_endpoints_than_connections_are_all_delivered_to() {
    let receivers: Vec<TestReceiver> = (0..10).map(|_| TestReceiver::start()).collect();
    let ca = TestCa::new();
    let secure: Vec<TlsReceiver> = (0..3).map(|_| TlsReceiver::start(Manner::of(&ca.identity("127.0.0.1")))).collect();
    let mut targets: Vec<Prepared> = receivers.iter().map(|r| prepared(&endpoint(&r.url("/hook")))).collect();
    targets.extend(secure.iter().map(|receiver| {
        let tls = Some(EndpointTls { ca_file: Some(ca.file()), ..EndpointTls::default() });
        prepared(&Endpoint { tls, ..endpoint(&format!("https://127.0.0.1:{}/hook", receiver.port())) })
    }));
    let (client, metrics) = client(4);
    for _ in 0..3 {
        let all = targets.iter().map(|target| client.attempt(target, request()));
        for outcome in futures_util::future::join_all(all).await {
            assert!(is_delivered(&outcome), "{outcome:?}");
        }
        assert!(metrics.connections.get() <= 4, "{}", metrics.connections.get());
    }
}

#[tokio::test]
async fn a_connection_in_use_makes_no_room_and_waiting_in_vain_is_the_daemons_own_fault() {
    let (slow, other) = (TestReceiver::start(), TestReceiver::start());
    slow.set(Behaviour::Hang);
    let (client, _) = client(1);
    let target = prepared(&Endpoint { total_timeout: Duration::from_secs(3), ..endpoint(&slow.url("/hook")) });
    let waiting = prepared(&Endpoint { connect_timeout: Duration::from_millis(200), ..endpoint(&other.url("/hook")) });
    let busy = client.attempt(&target, request());
    let in_vain = async {
        slow.wait_for(1, SOON).await;
        retried(client.attempt(&waiting, request()).await)
    };
    let (busy, in_vain) = tokio::join!(busy, in_vain);
    assert_eq!(in_vain.class, FailureClass::Internal);
    assert!(in_vain.message.contains("all 1 connections are in use"), "{}", in_vain.message);
    assert_eq!(retried(busy).class, FailureClass::Timeout, "it was left to hang");
    assert_eq!(other.counts().connections, 0);
    assert!(is_delivered(&client.attempt(&prepared(&endpoint(&other.url("/hook"))), request()).await));
}

const EVENTS: u64 = 200;
const HOOKS: u64 = 6;

/// Webhooks that have more attempts under way than there will be connections, all to a receiver that hangs.
fn many(receiver: &TestReceiver) -> String {
    let hook = |n| {
        Webhook::new(&format!("crm{n}"), receiver)
            .with("max_in_flight", 32)
            .with("connect_timeout", "\"300ms\"")
            .with("timeout", "\"3s\"")
            .retry_after(&["300ms"; 99])
    };
    let hooks: Vec<Webhook> = (0..HOOKS).map(hook).collect();
    config("[delivery]\nbreaker = { probe = \"100ms\", probe_max = \"200ms\" }\n", &hooks)
}

/// Waits until some attempt has failed by the daemon's own fault; then the receiver takes everything, and in the end has
/// everything.
async fn fails_and_recovers(daemon: &TestDaemon, nats: &TestNats, receiver: &TestReceiver, relieve: impl FnOnce()) {
    nats.publish_orders("events.orders.created", 0..EVENTS).await;
    wait_until("attempts fail by the daemon's own fault", SOON, async || {
        daemon.metrics().await.sum("sluiced_attempts_total", &[("outcome", "internal")]) >= 1.0
    })
    .await;
    relieve();
    receiver.set(Behaviour::Ok);
    for n in 0..HOOKS {
        receiver_has_all(daemon, &format!("crm{n}")).await;
    }
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
}

async fn receiver_has_all(daemon: &TestDaemon, subscription: &str) {
    let delivered = [("subscription", subscription), ("outcome", "delivered")];
    daemon.wait_metric("sluiced_deliveries_total", &delivered, EVENTS as f64).await;
    assert_eq!(daemon.accounted(subscription, EVENTS).await.failed, 0);
}

#[tokio::test]
async fn a_daemon_that_may_open_few_files_keeps_room_for_others_loses_nothing_and_recovers() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::Hang);
    let daemon = TestDaemon::builder(&nats, &many(&receiver)).open_files_max(120).start().await;
    let fails = fails_and_recovers(&daemon, &nats, &receiver, || {
        // At most half of them are for connections to receivers.
        assert!(receiver.counts().in_flight <= 60, "{:?}", receiver.counts());
    });
    fails.await;
    assert!(receiver.counts().in_flight_max <= 60, "{:?}", receiver.counts());
}

#[tokio::test]
async fn a_daemon_whose_descriptors_run_out_loses_nothing_and_recovers() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::Hang);
    let mut daemon = TestDaemon::start(&nats, &many(&receiver)).await;
    let before = daemon.process().open_files();
    // Some for the API's clients, and far fewer than the webhooks have attempts.
    let limit = daemon.process().limit_open_files(before + 30);
    let process = daemon.process().id();
    fails_and_recovers(&daemon, &nats, &receiver, || {
        limit_open_files(process, limit);
    })
    .await;
}

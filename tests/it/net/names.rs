//! Names: what a daemon dials when a name server changes its mind, lies, or is gone.

use std::net::SocketAddr;

use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, TestDaemon, TestDns, TestNats, TestReceiver, Webhook, wait_until};
use tokio::net::TcpListener;

use super::SOON;

/// Only the address of the receivers is let through, so that every other one of loopback is "inside".
const ONE_ADDRESS: &str = "allow_cidrs = [\"127.0.0.1/32\"]\n";

/// A receiver that closes each connection after its answer: the next request needs another, and the name again.
fn closing() -> TestReceiver {
    let receiver = TestReceiver::start();
    receiver.set(Behaviour::custom(|_| Reply::status(200).header("connection", "close")));
    receiver
}

/// A port of an address inside that counts whoever comes.
async fn trap(port: u16) -> TcpListener {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 2], port))).await.expect("the port is free there")
}

async fn nobody_came(trap: &TcpListener) -> bool {
    tokio::select! {
        biased;
        _ = trap.accept() => false,
        () = std::future::ready(()) => true,
    }
}

fn hook(name: &str, receiver: &TestReceiver) -> Webhook {
    Webhook::to("crm", &format!("http://{name}:{}/hook", receiver.address().port()))
}

async fn outcomes(daemon: &TestDaemon, outcome: &str) -> f64 {
    daemon.metrics().await.sum("sluiced_attempts_total", &[("subscription", "crm"), ("outcome", outcome)])
}

#[tokio::test]
async fn a_name_that_turns_inward_is_refused_and_what_was_vetted_is_what_is_dialled() {
    let (nats, receiver, dns) = (TestNats::start().await, closing(), TestDns::start());
    let trap = trap(receiver.address().port()).await;
    dns.answer("rebind.test", 0, &[&["127.0.0.1"], &["127.0.0.2"]]);
    let head = format!("[delivery]\n{ONE_ADDRESS}{}", dns.toml());
    let daemon = TestDaemon::start(&nats, &config(&head, &[hook("rebind.test", &receiver)])).await;
    nats.publish("events.orders.created", order(0)).await;
    receiver.wait_for(1, SOON).await;

    // The name is asked for again only when its answer no longer holds.
    let mut number = 1;
    wait_until("an attempt is refused", SOON, async || {
        nats.publish("events.orders.created", order(number)).await;
        number += 1;
        outcomes(&daemon, "address_refused").await >= 1.0
    })
    .await;
    assert!(dns.asked("rebind.test") >= 2);
    assert!(nobody_came(&trap).await, "the address inside was not dialled");
    let books = daemon.accounted("crm", number).await;
    assert_eq!(books.delivered, receiver.counts().requests);
    assert_eq!(books.delivered + books.failed, number, "a refusal is final");
}

#[tokio::test]
async fn a_name_with_one_address_inside_is_refused_whole() {
    let (nats, receiver, dns) = (TestNats::start().await, TestReceiver::start(), TestDns::start());
    let trap = trap(receiver.address().port()).await;
    dns.answer("half.test", 60, &[&["127.0.0.1", "127.0.0.2"]]);
    let head = format!("[delivery]\n{ONE_ADDRESS}{}", dns.toml());
    let daemon = TestDaemon::start(&nats, &config(&head, &[hook("half.test", &receiver)])).await;
    nats.publish("events.orders.created", order(0)).await;

    assert_eq!(daemon.accounted("crm", 1).await.failed, 1);
    assert!(nobody_came(&trap).await);
    assert_eq!(receiver.counts().connections, 0);
    let letters = daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters", None).await.json();
    assert_eq!(letters["dead_letters"][0]["class"], "address_refused", "{letters}");
}

#[tokio::test]
async fn without_a_name_server_deliveries_wait_and_go_on_by_themselves_when_it_is_back() {
    const EVENTS: u64 = 20;
    let (nats, receiver, mut dns) = (TestNats::start().await, TestReceiver::start(), TestDns::start());
    dns.answer("crm.test", 60, &[&["127.0.0.1"]]);
    dns.stop();
    let hook = hook("crm.test", &receiver).retry_after(&["200ms"; 99]);
    let head = format!("[delivery]\nbreaker = {{ probe = \"100ms\", probe_max = \"200ms\" }}\n{}", dns.toml());
    let daemon = TestDaemon::start(&nats, &config(&head, &[hook])).await;
    nats.publish_orders("events.orders.created", 0..EVENTS).await;
    wait_until("attempts fail", SOON, async || {
        outcomes(&daemon, "network").await + outcomes(&daemon, "timeout").await >= 1.0
    })
    .await;
    assert_eq!(daemon.request("GET", "/readyz", None).await.status, 200, "the daemon itself is well");

    dns.resume();
    receiver.wait_for_numbers(0..EVENTS, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let delivered = [("subscription", "crm"), ("outcome", "delivered")];
    daemon.wait_metric("sluiced_deliveries_total", &delivered, EVENTS as f64).await;
    assert_eq!(daemon.accounted("crm", EVENTS).await.failed, 0);
}

#[tokio::test]
async fn a_name_is_asked_for_once_while_its_answer_holds() {
    let (nats, receiver, dns) = (TestNats::start().await, closing(), TestDns::start());
    dns.answer("crm.test", 300, &[&["127.0.0.1"]]);
    let head = format!("[delivery]\n{}", dns.toml());
    let daemon = TestDaemon::start(&nats, &config(&head, &[hook("crm.test", &receiver)])).await;
    nats.publish_orders("events.orders.created", 0..50).await;
    assert_eq!(daemon.accounted("crm", 50).await.delivered, 50);
    assert_eq!(receiver.counts().connections, 50);
    assert_eq!(dns.asked("crm.test"), 1);
}

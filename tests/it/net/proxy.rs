//! Webhooks through a proxy: the guard stays in force, and the proxy sees addresses and never names.

use sluiced::deliver::attempt::Config;
use sluiced::deliver::proxy;
use sluiced::domain::{EndpointTls, FailureClass};
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::tls::Manner;
use sluiced_tests::{TestCa, TestDaemon, TestDns, TestNats, TestProxy, TestReceiver, TlsReceiver, Webhook, wait_until};

use super::{SOON, attempt, client, endpoint, is_delivered, loopback, retried};

fn through(proxy: &TestProxy, dns: &TestDns) -> Config {
    let address = proxy.address();
    Config {
        dns_servers: vec![dns.address()],
        proxy: Some(proxy::Config::new(&address.ip().to_string(), address.port(), Some(("relay", "hush:hush")))),
        ..loopback()
    }
}

#[tokio::test]
async fn a_daemon_asks_its_proxy_for_the_vetted_address_and_the_receiver_sees_its_own_name() {
    let (nats, receiver, dns) = (TestNats::start().await, TestReceiver::start(), TestDns::start());
    let (proxy, other) = (TestProxy::start(), TestProxy::start());
    dns.answer("crm.test", 60, &[&["127.0.0.1"]]);
    let port = receiver.address().port();
    // The proxy's own address is not in the list.
    let head = format!(
        "[delivery]\nallow_cidrs = [\"127.0.0.1/32\"]\nproxy = \"{}\"\nproxy_user = \"relay\"\nproxy_password = \"hush\"\n{}",
        proxy.url(),
        dns.toml()
    );
    let hooks = [
        Webhook::to("crm", &format!("http://crm.test:{port}/hook")).types(&["orders.created"]),
        Webhook::to("inside", &format!("http://127.0.0.2:{port}/hook")).types(&["orders.created"]),
    ];
    let mut daemon = TestDaemon::builder(&nats, &config(&head, &hooks));
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        daemon = daemon.env(variable, &other.url());
    }
    let daemon = daemon.start().await;
    nats.publish("events.orders.created", order(0)).await;

    assert_eq!(daemon.accounted("crm", 1).await.delivered, 1);
    assert_eq!(daemon.accounted("inside", 1).await.failed, 1);
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1, "nothing was asked for the refused address: {asked:?}");
    assert_eq!(asked[0].line, format!("CONNECT 127.0.0.1:{port} HTTP/1.1"));
    assert_eq!(asked[0].authorization, "Basic cmVsYXk6aHVzaA==");
    let received = receiver.received();
    assert_eq!(received[0].header("host"), format!("crm.test:{port}"));
    assert_eq!(received[0].header("proxy-authorization"), "", "the receiver does not learn it");
    assert!(other.asked().is_empty(), "the environment names no proxy");
    assert!(!daemon.log().contains("hush"));
}

#[tokio::test]
async fn while_the_proxy_is_gone_it_is_nobody_elses_fault_and_deliveries_go_on_when_it_is_back() {
    let (nats, receiver, mut proxy) = (TestNats::start().await, TestReceiver::start(), TestProxy::start());
    proxy.stop();
    let head = format!("[delivery]\nproxy = \"{}\"\n", proxy.url());
    let hook = Webhook::new("crm", &receiver).retry_after(&["200ms"; 99]);
    let daemon = TestDaemon::start(&nats, &config(&head, &[hook])).await;
    nats.publish_orders("events.orders.created", 0..10).await;
    wait_until("attempts fail", SOON, async || {
        let failed = [("subscription", "crm"), ("outcome", "internal")];
        daemon.metrics().await.sum("sluiced_attempts_total", &failed) >= 10.0
    })
    .await;
    proxy.resume();
    receiver.wait_for_numbers(0..10, SOON).await;
    let delivered = [("subscription", "crm"), ("outcome", "delivered")];
    daemon.wait_metric("sluiced_deliveries_total", &delivered, 10.0).await;
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_under_the_urls_own_name() {
    let (ca, proxy, dns) = (TestCa::new(), TestProxy::start(), TestDns::start());
    dns.answer("crm.test", 60, &[&["127.0.0.1"]]);
    let receiver = TlsReceiver::start(Manner::of(&ca.identity("crm.test")));
    let mut endpoint = endpoint(&format!("https://crm.test:{}/hook", receiver.port()));
    endpoint.tls = Some(EndpointTls { ca_file: Some(ca.file()), ..EndpointTls::default() });
    let outcome = attempt(&client(&through(&proxy, &dns)), &endpoint).await;
    assert!(is_delivered(&outcome), "{outcome:?}");
    assert_eq!(proxy.asked()[0].line, format!("CONNECT 127.0.0.1:{} HTTP/1.1", receiver.port()));
    let seen = &receiver.requests()[0];
    assert_eq!((&*seen.server_name, &*seen.host), ("crm.test", &*format!("crm.test:{}", receiver.port())));
}

#[tokio::test]
async fn what_a_proxy_answers_tells_whose_fault_it_is() {
    let (proxy, dns, receiver) = (TestProxy::start(), TestDns::start(), TestReceiver::start());
    let client = client(&through(&proxy, &dns));
    let endpoint = endpoint(&receiver.url("/hook"));
    for (status, class) in [
        (403, FailureClass::Internal),
        (407, FailureClass::Internal),
        (502, FailureClass::Network),
        (503, FailureClass::Network),
        (504, FailureClass::Network),
    ] {
        proxy.refuse(status);
        let failure = retried(attempt(&client, &endpoint).await);
        assert_eq!(failure.class, class, "{status}");
        assert!(failure.message.contains(&status.to_string()), "{}", failure.message);
        assert!(!failure.message.contains("hush"), "{}", failure.message);
    }
    proxy.refuse(200);
    assert!(is_delivered(&attempt(&client, &endpoint).await));
    assert_eq!(receiver.counts().requests, 1);
}

//! TLS for each endpoint: its own authorities, what the daemon shows of itself, the oldest version, and HTTP/2.

use std::path::PathBuf;

use hyper::Version;
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use sluiced::deliver::Prepared;
use sluiced::domain::{ClientIdentity, Endpoint, EndpointTls, FailureClass, TlsVersion};
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::tls::{Identity, Manner};
use sluiced_tests::{TestCa, TestDaemon, TestNats, TlsReceiver, Webhook};

use super::{attempt, client, endpoint, is_delivered, loopback, request, retried};

static ONLY_12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];

fn at(receiver: &TlsReceiver, tls: EndpointTls) -> Endpoint {
    Endpoint { tls: Some(tls), ..endpoint(&format!("https://127.0.0.1:{}/hook", receiver.port())) }
}

fn trusting(ca: &TestCa) -> EndpointTls {
    EndpointTls { ca_file: Some(ca.file()), ..EndpointTls::default() }
}

fn showing(ca: &TestCa, identity: &Identity) -> EndpointTls {
    let client = ClientIdentity { cert_file: identity.cert_file.clone(), key_file: identity.key_file.clone() };
    EndpointTls { client: Some(client), ..trusting(ca) }
}

/// The message of the failed attempt, which is the network's fault.
async fn refused(endpoint: &Endpoint) -> String {
    let failure = retried(attempt(&client(&loopback()), endpoint).await);
    assert_eq!(failure.class, FailureClass::Network, "{}", failure.message);
    failure.message.to_string()
}

#[tokio::test]
async fn a_receiver_is_trusted_by_its_own_authority_and_by_no_other() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let receiver = TlsReceiver::start(Manner::of(&ca.identity("127.0.0.1")));
    assert!(is_delivered(&attempt(&client(&loopback()), &at(&receiver, trusting(&ca))).await));
    for tls in [EndpointTls::default(), trusting(&other)] {
        let message = refused(&at(&receiver, tls)).await;
        assert!(message.starts_with("no secure connection to 127.0.0.1"), "{message}");
    }
    let elsewhere = TlsReceiver::start(Manner::of(&ca.identity("crm.test")));
    let message = refused(&at(&elsewhere, trusting(&ca))).await;
    assert!(message.contains("no secure connection"), "a certificate for another name: {message}");
    assert_eq!(receiver.requests().len(), 1);
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_receiver_that_asks_for_a_certificate_gets_the_endpoints_own() {
    let ca = TestCa::new();
    let identity = ca.identity("127.0.0.1");
    let receiver = TlsReceiver::start(Manner { clients: Some(&ca), ..Manner::of(&identity) });
    let us = ca.identity("us.test");
    assert!(is_delivered(&attempt(&client(&loopback()), &at(&receiver, showing(&ca, &us))).await));
    assert!(receiver.requests()[0].client_certificate);
    refused(&at(&receiver, trusting(&ca))).await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn the_oldest_version_is_the_endpoints_choice() {
    let ca = TestCa::new();
    let identity = ca.identity("127.0.0.1");
    let old = TlsReceiver::start(Manner { versions: &ONLY_12, ..Manner::of(&identity) });
    assert!(is_delivered(&attempt(&client(&loopback()), &at(&old, trusting(&ca))).await));
    assert_eq!(old.requests()[0].tls, ProtocolVersion::TLSv1_2);
    let strict = EndpointTls { min_version: TlsVersion::Tls13, ..trusting(&ca) };
    refused(&at(&old, strict.clone())).await;
    let new = TlsReceiver::start(Manner::of(&identity));
    assert!(is_delivered(&attempt(&client(&loopback()), &at(&new, strict)).await));
    assert_eq!(new.requests()[0].tls, ProtocolVersion::TLSv1_3);
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_offered_over_one_connection() {
    let ca = TestCa::new();
    let identity = ca.identity("127.0.0.1");
    let receiver = TlsReceiver::start(Manner { http2: true, ..Manner::of(&identity) });
    let client = client(&loopback());
    let prepared = Prepared::new(&at(&receiver, trusting(&ca))).expect("valid");
    assert!(is_delivered(&client.attempt(&prepared, request()).await));
    let many = (0..20).map(|_| client.attempt(&prepared, request()));
    for outcome in futures_util::future::join_all(many).await {
        assert!(is_delivered(&outcome), "{outcome:?}");
    }
    assert!(receiver.requests().iter().all(|seen| seen.http == Version::HTTP_2));
    assert_eq!((receiver.requests().len(), receiver.connections()), (21, 1));
}

#[tokio::test]
async fn endpoints_with_equal_settings_share_their_connections_and_others_do_not() {
    let ca = TestCa::new();
    let receiver = TlsReceiver::start(Manner::of(&ca.identity("127.0.0.1")));
    let client = client(&loopback());
    let prepared = |tls| Prepared::new(&at(&receiver, tls)).expect("valid");
    let (one, same) = (prepared(trusting(&ca)), prepared(trusting(&ca)));
    let stricter = prepared(EndpointTls { min_version: TlsVersion::Tls13, ..trusting(&ca) });
    for target in [&one, &same, &one] {
        assert!(is_delivered(&client.attempt(target, request()).await));
    }
    assert_eq!(receiver.connections(), 1);
    assert!(is_delivered(&client.attempt(&stricter, request()).await));
    assert_eq!(receiver.connections(), 2);
}

#[test]
fn a_key_of_another_certificate_is_refused_with_its_file() {
    let ca = TestCa::new();
    let (us, other) = (ca.identity("us.test"), ca.identity("other.test"));
    let mut mixed = us.clone();
    mixed.key_file = other.key_file;
    let refused = |tls: EndpointTls| {
        let endpoint = Endpoint { tls: Some(tls), ..endpoint("https://crm.test/hook") };
        let error = Prepared::new(&endpoint).expect_err("it cannot be used");
        std::error::Error::source(&error).expect("it says why").to_string()
    };
    assert!(refused(showing(&ca, &mixed)).contains("other.test.key holds a private key that cannot be used"));
    let mut no_key = us.clone();
    no_key.key_file = us.cert_file;
    assert!(refused(showing(&ca, &no_key)).contains("us.test.pem holds no private key"));
    let missing = EndpointTls { ca_file: Some(PathBuf::from("/nowhere/ca.pem")), ..EndpointTls::default() };
    assert!(refused(missing).contains("/nowhere/ca.pem cannot be read"));
}

#[tokio::test]
async fn a_daemon_reads_the_files_beside_its_configuration_and_again_on_reload() {
    let (nats, ca, other) = (TestNats::start().await, TestCa::new(), TestCa::new());
    let identity = ca.identity("127.0.0.1");
    let receiver = TlsReceiver::start(Manner { clients: Some(&ca), ..Manner::of(&identity) });
    let us = ca.identity("us.test");
    // The wrong authority at first, in the same file.
    let ca_file = ca.dir().join("trusted.pem");
    std::fs::copy(other.file(), &ca_file).expect("a file can be copied");
    let tls = format!(
        "{{ ca_file = {ca_file:?}, client_cert_file = {:?}, client_key_file = {:?}, min_version = \"1.3\" }}",
        us.cert_file, us.key_file
    );
    let hook = Webhook::to("crm", &format!("https://127.0.0.1:{}/hook", receiver.port()))
        .with("tls", tls)
        .retry_after(&["100ms"; 99]);
    let mut daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish("events.orders.created", order(0)).await;
    let failed = [("subscription", "crm"), ("outcome", "network")];
    sluiced_tests::wait_until("the receiver is not trusted", super::SOON, async || {
        daemon.metrics().await.sum("sluiced_attempts_total", &failed) >= 1.0
    })
    .await;
    assert!(receiver.requests().is_empty());

    std::fs::copy(ca.file(), &ca_file).expect("a file can be copied");
    daemon.reload();
    let delivered = [("subscription", "crm"), ("outcome", "delivered")];
    daemon.wait_metric("sluiced_deliveries_total", &delivered, 1.0).await;
    let seen = &receiver.requests()[0];
    assert!(seen.client_certificate && seen.tls == ProtocolVersion::TLSv1_3, "{seen:?}");
}

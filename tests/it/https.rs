//! TLS on the daemon's own listener.

use std::fs;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode, Version};
use sluiced_tests::http::{client, try_request};
use sluiced_tests::setup::config;
use sluiced_tests::tls::{Identity, TestCa};
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats, wait_until};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_listener_speaks_https_with_http_2_and_takes_a_renewed_certificate_without_a_restart() {
    let (nats, ca) = (TestNats::start().await, TestCa::new());
    let identity = ca.identity("127.0.0.1");
    let mut daemon = TestDaemon::builder(&nats, &config(&tls(&identity), &[])).launch();
    daemon.wait_answering().await;
    let old = client_of(&ca);
    wait_until("it is ready", SOON, async || get(&old, &daemon, "/readyz").await.is_ok_and(|it| it.status() == 200))
        .await;
    let info = get(&old, &daemon, "/api/v1/info").await.expect("the certificate is trusted");
    assert_eq!((info.status(), info.version()), (StatusCode::OK, Version::HTTP_2));
    let mut stream = get(&old, &daemon, "/api/v1/events/stream").await.expect("a stream of events");
    assert!(stream.chunk().await.expect("the stream begins").is_some());

    let renewed = TestCa::new();
    let fresh = renewed.identity("127.0.0.1");
    assert!(get(&client_of(&renewed), &daemon, "/healthz").await.is_err(), "the first is of another authority");
    // The certificate first, as a renewal may do it: until the key follows, the pair before stays.
    fs::copy(&fresh.cert_file, &identity.cert_file).expect("a file can be written");
    wait_until("the half renewal is seen", SOON, async || {
        assert!(get(&client_of(&ca), &daemon, "/healthz").await.is_ok(), "the pair before stays");
        daemon.log().contains("the one before stays")
    })
    .await;
    fs::copy(&fresh.key_file, &identity.key_file).expect("a file can be written");
    wait_until("the renewed certificate is shown", SOON, async || {
        get(&client_of(&renewed), &daemon, "/healthz").await.is_ok()
    })
    .await;
    // What was connected stays so, and ends with the daemon.
    nats.publish_orders("events.orders.created", 0..1).await;
    let mut seen = String::new();
    while !seen.contains("event: orders.created") {
        let chunk = stream.chunk().await.expect("the connection lives on").expect("the stream goes on");
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert_eq!(daemon.terminate().await.code(), Some(0));
    while stream.chunk().await.expect("a stream that is ended, not broken off").is_some() {}
}

#[tokio::test]
async fn plain_http_on_the_https_port_is_told_so() {
    let (nats, ca) = (TestNats::start().await, TestCa::new());
    let mut daemon = TestDaemon::builder(&nats, &config(&tls(&ca.identity("127.0.0.1")), &[])).launch();
    daemon.wait_answering().await;
    let answer = try_request("GET", &daemon.url("/healthz"), None, None).await.expect("an answer");
    assert_eq!((answer.status, &*answer.body), (400, "This port speaks HTTPS: write https:// in the URL.\n"));
}

#[tokio::test]
async fn http_2_is_spoken_without_tls_with_whoever_begins_with_it() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, &config("", &[])).await;
    let client = Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let answer = client.get(daemon.url("/healthz")).send().await.expect("an answer");
    assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
}

#[tokio::test]
async fn a_stream_over_https_and_http_1_1_goes_on_and_ends_in_order() {
    let (nats, ca) = (TestNats::start().await, TestCa::new());
    let mut daemon = TestDaemon::builder(&nats, &config(&tls(&ca.identity("127.0.0.1")), &[])).launch();
    daemon.wait_answering().await;
    let client = builder_of(&ca).http1_only().build().expect("a client");
    wait_until("it is ready", SOON, async || get(&client, &daemon, "/readyz").await.is_ok_and(|it| it.status() == 200))
        .await;
    let mut stream = get(&client, &daemon, "/api/v1/events/stream").await.expect("a stream of events");
    assert_eq!(stream.version(), Version::HTTP_11);
    // Larger than any buffer on the way.
    let large = "much ".repeat(100_000);
    let mut seen = String::new();
    for said in ["little", &large, "the end"] {
        nats.publish("events.orders.created", said.to_owned()).await;
        let expected = format!("data: {said}\n\n");
        let heard = async {
            while !seen.contains(&expected) {
                let chunk = stream.chunk().await.expect("a connection").expect("it goes on");
                seen.push_str(&String::from_utf8_lossy(&chunk));
            }
        };
        tokio::time::timeout(SOON, heard).await.expect("it comes");
    }
    assert_eq!(daemon.terminate().await.code(), Some(0));
    while stream.chunk().await.expect("a stream that is ended, not broken off").is_some() {}
}

fn tls(identity: &Identity) -> String {
    format!("[server]\ntls = {{ cert_file = {:?}, key_file = {:?} }}\n", identity.cert_file, identity.key_file)
}

/// A client that trusts one authority only; each has connections of its own.
fn client_of(ca: &TestCa) -> Client {
    builder_of(ca).build().expect("a client")
}

fn builder_of(ca: &TestCa) -> ClientBuilder {
    // It installs the cryptography.
    drop(client());
    let root = Certificate::from_pem(&fs::read(ca.file()).expect("a file")).expect("a certificate");
    Client::builder().no_proxy().tls_certs_only([root])
}

async fn get(client: &Client, daemon: &TestDaemon, path: &str) -> reqwest::Result<Response> {
    let url = daemon.url(path).replacen("http:", "https:", 1);
    client.get(url).header("x-api-key", ADMIN_KEY).send().await
}

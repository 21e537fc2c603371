//! What an event stream looks like on the wire: its headers, gzip, HTTP/2.

use std::io::Read as _;

use flate2::read::GzDecoder;
use reqwest::{Client, Response, Version};
use sluiced_tests::http::client;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{SOON, SUBJECT};

const STREAM: &str = "/api/v1/events/stream?types=orders.*";

async fn ask(client: &Client, daemon: &TestDaemon, headers: &[(&str, &str)]) -> Response {
    let mut request = client.get(daemon.url(STREAM)).header("x-api-key", ADMIN_KEY);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

/// Reads until a text is among what `decoded` makes of all that came.
async fn read_until(response: &mut Response, read: &mut Vec<u8>, decoded: fn(&[u8]) -> Vec<u8>, text: &str) {
    let all = async {
        while !String::from_utf8_lossy(&decoded(read)).contains(text) {
            let chunk = response.chunk().await.expect("a connection").expect("it goes on");
            read.extend_from_slice(&chunk);
        }
    };
    tokio::time::timeout(SOON, all).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {text}"));
}

async fn read_to_end(response: &mut Response, read: &mut Vec<u8>) {
    let all = async {
        while let Some(chunk) = response.chunk().await.expect("it ends in order") {
            read.extend_from_slice(&chunk);
        }
    };
    tokio::time::timeout(SOON, all).await.expect("it ends");
}

/// What can be read of the beginning of a file.
fn unzipped(beginning: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    // At the end of what is there it fails, and has given all that it could.
    drop(GzDecoder::new(beginning).read_to_end(&mut text));
    text
}

#[tokio::test]
async fn a_stream_comes_as_text_or_in_gzip_and_is_kept_by_nobody() {
    let nats = TestNats::start().await;
    let mut daemon = TestDaemon::start(&nats, EVENTS).await;
    let (mut plain, mut zipped) = (
        ask(&client(), &daemon, &[("accept", "*/*"), ("accept-encoding", "identity")]).await,
        ask(&client(), &daemon, &[("accept", "text/event-stream"), ("accept-encoding", "gzip, deflate, br")]).await,
    );
    for (response, encoding) in [(&plain, None), (&zipped, Some("gzip"))] {
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("a text"));
        assert_eq!((response.status().as_u16(), header("content-type")), (200, Some("text/event-stream")));
        assert_eq!((header("cache-control"), header("x-accel-buffering")), (Some("no-store"), Some("no")));
        assert_eq!((header("content-encoding"), header("vary")), (encoding, Some("accept-encoding")));
    }
    let refused = ask(&client(), &daemon, &[("accept", "application/json")]).await;
    assert_eq!(refused.status(), 406);

    let (mut text, mut gzip) = (Vec::new(), Vec::new());
    let large = "a likely text, ".repeat(10_000);
    for body in ["said", &large, "said again"] {
        nats.publish(SUBJECT, body.to_owned()).await;
        let expected = format!("event: orders.created\ndata: {body}\n\n");
        read_until(&mut plain, &mut text, |text| text.to_vec(), &expected).await;
        read_until(&mut zipped, &mut gzip, unzipped, &expected).await;
    }
    assert!(gzip.len() * 4 < text.len(), "{} bytes of {}", gzip.len(), text.len());
    assert_eq!(daemon.terminate().await.code(), Some(0));
    read_to_end(&mut plain, &mut text).await;
    read_to_end(&mut zipped, &mut gzip).await;
    let mut whole = Vec::new();
    GzDecoder::new(&*gzip).read_to_end(&mut whole).expect("a whole file, with its checksum");
    assert!(whole.ends_with(b"\n\n"));
}

#[tokio::test]
async fn many_streams_share_a_connection_of_http_2() {
    let nats = TestNats::start().await;
    let mut daemon = TestDaemon::start(&nats, EVENTS).await;
    // What TLS needs is set up by the first client, though none of it is used here.
    drop(client());
    let client = Client::builder().no_proxy().http2_prior_knowledge().build().expect("a client");
    let mut streams = Vec::new();
    for _ in 0..20 {
        let response = ask(&client, &daemon, &[]).await;
        assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
        streams.push((response, Vec::new()));
    }
    nats.publish(SUBJECT, "said").await;
    for (response, text) in &mut streams {
        read_until(response, text, |text| text.to_vec(), "data: said\n\n").await;
    }
    assert_eq!(daemon.terminate().await.code(), Some(0));
    for (response, text) in &mut streams {
        read_to_end(response, text).await;
    }
}

/// A connection that speaks HTTP/1 by hand.
struct Wire {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn new(daemon: &TestDaemon) -> Self {
        let address = daemon.url("").replace("http://", "");
        Self { socket: TcpStream::connect(address).await.expect("a connection"), read: Vec::new() }
    }

    /// Sends requests in one piece, each a line without its version and what is after.
    async fn ask(&mut self, requests: &[&str], version: &str) {
        let head = |line: &&str| format!("{line} {version}\r\nhost: sluiced\r\nx-api-key: {ADMIN_KEY}\r\n\r\n");
        let all: String = requests.iter().map(head).collect();
        self.socket.write_all(all.as_bytes()).await.expect("it is taken");
    }

    /// What came since the last call, up to where a text ends.
    async fn until(&mut self, text: &str) -> String {
        let came = async {
            loop {
                let so_far = String::from_utf8_lossy(&self.read).into_owned();
                if let Some(at) = so_far.find(text) {
                    self.read.drain(..at + text.len());
                    return so_far[..at + text.len()].to_owned();
                }
                assert_ne!(
                    self.socket.read_buf(&mut self.read).await.expect("a connection"),
                    0,
                    "no {text:?}: {so_far}"
                );
            }
        };
        tokio::time::timeout(SOON, came).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {text:?}"))
    }
}

#[tokio::test]
async fn a_stream_takes_its_connection_after_what_was_answered_before() {
    let nats = TestNats::start().await;
    let mut daemon = TestDaemon::start(&nats, EVENTS).await;
    let stream = format!("GET {STREAM}");
    let (mut first, mut later, mut piped) =
        (Wire::new(&daemon).await, Wire::new(&daemon).await, Wire::new(&daemon).await);
    first.ask(&[&stream], "HTTP/1.1").await;
    later.ask(&["GET /healthz"], "HTTP/1.1").await;
    assert!(later.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
    later.ask(&[&stream], "HTTP/1.1").await;
    piped.ask(&["GET /healthz", &stream], "HTTP/1.1").await;
    assert!(piped.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"), "in the order of the requests");
    for wire in [&mut first, &mut later, &mut piped] {
        let head = wire.until("\r\n\r\n").await;
        assert!(head.contains("HTTP/1.1 200 OK\r\n"), "{head}");
        for line in ["transfer-encoding: chunked", "content-type: text/event-stream", "date: ", "sluiced-client: cl_"] {
            assert!(head.contains(&format!("\r\n{line}")), "{line}: {head}");
        }
        // One who goes on to ask gets no answer, and loses nothing.
        wire.ask(&["GET /healthz"], "HTTP/1.1").await;
    }
    for said in ["said", "said again"] {
        nats.publish(SUBJECT, said).await;
        for wire in [&mut first, &mut later, &mut piped] {
            let came = wire.until(&format!("data: {said}\n\n\r\n")).await;
            assert!(!came.contains("HTTP/1.1"), "{came}");
        }
    }
    daemon.wait_metric("sluiced_sse_clients", &[], 3.0).await;
    drop(first);
    daemon.wait_metric("sluiced_sse_clients", &[], 2.0).await;
    assert_eq!(daemon.terminate().await.code(), Some(0));
    later.until("0\r\n\r\n").await;
    assert_eq!(later.socket.read_buf(&mut later.read).await.expect("an end in order"), 0);
}

#[tokio::test]
async fn older_clients_and_those_who_ask_for_no_body_are_answered_in_their_way() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let mut old = Wire::new(&daemon).await;
    old.ask(&[&format!("GET {STREAM}")], "HTTP/1.0").await;
    let head = old.until("\r\n\r\n").await;
    assert!(!head.contains("transfer-encoding"), "HTTP/1.0 knows no chunks: {head}");
    nats.publish(SUBJECT, "said").await;
    assert!(old.until("data: said\n\n").await.contains("event: orders.created\n"));

    let mut bodiless = Wire::new(&daemon).await;
    bodiless.ask(&[&format!("HEAD {STREAM}"), "GET /healthz"], "HTTP/1.1").await;
    assert!(bodiless.until("\r\n\r\n").await.contains("text/event-stream"));
    let next = bodiless.until("\r\n\r\n").await;
    assert!(next.starts_with("HTTP/1.1 200 OK\r\n"), "no body comes between: {next}");
    daemon.wait_metric("sluiced_sse_clients", &[], 1.0).await;
}

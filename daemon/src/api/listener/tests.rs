//! What a listener does with connections.

use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::pending;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

use super::*;
use crate::api::document::EVENT_STREAM;

const LARGE_BYTES: usize = 100_000;
const FRAME: &str = "data: said\n\n";
const LARGE: &str = "GET /large HTTP/1.1\r\nhost: here\r\n\r\n";
const REFUSED: &str = "POST /refused HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\nhello";
const STREAM: &str = "GET /stream HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";

type Endless = Result<Bytes, Infallible>;

/// A connection to a listener, through a pipe that holds little; and what is to be waited for at its end.
fn connected() -> (DuplexStream, TaskTracker) {
    let router = Router::new()
        .route("/large", get(async || "x".repeat(LARGE_BYTES)))
        // It answers before it has looked at what is sent.
        .route("/refused", post(async || (StatusCode::FORBIDDEN, "y".repeat(LARGE_BYTES))))
        .route("/stream", get(async || ([(CONTENT_TYPE, EVENT_STREAM)], FRAME)))
        .route("/endless", get(async || ([(CONTENT_TYPE, EVENT_STREAM)], Body::from_stream(pending::<Endless>()))));
    let http = http();
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    let shared = Shared { tls: None, http, router, closing, connections: connections.clone() };
    let (client, server) = duplex(1_000);
    drop(connections.spawn(Arc::new(shared).converse(server, ([127, 0, 0, 1], 1).into())));
    (client, connections)
}

/// What one gets who sends these requests in one piece, and reads it all.
async fn answers(requests: &[&str]) -> String {
    let (mut client, connections) = connected();
    client.write_all(requests.concat().as_bytes()).await.expect("it is taken");
    let mut read = String::new();
    client.read_to_string(&mut read).await.expect("an end in order");
    connections.close();
    connections.wait().await;
    read
}

#[tokio::test]
async fn a_stream_has_the_connection_to_its_end() {
    let read = answers(&[STREAM]).await;
    let (head, body) = read.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\ndate: "), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    assert!(head.contains("\r\ntransfer-encoding: chunked") && head.contains("\r\nconnection: close"), "{head}");
    assert_eq!(body, format!("{:x}\r\n{FRAME}\r\n0\r\n\r\n", FRAME.len()));
}

#[tokio::test]
async fn what_was_answered_before_a_stream_is_sent_whole() {
    // The stream is asked for before the first answer is through the pipe.
    let read = answers(&[LARGE, STREAM]).await;
    assert!(read.contains(&"x".repeat(LARGE_BYTES)), "{} bytes came", read.len());
    assert!(read.contains(FRAME), "{}", &read[read.len().saturating_sub(300)..]);
}

#[tokio::test]
async fn what_was_refused_before_its_body_was_read_is_answered_whole_before_a_stream() {
    let read = answers(&[LARGE, REFUSED, STREAM]).await;
    let refused = read.find("403 Forbidden").expect("an answer");
    let stream = read.find(FRAME).expect("a stream");
    assert!(read[refused..stream].contains(&"y".repeat(LARGE_BYTES)), "{} bytes between", stream - refused);
}

#[tokio::test]
async fn a_client_that_goes_on_sending_while_it_has_a_stream_is_left() {
    let (mut client, connections) = connected();
    client.write_all(b"GET /endless HTTP/1.1\r\nhost: here\r\n\r\n").await.expect("it is taken");
    let mut begin = [0; 15];
    client.read_exact(&mut begin).await.expect("an answer");
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    client.write_all(&[b'x'; 10_000]).await.expect("a little is thrown away");
    let much = client.write_all(&[b'x'; 1_000_000]).await;
    assert!(much.is_err(), "there is an end to it");
    connections.close();
    connections.wait().await;
}

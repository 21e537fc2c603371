//! What a listener does with connections.

use axum::routing::get;
use http::header::CONTENT_TYPE;
use tokio::io::{AsyncReadExt as _, duplex};

use super::*;
use crate::api::document::EVENT_STREAM;

const LARGE_BYTES: usize = 100_000;
const FRAME: &str = "data: said\n\n";

/// What one gets who sends requests for these paths in one piece, and reads it all through a pipe that holds little.
async fn answers(paths: &[&str]) -> String {
    let router = Router::new()
        .route("/large", get(async || "x".repeat(LARGE_BYTES)))
        .route("/stream", get(async || ([(CONTENT_TYPE, EVENT_STREAM)], FRAME)));
    let Listener { http, .. } = Listener::new(TcpListener::bind("127.0.0.1:0").await.expect("a port"), None);
    let connections = TaskTracker::new();
    let closing = CancellationToken::new();
    let shared = Shared { tls: None, http, router, closing, connections: connections.clone() };
    let (mut client, server) = duplex(1_000);
    drop(connections.spawn(Arc::new(shared).converse(server, ([127, 0, 0, 1], 1).into())));
    let requests: Vec<_> = paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: here\r\n")).collect();
    let requests = format!("{}connection: close\r\n\r\n", requests.join("\r\n"));
    client.write_all(requests.as_bytes()).await.expect("it is taken");
    let mut read = String::new();
    client.read_to_string(&mut read).await.expect("an end in order");
    connections.close();
    connections.wait().await;
    read
}

#[tokio::test]
async fn a_stream_has_the_connection_to_its_end() {
    let read = answers(&["/stream"]).await;
    let (head, body) = read.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\ndate: "), "{head}");
    assert!(head.contains("\r\ntransfer-encoding: chunked") && head.contains("\r\nconnection: close"), "{head}");
    assert_eq!(body, format!("{:x}\r\n{FRAME}\r\n0\r\n\r\n", FRAME.len()));
}

#[tokio::test]
async fn what_was_answered_before_a_stream_is_sent_whole() {
    // The stream is asked for before the first answer is through the pipe.
    let read = answers(&["/large", "/stream"]).await;
    assert!(read.contains(&"x".repeat(LARGE_BYTES)), "{} bytes came", read.len());
    assert!(read.contains(FRAME), "{}", &read[read.len().saturating_sub(300)..]);
}

//! Attempts against receivers on loopback that answer byte for byte what a test tells them to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::deliver::capture::{RESPONSE_HEADER_BYTES_MAX, RESPONSE_HEADERS_MAX};
use crate::deliver::signing;
use crate::domain::{
    AnswerRules, Endpoint, Failure, FailureClass, HeadOfLine, Header, Order, RequestShape, Response, RetryPolicy,
    WebhookSecret,
};
use crate::telemetry::clock;

/// What a receiver does once it has read a request.
#[derive(Clone)]
enum Act {
    /// Sends these bytes, and takes the next request.
    Answer(Bytes),
    /// Sends these bytes and then nothing more, with the connection open.
    Hang(&'static str),
    /// Closes the connection with a reset.
    Reset,
    /// Sends these bytes and closes the connection.
    Close(&'static str),
    /// Sends this many bytes of body, as far as they are taken.
    Flood(usize),
}

/// A receiver; it ends when it is dropped.
struct Receiver {
    url: String,
    connections: Arc<AtomicUsize>,
    requests: tokio::sync::mpsc::Receiver<Vec<u8>>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    async fn new(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/hook?key=hush", listener.local_addr().expect("bound"));
        let connections = Arc::new(AtomicUsize::new(0));
        let (sender, requests) = tokio::sync::mpsc::channel(100);
        let mut tasks = JoinSet::new();
        let counter = Arc::clone(&connections);
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(stream, act.clone(), sender.clone()));
            }
        });
        Self { url, connections, requests, _tasks: tasks }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, act: Act, requests: tokio::sync::mpsc::Sender<Vec<u8>>) {
    while let Some(request) = read_request(&mut stream).await {
        let _ = requests.try_send(request);
        match &act {
            Act::Answer(bytes) => stream.write_all(bytes).await.expect("the client reads"),
            Act::Hang(text) => {
                stream.write_all(text.as_bytes()).await.expect("the client reads");
                let _ = stream.read(&mut [0]).await;
                return;
            }
            Act::Reset => return stream.set_zero_linger().expect("the option is known"),
            Act::Close(text) => return stream.write_all(text.as_bytes()).await.expect("the client reads"),
            Act::Flood(bytes) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&vec![b'x'; *bytes]).await;
                return;
            }
        }
    }
}

/// One request, head and body, or `None` at the connection's end.
async fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
        let Some(head) = request.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if request.len() == head + 4 + length.parse::<usize>().expect("a number") {
            return Some(request);
        }
    }
}

fn answer(text: &str) -> Act {
    Act::Answer(Bytes::copy_from_slice(text.as_bytes()))
}

fn status(line: &str) -> Act {
    answer(&format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n"))
}

fn secret() -> WebhookSecret {
    signing::parse_secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").expect("a secret")
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.into(),
        secret: Some(secret()),
        secret_overlap: Duration::ZERO,
        headers: vec![Header { name: "Authorization".into(), value: "Bearer hush".into() }],
        retry: RetryPolicy::default(),
        in_flight_max: NonZeroU32::MIN,
        rate_limit: None,
        order: Order::None,
        head_of_line: HeadOfLine::default(),
        connect_timeout: Duration::from_secs(10),
        total_timeout: Duration::from_secs(20),
        request: RequestShape::default(),
        answer: AnswerRules::default(),
        tls: None,
        health: crate::domain::HealthPolicy::default(),
    }
}

fn request() -> Request<'static> {
    Request { now_ms: clock::now_ms(), ..Request::sample() }
}

fn client(allow: &[&str]) -> Client {
    let allow_cidrs = allow.iter().map(|text| text.parse().expect("a network")).collect();
    Client::new(&Config { allow_cidrs, ..Config::default() }, &ClientMetrics::default()).expect("a client")
}

async fn attempt_at(url: &str, allow: &[&str]) -> Outcome {
    client(allow).attempt(&Prepared::new(&endpoint(url)).expect("valid"), request()).await
}

async fn attempt(act: Act) -> Outcome {
    let receiver = Receiver::new(act).await;
    attempt_at(&receiver.url, &["127.0.0.0/8"]).await
}

/// The failure of an outcome, and whether it is worth another attempt.
fn failure(outcome: Outcome) -> (bool, Failure) {
    match outcome {
        Outcome::Retry(failure) => (true, failure),
        Outcome::Final(failure) => (false, failure),
        Outcome::Delivered { status, .. } => panic!("delivered with {status}"),
    }
}

/// The status of an outcome that is a delivery.
fn delivered(outcome: &Outcome) -> Option<u16> {
    match outcome {
        Outcome::Delivered { status, .. } => Some(*status),
        _ => None,
    }
}

async fn class_of(act: Act) -> (bool, FailureClass) {
    let (retry, failure) = failure(attempt(act).await);
    assert!(!failure.message.contains("hush"), "{}", failure.message);
    assert!(failure.message.contains("127.0.0.1"), "{}", failure.message);
    (retry, failure.class)
}

#[tokio::test]
async fn an_independent_verifier_accepts_what_arrives() {
    let mut receiver = Receiver::new(status("200 OK")).await;
    assert_eq!(delivered(&attempt_at(&receiver.url, &["127.0.0.0/8"]).await), Some(200));
    let received = String::from_utf8(receiver.requests.recv().await.expect("a request")).expect("text");
    let (head, body) = received.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /hook?key=hush HTTP/1.1\r\n"), "{head}");
    let mut headers = http::HeaderMap::new();
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
        headers.append(name.parse::<http::HeaderName>().expect("a name"), value.parse().expect("a value"));
    }
    let verifier = standardwebhooks::Webhook::from_bytes(secret().bytes().to_vec()).expect("a key");
    verifier.verify(body.as_bytes(), &headers).expect("the signature holds");
    assert_eq!(body, r#"{"amount":1}"#);
    assert_eq!(headers["user-agent"], concat!("sluiced/", env!("CARGO_PKG_VERSION")));
    assert_eq!(headers["authorization"], "Bearer hush");
}

#[tokio::test]
async fn statuses_become_outcomes() {
    assert_eq!(delivered(&attempt(status("200 OK")).await), Some(200));
    assert_eq!(delivered(&attempt(answer("HTTP/1.1 204 No Content\r\n\r\n")).await), Some(204));
    assert_eq!(class_of(status("404 Not Found")).await, (false, FailureClass::Status));
    assert_eq!(class_of(status("410 Gone")).await, (false, FailureClass::Gone));
    assert_eq!(class_of(status("500 Oh No")).await, (true, FailureClass::Status));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::new(status("200 OK")).await;
    let redirect = format!("HTTP/1.1 301 Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url);
    assert_eq!(class_of(answer(&redirect)).await, (false, FailureClass::Status));
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn retry_after_is_passed_on() {
    let (retry, seconds) = failure(attempt(status("429 Slow\r\nretry-after: 7")).await);
    assert_eq!((retry, seconds.retry_after_ms), (true, Some(7_000)));
    let later = std::time::UNIX_EPOCH + Duration::from_millis(clock::now_ms()) + Duration::from_secs(60);
    let date = format!("503 Busy\r\nretry-after: {}", httpdate::fmt_http_date(later));
    let (retry, dated) = failure(attempt(status(&date)).await);
    assert!(retry && (50_000..=60_000).contains(&dated.retry_after_ms.expect("a wait")), "{dated:?}");
}

#[tokio::test]
async fn a_refusal_is_quoted_short_on_one_line_and_without_secrets() {
    let body = format!("no\nsuch hook for Bearer hush {}", "x".repeat(1_000));
    let text = format!("HTTP/1.1 422 No\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (retry, failure) = failure(attempt(answer(&text)).await);
    assert!(!retry);
    assert!(failure.message.contains("422 Unprocessable Entity: no such hook for … xxx"), "{}", failure.message);
    assert!(failure.message.len() < 300);
}

/// What is kept of an answer, at an endpoint that keeps so many bytes of its body.
async fn kept(capture_bytes_max: usize, act: Act) -> Option<Response> {
    let receiver = Receiver::new(act).await;
    let answer = AnswerRules { capture_bytes_max, ..AnswerRules::default() };
    let endpoint = Endpoint { answer, ..endpoint(&receiver.url) };
    match client(&["127.0.0.0/8"]).attempt(&Prepared::new(&endpoint).expect("valid"), request()).await {
        Outcome::Delivered { response, .. } => response.map(|response| *response),
        Outcome::Retry(failure) | Outcome::Final(failure) => failure.response.map(|response| *response),
    }
}

#[tokio::test]
async fn an_answer_is_kept_up_to_its_cap_and_without_what_was_sent_in_confidence() {
    let body = "hello Bearer hush, hello";
    let text = format!(
        "HTTP/1.1 200 OK\r\nx-echo: Bearer hush\r\nset-cookie: hush\r\nx-long: {}\r\ncontent-length: {}\r\n\r\n{body}",
        "é".repeat(RESPONSE_HEADER_BYTES_MAX),
        body.len()
    );
    let whole = kept(1_024, answer(&text)).await.expect("it is kept");
    assert_eq!((&whole.body[..], whole.truncated), ("hello …, hello".as_bytes(), false));
    let value = |name: &str| whole.headers.iter().find(|header| &*header.name == name).map(|header| &*header.value);
    assert_eq!((value("x-echo"), value("set-cookie"), value("content-length")), (Some("…"), None, Some("24")));
    assert!(value("x-long").is_some_and(|value| value.len() <= RESPONSE_HEADER_BYTES_MAX), "{whole:?}");
    // The value that is taken out begins within the part that is kept, and ends beyond it.
    for (cap, expected) in [(16, "hello …, hello"), (10, "hello …,"), (8, "hello "), (5, "hello")] {
        let part = kept(cap, answer(&text)).await.expect("it is kept");
        assert!(expected.as_bytes().starts_with(&part.body) && part.body.len() <= cap && part.truncated, "{part:?}");
    }
    assert_eq!(kept(0, answer(&text)).await, None);
    let refused = kept(3, answer(&text.replace("200 OK", "500 No"))).await.expect("it is kept");
    assert_eq!((&refused.body[..], refused.truncated), (&b"hel"[..], true));
    let broken = kept(1_024, Act::Close("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")).await.expect("kept");
    assert_eq!((&broken.body[..], broken.truncated), (&b"abc"[..], true));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x-a: b\r\n".repeat(50));
    assert_eq!(kept(1, answer(&many)).await.expect("it is kept").headers.len(), RESPONSE_HEADERS_MAX);
}

#[tokio::test]
async fn a_compressed_answer_stays_as_it_came() {
    // What 10 bytes of gzip would become does not matter: they are never inflated.
    let gzip = "\x1f\x08\x08\x00\x00\x00\x00\x00\x00\x03";
    let text = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n{gzip}", gzip.len());
    assert_eq!(kept(1_024, answer(&text)).await.expect("it is kept").body, gzip);
}

#[tokio::test]
async fn broken_connections_are_the_networks_fault() {
    let network = (true, FailureClass::Network);
    assert_eq!(class_of(Act::Reset).await, network);
    assert_eq!(class_of(Act::Close("")).await, network);
    assert_eq!(class_of(Act::Close("HTTP/1.1 200")).await, network);
    assert_eq!(class_of(Act::Close("SSH-2.0-OpenSSH_9.9\r\n")).await, network);
    let port = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
    let (retry, refused) = failure(attempt_at(&format!("http://127.0.0.1:{port}"), &["127.0.0.0/8"]).await);
    assert_eq!((retry, refused.class), network);
    assert_eq!(*refused.message, *format!("no answer from 127.0.0.1:{port}: connection refused"));
}

#[tokio::test]
async fn a_receiver_without_tls_is_the_networks_fault() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let _ = stream.read(&mut [0; 1_024]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let (retry, failure) = failure(attempt_at(&url, &["127.0.0.0/8"]).await);
    assert_eq!((retry, failure.class), (true, FailureClass::Network));
    assert!(failure.message.starts_with("no secure connection to 127.0.0.1"), "{}", failure.message);
}

/// An attempt with that total time, and how long it took.
async fn hasty(act: Act, total_timeout: Duration) -> (Outcome, Duration) {
    let receiver = Receiver::new(act).await;
    let endpoint = Endpoint { total_timeout, ..endpoint(&receiver.url) };
    let began = Instant::now();
    let outcome = client(&["127.0.0.0/8"]).attempt(&Prepared::new(&endpoint).expect("valid"), request()).await;
    (outcome, began.elapsed())
}

#[tokio::test]
async fn no_status_in_time_is_a_timeout() {
    for act in [Act::Hang(""), Act::Hang("HTTP/1.1 200 OK\r\nx-more: ")] {
        let (outcome, _) = hasty(act, Duration::from_millis(200)).await;
        let (retry, failure) = failure(outcome);
        assert_eq!((retry, failure.class), (true, FailureClass::Timeout));
        assert!(failure.message.ends_with("did not answer within 0.2 s"), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_body_that_never_ends_leaves_the_status_to_decide_at_the_deadline() {
    // Long enough for the status to be read.
    let deadline = Duration::from_secs(2);
    let taking = Act::Hang("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc");
    let refusing = Act::Hang("HTTP/1.1 503 No\r\ncontent-length: 10\r\n\r\nabc");
    let ((outcome, took), (refused, _)) = tokio::join!(hasty(taking, deadline), hasty(refusing, deadline));
    assert_eq!(delivered(&outcome), Some(200));
    assert!(took >= deadline);
    let (retry, failure) = failure(refused);
    assert_eq!((retry, failure.class), (true, FailureClass::Status));
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_the_status_to_decide() {
    let outcome = attempt(Act::Close("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")).await;
    assert_eq!(delivered(&outcome), Some(200));
}

#[tokio::test]
async fn a_connection_that_is_not_made_in_time_is_a_timeout() {
    // The listener never accepts TLS: the TCP connection is made, but the handshake is part of connecting.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("bound"));
    let endpoint = Endpoint { connect_timeout: Duration::from_millis(100), ..endpoint(&url) };
    let outcome = client(&["127.0.0.0/8"]).attempt(&Prepared::new(&endpoint).expect("valid"), request()).await;
    let (retry, failure) = failure(outcome);
    assert_eq!((retry, failure.class), (true, FailureClass::Timeout));
    assert!(failure.message.starts_with("no connection to 127.0.0.1"), "{}", failure.message);
}

#[tokio::test]
async fn connections_are_used_again_unless_a_body_was_too_long() {
    let client = client(&["127.0.0.0/8"]);
    let small = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    for (act, connections) in [(answer(small), 1), (Act::Flood(10_000_000), 3)] {
        let receiver = Receiver::new(act).await;
        let target = Prepared::new(&endpoint(&receiver.url)).expect("valid");
        for _ in 0..3 {
            assert_eq!(delivered(&client.attempt(&target, request()).await), Some(200));
        }
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn addresses_are_judged_before_they_are_dialled() {
    let receiver = Receiver::new(status("200 OK")).await;
    let port = receiver.url.rsplit_once(':').expect("a port").1.to_owned();
    let hosts = ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "localhost"];
    for host in hosts {
        let (retry, failure) = failure(attempt_at(&format!("http://{host}:{port}"), &["10.0.0.0/8"]).await);
        assert_eq!((retry, failure.class), (false, FailureClass::AddressRefused), "{host}");
        assert!(failure.message.contains("loopback addresses are refused"), "{}", failure.message);
    }
    assert_eq!(receiver.connections(), 0);
    for host in ["127.0.0.1", "2130706433", "localhost"] {
        let outcome = attempt_at(&format!("http://{host}:{port}"), &["127.0.0.0/8", "::1/128"]).await;
        assert_eq!(delivered(&outcome), Some(200), "{host}");
    }
}

#[tokio::test]
async fn a_denied_port_is_refused_at_an_allowed_address() {
    let receiver = Receiver::new(status("200 OK")).await;
    let port: u16 =
        receiver.url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok()).expect("one");
    let allow_cidrs = vec!["127.0.0.0/8".parse().expect("a network")];
    let config = Config { allow_cidrs, deny_ports: vec![25, port], ..Config::default() };
    let client = Client::new(&config, &ClientMetrics::default()).expect("a client");
    let target = Prepared::new(&endpoint(&receiver.url)).expect("valid");
    let (retry, failure) = failure(client.attempt(&target, request()).await);
    assert_eq!((retry, failure.class), (false, FailureClass::AddressRefused));
    assert_eq!(*failure.message, *format!("127.0.0.1:{port} cannot be called: port {port} is refused"));
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_the_networks_fault() {
    let (retry, failure) = failure(attempt_at("http://nothing.invalid/?key=hush", &[]).await);
    assert_eq!((retry, failure.class), (true, FailureClass::Network));
    assert_eq!(&*failure.message, "the name nothing.invalid could not be resolved");
}

#[test]
fn a_client_needs_a_user_agent_that_can_be_sent() {
    let config = Config { user_agent: "two\nlines".to_owned(), ..Config::default() };
    assert!(matches!(Client::new(&config, &ClientMetrics::default()), Err(Error::UserAgent)));
}

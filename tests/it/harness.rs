//! The harness itself, against real parts: what the other tests stand on.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use sluiced_tests::events::{BODY_BYTES, SECRET, number_of, order};
use sluiced_tests::http::try_request;
use sluiced_tests::sse::SseParser;
use sluiced_tests::{Accounting, Behaviour, Metrics, Reply, TestNats, TestReceiver, daemon};
use standardwebhooks::Webhook;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_killed_nats_server_comes_back_on_its_port_with_its_messages() {
    let mut nats = TestNats::start().await;
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders("events.orders.created", 0..1_200).await;
    let url = nats.url();
    nats.kill();
    assert!(async_nats::connect(&url).await.is_err());
    nats.restart().await;
    assert_eq!(nats.url(), url);
    assert_eq!(nats.stream_info("EVENTS").await.state.messages, 1_200);
    nats.stop().await;
    nats.restart().await;
    assert_eq!(nats.publish("events.orders.created", order(1_200)).await, 1_201);
}

#[test]
fn an_order_has_its_size_and_carries_its_number() {
    for number in [0, 17, 19_999] {
        assert_eq!(order(number).len(), BODY_BYTES);
        assert_eq!(number_of(&order(number)), Some(number));
    }
}

#[tokio::test]
async fn a_receiver_verifies_signatures_and_counts_the_wrong_ones() {
    let receiver = TestReceiver::start_verifying(SECRET);
    let body = order(7);
    for (secret, right) in [(SECRET, true), ("whsec_b3RoZXI=", false)] {
        post_signed(&receiver.url("/hook"), secret, &body).await;
        let last = receiver.received().pop().expect("a request came in");
        assert_eq!((last.verified, last.webhook_id(), last.number()), (Some(right), "msg_1", Some(7)));
    }
    receiver.wait_for_numbers(7..8, SOON).await;
    assert_eq!((receiver.counts().requests, receiver.counts().unverified, receiver.counts().in_flight), (2, 1, 0));
}

#[tokio::test]
async fn a_receiver_behaves_as_it_is_told() {
    let receiver = TestReceiver::start();
    receiver.set(Behaviour::fail_times(2, 503));
    assert_eq!(statuses(&receiver, 4).await, [503, 503, 200, 200]);
    receiver.set(Behaviour::Redirect);
    assert_eq!(statuses(&receiver, 1).await, [302]);
    receiver.set(Behaviour::custom(|received| match received.path.as_str() {
        "/hook" => Reply::status(429).header("retry-after", "2"),
        _ => Reply::default(),
    }));
    assert_eq!(statuses(&receiver, 1).await, [429]);
    receiver.set(Behaviour::Flood(1_000_000));
    assert_eq!(get(&receiver).await.expect("it answers").len(), 1_000_000);
    receiver.set(Behaviour::Slow(Duration::from_millis(20)));
    assert_eq!(statuses(&receiver, 1).await, [200]);
}

#[tokio::test]
async fn a_receiver_hangs_dribbles_resets_and_refuses() {
    let mut receiver = TestReceiver::start();
    let endless = [Behaviour::Hang, Behaviour::HangBody, Behaviour::Dribble(Duration::from_millis(1))];
    for (requests, behaviour) in (1..).zip(endless) {
        let described = format!("{behaviour:?}");
        receiver.set(behaviour);
        let came_and_passed = async {
            receiver.wait_for(requests, SOON).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        tokio::select! {
            _ = get(&receiver) => panic!("{described} came to an end"),
            () = came_and_passed => {}
        }
    }
    receiver.set(Behaviour::Reset);
    let error = raw_get(&receiver).await.expect_err("the connection is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    receiver.stop();
    let error = raw_get(&receiver).await.expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    receiver.set(Behaviour::Ok);
    receiver.resume();
    assert_eq!(statuses(&receiver, 1).await, [200]);
    assert_eq!(receiver.counts().requests, 5);
}

#[test]
fn an_event_stream_is_read_by_the_rules_wherever_it_is_cut() {
    let stream = "\u{feff}: hello\r\nid: 1\r\nevent: order\r\ndata: a\r\ndata:b\r\n\r\nretry: 250\nid:2\n\ndata\n\n:\n\
                  data: é\nid: bad\0id\nunknown: x\n\nevent: lost\ndata: not ended\n";
    for size in 1..stream.len() {
        let mut parser = SseParser::default();
        let events: Vec<_> = stream.as_bytes().chunks(size).flat_map(|chunk| parser.push(chunk)).collect();
        let seen: Vec<_> = events.iter().map(|e| (e.id.as_str(), e.event.as_str(), e.data.as_str())).collect();
        assert_eq!(seen, [("1", "order", "a\nb"), ("2", "message", ""), ("2", "message", "é")], "cut at {size}");
    }
}

#[test]
fn metrics_are_read_and_the_books_balance() {
    let text = r#"
# TYPE sluiced_events_received counter
sluiced_events_received_total{subscription="big"} 10
sluiced_events_received_total{subscription="a \"b\\c, {d}"} 3
sluiced_events_filtered_total{subscription="big"} 4
sluiced_deliveries_total{subscription="big",outcome="delivered"} 3
sluiced_deliveries_total{subscription="big",outcome="failed"} 1
sluiced_parked{subscription="big"} 2
sluiced_up 1
# EOF"#;
    let metrics = Metrics::parse(text);
    assert_eq!(metrics.metric("sluiced_events_received_total", &[("subscription", "a \"b\\c, {d}")]), 3.0);
    assert_eq!(metrics.sum("sluiced_events_received_total", &[]), 13.0);
    assert!(metrics.has("sluiced_up", &[]) && !metrics.has("sluiced_down", &[]));
    let books = Accounting::of(&metrics, "big");
    assert_eq!(books, Accounting { received: 10, delivered: 3, filtered: 4, failed: 1, parked: 2, resent: 0 });
    assert!(books.balances());
    assert!(!Accounting { parked: 3, ..books }.balances());
}

#[test]
fn a_configuration_is_completed_where_the_test_says_nothing() {
    let config =
        "[server]\nlisten = \"[::1]:0\"\n[delivery]\nretry = { max_attempts = 2 }\n[[subscription]]\nname = \"a\"";
    let complete = daemon::complete(config, Path::new("/d"), "nats://h:1", Path::new("/p"));
    let expected = "data_dir = \"/d\"\n[server]\nlisten = \"[::1]:0\"\n[delivery]\n\
                    allow_cidrs = [\"127.0.0.0/8\", \"::1/128\"]\nretry = { max_attempts = 2 }\n[[subscription]]\nname = \"a\"\n";
    assert!(complete.starts_with(expected), "{complete}");
    assert!(complete.ends_with("[nats]\nurl = \"nats://h:1\"\n[plugins]\ndir = \"/p\"\n"), "{complete}");
}

#[tokio::test]
async fn heavy_a_receiver_takes_20_000_requests() {
    let receiver = TestReceiver::start_verifying(SECRET);
    let client = sluiced_tests::http::client();
    let post = |number| {
        let (client, url) = (client.clone(), receiver.url("/hook"));
        async move { client.post(url).body(order(number)).send().await.expect("it answers").status().as_u16() }
    };
    let answers = futures_util::stream::iter(0..20_000).map(post).buffer_unordered(64);
    let refused = answers.filter(|status| std::future::ready(*status != 200)).count().await;
    assert_eq!(refused, 0);
    receiver.wait_for_numbers(0..20_000, SOON).await;
    assert_eq!(receiver.counts().unverified, 20_000);
    assert!(receiver.counts().connections <= 64 + 1);
}

async fn post_signed(url: &str, secret: &str, body: &Bytes) {
    let now = sluiced::telemetry::clock::now_ms() / 1_000;
    let signer = Webhook::new(secret).expect("a secret");
    let signature = signer.sign("msg_1", i64::try_from(now).expect("a time"), body).expect("a signature");
    let request = sluiced_tests::http::client().post(url).body(body.clone());
    let request = request.header("webhook-id", "msg_1").header("webhook-timestamp", now.to_string());
    let response = request.header("webhook-signature", signature).send().await.expect("it answers");
    assert_eq!(response.status(), 200);
}

async fn statuses(receiver: &TestReceiver, n: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for number in 0..n {
        let body = json!({ "number": number });
        let answer = try_request("POST", &receiver.url("/hook"), None, Some(&body)).await;
        statuses.push(answer.expect("it answers").status);
    }
    statuses
}

async fn get(receiver: &TestReceiver) -> Option<String> {
    try_request("GET", &receiver.url("/"), None, None).await.map(|answer| answer.body)
}

/// A request by hand, for the error of the socket itself.
async fn raw_get(receiver: &TestReceiver) -> std::io::Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(receiver.address()).await?;
    socket.write_all(b"GET / HTTP/1.1\r\nhost: receiver\r\n\r\n").await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(answer)
}

//! What was given up: found, looked at, sent again, removed.

use std::time::Duration;

use serde_json::Value;
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const LETTERS: &str = "/api/v1/subscriptions/crm/dead-letters";

/// A daemon with one subscription `crm`, two attempts for each delivery, and orders that a receiver refused as `status`
/// says of their numbers.
async fn refused(numbers: u64, status: fn(u64) -> u16) -> (TestNats, TestReceiver, TestDaemon) {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(move |request| Reply::status(request.number().map_or(500, status))));
    let hook = Webhook::to("crm", &receiver.url("/hook")).retry_after(&["10ms"]);
    let daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    for number in 0..numbers {
        nats.publish("events.orders.created", order(number)).await;
    }
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "failed")], numbers as f64).await;
    (nats, receiver, daemon)
}

async fn get(daemon: &TestDaemon, path: &str) -> Value {
    let answer = daemon.request("GET", path, None).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// The stream sequences of a page's dead letters, in order.
fn sequences(page: &Value) -> Vec<u64> {
    let letters = page["dead_letters"].as_array().unwrap_or_else(|| panic!("no dead letters in {page}"));
    letters.iter().map(|letter| letter["sequence"].as_u64().expect("a sequence")).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_by_reason_and_shown_with_every_attempt() {
    let (_nats, _receiver, daemon) = refused(4, |number| if number % 2 == 0 { 400 } else { 503 }).await;
    let found = async |query: &str| {
        let mut sequences = sequences(&get(&daemon, &format!("{LETTERS}?{query}")).await);
        sequences.sort_unstable();
        sequences
    };
    assert_eq!(found("").await, [1, 2, 3, 4]);
    assert_eq!(found("status=503").await, [2, 4]);
    assert_eq!(found("class=status&status=400").await, [1, 3]);
    assert_eq!(found("class=timeout").await, [] as [u64; 0]);
    assert_eq!(found("until=2020-01-01T00:00:00Z").await, [] as [u64; 0]);
    assert_eq!(found("since=2020-01-01T00:00:00Z").await, [1, 2, 3, 4]);
    let everywhere = get(&daemon, "/api/v1/dead-letters?status=503&limit=1").await;
    assert_eq!(everywhere["dead_letters"][0]["subscription"], "crm");
    let next = format!("/api/v1/dead-letters?status=503&before={}", everywhere["next"].as_str().expect("a cursor"));
    let mut both = sequences(&everywhere);
    both.extend(sequences(&get(&daemon, &next).await));
    both.sort_unstable();
    assert_eq!(both, [2, 4]);

    let page = get(&daemon, &format!("{LETTERS}?status=503&limit=1")).await;
    let letter = &page["dead_letters"][0];
    let one = get(&daemon, &format!("{LETTERS}/{}", letter["id"].as_str().expect("an id"))).await;
    assert_eq!((&one["body"], &one["sequence"]), (&letter["body"], &letter["sequence"]));
    let history = one["history"].as_array().expect("a history");
    let attempts: Vec<(u64, u64)> = history
        .iter()
        .map(|attempt| (attempt["number"].as_u64().expect("a number"), attempt["status"].as_u64().expect("a status")))
        .collect();
    assert_eq!(attempts, [(1, 503), (2, 503)]);
    assert!(history.iter().all(|attempt| attempt["class"] == "status" && attempt["took_ms"].is_u64()), "{one}");

    for (query, field) in [("before=x", "before"), ("since=yesterday", "since"), ("subscription=crm", "query")] {
        let answer = daemon.request("GET", &format!("{LETTERS}?{query}"), None).await;
        assert_eq!((answer.status, answer.json()["errors"][0]["field"].as_str()), (400, Some(field)), "{query}");
    }
    let nobody = daemon.request("GET", "/api/v1/dead-letters?subscription=nobody", None).await;
    assert_eq!(nobody.status, 404);
}

#[tokio::test]
async fn a_dead_letter_that_is_sent_again_arrives_or_comes_back_with_its_whole_history() {
    let (_nats, receiver, mut daemon) = refused(1, |_| 500).await;
    let page = get(&daemon, LETTERS).await;
    let id = page["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    let (one, again) = (format!("{LETTERS}/{id}"), format!("{LETTERS}/{id}/resend"));
    assert_eq!(daemon.request("POST", &again, None).await.status, 202);
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "failed")], 2.0).await;
    let letter = get(&daemon, &one).await;
    assert_eq!((letter["attempts"].as_u64(), letter["resent_after"].as_u64()), (Some(4), Some(2)));
    assert_eq!(letter["history"].as_array().map(Vec::len), Some(4), "two attempts before, and two after: {letter}");
    let books = daemon.accounted("crm", 1).await;
    assert_eq!((books.failed, books.resent, books.delivered), (2, 1, 0));

    // While it is on its way it cannot be sent once more.
    receiver.set(Behaviour::Hang);
    assert_eq!(daemon.request("POST", &again, None).await.status, 202);
    let second = daemon.request("POST", &again, None).await;
    assert_eq!((second.status, second.json()["code"].as_str()), (409, Some("delivery_under_way")));
    assert_eq!(daemon.request("DELETE", &one, None).await.status, 409);
    assert_eq!(daemon.request("GET", &one, None).await.status, 404);
    // What was parked to be sent again survives a kill.
    daemon.kill9();
    receiver.set(Behaviour::Ok);
    daemon.restart().await;
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "delivered")], 1.0).await;
    wait_until("nothing is parked", SOON, async || daemon.reading("sluiced_parked", "crm").await == 0).await;
    let last = receiver.received().pop().expect("a request");
    assert_eq!((last.webhook_id(), last.attempt()), (id.as_str(), 5));
    assert_eq!(daemon.request("POST", &again, None).await.status, 404, "it is a dead letter no more");
}

#[tokio::test]
async fn a_dead_letter_can_be_removed() {
    let (_nats, _receiver, daemon) = refused(2, |_| 400).await;
    let page = get(&daemon, LETTERS).await;
    let one = format!("{LETTERS}/{}", page["dead_letters"][0]["id"].as_str().expect("an id"));
    assert_eq!(daemon.request("DELETE", &one, None).await.status, 204);
    for method in ["DELETE", "GET"] {
        assert_eq!(daemon.request(method, &one, None).await.status, 404, "{method}");
    }
    assert_eq!(daemon.request("DELETE", &format!("{LETTERS}/msg_1"), None).await.status, 404);
    assert_eq!(sequences(&get(&daemon, LETTERS).await).len(), 1);
    assert_eq!(daemon.accounted("crm", 2).await.failed, 2, "it stays counted");
}

#[tokio::test]
async fn the_oldest_dead_letters_go_when_they_take_too_much() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(|_| Reply::status(400)));
    let hook = Webhook::to("crm", &receiver.url("/hook")).retry_after(&["10ms"]);
    let daemon = TestDaemon::start(&nats, &config("[store]\ndead_letter_mib_max = 1", &[hook])).await;
    let large = format!("{{\"n\": \"{}\"}}", "x".repeat(500 << 10));
    for number in 0..4 {
        nats.publish("events.orders.created", large.clone()).await;
        daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "failed")], f64::from(number + 1)).await;
    }
    daemon.wait_metric("sluiced_dead_letters_expired_total", &[], 2.0).await;
    let page = get(&daemon, "/api/v1/dead-letters").await;
    assert_eq!(sequences(&page), [4, 3]);
    wait_until("the gauge follows", SOON, async || daemon.metrics().await.sum("sluiced_dead_letters", &[]) == 2.0)
        .await;
    assert_eq!(daemon.accounted("crm", 4).await.failed, 4, "they stay counted");
}

#[tokio::test]
async fn the_oldest_of_the_log_goes_when_it_takes_too_much() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    // Every entry of the log has what the receiver said.
    let said = bytes::Bytes::from(vec![b'x'; 60_000]);
    receiver.set(Behaviour::custom(move |_| Reply { body: said.clone(), ..Reply::status(400) }));
    let hook = Webhook::new("crm", &receiver).with("capture_bytes_max", 65_536);
    let daemon = TestDaemon::start(&nats, &config("[store]\nlog_mib_max = 8", &[hook])).await;
    nats.publish_orders("events.orders.created", 0..200).await;
    receiver.wait_for(200, SOON).await;
    // What is not yet known to be acked stays, and it is looked at whenever a part of the log is full.
    let dropped = async || {
        nats.publish("events.orders.created", order(200)).await;
        daemon.log().contains("dropped old log partitions")
    };
    wait_until("the oldest partitions are dropped", SOON, dropped).await;
    let log_bytes = async || daemon.metrics().await.sum("sluiced_store_log_bytes", &[]);
    let bounded = async || (4.0..10.0 * 1_048_576.0).contains(&log_bytes().await);
    wait_until("the log is within its bound", SOON, bounded).await;
}

const PUBLISHED: &str = "[dead_letters]\npublish_subject = \"dlq.{subscription}\"";

#[tokio::test]
async fn dead_letters_are_published_until_a_stream_has_them() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    nats.create_stream("DLQ", &["dlq.>"]).await;
    receiver.set(Behaviour::custom(|_| Reply::status(400)));
    let hook = Webhook::to("crm.eu", &receiver.url("/hook")).retry_after(&["10ms"]);
    let mut daemon = TestDaemon::start(&nats, &config(PUBLISHED, &[hook])).await;
    let stored = async |count: u64| {
        let full = async || nats.stream_info("DLQ").await.state.messages == count;
        wait_until("the dead letters are published", Duration::from_secs(60), full).await;
    };
    nats.publish("events.orders.created", order(7)).await;
    stored(1).await;
    let jetstream = nats.jetstream().await;
    let message = jetstream.get_stream("DLQ").await.expect("the stream").get_raw_message(1).await.expect("a message");
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    let page = get(&daemon, "/api/v1/dead-letters").await;
    let letter = &page["dead_letters"][0];
    assert_eq!((message.subject.as_str(), &message.payload[..]), ("dlq.crm.eu", &order(7)[..]));
    assert_eq!(letter["id"], header("Sluiced-Delivery-Id"));
    assert!(header("Nats-Msg-Id").starts_with(&format!("{}.", header("Sluiced-Delivery-Id"))));
    let told = ["Subscription", "Event-Type", "Stream", "Sequence", "Class", "Status", "Attempts"];
    let told = told.map(|name| header(&format!("Sluiced-{name}")));
    assert_eq!(told, ["crm.eu", "orders.created", "EVENTS", "1", "status", "400", "1"]);
    assert!(!header("Sluiced-Reason").is_empty() && !header("Sluiced-Event-Id").is_empty());

    // Without the stream they wait, deliveries go on, and a kill forgets none.
    jetstream.delete_stream("DLQ").await.expect("deleted");
    nats.publish("events.orders.created", order(8)).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "failed")], 2.0).await;
    receiver.set(Behaviour::Ok);
    nats.publish("events.orders.created", order(9)).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("outcome", "delivered")], 1.0).await;
    daemon.kill9();
    nats.create_stream("DLQ", &["dlq.>"]).await;
    daemon.restart().await;
    stored(1).await;
    daemon.wait_metric("sluiced_dead_letters_published_total", &[], 1.0).await;
}

#[tokio::test]
async fn a_subject_that_dead_letters_cannot_go_to_stops_the_start() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hook = Webhook::new("crm", &receiver);
    let says = async |head: &str, text: &str| {
        let mut daemon = TestDaemon::builder(&nats, &config(head, std::slice::from_ref(&hook))).launch();
        let ended = daemon.process().wait_ended(SOON).await;
        assert!(!ended.success() && daemon.log().contains(text), "{text}: {}", daemon.log());
    };
    says(PUBLISHED, "no stream takes the subject dlq.crm").await;
    says("[dead_letters]\npublish_subject = \"events.dlq\"", "overlaps the subjects of stream EVENTS").await;
    says("[dead_letters]\npublish_subject = \"dlq-{subscription}\"", "may only be its last token").await;
    // The stream has more subjects than the daemon was told of.
    let nats = TestNats::start().await;
    nats.create_stream("EVENTS", &["events.>", "dlq.>"]).await;
    let mut daemon = TestDaemon::builder(&nats, &config(PUBLISHED, std::slice::from_ref(&hook))).launch();
    daemon.process().wait_ended(SOON).await;
    assert!(daemon.log().contains("stream EVENTS takes the subject dlq.crm"), "{}", daemon.log());
}

#[tokio::test]
async fn a_dead_letter_that_is_too_large_is_published_without_its_body_and_says_where_that_is() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    nats.create_stream("DLQ", &["dlq.>"]).await;
    receiver.set(Behaviour::Status(400));
    let daemon = TestDaemon::start(&nats, &config(PUBLISHED, &[Webhook::new("crm", &receiver)])).await;
    // As large as the server takes: the headers of a dead letter are too much.
    let body = format!("{{\"n\": \"{}\"}}", "x".repeat((1 << 20) - 9));
    nats.publish("events.orders.created", body.clone()).await;
    daemon.wait_metric("sluiced_dead_letters_published_total", &[], 1.0).await;
    let stream = nats.jetstream().await.get_stream("DLQ").await.expect("the stream");
    let message = stream.get_raw_message(1).await.expect("a message");
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    assert_eq!((message.payload.len(), header("Sluiced-Body-Omitted")), (0, body.len().to_string()));
    assert_eq!((header("Sluiced-Subscription").as_str(), header("Sluiced-Status").as_str()), ("crm", "400"));
    let letter = get(&daemon, &header("Sluiced-Body-At")).await;
    assert_eq!(letter["id"], header("Sluiced-Delivery-Id"));
}

#[tokio::test]
async fn a_subscription_added_at_run_time_whose_dead_letters_would_come_back_is_refused() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    // The daemon reads a stream with more subjects than it was told of: one of them is where the letters of `loop` go.
    nats.create_stream("EVENTS", &["events.>", "dlq.loop"]).await;
    nats.create_stream("DLQ", &["dlq.crm", "dlq.late"]).await;
    let crm = Webhook::new("crm", &receiver);
    let daemon = TestDaemon::start(&nats, &config(PUBLISHED, std::slice::from_ref(&crm))).await;
    let with = |name: &str| config(PUBLISHED, &[crm.clone(), Webhook::new(name, &receiver)]);
    let logged = async |text: &str| {
        wait_until(&format!("the log has {text:?}"), SOON, async || daemon.log().contains(text)).await;
    };
    daemon.write_config(&with("loop"));
    logged("stream EVENTS takes the subject dlq.loop").await;
    logged("the changed configuration is refused").await;
    // One made over the API has an id of the daemon's, and no stream takes its letters.
    let webhook = serde_json::json!({ "name": "api", "url": receiver.url("/api"), "types": [">"] });
    let refused = daemon.request("POST", "/api/v1/webhooks", Some(&webhook)).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(refused.body.contains("no stream takes the subject dlq.wh_"), "{}", refused.body);
    daemon.write_config(&with("late"));
    logged("configuration reloaded").await;
    nats.publish("events.orders.created", order(1)).await;
    wait_until("both have it", SOON, async || receiver.counts().requests == 2).await;
}

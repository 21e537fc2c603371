//! Replay: a stretch of history is delivered again, beside whatever else there is to do.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluiced::telemetry::clock;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Received, Reply, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const SUBJECT: &str = "events.orders.created";

/// Begins a job of the subscription `crm`, and returns it.
pub(crate) async fn begin(daemon: &TestDaemon, kind: &str, body: Value) -> Value {
    let answer = daemon.request("POST", &format!("/api/v1/subscriptions/crm/{kind}"), Some(&body)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()
}

pub(crate) async fn job(daemon: &TestDaemon, id: &Value) -> Value {
    let answer = daemon.request("GET", &format!("/api/v1/jobs/{}", id.as_str().expect("an id")), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

pub(crate) async fn wish(daemon: &TestDaemon, id: &Value, wish: &str) -> Value {
    let path = format!("/api/v1/jobs/{}/{wish}", id.as_str().expect("an id"));
    let answer = daemon.request("POST", &path, None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Waits until a job is in a state, and returns it.
pub(crate) async fn comes_to(daemon: &TestDaemon, id: &Value, state: &str) -> Value {
    wait_until(&format!("the job is {state}"), SOON, async || job(daemon, id).await["state"] == state).await;
    job(daemon, id).await
}

/// The job that a request is of; empty when it is of none.
fn replay_of(request: &Received) -> &str {
    request.header("sluiced-replay")
}

/// How often each order came by a replay.
fn replayed(receiver: &TestReceiver) -> BTreeMap<u64, u32> {
    let mut numbers = BTreeMap::new();
    for request in receiver.received().iter().filter(|request| !replay_of(request).is_empty()) {
        *numbers.entry(request.number().expect("an order has a number")).or_default() += 1;
    }
    numbers
}

fn once(numbers: impl IntoIterator<Item = u64>) -> BTreeMap<u64, u32> {
    numbers.into_iter().map(|number| (number, 1)).collect()
}

/// The ids under which an order came.
fn ids(receiver: &TestReceiver, number: u64) -> Vec<String> {
    let received = receiver.received();
    let mut ids: Vec<String> =
        received.iter().filter(|r| r.number() == Some(number)).map(|r| r.webhook_id().to_owned()).collect();
    ids.dedup();
    ids
}

/// The time at which JetStream stored a sequence, in milliseconds since the Unix epoch.
async fn stored_ms(nats: &TestNats, sequence: u64) -> u64 {
    let stream = nats.jetstream().await.get_stream("EVENTS").await.expect("the stream exists");
    let message = stream.get_raw_message(sequence).await.expect("the message exists");
    u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).expect("after 1970")
}

#[tokio::test]
async fn replay_of_a_range_by_sequence_and_by_time_comes_under_the_same_ids() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    nats.publish_orders(SUBJECT, 0..30).await;
    let told = stored_ms(&nats, 30).await;
    wait_until("the clock has moved on", SOON, async || clock::now_ms() > told).await;
    nats.publish_orders(SUBJECT, 30..60).await;
    assert_eq!(daemon.accounted("crm", 60).await.delivered, 60);

    let asked = begin(&daemon, "replay", json!({ "stream": "EVENTS", "from": 11, "to": 20, "rate": 1000 })).await;
    let done = comes_to(&daemon, &asked["id"], "done").await;
    assert_eq!((&done["next"], &done["progress"]), (&json!(21), &json!(1.0)));
    assert_eq!((&done["counts"]["seen"], &done["counts"]["delivered"]), (&json!(10), &json!(10)));
    assert_eq!(replayed(&receiver), once(10..20), "orders are counted from 0, sequences from 1");
    for request in receiver.received() {
        let of = replay_of(&request);
        assert!(of.is_empty() || of == asked["id"].as_str().expect("an id"));
        assert_eq!(ids(&receiver, request.number().expect("a number")).len(), 1, "a replay repeats the id");
    }

    receiver.forget();
    let time = clock::rfc3339(told + 1);
    let later = begin(&daemon, "replay", json!({ "from": time, "rate": 1000 })).await;
    comes_to(&daemon, &later["id"], "done").await;
    assert_eq!(replayed(&receiver), once(30..60), "from a time on");
    receiver.forget();
    let earlier = begin(&daemon, "replay", json!({ "from": "all", "to": time, "rate": 1000 })).await;
    comes_to(&daemon, &earlier["id"], "done").await;
    assert_eq!(replayed(&receiver), once(0..30), "before a time");

    let books = daemon.accounted("crm", 130).await;
    assert!(books.balances() && books.delivered == 130, "{books:?}");
    assert_eq!(daemon.reading("sluiced_events_replayed_total", "crm").await, 70);
    let all = daemon.request("GET", "/api/v1/jobs", None).await.json();
    let listed: Vec<&Value> = all["jobs"].as_array().expect("jobs").iter().map(|job| &job["id"]).collect();
    assert_eq!(listed, [&earlier["id"], &later["id"], &asked["id"]], "newest first");
}

#[tokio::test]
async fn replay_counts_first_what_it_then_delivers_with_filters_and_transforms_as_they_are_now() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let plain = Webhook::new("crm", &receiver);
    let daemon = TestDaemon::start(&nats, &config("", std::slice::from_ref(&plain))).await;
    nats.publish_orders(SUBJECT, 0..40).await;
    nats.publish("events.orders.created", "not JSON").await;
    assert_eq!(daemon.accounted("crm", 41).await.delivered, 41);
    let filtering = plain
        .filter("jq", r#"{ expr = ".number % 2 == 0" }"#)
        .transform("redact", r#"{ pointers = ["/card/number"] }"#);
    daemon.write_config(&config("", &[filtering]));
    wait_until("it is reloaded", SOON, async || daemon.log().contains("configuration reloaded")).await;
    receiver.forget();

    let dry = begin(&daemon, "replay", json!({ "from": 1, "dry_run": true })).await;
    let dry = comes_to(&daemon, &dry["id"], "done").await;
    assert_eq!(receiver.received().len(), 0, "it counts only");
    assert_eq!(daemon.reading("sluiced_dead_letters", "").await, 0);
    let counts = &dry["counts"];
    let expected = json!({
        "seen": 41, "filtered": 20, "faulted": 1, "pending": 0, "deliveries": 21, "delivered": 0, "parked": 0, "failed": 1,
    });
    assert_eq!(*counts, expected);

    let real = begin(&daemon, "replay", json!({ "from": 1, "rate": 1000 })).await;
    let real = comes_to(&daemon, &real["id"], "done").await;
    assert_eq!(replayed(&receiver), once((0..40).filter(|number| number % 2 == 0)));
    assert!(receiver.received().iter().all(|r| !String::from_utf8_lossy(&r.body).contains("4111111111111111")));
    let mut expected = expected;
    expected["delivered"] = json!(20);
    assert_eq!(real["counts"], expected, "as was counted first");
    let books = daemon.accounted("crm", 82).await;
    assert_eq!((books.delivered, books.filtered, books.failed), (61, 20, 1));
}

#[tokio::test]
async fn replay_of_a_cloudevent_has_the_attributes_that_it_had_live() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let webhook = Webhook::new("crm", &receiver).with("format", "\"cloudevents-binary\"");
    let daemon = TestDaemon::start(&nats, &config("", &[webhook])).await;
    let came = json!({ "specversion": "1.0", "id": "c-1", "source": "/tills/7", "type": "com.example.sold",
        "subject": "basket", "traceparent": "00-ab-cd-01", "data": { "number": 0 } });
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Content-Type", "application/cloudevents+json");
    nats.publish_with(SUBJECT, headers, came.to_string()).await;
    receiver.wait_for(1, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let asked = begin(&daemon, "replay", json!({ "from": 1 })).await;
    comes_to(&daemon, &asked["id"], "done").await;
    let received = receiver.received();
    let attributes = |request: &Received| {
        let names = ["ce-id", "ce-source", "ce-type", "ce-subject", "ce-time", "ce-traceparent"];
        names.map(|name| request.header(name).to_owned())
    };
    assert_eq!((received.len(), replay_of(&received[1]).is_empty()), (2, false));
    assert_eq!(attributes(&received[0])[1], "/tills/7");
    assert_eq!(attributes(&received[1]), attributes(&received[0]));
}

#[tokio::test]
async fn replay_can_be_paused_resumed_and_cancelled_and_live_events_pass_beside_it() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    nats.publish_orders(SUBJECT, 0..200).await;
    assert_eq!(daemon.accounted("crm", 200).await.delivered, 200);
    receiver.forget();

    // All of them would take eight seconds: time enough for what is done meanwhile.
    let asked = begin(&daemon, "replay", json!({ "from": 1, "to": 200, "rate": 25 })).await;
    let id = &asked["id"];
    wait_until("some are replayed", SOON, async || replayed(&receiver).len() >= 10).await;
    nats.publish_orders(SUBJECT, 200..220).await;
    receiver.wait_for_numbers(200..220, SOON).await;
    assert!(replayed(&receiver).len() < 200, "live events do not wait for its end");
    assert_eq!(wish(&daemon, id, "pause").await["state"], "paused");
    let path = "/api/v1/subscriptions/crm/replay";
    let refused = daemon.request("POST", path, Some(&json!({ "from": 1 }))).await;
    assert_eq!((refused.status, refused.json()["code"].clone()), (409, json!("job_running")));
    // A paused job is still there after a restart, and rests.
    assert_eq!(daemon.terminate().await.code(), Some(0));
    let at_rest = replayed(&receiver).len();
    daemon.restart().await;
    assert_eq!(job(&daemon, id).await["state"], "paused");
    nats.publish_orders(SUBJECT, 220..230).await;
    receiver.wait_for_numbers(200..230, SOON).await;
    assert_eq!(replayed(&receiver).len(), at_rest, "nothing is taken while it rests");
    assert_eq!(wish(&daemon, id, "resume").await["state"], "running");
    let done = comes_to(&daemon, id, "done").await;
    assert_eq!(replayed(&receiver), once(0..200), "each once");
    assert_eq!(done["counts"]["delivered"], 200);
    assert!(done["ran_ms"].as_u64().expect("a time") >= 7_000, "at 25 a second: {done}");

    let second = begin(&daemon, "replay", json!({ "from": 1, "to": 200, "rate": 10 })).await;
    wish(&daemon, &second["id"], "cancel").await;
    comes_to(&daemon, &second["id"], "cancelled").await;
    let refused =
        daemon.request("POST", &format!("/api/v1/jobs/{}/resume", second["id"].as_str().expect("an id")), None).await;
    assert_eq!((refused.status, refused.json()["code"].clone()), (409, json!("job_over")));
    let third = begin(&daemon, "replay", json!({ "from": 1, "to": 1 })).await;
    comes_to(&daemon, &third["id"], "done").await;
}

#[tokio::test]
async fn replay_survives_kills_in_the_middle_and_a_clean_stop_repeats_nothing() {
    const EVENTS: u64 = 400;
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let webhook = Webhook::new("crm", &receiver).with("max_in_flight", 4);
    let mut daemon = TestDaemon::start(&nats, &config("", &[webhook])).await;
    nats.publish_orders(SUBJECT, 0..EVENTS).await;
    assert_eq!(daemon.accounted("crm", EVENTS).await.delivered, EVENTS);
    receiver.forget();
    receiver.set(Behaviour::Slow(Duration::from_millis(10)));

    let asked = begin(&daemon, "replay", json!({ "from": 1, "rate": 100 })).await;
    for part in [80, 160] {
        wait_until("some are replayed", SOON, async || replayed(&receiver).len() >= part).await;
        daemon.kill9();
        daemon.restart().await;
    }
    wait_until("some more are replayed", SOON, async || replayed(&receiver).len() >= 240).await;
    let repeated = |receiver: &TestReceiver| replayed(receiver).values().map(|times| times - 1).sum::<u32>();
    let by_kills = repeated(&receiver);
    assert_eq!(daemon.terminate().await.code(), Some(0));
    daemon.restart().await;
    let done = comes_to(&daemon, &asked["id"], "done").await;
    assert_eq!(replayed(&receiver).into_keys().collect::<Vec<_>>(), (0..EVENTS).collect::<Vec<_>>(), "none is missing");
    assert!(by_kills <= 2 * 4, "{by_kills} came again after the kills: more than was in flight");
    assert_eq!(repeated(&receiver), by_kills, "a clean stop repeats none");
    assert_eq!((&done["next"], &done["counts"]["seen"]), (&json!(EVENTS + 1), &json!(EVENTS)));
}

#[tokio::test]
async fn replay_waits_for_an_endpoint_that_fails_in_the_middle() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let head = "[delivery]\nbreaker = { attempts_min = 3, probe = \"200ms\", probe_max = \"400ms\" }\n";
    let webhook = Webhook::new("crm", &receiver).with("max_in_flight", 2).retry_after(&["500ms", "1s", "5s", "5s"]);
    let daemon = TestDaemon::start(&nats, &config(head, &[webhook])).await;
    nats.publish_orders(SUBJECT, 0..100).await;
    assert_eq!(daemon.accounted("crm", 100).await.delivered, 100);
    receiver.forget();

    let fails = |request: &Received| request.number().is_none_or(|number| number >= 20);
    receiver.set(Behaviour::custom(move |request| Reply::status(if fails(request) { 503 } else { 200 })));
    let asked = begin(&daemon, "replay", json!({ "from": 1, "rate": 100 })).await;
    wait_until("some are replayed", SOON, async || replayed(&receiver).len() >= 20).await;
    daemon.wait_held("crm", true, SOON).await;
    let failed = job(&daemon, &asked["id"]).await;
    assert_eq!(failed["state"], "running");
    receiver.set(Behaviour::Ok);
    let done = comes_to(&daemon, &asked["id"], "done").await;
    assert!(done["counts"]["parked"].as_u64().expect("a count") <= 12, "it did not go on at a dead endpoint: {done}");
    wait_until("nothing is parked", SOON, async || daemon.reading("sluiced_parked", "crm").await == 0).await;
    let books = daemon.accounted("crm", 200).await;
    assert_eq!((books.delivered, books.failed), (200, 0));
    let all: Vec<u64> = replayed(&receiver).into_keys().collect();
    assert_eq!(all, (0..100).collect::<Vec<_>>(), "retried replays say that they are replays");
}

#[tokio::test]
async fn replay_takes_dead_letters_along_and_leaves_alone_what_will_come_anyway() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(|request| Reply {
        status: match request.number() {
            Some(number) if number < 5 => 400,
            Some(number) if number < 10 => 503,
            _ => 200,
        },
        ..Default::default()
    }));
    let webhook = Webhook::new("crm", &receiver).retry_after(&["1h"]);
    let daemon = TestDaemon::start(&nats, &config("[delivery]\nbreaker = { attempts_min = 1000 }\n", &[webhook])).await;
    nats.publish_orders(SUBJECT, 0..20).await;
    let books = daemon.accounted("crm", 20).await;
    assert_eq!((books.delivered, books.failed, books.parked), (10, 5, 5));
    receiver.set(Behaviour::Ok);
    receiver.forget();

    let asked = begin(&daemon, "replay", json!({ "from": 1, "to": 15, "rate": 1000 })).await;
    let done = comes_to(&daemon, &asked["id"], "done").await;
    assert_eq!((&done["counts"]["delivered"], &done["counts"]["pending"]), (&json!(10), &json!(5)));
    assert_eq!(replayed(&receiver), once((0..5).chain(10..15)), "what is parked has its own time");
    let letters = daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters", None).await.json();
    assert_eq!(letters["dead_letters"], json!([]), "they have arrived after all");
    let books = daemon.accounted("crm", 30).await;
    assert_eq!((books.delivered, books.failed, books.parked), (20, 5, 5));
}

#[tokio::test]
async fn replay_says_what_is_wrong_with_a_request() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders(SUBJECT, 0..10).await;
    nats.purge("EVENTS").await;
    nats.publish_orders(SUBJECT, 10..20).await;
    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    let path = "/api/v1/subscriptions/crm/replay";
    let cases = [
        (json!({}), 400, "body"),
        (json!({ "from": 1, "until": 2 }), 400, "body"),
        (json!({ "from": 0 }), 400, "from"),
        (json!({ "from": "yesterday" }), 400, "from"),
        (json!({ "from": 11, "to": "all" }), 400, "to"),
        (json!({ "from": 11, "rate": 0 }), 400, "rate"),
        (json!({ "from": 11, "stream": "OTHER" }), 400, "stream"),
        (json!({ "from": 15, "to": 14 }), 422, "range"),
        (json!({ "from": 21 }), 422, "range"),
        (json!({ "from": 1, "to": 10 }), 422, "range"),
        (json!({ "from": "2001-01-01T00:00:00Z", "to": "2001-01-02T00:00:00Z" }), 422, "range"),
    ];
    for (body, status, word) in cases {
        let answer = daemon.request("POST", path, Some(&body)).await;
        let problem = answer.json();
        let told = if status == 400 { &problem["errors"][0]["field"] } else { &problem["code"] };
        assert_eq!((answer.status, told.as_str()), (status, Some(word)), "{body}: {answer:?}");
    }
    let unknown = daemon.request("POST", "/api/v1/subscriptions/nobody/replay", Some(&json!({ "from": 1 }))).await;
    assert_eq!(unknown.status, 404);
    for path in ["/api/v1/jobs/1", "/api/v1/jobs/0000000000000001", "/api/v1/jobs/0000000000000001/pause"] {
        let method = if path.ends_with("pause") { "POST" } else { "GET" };
        assert_eq!(daemon.request(method, path, None).await.status, 404, "{path}");
    }

    let with_gap = begin(&daemon, "replay", json!({ "from": 6, "rate": 1000 })).await;
    assert_eq!(with_gap["available_from"], 11, "the gap is said");
    let done = comes_to(&daemon, &with_gap["id"], "done").await;
    assert_eq!(done["counts"]["delivered"], 10);
}

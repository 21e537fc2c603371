//! Events: pages of them from either end, one by its name, how many there are, and publishing many at once.

use async_nats::HeaderMap;
use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{TestDaemon, TestNats};

use super::{get, pages, sequences};

/// Orders on every sequence but each tenth, which is a payment.
async fn published(nats: &TestNats, events: u64) {
    for number in 1..=events {
        let kind = if number % 10 == 0 { "events.payments.done" } else { "events.orders.created" };
        nats.publish(kind, order(number)).await;
    }
}

#[tokio::test]
async fn events_are_listed_from_either_end_and_pages_stay_while_more_are_published() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    assert_eq!(get(&daemon, "/api/v1/events").await, json!({ "events": [], "next": null }));
    published(&nats, 240).await;

    let more = async || {
        nats.publish("events.orders.created", order(1)).await;
    };
    let newest = pages(&daemon, "/api/v1/events?limit=70", "events", more).await;
    assert_eq!(sequences(&newest), (1..=240).rev().collect::<Vec<_>>(), "what came meanwhile is on no page");
    let now = 240 + 3;
    let oldest = pages(&daemon, "/api/v1/events?order=oldest&limit=100", "events", async || ()).await;
    assert_eq!(sequences(&oldest), (1..=now).collect::<Vec<_>>());

    // By type: rare ones too, without what lies between.
    let payments = pages(&daemon, "/api/v1/events?type=payments.*&limit=7", "events", more).await;
    assert_eq!(sequences(&payments), (1..=24).rev().map(|n| n * 10).collect::<Vec<_>>());
    assert!(payments.iter().all(|event| event["type"] == "payments.done" && event.get("data").is_none()));
    let both = pages(&daemon, "/api/v1/events?type=payments.done,orders.>&order=oldest", "events", async || ()).await;
    assert!(sequences(&both).starts_with(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
    let none = get(&daemon, "/api/v1/events?type=nobody.has.this").await;
    assert_eq!((none["events"].as_array().map(Vec::len), &none["next"]), (Some(0), &Value::Null));

    // By time.
    let at = |entries: &[Value], sequence: u64| {
        let found = entries.iter().find(|entry| entry["sequence"] == sequence).expect("it is on the list");
        found["stored_at"].as_str().expect("a time").to_owned()
    };
    let (from, to) = (at(&newest, 50), at(&newest, 90));
    let some = pages(&daemon, &format!("/api/v1/events?from={from}&to={to}&limit=9"), "events", async || ()).await;
    let times: Vec<&str> = some.iter().map(|event| event["stored_at"].as_str().expect("a time")).collect();
    assert!(!times.is_empty() && times.iter().all(|time| (from.as_str()..to.as_str()).contains(time)), "{times:?}");
    let within = |event: &&Value| (from.as_str()..to.as_str()).contains(&event["stored_at"].as_str().expect("a time"));
    assert_eq!(times.len(), newest.iter().filter(within).count());
}

#[tokio::test]
async fn an_event_is_shown_whole_by_its_id_or_its_place() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "order-7");
    headers.insert("X-Team", "sales");
    headers.insert("Content-Type", "application/json");
    nats.publish_with("events.orders.created", headers, order(7)).await;
    let mut plain = HeaderMap::new();
    plain.insert("Content-Type", "text/plain");
    nats.publish_with("events.notes", plain, "hello").await;
    nats.publish("events.blob", vec![0xff, 0xfe]).await;
    let cloud = r#"{"specversion":"1.0","id":"c1","source":"/s","type":"t","data":{"a":1}}"#;
    let mut structured = HeaderMap::new();
    structured.insert("Content-Type", "application/cloudevents+json");
    nats.publish_with("events.cloud", structured, cloud).await;

    let by_id = get(&daemon, "/api/v1/events/order-7").await;
    assert_eq!(by_id, get(&daemon, "/api/v1/events/EVENTS:1").await);
    assert_eq!((&by_id["type"], &by_id["data"]["number"]), (&json!("orders.created"), &json!(7)));
    assert_eq!(by_id["headers"], json!([["X-Team", "sales"]]));
    assert_eq!(get(&daemon, "/api/v1/events/EVENTS:2").await["data"], "hello");
    assert_eq!(get(&daemon, "/api/v1/events/EVENTS:3").await["data_base64"], "//4=");
    // A page shows the same, with the payloads when one asks for them.
    let page = get(&daemon, "/api/v1/events?data=true").await;
    let shown = page["events"].as_array().expect("events");
    assert_eq!((&shown[3], &shown[0]["id"], &shown[0]["data"]), (&by_id, &json!("c1"), &json!({ "a": 1 })));
    assert_eq!((&shown[2]["bytes"], &shown[1]["data_base64"]), (&json!(5), &json!("//4=")));
    for missing in ["EVENTS:99", "nobody", "OTHER:1"] {
        let answer = daemon.request("GET", &format!("/api/v1/events/{missing}"), None).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (404, Some("not_found")), "{missing}");
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("cursor=x", "cursor"),
        ("type=a..b", "type"),
        ("stream=OTHER", "stream"),
        ("from=yesterday", "from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "to"),
        ("order=random", "query"),
        ("colour=red", "query"),
    ] {
        let answer = daemon.request("GET", &format!("/api/v1/events?{query}"), None).await;
        let field_of = answer.json()["errors"][0]["field"].clone();
        assert_eq!((answer.status, field_of.as_str()), (400, Some(field)), "{query}: {}", answer.body);
    }
    // A cursor is good for its own question only.
    let next = get(&daemon, "/api/v1/events?limit=1").await["next"].as_str().expect("a cursor").to_owned();
    assert_eq!(daemon.request("GET", &format!("/api/v1/events?limit=2&cursor={next}"), None).await.status, 200);
    assert_eq!(daemon.request("GET", &format!("/api/v1/events?type=a&cursor={next}"), None).await.status, 400);
}

#[tokio::test]
async fn events_of_several_streams_are_one_list_and_counted_together() {
    let nats = TestNats::start().await;
    let streams = r#"
[[stream]]
name = "EVENTS"
subjects = ["events.>"]
type_prefix = "events."
create = true

[[stream]]
name = "AUDIT"
subjects = ["audit.>"]
create = true
"#;
    let daemon = TestDaemon::start(&nats, streams).await;
    for number in 1..=30 {
        nats.publish("events.orders.created", order(number)).await;
        nats.publish("audit.login", order(number)).await;
        nats.publish("events.orders.paid", order(number)).await;
    }
    let all = pages(&daemon, "/api/v1/events?limit=11", "events", async || ()).await;
    let of = |stream: &str| sequences(&all.iter().filter(|e| e["stream"] == stream).cloned().collect::<Vec<_>>());
    assert_eq!(of("EVENTS"), (1..=60).rev().collect::<Vec<_>>());
    assert_eq!(of("AUDIT"), (1..=30).rev().collect::<Vec<_>>());
    let times: Vec<&str> = all.iter().map(|event| event["stored_at"].as_str().expect("a time")).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "newest first: {times:?}");
    let audit = pages(&daemon, "/api/v1/events?stream=AUDIT", "events", async || ()).await;
    assert_eq!(audit.len(), 30);

    let stats = get(&daemon, "/api/v1/events/stats").await;
    assert_eq!((&stats["total"]["events"], &stats["complete"]), (&json!(90), &json!(true)), "{stats}");
    let types: Vec<(&str, u64)> = stats["types"]
        .as_array()
        .expect("types")
        .iter()
        .map(|row| (row["type"].as_str().expect("a type"), row["events"].as_u64().expect("a count")))
        .collect();
    assert_eq!(types, [("audit.login", 30), ("orders.created", 30), ("orders.paid", 30)]);
    let buckets = stats["total"]["buckets"].as_array().expect("buckets");
    assert_eq!((buckets.len(), buckets.iter().filter_map(Value::as_u64).sum::<u64>()), (24, 90));
    assert_eq!(buckets[23], 90, "all of them are of the last hour");
    let paid = get(&daemon, "/api/v1/events/stats?type=orders.paid&bucket=12h").await;
    assert_eq!((&paid["total"]["events"], paid["buckets"].as_array().map(Vec::len)), (&json!(30), Some(2)));
    // What cannot be counted within the bound is said to be left out.
    let many = get(&daemon, "/api/v1/events/stats?from=2026-01-01T00:00:00Z&to=2100-01-01T00:00:00Z").await;
    assert_eq!(many["total"]["events"], 90);
    let answer = daemon.request("GET", "/api/v1/events/stats?bucket=1s", None).await;
    assert_eq!((answer.status, answer.json()["errors"][0]["field"].clone()), (400, json!("bucket")));
}

#[tokio::test]
async fn many_events_are_published_at_once_each_with_its_own_answer() {
    let nats = TestNats::start().await;
    let large = format!("[limits]\nbody_bytes_max = 4194304\n{EVENTS}");
    let daemon = TestDaemon::start(&nats, &large).await;
    let post = async |events: Value| {
        let answer = daemon.request("POST", "/api/v1/events/batch", Some(&json!({ "events": events }))).await;
        (answer.status, answer.json())
    };
    let order = |key: &str| json!({ "type": "orders.created", "data": { "key": key }, "idempotency_key": key });
    let (status, all) = post((0..100).map(|n| order(&format!("k{n}"))).collect()).await;
    assert_eq!((status, &all["accepted"], &all["refused"]), (202, &json!(100), &json!(0)));
    let results = all["results"].as_array().expect("results");
    assert_eq!(sequences(results), (1..=100).collect::<Vec<_>>(), "in their order");
    assert!(results.iter().all(|result| result["duplicate"] == false));

    let large = json!({ "type": "orders.created", "data": "x".repeat(1 << 20) });
    let (status, mixed) = post(json!([
        order("k7"), { "type": "a..b", "data": 1 }, order("new"), { "type": "orders.created", "data": 1, "idempotency_key": "" }
    ]))
    .await;
    assert_eq!((status, &mixed["accepted"], &mixed["refused"]), (207, &json!(2), &json!(2)), "{mixed}");
    let results = &mixed["results"];
    assert_eq!((&results[0]["duplicate"], &results[0]["sequence"]), (&json!(true), &json!(8)));
    assert_eq!((&results[1]["status"], &results[1]["errors"][0]["field"]), (&json!(400), &json!("type")));
    assert_eq!((&results[2]["duplicate"], &results[2]["sequence"]), (&json!(false), &json!(101)));
    assert_eq!(results[3]["errors"][0]["field"], "idempotency_key");
    let one = daemon.request("POST", "/api/v1/events", Some(&large)).await;
    assert_eq!((one.status, one.json()["code"].clone()), (413, json!("event_too_large")), "{}", one.body);
    for wrong in [json!([]), (0..101).map(|n| order(&n.to_string())).collect()] {
        let (status, problem) = post(wrong).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("events")));
    }
    assert_eq!(nats.stream_info("EVENTS").await.state.messages, 101);
}

//! Where is my event? The API's answer, and the command that tells it to a person.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluiced_tests::events::order;
use sluiced_tests::paths::sluiced_binary;
use sluiced_tests::setup::config;
use sluiced_tests::sse::{Auth, SseClient};
use sluiced_tests::{ADMIN_KEY, Behaviour, TestDaemon, TestNats, TestReceiver, Webhook};

const SOON: Duration = Duration::from_secs(60);

const STREAMS: &str = r#"
[[subscription]]
name = "wall"
types = ["orders.>"]
filters = [{ plugin = "jq", config = { expr = ".amount >= 1" } }]
transforms = [{ plugin = "redact", config = { pointers = ["/card/number"] } }]
sse = {}

[[subscription]]
name = "wall-of-the-rich"
types = ["orders.>"]
filters = [{ plugin = "jq", config = { expr = ".amount > 1000000" } }]
sse = {}

[[subscription]]
name = "wall-of-invoices"
types = ["invoices.>"]
sse = {}
"#;

async fn trace(daemon: &TestDaemon, id: &str) -> Value {
    let answer = daemon.request("GET", &format!("/api/v1/events/{id}/trace"), None).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn of<'a>(trace: &'a Value, subscription: &str) -> &'a Value {
    let all = trace["subscriptions"].as_array().expect("subscriptions");
    all.iter().find(|one| one["subscription"] == subscription).unwrap_or_else(|| panic!("no {subscription} in {trace}"))
}

#[tokio::test]
async fn an_event_is_followed_through_every_subscription() {
    let (nats, receiver, busy) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
    busy.set(Behaviour::Status(503));
    let refuses = TestReceiver::start();
    refuses.set(Behaviour::Status(400));
    let hooks = [
        Webhook::new("arrives", &receiver).transform("redact", r#"{ pointers = ["/card/number"] }"#),
        Webhook::new("filtered", &receiver).filter("jq", r#"{ expr = ".amount > 1000000" }"#),
        Webhook::new("waits", &busy).retry_after(&["1h"]),
        Webhook::new("dead", &refuses),
        Webhook::new("other", &receiver).types(&["invoices.*"]),
    ];
    let daemon = TestDaemon::start(&nats, &(config("", &hooks) + STREAMS)).await;
    nats.publish_orders("events.orders.created", 1..2).await;
    receiver.wait_for(1, SOON).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("subscription", "arrives"), ("outcome", "delivered")], 1.0).await;
    daemon.wait_metric("sluiced_deliveries_total", &[("subscription", "dead"), ("outcome", "failed")], 1.0).await;
    daemon.wait_metric("sluiced_parked", &[("subscription", "waits")], 1.0).await;

    let told = trace(&daemon, "order-1").await;
    assert_eq!(trace(&daemon, "EVENTS:1").await, told, "by its place it is the same event");
    assert_is_found_by_an_id_of_an_event_stream(&daemon, &told).await;
    assert_eq!((told["event"]["type"].as_str(), told["unmatched"].as_u64()), (Some("orders.created"), Some(2)));
    assert_eq!(told["log"]["complete"], true);
    let arrives = of(&told, "arrives");
    assert_eq!((&arrives["subject"]["pattern"], &arrives["verdict"]["result"]), (&">".into(), &"kept".into()));
    assert_eq!(arrives["verdict"]["plugins"][0]["name"], "redact");
    assert!(arrives["verdict"]["plugins"][0]["version"].is_string(), "{arrives}");
    assert_eq!(arrives["deliveries"][0]["state"], "delivered");
    assert_eq!(arrives["deliveries"][0]["attempts"][0]["status"], 200);
    let filtered = of(&told, "filtered");
    assert_eq!((&filtered["verdict"]["result"], &filtered["verdict"]["decided_by"]), (&"dropped".into(), &"jq".into()));
    assert_eq!(filtered["deliveries"].as_array().map(Vec::len), Some(0));
    let waits = &of(&told, "waits")["deliveries"][0];
    assert_eq!((&waits["state"], &waits["history"][0]["status"]), (&"parked".into(), &503.into()));
    assert!(waits["next_due"].is_string(), "{waits}");
    let dead = &of(&told, "dead")["deliveries"][0];
    assert_eq!((&dead["state"], &dead["history"][0]["status"]), (&"dead".into(), &400.into()));

    assert_streams_are_told_of(&daemon, &told).await;

    let other = daemon.request("GET", "/api/v1/events/order-1/trace?subscription=other", None).await.json();
    assert_eq!(of(&other, "other")["subject"]["patterns"][0], "invoices.*");
    let unknown = daemon.request("GET", "/api/v1/events/nobody/trace", None).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("from 1 to the end"), "it says where it has looked: {}", unknown.body);

    let mut explain = Command::new(sluiced_binary());
    explain.args(["explain", "order-1", "--url", &daemon.url(""), "--key", ADMIN_KEY]);
    let said = tokio::task::spawn_blocking(move || explain.output()).await.expect("a thread").expect("it runs");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    for part in [
        "subscription: wall  target: sse",
        "subscription: waits",
        "state: parked",
        "state: delivered",
        "plugins now say: dropped",
        "next due: ",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

/// Which says which stream of that name it is of.
async fn assert_is_found_by_an_id_of_an_event_stream(daemon: &TestDaemon, told: &Value) {
    let stream = daemon.url("/api/v1/streams/wall?from=all");
    let seen = SseClient::connect(&stream, Auth::ApiKey(ADMIN_KEY), None).await.next_event(SOON).await.id;
    assert!(seen.starts_with("EVENTS:1:"), "{seen}");
    assert_eq!(trace(daemon, &seen).await, *told);
    let tag = if seen.ends_with('0') { "000001" } else { "000000" };
    for path in [format!("events/EVENTS:1:{tag}/trace"), format!("deliveries?event=EVENTS:1:{tag}")] {
        let of_another = daemon.request("GET", &format!("/api/v1/{path}"), None).await;
        assert!(of_another.status == 404 && of_another.body.contains("another stream"), "{path}: {of_another:?}");
    }
}

/// Named streams have a verdict and no deliveries.
async fn assert_streams_are_told_of(daemon: &TestDaemon, told: &Value) {
    let (wall, rich) = (of(told, "wall"), of(told, "wall-of-the-rich"));
    assert_eq!((&wall["target"], &wall["subject"]["pattern"]), (&"sse".into(), &"orders.>".into()));
    assert_eq!((&wall["verdict"]["result"], wall["deliveries"].as_array().map(Vec::len)), (&"kept".into(), Some(0)));
    assert_eq!(
        (&wall["verdict"]["plugins"][1]["name"], &wall["verdict"]["outputs"][0]["part"]),
        (&"redact".into(), &0.into())
    );
    assert!(wall["verdict"]["plugins"][0]["version"].is_string() && wall["standing"].is_null(), "{wall}");
    assert_eq!((&rich["verdict"]["result"], &rich["verdict"]["decided_by"]), (&"dropped".into(), &"jq".into()));
    let invoices = "/api/v1/events/order-1/trace?subscription=wall-of-invoices";
    let invoices = daemon.request("GET", invoices, None).await.json();
    assert_eq!(of(&invoices, "wall-of-invoices")["subject"]["matches"], false);
}

#[tokio::test]
async fn an_event_of_a_held_subscription_waits_at_its_position() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::Status(410));
    let daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    nats.publish("events.orders.created", order(1)).await;
    daemon.wait_held("crm", true, SOON).await;
    nats.publish("events.orders.created", order(2)).await;
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    let told = trace(&daemon, "EVENTS:2").await;
    let crm = of(&told, "crm");
    assert_eq!((&crm["standing"], &crm["deliveries"][0]["state"]), (&"held".into(), &"held".into()), "{crm}");
    assert!(crm["reads_from"].as_u64().is_some_and(|from| from <= 2), "{crm}");
    assert_eq!(of(&trace(&daemon, "EVENTS:1").await, "crm")["deliveries"][0]["state"], "dead");
}

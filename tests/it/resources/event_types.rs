//! The catalogue of event types: of the file and of the API, and what it asks of events.

use serde_json::{Value, json};
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{TestDaemon, TestNats, wait_until};

use super::{SOON, get, pages};

const TYPES: &str = "/api/v1/event-types";

/// A stream, and one type of the file whose payload needs an `id`.
fn with_types(description: &str) -> String {
    format!(
        r#"{EVENTS}
[[event_type]]
name = "orders.created"
description = "{description}"
enforce = true
example = {{ id = 7 }}
[event_type.schema]
type = "object"
required = ["id"]
properties.id = {{ type = "integer" }}
"#
    )
}

async fn publish(daemon: &TestDaemon, kind: &str, data: Value) -> (u16, Value) {
    let event = json!({ "type": kind, "data": data });
    let answer = daemon.request("POST", "/api/v1/events", Some(&event)).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_type_of_the_file_is_enforced_read_only_and_hot_reloaded() {
    let nats = TestNats::start().await;
    let mut daemon = TestDaemon::start(&nats, &with_types("An order")).await;
    let shown = get(&daemon, &format!("{TYPES}/orders.created")).await;
    assert_eq!((&shown["managed_by"], &shown["description"]), (&json!("file"), &json!("An order")));
    assert_eq!((&shown["schema"]["required"], &shown["example"]), (&json!(["id"]), &json!({ "id": 7 })));

    assert_eq!(publish(&daemon, "orders.created", json!({ "id": 1 })).await.0, 202);
    let (status, problem) = publish(&daemon, "orders.created", json!({ "id": "one" })).await;
    assert_eq!(
        (status, &problem["code"], &problem["errors"][0]["field"]),
        (422, &json!("schema_mismatch"), &json!("data/id"))
    );
    let (status, problem) = publish(&daemon, "orders.created", json!({})).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("data")), "{problem}");
    assert_eq!(publish(&daemon, "orders.paid", json!({})).await.0, 202, "nothing is asked of other types");
    let batch = json!({ "events": [{ "type": "orders.created", "data": {} }, { "type": "orders.created", "data": { "id": 2 } }] });
    let answer = daemon.request("POST", "/api/v1/events/batch", Some(&batch)).await;
    assert_eq!((answer.status, answer.json()["results"][0]["code"].clone()), (207, json!("schema_mismatch")));

    let path = format!("{TYPES}/orders.created");
    for (method, body) in [("PUT", Some(json!({}))), ("DELETE", None)] {
        let answer = daemon.request(method, &path, body.as_ref()).await;
        assert_eq!((answer.status, answer.json()["code"].clone()), (409, json!("event_type_of_file")), "{method}");
    }
    daemon.write_config(&with_types("An order, paid or not"));
    daemon.reload();
    wait_until("the file is read", SOON, async || get(&daemon, &path).await["description"] == "An order, paid or not")
        .await;
    daemon.write_config(EVENTS);
    daemon.reload();
    wait_until("it is gone", SOON, async || daemon.request("GET", &path, None).await.status == 404).await;
    assert_eq!(publish(&daemon, "orders.created", json!({})).await.0, 202);
}

#[tokio::test]
async fn types_are_described_over_the_api_and_survive_a_kill() {
    let nats = TestNats::start().await;
    let mut daemon = TestDaemon::start(&nats, EVENTS).await;
    let put = async |daemon: &TestDaemon, name: &str, body: Value| {
        let answer = daemon.request("PUT", &format!("{TYPES}/{name}"), Some(&body)).await;
        (answer.status, answer.json())
    };
    let schema =
        json!({ "type": "object", "required": ["sku"], "additionalProperties": false, "properties": { "sku": {} } });
    let described = json!({ "description": "Stock", "schema": schema, "example": { "sku": "A" }, "enforce": true });
    let (status, made) = put(&daemon, "stock.changed", described.clone()).await;
    assert_eq!((status, &made["managed_by"], &made["schema"]), (201, &json!("api"), &schema), "{made}");
    assert!(made["created_at"].is_string());
    let (status, changed) = put(&daemon, "stock.changed", described).await;
    assert_eq!((status, &changed["created_at"]), (200, &made["created_at"]));
    assert_eq!(publish(&daemon, "stock.changed", json!({ "sku": 1, "x": 2 })).await.0, 422);
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(publish(&daemon, "stock.changed", json!({ "x": 2 })).await.0, 422);
    assert_eq!(publish(&daemon, "stock.changed", json!({ "sku": 1 })).await.0, 202);

    for (name, wrong, field) in [
        ("a", json!({ "schema": { "type": "no-type" } }), "schema"),
        ("a", json!({ "schema": { "type": "string" }, "example": 1 }), "example"),
        ("a", json!({ "enforce": true }), "enforce"),
        ("a", json!({ "colour": 1 }), "body"),
        ("a.*", json!({}), "type"),
    ] {
        let (status, problem) = put(&daemon, name, wrong).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!(field)), "{problem}");
    }
    for n in 0..5 {
        assert_eq!(put(&daemon, &format!("t{n}"), json!({})).await.0, 201);
    }
    let all = pages(&daemon, &format!("{TYPES}?limit=2"), "event_types", async || ()).await;
    let names: Vec<&str> = all.iter().map(|kind| kind["type"].as_str().expect("a name")).collect();
    assert_eq!(names, ["stock.changed", "t0", "t1", "t2", "t3", "t4"]);
    // A subscription may ask for a type that nobody publishes, described or not.
    let hook = json!({ "name": "x", "url": "https://crm.example/hook", "types": ["never.published.yet"] });
    assert_eq!(daemon.request("POST", "/api/v1/webhooks", Some(&hook)).await.status, 201);
    assert_eq!(daemon.request("DELETE", &format!("{TYPES}/stock.changed"), None).await.status, 204);
    assert_eq!(daemon.request("DELETE", &format!("{TYPES}/stock.changed"), None).await.status, 404);
    assert_eq!(publish(&daemon, "stock.changed", json!({})).await.0, 202);
}

#[tokio::test]
async fn a_type_of_the_file_that_cannot_be_used_is_refused_with_its_place() {
    let nats = TestNats::start().await;
    let wrong = with_types("x").replace("{ id = 7 }", "{ id = \"seven\" }");
    let mut daemon = TestDaemon::builder(&nats, &wrong).launch();
    assert!(!daemon.process().wait_ended(SOON).await.success());
    assert!(daemon.log().contains("event_type[0].example: does not fit the schema at data/id"), "{}", daemon.log());
}

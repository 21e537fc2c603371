//! Webhooks that are made over the API: with every policy of the file, durable, in effect when they are answered.

use std::time::Duration;

use serde_json::json;
use sluiced_tests::events::order;
use sluiced_tests::setup::{EVENTS, config};
use sluiced_tests::{SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

mod idle;
mod paging;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_webhook_made_over_the_api_delivers_filters_and_signs_with_the_secret_that_is_told_once() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let mut daemon = TestDaemon::start(&nats, EVENTS).await;
    nats.publish("events.orders.created", order(1)).await;

    let wanted = json!({
        "name": "Orders for the CRM", "url": receiver.url("/hook"), "types": ["orders.created"], "secret": SECRET,
        "filters": [{ "plugin": "jq", "config": { "expr": ".amount >= 20" } }], "max_in_flight": 2,
        "headers": { "X-Team": "sales" }, "retry": { "schedule": ["50ms", "50ms"] },
    });
    let made = daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!((&made["secret"], &made["headers"]["X-Team"]), (&json!(SECRET), &json!("***")));
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id"));

    nats.publish_orders("events.orders.created", 10..30).await;
    receiver.wait_for_numbers(20..30, SOON).await;
    let received = receiver.received();
    assert_eq!(received.len(), 10, "what was published before it was made, and what the filter drops, does not come");
    assert!(received.iter().all(|request| request.verified == Some(true) && request.header("x-team") == "sales"));

    let shown = daemon.request("GET", &path, None).await.json();
    assert_eq!((&shown["max_in_flight"], &shown["managed_by"]), (&json!(2), &json!("api")));
    assert!(shown.get("secret").is_none() && !shown.to_string().contains("whsec_"), "{shown}");

    // After a kill it is still there, and goes on where it stopped.
    daemon.kill9();
    nats.publish_orders("events.orders.created", 30..40).await;
    daemon.restart().await;
    receiver.wait_for_numbers(20..40, SOON).await;
    let list = daemon.request("GET", "/api/v1/webhooks", None).await.json();
    assert_eq!(list["webhooks"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_webhook_changes_without_losing_its_place_and_ends_when_it_is_deleted() {
    let (nats, one, two) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
    let file = Webhook::new("of-the-file", &one).types(&["orders.>"]);
    let mut daemon = TestDaemon::start(&nats, &config("", &[file])).await;
    let wanted = json!({ "name": "two", "url": two.url("/a"), "types": ["orders.created"] });
    let made = daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await.json();
    assert!(made["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "one is made for it");
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    nats.publish("events.orders.created", order(1)).await;
    two.wait_for(1, SOON).await;

    let change = json!({ "url": two.url("/b"), "types": ["orders.created", "orders.paid"] });
    let changed = daemon.request("PATCH", &path, Some(&change)).await;
    assert_eq!((changed.status, &changed.json()["name"]), (200, &json!("two")));
    nats.publish("events.orders.paid", order(2)).await;
    two.wait_for(2, SOON).await;
    assert_eq!(two.received()[1].path, "/b");

    // Another secret: the receiver is signed to with both until the overlap has ended.
    let before = made["secret"].as_str().expect("a text");
    assert_eq!(daemon.request("PATCH", &path, Some(&json!({ "secret": SECRET }))).await.status, 200);
    nats.publish("events.orders.paid", order(2)).await;
    two.wait_for(3, SOON).await;
    let both = &two.received()[2];
    for secret in [SECRET, before] {
        let webhook = standardwebhooks::Webhook::new(secret).expect("a secret");
        webhook.verify(&both.body, &both.headers).expect("signed with both");
    }

    // A reload of the file leaves what is not of the file alone.
    let file = Webhook::new("of-the-file", &one).types(&["orders.>"]).with("max_in_flight", 3);
    daemon.write_config(&config("", &[file]));
    daemon.reload();
    wait_until("the file is read", SOON, async || daemon.log().contains("configuration reloaded")).await;
    nats.publish("events.orders.paid", order(3)).await;
    two.wait_for(4, SOON).await;

    assert_eq!(daemon.request("DELETE", &path, None).await.status, 204);
    assert_eq!(daemon.request("GET", &path, None).await.status, 404);
    nats.publish("events.orders.paid", order(4)).await;
    one.wait_for_numbers(1..5, SOON).await;
    daemon.restart().await;
    assert_eq!(two.received().len(), 4, "nothing more comes");
    let list = daemon.request("GET", "/api/v1/webhooks", None).await.json();
    assert_eq!(list["webhooks"].as_array().map(Vec::len), Some(1), "that of the file: {list}");
}

#[tokio::test]
async fn a_definition_that_cannot_be_used_is_refused_with_every_flaw_and_leaves_nothing() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let post = async |wanted: serde_json::Value| daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await;

    let wrong = json!({ "name": "x", "url": "ftp://crm", "types": ["a..b"], "retry": { "base": "soon" } });
    let answer = post(wrong).await;
    assert_eq!(answer.status, 400);
    let detail = answer.json()["detail"].as_str().expect("a text").to_owned();
    for part in ["url: must begin with http", "types[0]: ", "retry.base: \"soon\" is not a duration"] {
        assert!(detail.contains(part), "{part} is missing: {detail}");
    }
    let url = receiver.url("/");
    for (wrong, word) in [
        (json!({ "url": url, "types": [">"] }), "`name` is missing"),
        (json!({ "name": "x", "url": url, "types": [">"], "colour": 1 }), "colour"),
        (json!({ "name": "x", "url": url, "types": [">"], "filters": [{ "plugin": "nowhere" }] }), "nowhere"),
        (json!({ "name": "x", "url": url, "types": [">"], "secret": "hunter2" }), "secret"),
        (json!({ "name": "x", "url": url, "types": [">"], "headers": { "Host": "a" } }), "Host"),
    ] {
        let answer = post(wrong).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains(word) && !answer.body.contains("hunter2"), "{word} is missing: {answer:?}");
    }
    // Plugins: the use that does not do, as it was sent, and nothing of an id that never came to be.
    let redact = json!({ "plugin": "redact", "config": { "pointers": ["/card"] } });
    let jq = json!({ "plugin": "jq", "config": { "expr": ".a >" } });
    for (uses, place) in [
        (json!({ "filters": [jq] }), "filters[0]"),
        (json!({ "transforms": [redact, { "plugin": "nowhere" }] }), "transforms[1]"),
    ] {
        let mut wrong = json!({ "name": "x", "url": url, "types": [">"] });
        wrong.as_object_mut().expect("an object").extend(uses.as_object().expect("an object").clone());
        let answer = post(wrong).await;
        assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (400, &json!(place)), "{answer:?}");
        assert!(!answer.body.contains("wh_"), "{answer:?}");
    }
    let list = daemon.request("GET", "/api/v1/webhooks", None).await.json();
    assert_eq!(list["webhooks"], json!([]));
}

//! Webhooks in the API's contract: versions, requests that are sent again, and those of the configuration file.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::daemon::ADMIN_KEY;
use sluiced_tests::events::order;
use sluiced_tests::http::{Answer, send};
use sluiced_tests::setup::{EVENTS, config};
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const JSON: (&str, &str) = ("content-type", "application/json");

async fn ask(daemon: &TestDaemon, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let headers: Vec<_> = headers.iter().copied().chain([JSON]).collect();
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let answer = send(method, &daemon.url(path), Some(ADMIN_KEY), &headers, body).await;
    answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

fn tag(answer: &Answer) -> String {
    answer.headers["etag"].to_str().expect("a text").to_owned()
}

#[tokio::test]
async fn a_change_is_made_only_to_the_version_that_was_seen() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let wanted = json!({ "name": "a", "url": receiver.url("/a"), "types": [">"] });
    let made = ask(&daemon, "POST", "/api/v1/webhooks", &[], &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    let (path, first) = (made.headers["location"].to_str().expect("a text").to_owned(), tag(&made));
    let got = ask(&daemon, "GET", &path, &[], &Value::Null).await;
    assert_eq!(tag(&got), first, "the secret is no part of the version");
    let same = ask(&daemon, "GET", &path, &[("if-none-match", &first)], &Value::Null).await;
    assert_eq!((same.status, same.body.as_str()), (304, ""));

    let changed = ask(&daemon, "PATCH", &path, &[("if-match", &first)], &json!({ "max_in_flight": 3 })).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let second = tag(&changed);
    assert_ne!(second, first);
    for (method, body) in [("PATCH", json!({ "max_in_flight": 4 })), ("PUT", wanted.clone()), ("DELETE", Value::Null)] {
        let refused = ask(&daemon, method, &path, &[("if-match", &first)], &body).await;
        assert_eq!((refused.status, &refused.json()["code"]), (412, &json!("precondition_failed")), "{method}");
    }
    assert_eq!(ask(&daemon, "GET", &path, &[], &Value::Null).await.json()["max_in_flight"], 3);
    let either = format!("\"other\", {second}");
    assert_eq!(ask(&daemon, "PUT", &path, &[("if-match", &either)], &wanted).await.status, 200);
    assert_eq!(ask(&daemon, "PATCH", &path, &[], &json!({ "name": "b" })).await.status, 200, "it is not demanded");
    assert_eq!(ask(&daemon, "DELETE", &path, &[("if-match", "*")], &Value::Null).await.status, 204);
    assert_eq!(ask(&daemon, "DELETE", &path, &[("if-match", "*")], &Value::Null).await.status, 404);
}

#[tokio::test]
async fn a_request_with_a_key_is_done_once_and_answered_alike_also_after_a_kill() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, EVENTS).await;
    let wanted = json!({ "name": "a", "url": receiver.url("/a"), "types": [">"] });
    let key = [("idempotency-key", "order-4711")];
    let made = ask(&daemon, "POST", "/api/v1/webhooks", &key, &wanted).await;
    assert!(made.status == 201 && !made.headers.contains_key("idempotent-replayed"), "{made:?}");
    let again = ask(&daemon, "POST", "/api/v1/webhooks", &key, &wanted).await;
    assert_eq!((again.status, again.json(), tag(&again)), (201, made.json(), tag(&made)), "with the secret");
    assert_eq!(again.headers["idempotent-replayed"], "true");

    let other = json!({ "name": "b", "url": receiver.url("/a"), "types": [">"] });
    let reused = ask(&daemon, "POST", "/api/v1/webhooks", &key, &other).await;
    assert_eq!((reused.status, &reused.json()["code"]), (422, &json!("idempotency_key_reused")));
    // What was refused may be sent again, corrected, under the same key.
    let (flawed, fresh) = (json!({ "name": "c", "url": "ftp://x", "types": [">"] }), [("idempotency-key", "2")]);
    assert_eq!(ask(&daemon, "POST", "/api/v1/webhooks", &fresh, &flawed).await.status, 400);
    assert_eq!(ask(&daemon, "POST", "/api/v1/webhooks", &fresh, &other).await.status, 201);

    daemon.kill9();
    daemon.restart().await;
    let path = made.headers["location"].to_str().expect("a text");
    assert_eq!(ask(&daemon, "PATCH", path, &[], &json!({ "name": "changed" })).await.status, 200);
    let after = ask(&daemon, "POST", "/api/v1/webhooks", &key, &wanted).await;
    assert_eq!((after.status, after.json()), (201, made.json()), "as it was answered then");

    // Of many at once one is done; the others are told to wait, or answered as it was.
    let at_once = (0..10).map(|_| ask(&daemon, "POST", "/api/v1/webhooks", &[("idempotency-key", "many")], &wanted));
    let answers = futures_util::future::join_all(at_once).await;
    let mut ids: Vec<_> = answers.iter().filter(|a| a.status == 201).map(|a| a.json()["id"].clone()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("idempotency_key_in_use")), "{answer:?}");
    }
    let list = daemon.request("GET", "/api/v1/webhooks", None).await.json();
    assert_eq!(list["webhooks"].as_array().map(Vec::len), Some(3), "{list}");
}

#[tokio::test]
async fn webhooks_of_the_file_are_shown_not_changed_and_keep_their_state_over_reloads_and_restarts() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let of_file = |in_flight: u32| {
        let crm = Webhook::new("crm", &receiver).types(&["orders.>"]).secret(None).with("max_in_flight", in_flight);
        let crm = crm.with("headers", "{ X-Team = \"hush\" }");
        config("", &[crm, Webhook::new("other", &receiver).types(&["users.>"])])
    };
    let mut daemon = TestDaemon::start(&nats, &of_file(3)).await;
    nats.publish("events.orders.created", order(1)).await;
    receiver.wait_for(1, SOON).await;
    let secret = daemon.request("GET", "/api/v1/subscriptions/crm/secret", None).await.json();
    assert_eq!(secret["source"], "daemon");
    assert_eq!(daemon.request("POST", "/api/v1/subscriptions/other/disable", None).await.status, 200);

    let list = daemon.request("GET", "/api/v1/webhooks", None).await.json();
    let shown = &list["webhooks"][0];
    assert_eq!(
        (&shown["id"], &shown["managed_by"], &shown["max_in_flight"]),
        (&json!("crm"), &json!("file"), &json!(3))
    );
    assert_eq!((&shown["headers"], &shown["types"]), (&json!({ "X-Team": "***" }), &json!(["orders.>"])), "{shown}");
    assert!(!list.to_string().contains("hush") && !list.to_string().contains("whsec_"), "{list}");
    assert_eq!(list["webhooks"].as_array().map(Vec::len), Some(2));
    let whole = json!({ "url": receiver.url("/"), "types": [">"] });
    for (method, body) in [("PATCH", json!({ "max_in_flight": 9 })), ("PUT", whole), ("DELETE", Value::Null)] {
        let refused = ask(&daemon, method, "/api/v1/webhooks/crm", &[], &body).await;
        assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("managed_by_file")), "{refused:?}");
    }

    for restarts in [false, true] {
        daemon.write_config(&of_file(if restarts { 5 } else { 4 }));
        match restarts {
            true => daemon.restart().await,
            false => daemon.reload(),
        }
        let in_flight = if restarts { 5 } else { 4 };
        let path = "/api/v1/webhooks/crm";
        let read = async || daemon.request("GET", path, None).await.json()["max_in_flight"] == in_flight;
        wait_until("the file is read", SOON, read).await;
        let same = daemon.request("GET", "/api/v1/subscriptions/crm/secret", None).await.json();
        assert_eq!(same, secret, "the secret that was made for it stays");
        let log = daemon.request("GET", "/api/v1/subscriptions/crm/deliveries", None).await.json();
        assert_eq!(log["deliveries"].as_array().map(Vec::len), Some(1), "{log}");
        let other = daemon.request("GET", "/api/v1/subscriptions/other", None).await.json();
        assert_eq!(other["state"], "disabled", "{other}");
    }
    nats.publish("events.orders.created", order(2)).await;
    receiver.wait_for(2, SOON).await;
    assert_eq!(receiver.received().len(), 2, "nothing comes twice");
}

//! API keys and the audit log.

use serde_json::{Value, json};
use sluiced_tests::setup::config;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver};

use super::{Answer, TOKENS, admin, ask, token, webhook};

const KEYS: &str = "/api/v1/keys";

async fn make(daemon: &TestDaemon, body: Value) -> (String, String) {
    let made = admin(daemon, "POST", KEYS, Some(&body)).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.headers["cache-control"], "no-store");
    let made = made.json();
    let text = |key: &str| made[key].as_str().expect("a text").to_owned();
    assert!(text("key").starts_with(&text("prefix")) && text("key").len() > text("prefix").len() + 30);
    (text("id"), text("key"))
}

#[tokio::test]
async fn a_key_does_what_its_scopes_owner_and_types_say_until_it_is_removed() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config(TOKENS, &[])).await;
    let (_, reader) = make(&daemon, json!({ "name": "dashboard" })).await;
    let publisher = json!({ "name": "shop", "scopes": ["publish"], "types": ["orders.>"] });
    let (publisher_id, publisher) = make(&daemon, publisher).await;
    let owned = json!({ "name": "u1's", "scopes": ["read", "write"], "owner": "u1", "types": ["users.{sub}.>"] });
    let (_, owned) = make(&daemon, owned).await;
    let (_, second) = make(&daemon, json!({ "name": "second operator", "scopes": ["read", "write", "admin"] })).await;

    let wanted = webhook(&receiver.url("/"), &["users.u1.x"]);
    let event = |kind: &str| json!({ "type": kind, "data": 1 });
    // Twice: before and after the daemon is killed and started again.
    for round in 0..2 {
        let asks = [
            (&reader, "GET", "/api/v1/webhooks", None::<Value>, 200, ""),
            (&reader, "POST", "/api/v1/webhooks", Some(wanted.clone()), 403, "insufficient_scope"),
            (&reader, "GET", KEYS, None, 403, "operator_only"),
            (&publisher, "POST", "/api/v1/events", Some(event("orders.created")), 202, ""),
            (&publisher, "POST", "/api/v1/events", Some(event("users.u1.x")), 403, "types_not_allowed"),
            (&publisher, "GET", "/api/v1/webhooks", None, 403, "insufficient_scope"),
            (&owned, "POST", "/api/v1/webhooks", Some(wanted.clone()), 201, ""),
            (&owned, "POST", "/api/v1/events", Some(event("users.u1.x")), 403, "insufficient_scope"),
            (&second, "GET", KEYS, None, 200, ""),
        ];
        for (key, method, path, body, status, code) in asks {
            let answer = ask(&daemon, Some(key), method, path, body.as_ref()).await;
            assert_eq!((answer.status, &*answer.code()), (status, code), "{round}: {method} {path}: {answer:?}");
        }
        // Keys are durable when they are made. When one was used is written behind the answer, and by an end in order.
        match round {
            0 => daemon.kill9(),
            _ => assert!(daemon.terminate().await.success()),
        }
        daemon.restart().await;
    }
    let own = ask(&daemon, Some(&token("u1")), "GET", "/api/v1/webhooks", None).await.json();
    assert_eq!(own["webhooks"].as_array().map(Vec::len), Some(2), "a key of an owner is that owner's");

    let list = admin(&daemon, "GET", KEYS, None).await;
    assert!(!list.body.contains(&publisher[12..]) && list.body.contains(&publisher[..12]), "{list:?}");
    let list = list.json();
    let names: Vec<&str> = list["keys"].as_array().expect("a list").iter().filter_map(|k| k["name"].as_str()).collect();
    assert_eq!(names, ["dashboard", "shop", "u1's", "second operator"]);
    let used = list["keys"].as_array().expect("a list").iter().all(|key| key["last_used_at"].is_string());
    assert!(used, "{list}");
    let one = format!("{KEYS}/{publisher_id}");
    assert_eq!(admin(&daemon, "GET", &one, None).await.json()["types"], json!(["orders.>"]));
    assert_eq!(admin(&daemon, "DELETE", &one, None).await.status, 204);
    assert_eq!(admin(&daemon, "DELETE", &one, None).await.status, 404);
    let gone = async |daemon: &TestDaemon| ask(daemon, Some(&publisher), "GET", "/api/v1/info", None).await.code();
    assert_eq!(gone(&daemon).await, "unauthorized");
    daemon.restart().await;
    assert_eq!(gone(&daemon).await, "unauthorized", "also after a restart");
    assert!(!daemon.log().contains(&publisher), "no key is in the log");
}

#[tokio::test]
async fn every_change_is_on_record_with_who_what_and_from_where() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config(TOKENS, &[])).await;
    let one = token("u1");
    let mut wanted = webhook(&receiver.url("/"), &["platform.>"]);
    wanted["headers"] = json!({ "Authorization": "Bearer hush-hush" });
    let made = ask(&daemon, Some(&one), "POST", "/api/v1/webhooks", Some(&wanted)).await.json();
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    assert_eq!(ask(&daemon, Some(&one), "PATCH", &path, Some(&json!({ "max_in_flight": 2 }))).await.status, 200);
    let (key, _) = make(&daemon, json!({ "name": "ci", "scopes": ["write"] })).await;
    // What is only looked at, or wrong in itself, is no change.
    ask(&daemon, Some(&one), "GET", &path, None).await;
    assert_eq!(ask(&daemon, Some(&one), "DELETE", "/api/v1/keys/x", None).await.status, 403);
    assert_eq!(ask(&daemon, Some(&one), "PATCH", &path, Some(&json!({ "nonsense": 2 }))).await.status, 400);
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(ask(&daemon, Some(&one), "DELETE", &path, None).await.status, 204);

    let page = admin(&daemon, "GET", "/api/v1/audit?limit=3", None).await;
    let told = |page: &Answer| -> Vec<(String, String, String, u64)> {
        let all = page.json()["audit"].as_array().expect("a list").clone();
        let text = |one: &Value, key: &str| one[key].as_str().expect("a text").to_owned();
        all.iter()
            .map(|one| {
                assert_eq!(one["from"], "127.0.0.1", "{one}");
                (
                    text(one, "principal"),
                    text(one, "action"),
                    text(one, "target"),
                    one["status"].as_u64().expect("a number"),
                )
            })
            .collect()
    };
    let of = |who: &str, what: &str, target: &str, status: u64| (who.into(), what.into(), target.into(), status);
    assert_eq!(
        told(&page),
        [
            of("owner:u1", "webhook.delete", &path, 204),
            of("owner:u1", "key.delete", "/api/v1/keys/x", 403),
            of("admin", "key.create", &format!("/api/v1/keys/{key}"), 201),
        ]
    );
    // What comes meanwhile does not move the next page.
    make(&daemon, json!({ "name": "another" })).await;
    let next = page.json()["next"].as_str().expect("there is more").to_owned();
    let rest = admin(&daemon, "GET", &format!("/api/v1/audit?cursor={next}"), None).await;
    assert_eq!(
        told(&rest),
        [of("owner:u1", "webhook.update", &path, 200), of("owner:u1", "webhook.create", &path, 201)]
    );
    assert_eq!(rest.json()["next"], Value::Null);
    assert!(!format!("{page:?}{rest:?}").contains("hush"), "no secret is in it");
    assert_eq!(admin(&daemon, "GET", "/api/v1/audit?cursor=x", None).await.code(), "invalid_request");
    assert!(daemon.log().contains("changed over the API") && !daemon.log().contains("hush-hush"));
}

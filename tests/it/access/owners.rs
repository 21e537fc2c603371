//! An owner sees and touches only its own.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::sse::{Auth, SseClient};
use sluiced_tests::{Behaviour, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

use super::{TOKENS, admin, ask, token, webhook};

const SOON: Duration = Duration::from_secs(60);

fn names(list: &Value, key: &str, name: &str) -> Vec<String> {
    let list = list[key].as_array().unwrap_or_else(|| panic!("no {key} in {list}")).iter();
    list.map(|one| one[name].as_str().expect("a text").to_owned()).collect()
}

#[tokio::test]
async fn each_owner_sees_its_own_webhooks_deliveries_dead_letters_and_jobs() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::fail_times(u64::MAX, 400));
    let of_file = Webhook::new("of-file", &receiver).types(&["users.u1.>"]).subscribed_with("owner", "\"u1\"");
    let of_operator = Webhook::new("of-operator", &receiver);
    let mut daemon = TestDaemon::start(&nats, &config(TOKENS, &[of_file, of_operator])).await;
    let (one, two) = (token("u1"), token("u2"));
    let wanted = webhook(&receiver.url("/u1"), &["users.u1.*", "platform.>"]);
    let made = ask(&daemon, Some(&one), "POST", "/api/v1/webhooks", Some(&wanted)).await;
    assert_eq!((made.status, &made.json()["owner"]), (201, &json!("u1")), "{made:?}");
    let id = made.json()["id"].as_str().expect("an id").to_owned();

    nats.publish("events.users.u1.signed-up", order(1)).await;
    let dead = format!("/api/v1/subscriptions/{id}/dead-letters");
    wait_until("each of the three deliveries is given up", SOON, async || {
        let all = admin(&daemon, "GET", "/api/v1/dead-letters", None).await.json();
        all["dead_letters"].as_array().is_some_and(|all| all.len() == 3)
    })
    .await;
    let replay = json!({ "from": "all", "dry_run": true });
    let job = ask(&daemon, Some(&one), "POST", &format!("/api/v1/subscriptions/{id}/replay"), Some(&replay)).await;
    assert_eq!(job.status, 202, "{job:?}");
    let job = format!("/api/v1/jobs/{}", job.json()["id"].as_str().expect("an id"));
    let letter =
        admin(&daemon, "GET", &dead, None).await.json()["dead_letters"][0]["id"].as_str().expect("id").to_owned();

    // After a restart it is the same.
    for round in ["before", "after"] {
        let lists = [
            ("/api/v1/webhooks", "webhooks", "id", vec!["of-file", &id]),
            ("/api/v1/subscriptions", "subscriptions", "name", vec!["of-file", &id]),
            ("/api/v1/dead-letters", "dead_letters", "subscription", vec!["of-file", &id]),
        ];
        for (path, key, name, expected) in lists {
            let mut own = names(&ask(&daemon, Some(&one), "GET", path, None).await.json(), key, name);
            own.sort();
            assert_eq!(own, expected, "{round}: {path}");
            assert_eq!(names(&ask(&daemon, Some(&two), "GET", path, None).await.json(), key, name), [""; 0], "{path}");
            let all = names(&admin(&daemon, "GET", path, None).await.json(), key, name);
            assert!(all.len() >= expected.len() && expected.iter().all(|own| all.iter().any(|one| one == own)));
        }
        nothing_of_another(&daemon, &receiver, [&one, &two], &id, [&dead, &letter, &job], round).await;
        let foreign = ask(&daemon, Some(&one), "GET", "/api/v1/subscriptions/of-operator", None).await;
        assert_eq!(foreign.status, 404, "what is the operator's is nobody else's");
        daemon.restart().await;
    }
}

/// The second of two owners finds nothing of the first one's, who does.
async fn nothing_of_another(
    daemon: &TestDaemon,
    receiver: &TestReceiver,
    [one, two]: [&str; 2],
    id: &str,
    [dead, letter, job]: [&str; 3],
    round: &str,
) {
    let replay = json!({ "from": "all", "dry_run": true });
    for (method, path, body) in [
        ("GET", format!("/api/v1/webhooks/{id}"), None),
        ("PUT", format!("/api/v1/webhooks/{id}"), Some(webhook(&receiver.url("/"), &["users.u2.x"]))),
        ("PATCH", format!("/api/v1/webhooks/{id}"), Some(json!({ "types": ["users.u2.x"] }))),
        ("DELETE", format!("/api/v1/webhooks/{id}"), None),
        ("GET", format!("/api/v1/subscriptions/{id}"), None),
        ("GET", format!("/api/v1/subscriptions/{id}/deliveries"), None),
        ("GET", format!("/api/v1/subscriptions/{id}/secret"), None),
        ("POST", format!("/api/v1/subscriptions/{id}/secret/rotate"), None),
        ("POST", format!("/api/v1/subscriptions/{id}/disable"), None),
        ("POST", format!("/api/v1/subscriptions/{id}/enable"), None),
        ("GET", dead.to_owned(), None),
        ("GET", format!("{dead}/{letter}"), None),
        ("POST", format!("{dead}/{letter}/resend"), None),
        ("DELETE", format!("{dead}/{letter}"), None),
        ("GET", "/api/v1/subscriptions/of-operator".to_owned(), None),
        ("GET", "/api/v1/subscriptions/of-file".to_owned(), None),
        ("POST", format!("/api/v1/subscriptions/{id}/replay"), Some(replay.clone())),
        ("POST", format!("/api/v1/subscriptions/{id}/redrive"), None),
        ("GET", job.to_owned(), None),
        ("POST", format!("{job}/cancel"), None),
        ("GET", format!("/api/v1/dead-letters?subscription={id}"), None),
    ] {
        let answer = ask(daemon, Some(two), method, &path, body.as_ref()).await;
        assert_eq!((answer.status, &*answer.code()), (404, "not_found"), "{round}: {method} {path}: {answer:?}");
        if method == "GET" && !path.contains("of-operator") {
            assert_eq!(ask(daemon, Some(one), method, &path, None).await.status, 200, "{round}: {path}");
        }
    }
}

#[tokio::test]
async fn an_owner_stays_within_its_types_and_makes_nothing_for_others() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, &config(TOKENS, &[])).await;
    let (one, url) = (token("u1"), receiver.url("/"));
    let post = async |body: Value| ask(&daemon, Some(&one), "POST", "/api/v1/webhooks", Some(&body)).await;
    for types in [&[">"][..], &["users.>"], &["users.*.x"], &["users.u2.x"], &["platform.x", "other"], &["*.u1.x"]] {
        let answer = post(webhook(&url, types)).await;
        assert_eq!((answer.status, &*answer.code()), (403, "types_not_allowed"), "{types:?}: {answer:?}");
    }
    for (key, value) in [
        ("owner", json!("u2")),
        ("owner", json!(null)),
        ("tls", json!({ "ca_file": "/etc/passwd" })),
        ("filters", json!([{ "plugin": "jq", "config": { "expr": "." }, "memory_mib_max": 1024 }])),
    ] {
        let mut body = webhook(&url, &["users.u1.>"]);
        body[key] = value;
        let answer = post(body).await;
        assert_eq!((answer.status, &*answer.code()), (403, "operator_only"), "{key}: {answer:?}");
    }
    let made = post(webhook(&url, &["users.u1.>"])).await;
    assert_eq!(made.status, 201, "{made:?}");
    let path = format!("/api/v1/webhooks/{}", made.json()["id"].as_str().expect("an id"));
    for change in [json!({ "types": [">"] }), json!({ "owner": "u2" })] {
        assert_eq!(ask(&daemon, Some(&one), "PATCH", &path, Some(&change)).await.status, 403, "{change}");
    }
    // A token of fewer types may not lead away what a wider one subscribed to.
    let narrow = super::token_with(&json!({ "sub": "u1", "exp": super::in_s(60), "types": ["platform.a"] }));
    let away = json!({ "url": receiver.url("/away") });
    assert_eq!(ask(&daemon, Some(&narrow), "PATCH", &path, Some(&away)).await.code(), "types_not_allowed");

    // The operator gives a webhook to an owner, and takes it back.
    let mut given = webhook(&url, &[">"]);
    given["owner"] = json!("u2");
    let given = admin(&daemon, "POST", "/api/v1/webhooks", Some(&given)).await.json();
    let path = format!("/api/v1/webhooks/{}", given["id"].as_str().expect("an id"));
    assert_eq!(ask(&daemon, Some(&token("u2")), "GET", &path, None).await.status, 200);
    let back = admin(&daemon, "PATCH", &path, Some(&json!({ "owner": null }))).await;
    assert_eq!((back.status, &back.json()["owner"]), (200, &json!(null)));
    assert_eq!(ask(&daemon, Some(&token("u2")), "GET", &path, None).await.status, 404);
}

#[tokio::test]
async fn events_are_published_listened_to_and_traced_within_the_types() {
    let nats = TestNats::start().await;
    let streams = "[[subscription]]\nname = \"mine\"\nowner = \"u1\"\ntypes = [\"users.u1.>\"]\nsse = {}\n\
                   [[subscription]]\nname = \"board\"\ntypes = [\">\"]\nsse = {}\n";
    let daemon = TestDaemon::start(&nats, &(config(TOKENS, &[]) + streams)).await;
    let (one, two) = (token("u1"), token("u2"));
    let publish = async |bearer: &str, kind: &str| {
        let event = json!({ "type": kind, "data": { "n": 1 } });
        ask(&daemon, Some(bearer), "POST", "/api/v1/events", Some(&event)).await
    };
    let mut own = SseClient::connect(&daemon.url("/api/v1/events/stream"), Auth::Bearer(&one), None).await;
    let mut other = SseClient::connect(&daemon.url("/api/v1/events/stream"), Auth::Bearer(&two), None).await;
    assert_eq!(publish(&one, "users.u2.x").await.code(), "types_not_allowed");
    let (secret, shared) = (publish(&one, "users.u1.x").await, publish(&two, "platform.news").await);
    assert_eq!((secret.status, shared.status), (202, 202));
    assert_eq!(own.next_event(SOON).await.event.as_str(), "users.u1.x");
    assert_eq!(own.next_event(SOON).await.event.as_str(), "platform.news");
    assert_eq!(other.next_event(SOON).await.event.as_str(), "platform.news", "what is another's does not come");

    for (path, bearer, status) in [
        ("/api/v1/events/stream?types=users.>", &one, 403),
        ("/api/v1/events/stream?types=platform.*,users.u1.x", &one, 200),
        ("/api/v1/streams/mine", &one, 200),
        ("/api/v1/streams/mine", &two, 404),
        ("/api/v1/streams/board", &one, 404),
    ] {
        assert_eq!(ask(&daemon, Some(bearer), "GET", path, None).await.status, status, "{path}");
    }
    let listed = |bearer: &str| {
        let bearer = bearer.to_owned();
        let daemon = &daemon;
        async move { names(&ask(daemon, Some(&bearer), "GET", "/api/v1/streams", None).await.json(), "streams", "name") }
    };
    assert_eq!((listed(&one).await, listed(&two).await), (vec!["mine".to_owned()], Vec::new()));
    let trace = format!("/api/v1/events/{}/trace", secret.json()["id"].as_str().expect("an id"));
    let told = ask(&daemon, Some(&one), "GET", &trace, None).await;
    assert_eq!(names(&told.json(), "subscriptions", "subscription"), ["mine"], "{told:?}");
    assert_eq!(ask(&daemon, Some(&two), "GET", &trace, None).await.status, 404);
}

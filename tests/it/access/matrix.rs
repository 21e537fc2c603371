//! Every route, asked by everybody: no key, a wrong key, an expired token, another owner, the owner, the operator.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluiced_tests::setup::config;
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats, TestReceiver};

use super::{TOKENS, admin, ask, in_s, token, token_with, webhook};

/// Whom a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Whoever is known, each with what it may see.
    Anyone,
    /// Whoever is known; what its path names is somebody's, and not there for others.
    Its,
    /// The operator alone.
    Operator,
}

use For::{Anyone, Its, Operator};

/// Every route below `/api/v1`, whom it is for, and a body that it takes.
const ROUTES: &[(&str, &str, For, &str)] = &[
    ("POST", "/events", Anyone, r#"{"type": "platform.x", "data": 1}"#),
    ("POST", "/events/batch", Anyone, "{}"),
    ("GET", "/events", Anyone, ""),
    ("GET", "/events/stats", Anyone, ""),
    ("GET", "/events/{id}", Anyone, ""),
    ("GET", "/event-types", Anyone, ""),
    ("GET", "/event-types/{type}", Anyone, ""),
    ("PUT", "/event-types/{type}", Operator, "{}"),
    ("DELETE", "/event-types/{type}", Operator, ""),
    ("GET", "/deliveries", Anyone, ""),
    ("GET", "/deliveries/stats", Anyone, ""),
    ("GET", "/deliveries/{id}", Anyone, ""),
    ("POST", "/deliveries/{id}/retry", Anyone, ""),
    ("GET", "/webhooks/{id}/deliveries", Its, ""),
    ("GET", "/webhooks/{id}/secret", Its, ""),
    ("POST", "/webhooks/{id}/enable", Its, "{}"),
    ("POST", "/webhooks/{id}/disable", Its, "{}"),
    ("POST", "/webhooks/{id}/rotate-secret", Its, "{}"),
    ("POST", "/webhooks/{id}/replay", Its, r#"{"from": "all"}"#),
    ("POST", "/webhooks/{id}/redrive", Its, "{}"),
    ("POST", "/webhooks/{id}/test", Its, "{}"),
    ("GET", "/events/stream", Anyone, ""),
    ("POST", "/events/tickets", Anyone, "{}"),
    ("GET", "/events/clients", Anyone, ""),
    ("POST", "/events/clients/{id}/token", Anyone, ""),
    ("GET", "/events/{id}/trace", Anyone, ""),
    ("GET", "/streams", Anyone, ""),
    ("GET", "/streams/{name}", Its, ""),
    ("GET", "/webhooks", Anyone, ""),
    ("POST", "/webhooks", Anyone, r#"{"name": "x", "url": "http://127.0.0.1:1/", "types": ["platform.x"]}"#),
    ("GET", "/webhooks/{id}", Its, ""),
    ("PUT", "/webhooks/{id}", Its, r#"{"url": "http://127.0.0.1:1/", "types": ["platform.x"]}"#),
    ("PATCH", "/webhooks/{id}", Its, r#"{"max_in_flight": 1}"#),
    ("DELETE", "/webhooks/{id}", Its, ""),
    ("GET", "/subscriptions", Anyone, ""),
    ("GET", "/subscriptions/{name}", Its, ""),
    ("POST", "/subscriptions/{name}/enable", Its, "{}"),
    ("POST", "/subscriptions/{name}/disable", Its, "{}"),
    ("GET", "/subscriptions/{name}/deliveries", Its, ""),
    ("GET", "/subscriptions/{name}/secret", Its, ""),
    ("POST", "/subscriptions/{name}/secret/rotate", Its, "{}"),
    ("POST", "/subscriptions/{name}/replay", Its, r#"{"from": "all"}"#),
    ("POST", "/subscriptions/{name}/redrive", Its, "{}"),
    ("GET", "/subscriptions/{name}/dead-letters", Its, ""),
    ("GET", "/subscriptions/{name}/dead-letters/{id}", Its, ""),
    ("DELETE", "/subscriptions/{name}/dead-letters/{id}", Its, ""),
    ("POST", "/subscriptions/{name}/dead-letters/{id}/resend", Its, ""),
    ("GET", "/dead-letters", Anyone, ""),
    ("GET", "/jobs", Anyone, ""),
    ("GET", "/jobs/{id}", Its, ""),
    ("POST", "/jobs/{id}/pause", Its, ""),
    ("POST", "/jobs/{id}/resume", Its, ""),
    ("POST", "/jobs/{id}/cancel", Its, ""),
    ("GET", "/plugins", Anyone, ""),
    ("GET", "/plugins/{name}", Anyone, ""),
    ("GET", "/plugins/{name}/shadow", Anyone, ""),
    ("PUT", "/plugins/{name}", Operator, ""),
    ("DELETE", "/plugins/{name}", Operator, ""),
    ("POST", "/plugins/{name}/rollback", Operator, "{}"),
    ("PUT", "/plugins/{name}/shadow", Operator, ""),
    ("DELETE", "/plugins/{name}/shadow", Operator, ""),
    ("POST", "/plugins/{name}/shadow/promote", Operator, "{}"),
    ("POST", "/plugins/{name}/dry-run", Operator, "{}"),
    ("POST", "/backup", Operator, "{}"),
    ("GET", "/keys", Operator, ""),
    ("POST", "/keys", Operator, r#"{"name": "x"}"#),
    ("GET", "/keys/{id}", Operator, ""),
    ("DELETE", "/keys/{id}", Operator, ""),
    ("GET", "/audit", Operator, ""),
    ("GET", "/info", Anyone, ""),
    ("GET", "/overview", Anyone, ""),
    ("POST", "/session", Anyone, ""),
    ("GET", "/session", Anyone, ""),
    ("DELETE", "/session", Anyone, ""),
    ("POST", "/portal-links", Operator, r#"{"owner": "u1"}"#),
];

#[tokio::test]
async fn every_route_answers_everybody_as_the_table_says() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let head = format!("{TOKENS}[limits]\nwebhooks_per_owner = 1000\n");
    let streams = "[[subscription]]\nname = \"mine\"\nowner = \"u1\"\ntypes = [\"platform.>\"]\nsse = {}\n";
    let daemon = TestDaemon::start(&nats, &(config(&head, &[]) + streams)).await;
    let expired = token_with(&json!({ "sub": "u1", "exp": in_s(-3_600) }));
    let (own, other) = (token("u1"), token("u2"));
    let mut wrong = missing(&daemon).await;
    for (method, path, whom, body) in ROUTES {
        let at = fill(&daemon, &receiver, path).await;
        let body = (!body.is_empty()).then(|| serde_json::from_str::<Value>(body).expect("JSON"));
        let mut expect = async |who: &str, bearer: Option<&str>, right: &dyn Fn(u16, &str) -> bool| {
            let answer = ask(&daemon, bearer, method, &at, body.as_ref()).await;
            if !right(answer.status, &answer.code()) || answer.status >= 500 {
                wrong.push(format!("{method} {path} of {who}: {} {}", answer.status, answer.body));
            }
        };
        expect("nobody", None, &|status, code| (status, code) == (401, "unauthorized")).await;
        expect("a wrong key", Some("wrong"), &|status, code| (status, code) == (401, "unauthorized")).await;
        expect("an expired token", Some(&expired), &|status, code| (status, code) == (401, "token_expired")).await;
        let passes = |status: u16, _: &str| status != 401 && status != 403;
        match whom {
            Operator => {
                let refused = |status: u16, code: &str| (status, code) == (403, "operator_only");
                expect("another owner", Some(&other), &refused).await;
                expect("the owner", Some(&own), &refused).await;
            }
            Its => {
                expect("another owner", Some(&other), &|status, code| (status, code) == (404, "not_found")).await;
                let whole = !path.contains("dead-letters/{id}") && !path.starts_with("/jobs");
                expect("the owner", Some(&own), &|status, code| passes(status, code) && !(whole && status == 404))
                    .await;
            }
            Anyone => {
                expect("another owner", Some(&other), &passes).await;
                expect("the owner", Some(&own), &passes).await;
            }
        }
        expect("the operator", Some(ADMIN_KEY), &passes).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the daemon serves and the table lacks, and the other way round.
async fn missing(daemon: &TestDaemon) -> Vec<String> {
    let document = ask(daemon, None, "GET", "/api/v1/openapi.json", None).await.json();
    let mut served = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let Some(path) = path.strip_prefix("/api/v1") else { continue };
        for method in operations.as_object().expect("operations").keys() {
            served.insert((method.to_uppercase(), path.to_owned()));
        }
    }
    let known: BTreeSet<_> =
        ROUTES.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    let lacks = served.difference(&known).map(|(method, path)| format!("{method} {path} is not in this table"));
    let more = known.difference(&served).map(|(method, path)| format!("{method} {path} is not served"));
    lacks.chain(more).collect()
}

/// The path of something that is u1's, made for this.
async fn fill(daemon: &TestDaemon, receiver: &TestReceiver, path: &str) -> String {
    let base = format!("/api/v1{path}");
    if path.starts_with("/streams/") {
        return base.replace("{name}", "mine");
    }
    let mut wanted = webhook(&receiver.url("/"), &["platform.>"]);
    wanted["owner"] = json!("u1");
    let whose = if path.starts_with("/webhooks/") { "{id}" } else { "{name}" };
    if (path.starts_with("/webhooks/") || path.starts_with("/subscriptions/")) && path.contains(whose) {
        let made = admin(daemon, "POST", "/api/v1/webhooks", Some(&wanted)).await.json();
        let id = made["id"].as_str().expect("an id").to_owned();
        return base.replace(whose, &id).replace("{id}", &"0".repeat(32));
    }
    base.replace("{id}", &"0".repeat(32)).replace("{name}", "jq").replace("{type}", "platform.x")
}

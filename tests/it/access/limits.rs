//! Webhooks of one owner, and requests a minute.

use serde_json::json;
use sluiced_tests::http::client;
use sluiced_tests::setup::config;
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats, TestReceiver};

use super::{TOKENS, admin, ask, token, webhook};

const WEBHOOKS: &str = "/api/v1/webhooks";

#[tokio::test]
async fn fifty_at_once_make_five_and_two_at_four_make_one() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, &config(TOKENS, &[])).await;
    let wanted = webhook(&receiver.url("/"), &["platform.>"]);
    let one = token("u1");
    let create = || ask(&daemon, Some(&one), "POST", WEBHOOKS, Some(&wanted));
    let answers = futures_util::future::join_all((0..50).map(|_| create())).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let refused = answers.iter().filter(|answer| (answer.status, &*answer.code()) == (409, "webhooks_per_owner_max"));
    assert_eq!((made, refused.count()), (5, 45));
    let list = ask(&daemon, Some(&one), "GET", WEBHOOKS, None).await.json();
    assert_eq!(list["webhooks"].as_array().map(Vec::len), Some(5));

    let first = format!("{WEBHOOKS}/{}", list["webhooks"][0]["id"].as_str().expect("an id"));
    for _ in 0..3 {
        let removed = ask(&daemon, Some(&one), "DELETE", &first, None).await.status;
        assert!(removed == 204 || removed == 404);
        let (a, b) = tokio::join!(create(), create());
        let mut both = [a.status, b.status];
        both.sort_unstable();
        if removed == 204 {
            assert_eq!(both, [201, 409]);
        }
    }
    // Others are counted by themselves, and the operator not at all.
    assert_eq!(ask(&daemon, Some(&token("u2")), "POST", WEBHOOKS, Some(&wanted)).await.status, 201);
    let mut given = wanted.clone();
    given["owner"] = json!("u1");
    assert_eq!(admin(&daemon, "POST", WEBHOOKS, Some(&given)).await.status, 201);
    let info = ask(&daemon, Some(&one), "GET", "/api/v1/info", None).await.json();
    assert_eq!((&info["limits"]["webhooks"], &info["limits"]["webhooks_per_owner"]), (&json!(6), &json!(5)));
    assert_eq!(create().await.code(), "webhooks_per_owner_max");
}

#[tokio::test]
async fn requests_are_counted_by_principal_and_without_one_by_address() {
    let nats = TestNats::start().await;
    let limits = format!("{TOKENS}[limits]\nrequests_per_minute = 3\n");
    let daemon = TestDaemon::start(&nats, &config(&limits, &[])).await;
    let (one, two) = (token("u1"), token("u2"));
    for left in [2, 1, 0] {
        let answer = ask(&daemon, Some(&one), "GET", WEBHOOKS, None).await;
        let told = (answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining"));
        assert_eq!((answer.status, told), (200, (Some(3), Some(left))), "{answer:?}");
        let reset = i64::try_from(answer.header("x-ratelimit-reset").expect("a time")).expect("a time");
        assert!((super::in_s(0)..=super::in_s(62)).contains(&reset), "{reset}");
    }
    let refused = ask(&daemon, Some(&one), "GET", WEBHOOKS, None).await;
    assert_eq!((refused.status, &*refused.code()), (429, "rate_limited"), "{refused:?}");
    assert!(refused.header("retry-after").is_some_and(|seconds| (1..=20).contains(&seconds)), "{refused:?}");
    assert_eq!(refused.header("x-ratelimit-remaining"), Some(0));
    // Every other principal, the operator as well, is counted by itself.
    assert_eq!(ask(&daemon, Some(&two), "GET", WEBHOOKS, None).await.status, 200);
    assert_eq!(admin(&daemon, "GET", WEBHOOKS, None).await.status, 200);
    // Whoever guesses keys is counted by the address, and then not even told that the key was wrong.
    let mut guesses = Vec::new();
    for _ in 0..4 {
        guesses.push(ask(&daemon, Some("guess"), "GET", WEBHOOKS, None).await.status);
    }
    assert_eq!(guesses, [401, 401, 401, 429]);
    assert_eq!(ask(&daemon, Some(&two), "GET", WEBHOOKS, None).await.status, 200, "who is known is not held up by it");
    for path in ["/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"] {
        for _ in 0..5 {
            let answer = ask(&daemon, None, "GET", path, None).await;
            assert_eq!((answer.status, answer.header("x-ratelimit-limit")), (200, None), "{path}");
        }
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_s_address_is_what_the_proxy_says() {
    let nats = TestNats::start().await;
    let head = "[server]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n[limits]\nrequests_per_minute = 2\n";
    let daemon = TestDaemon::start(&nats, &config(head, &[])).await;
    let from = async |name: &str, hops: &str| {
        let request = client().get(daemon.url(WEBHOOKS)).header(name, hops);
        request.send().await.expect("an answer").status().as_u16()
    };
    for hops in ["198.51.100.1", "192.0.2.1, 198.51.100.1", "192.0.2.2, 198.51.100.1, 10.0.0.9"] {
        let expected = if hops.ends_with("10.0.0.9") { 429 } else { 401 };
        assert_eq!(from("x-forwarded-for", hops).await, expected, "{hops}: one client, whatever it wrote itself");
    }
    assert_eq!(from("x-forwarded-for", "198.51.100.2").await, 401, "another one");
    // The other header is the client's own invention, and counts for the proxy.
    let statuses = [from("forwarded", "for=192.0.2.1").await, from("forwarded", "for=192.0.2.2").await];
    assert_eq!((statuses, from("forwarded", "for=192.0.2.3").await), ([401, 401], 429));

    let wanted = json!({ "name": "reader" }).to_string();
    let post = client().post(daemon.url("/api/v1/keys")).bearer_auth(ADMIN_KEY).body(wanted);
    let post = post.header("content-type", "application/json").header("x-forwarded-for", "198.51.100.3");
    assert_eq!(post.send().await.expect("an answer").status(), 201);
    let audit = admin(&daemon, "GET", "/api/v1/audit", None).await.json();
    assert_eq!(audit["audit"][0]["from"], "198.51.100.3", "{audit}");
}

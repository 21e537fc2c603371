//! `pool-events.toml`: a webhook subsystem with persistent retries (R1).

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sluiced_sdk::verify::Verifier;
use sluiced_tests::http::client;
use sluiced_tests::paths::{sluiced_binary, workspace};
use sluiced_tests::{Behaviour, Reply, TestDaemon, TestNats, TestReceiver, wait_until};

use super::{
    DELIVERIES, SOON, WEBHOOKS, ask, assert_problem, body_signature, comes, deliveries, dumped, key, make, text,
    waits_s, walk_schedule,
};

const SIGNATURE: &str = "x-smartdrop-signature";

struct World {
    nats: TestNats,
    receiver: TestReceiver,
    daemon: TestDaemon,
}

impl World {
    async fn start() -> Self {
        let nats = TestNats::start().await;
        let daemon = TestDaemon::of_example(&nats, "pool-events.toml").start().await;
        Self { nats, receiver: TestReceiver::start(), daemon }
    }

    /// A key of that partner's own.
    async fn partner(&self, name: &str) -> String {
        let wanted = json!({ "name": name, "owner": name, "scopes": ["read", "write"], "types": [">"] });
        key(&self.daemon, &wanted).await
    }

    fn webhook(&self, path: &str, types: &[&str]) -> Value {
        json!({ "name": path, "url": self.receiver.url(path), "types": types })
    }

    async fn publish(&self, kind: &str, data: &Value) -> u64 {
        self.nats.publish(&format!("dex.{kind}"), data.to_string()).await
    }

    /// The paths at which an event of that stream sequence has arrived, once it has at so many.
    async fn arrived(&self, sequence: u64, count: usize) -> Vec<String> {
        let found = deliveries(&self.daemon, &format!("event=POOLS:{sequence}&status=delivered"), count).await;
        let mut ids: Vec<&str> = found.iter().filter_map(|one| one["id"].as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "each has a record of its own: {found:?}");
        let received = self.receiver.received().into_iter().filter(|request| ids.contains(&request.webhook_id()));
        let mut paths: Vec<String> = received.map(|request| request.path).collect();
        paths.sort();
        paths
    }
}

#[tokio::test]
async fn every_line_of_pool_events() {
    let mut world = World::start().await;
    a_catalogue_and_wildcards_that_fan_out(&world).await;
    what_is_tried_again_and_what_is_not(&world).await;
    tests_are_few(&world).await;
    looked_at_changed_stopped_and_removed(&world).await;
    secrets_and_signatures(&world).await;
    limits_of_addresses_and_of_principals(&world).await;
    retries_outlast_a_kill(&mut world).await;
    a_clean_stop(&mut world).await;
}

/// 1. Catalogue of event types, with wildcards in subscriptions (`pool.*`, `price.*`, everything).
/// 3. Fan-out: every active webhook subscribed to the type gets its own delivery record.
async fn a_catalogue_and_wildcards_that_fan_out(world: &World) {
    let partner = world.partner("fan-out").await;
    let catalogue = ask(&world.daemon, Some(&partner), "GET", "/api/v1/event-types", None).await.json();
    let names: Vec<String> =
        catalogue["event_types"].as_array().expect("a list").iter().map(|one| text(one, "type")).collect();
    for kind in ["pool.created", "pool.swapped", "pool.drained", "price.updated", "price.alert"] {
        assert!(names.iter().any(|name| name == kind), "{kind}: {names:?}");
    }
    let mut made = Vec::new();
    for (path, types) in [("/pools", "pool.*"), ("/prices", "price.*"), ("/all", ">"), ("/drained", "pool.drained")] {
        made.push(make(&world.daemon, &partner, &world.webhook(path, &[types])).await.0);
    }
    let mut asleep = world.webhook("/asleep", &[">"]);
    asleep["active"] = json!(false);
    made.push(make(&world.daemon, &partner, &asleep).await.0);
    let created = world.publish("pool.created", &json!({ "pool": "eth-usdc" })).await;
    let updated = world.publish("price.updated", &json!({ "pair": "ETH/USDC" })).await;
    assert_eq!(world.arrived(created, 2).await, ["/all", "/pools"]);
    assert_eq!(world.arrived(updated, 2).await, ["/all", "/prices"]);
    for id in made {
        assert_eq!(ask(&world.daemon, Some(&partner), "DELETE", &format!("{WEBHOOKS}/{id}"), None).await.status, 204);
    }
    assert!(world.receiver.received().iter().all(|request| request.path != "/asleep"));
}

/// 4. Network errors, 5xx, 408, 429 retried with backoff 30 s → 60 s → 120 s (base, factor, attempts configurable); any other
///    4xx fails at once.
async fn what_is_tried_again_and_what_is_not(world: &World) {
    let partner = world.partner("retries").await;
    world.receiver.set(Behaviour::custom(|request| {
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        Reply::status(asked["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(200))
    }));
    let (id, _) = make(&world.daemon, &partner, &world.webhook("/retries", &["pool.swapped"])).await;
    let gone = json!({ "name": "away", "url": "http://127.0.0.1:1/", "types": ["pool.created"] });
    let (away, _) = make(&world.daemon, &partner, &gone).await;
    world.publish("pool.created", &json!({})).await;
    for status in [500, 502, 503, 408, 429, 400, 404, 422, 425] {
        world.publish("pool.swapped", &json!({ "status": status })).await;
    }
    let refused = deliveries(&world.daemon, &format!("webhook={away}&status=pending"), 1).await.remove(0);
    assert!(refused["class"] == "network" && waits_s(&refused, 30), "{refused}");
    let mut waiting = deliveries(&world.daemon, &format!("webhook={id}&status=pending"), 5).await;
    assert!(waiting.iter().all(|one| one["attempts"] == 1 && waits_s(one, 30)), "{waiting:?}");
    waiting.sort_by_key(|one| one["response_status"].as_u64());
    let statuses: Vec<_> = waiting.iter().map(|one| one["response_status"].as_u64().expect("a status")).collect();
    assert_eq!(statuses, [408, 429, 500, 502, 503]);
    let failed = deliveries(&world.daemon, &format!("webhook={id}&status=failed"), 4).await;
    assert!(failed.iter().all(|one| one["attempts"] == 1), "at once: {failed:?}");
    walk_schedule(&world.daemon, &partner, &text(&waiting[4], "id"), &[30, 60, 120]).await;
    world.receiver.set(Behaviour::Ok);
    for id in [id, away] {
        assert_eq!(ask(&world.daemon, Some(&partner), "DELETE", &format!("{WEBHOOKS}/{id}"), None).await.status, 204);
    }
}

/// 7. `POST /api/v1/webhooks/{id}/test`: a synthetic delivery, limited more tightly (5/min) so it is no outbound cannon.
async fn tests_are_few(world: &World) {
    let partner = world.partner("tests").await;
    let (id, secret) = make(&world.daemon, &partner, &world.webhook("/test", &["pool.drained"])).await;
    world.receiver.forget();
    let path = format!("{WEBHOOKS}/{id}/test");
    for left in [4, 3, 2, 1, 0] {
        let tested = ask(&world.daemon, Some(&partner), "POST", &path, None).await;
        assert_eq!((tested.status, &tested.json()["delivered"]), (200, &json!(true)), "{tested:?}");
        assert_eq!((tested.header("x-ratelimit-limit"), tested.header("x-ratelimit-remaining")), (Some(5), Some(left)));
    }
    let refused = ask(&world.daemon, Some(&partner), "POST", &path, None).await;
    assert_problem(&refused, 429, "rate_limited");
    assert!(refused.header("retry-after").is_some_and(|seconds| (1..=12).contains(&seconds)), "{refused:?}");
    let mut received = world.receiver.received();
    received.retain(|request| request.path == "/test");
    assert!(
        received.len() == 5 && received.iter().all(|one| one.header("sluiced-test") == "true" && one.verifies(&secret))
    );
}

/// 8. `GET /api/v1/webhooks/{id}/deliveries`; `GET/PATCH/DELETE /api/v1/webhooks/{id}`; `PATCH {"active": false}` stops
///    dispatch.
async fn looked_at_changed_stopped_and_removed(world: &World) {
    let (daemon, partner) = (&world.daemon, world.partner("changes").await);
    world.receiver.forget();
    let (id, _) = make(daemon, &partner, &world.webhook("/changes", &["price.alert"])).await;
    let path = format!("{WEBHOOKS}/{id}");
    let first = world.publish("price.alert", &json!({ "number": 1 })).await;
    assert_eq!(world.arrived(first, 1).await, ["/changes"]);
    let listed = ask(daemon, Some(&partner), "GET", &format!("{path}/deliveries"), None).await.json();
    assert_eq!(listed["deliveries"][0]["status"], "delivered", "{listed}");

    let inactive = ask(daemon, Some(&partner), "PATCH", &path, Some(&json!({ "active": false }))).await;
    assert_eq!((inactive.status, &inactive.json()["active"]), (200, &json!(false)));
    let other = world.partner("other").await;
    make(daemon, &other, &world.webhook("/witness", &["price.alert"])).await;
    let second = world.publish("price.alert", &json!({ "number": 2 })).await;
    assert_eq!(world.arrived(second, 1).await, ["/witness"], "dispatch has stopped");
    let active = ask(daemon, Some(&partner), "PATCH", &path, Some(&json!({ "active": true }))).await;
    assert_eq!(active.json()["active"], true);
    assert_eq!(world.arrived(second, 2).await, ["/changes", "/witness"], "what waited comes");

    let shown = ask(daemon, Some(&partner), "GET", &path, None).await.json();
    assert_eq!((&shown["name"], &shown["active"]), (&json!("/changes"), &json!(true)));
    assert_eq!(ask(daemon, Some(&partner), "DELETE", &path, None).await.status, 204);
    assert_problem(&ask(daemon, Some(&partner), "GET", &path, None).await, 404, "not_found");
}

/// 2. Timing-safe HMAC-SHA256 verify helper (in the SDK/docs, in more than one language), secret generator.
/// 9. The secret in plain text only on creation and rotation; afterwards only a short preview.
/// 10. `X-SmartDrop-Signature: sha256=<hex>` style header, name configurable.
async fn secrets_and_signatures(world: &World) {
    let generated = Command::new(sluiced_binary()).arg("secret").output().expect("it runs").stdout;
    let generated = String::from_utf8(generated).expect("text").trim().to_owned();
    assert!(Verifier::new(&generated).is_ok(), "the generator makes what the helper takes: {generated}");
    // Rust's helper is below; those of the guide are run by `receiving::the_sample_…` against a daemon.
    for sample in ["receive.mjs", "receive.py", "receive.go"] {
        assert!(workspace().join("docs/receiving").join(sample).is_file(), "{sample}");
    }
    let (daemon, partner) = (&world.daemon, world.partner("secrets").await);
    world.receiver.forget();
    let (id, secret) = make(daemon, &partner, &world.webhook("/secret", &["pool.drained"])).await;
    let mut own = world.webhook("/own-name", &["pool.drained"]);
    own["body_signature"] = json!({ "header": "X-Partner-Signature", "keyed_by": "text" });
    own["secret"] = json!(generated);
    make(daemon, &partner, &own).await;
    let event = world.publish("pool.drained", &json!({ "pool": "eth-usdc" })).await;
    world.arrived(event, 3).await;
    let received = world.receiver.received();
    let at = |path: &str| received.iter().find(|request| request.path == path).expect("it arrived");
    let (plain, named) = (at("/secret"), at("/own-name"));
    assert_eq!(plain.header(SIGNATURE), body_signature(&secret, plain));
    assert_eq!(named.header("x-partner-signature"), body_signature(&generated, named));
    assert_eq!(named.header(SIGNATURE), "");
    let verifier = Verifier::new(&secret).expect("a secret");
    let header = |name: &str| plain.headers.get(name)?.to_str().ok();
    assert!(verifier.verify(header, &plain.body).is_ok() && verifier.verify(header, b"{}").is_err());

    let path = format!("{WEBHOOKS}/{id}");
    let shown = ask(daemon, Some(&partner), "GET", &format!("{path}/secret"), None).await;
    let preview = text(&shown.json(), "preview");
    assert!(preview.len() < 16 && !shown.body.contains(&secret), "{shown:?}");
    let rotated = ask(daemon, Some(&partner), "POST", &format!("{path}/rotate-secret"), None).await.json();
    let new = text(&rotated, "secret");
    assert_ne!(new, secret);
    for path in [path.clone(), format!("{path}/secret"), WEBHOOKS.to_owned()] {
        let shown = ask(daemon, Some(&partner), "GET", &path, None).await;
        assert!(shown.status == 200 && !shown.body.contains(&new) && !shown.body.contains(&secret), "{path}");
    }
}

/// 6. Per-IP and per-principal rate limiting with `X-RateLimit-Limit/-Remaining/-Reset` (and `Retry-After` on 429); fails open
///    if its state is unavailable: it is in memory, and when its table is full it is emptied and lets through what it should
///    have refused (`api::limit::tests::the_table_of_names_shrinks_by_itself_and_has_a_bound`).
async fn limits_of_addresses_and_of_principals(world: &World) {
    let (daemon, one, two) = (&world.daemon, world.partner("one").await, world.partner("two").await);
    for left in (0..100).rev() {
        let answer = ask(daemon, Some(&one), "GET", WEBHOOKS, None).await;
        let told = (answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining"));
        // One comes back each 600 ms.
        assert!(answer.status == 200 && told.0 == Some(100) && told.1.is_some_and(|told| told >= left), "{answer:?}");
        assert!(answer.header("x-ratelimit-reset").is_some());
    }
    let mut refused = ask(daemon, Some(&one), "GET", WEBHOOKS, None).await;
    for _ in 0..100 {
        if refused.status == 429 {
            break;
        }
        refused = ask(daemon, Some(&one), "GET", WEBHOOKS, None).await;
    }
    assert_problem(&refused, 429, "rate_limited");
    assert!(refused.header("retry-after").is_some() && refused.header("x-ratelimit-remaining") == Some(0));
    assert_eq!(ask(daemon, Some(&two), "GET", WEBHOOKS, None).await.status, 200, "another is counted by itself");

    // Through the balancer: whoever does not say who it is counts by the address that the balancer names.
    let client = client();
    let from = async |addresses: String| {
        let request = client.get(daemon.url(WEBHOOKS)).header("x-forwarded-for", addresses);
        request.send().await.expect("an answer").status().as_u16()
    };
    // What stands before the address is the client's own invention.
    let asked = (0..200).map(|n| from(format!("192.0.2.{n}, 198.51.100.1")));
    let statuses = futures_util::future::join_all(asked).await;
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!((1..=100).contains(&refused) && statuses.iter().all(|status| [401, 429].contains(status)), "{statuses:?}");
    assert_eq!(from("198.51.100.2".to_owned()).await, 401, "another address is counted by itself");
}

/// 5. Retries survive a restart of the process; due retries polled in bounded batches without overlapping.
async fn retries_outlast_a_kill(world: &mut World) {
    let (partner, receiver) = (world.partner("kill").await, TestReceiver::start());
    receiver.set(Behaviour::Status(503));
    let mut wanted = json!({ "name": "kill", "url": receiver.url("/kill"), "types": ["pool.created"] });
    // Time enough for all of them to have failed once.
    wanted["retry"] = json!({ "base": "8s" });
    wanted["max_in_flight"] = json!(2);
    let (id, _) = make(&world.daemon, &partner, &wanted).await;
    let slow = json!({ "name": "slow", "url": receiver.url("/as-the-file-says"), "types": ["price.updated"] });
    let (as_file, _) = make(&world.daemon, &partner, &slow).await;
    for number in 0..8 {
        world.publish("pool.created", &json!({ "number": number })).await;
    }
    world.publish("price.updated", &json!({})).await;
    let before = deliveries(&world.daemon, &format!("webhook={as_file}&status=pending"), 1).await;
    deliveries(&world.daemon, &format!("webhook={id}&status=pending"), 8).await;
    world.daemon.kill9();
    receiver.forget();
    receiver.set(Behaviour::Slow(Duration::from_millis(50)));
    world.daemon.restart().await;
    let after = deliveries(&world.daemon, &format!("webhook={as_file}&status=pending"), 1).await;
    assert_eq!(before[0]["next_attempt_at"], after[0]["next_attempt_at"], "due when it was due");
    let done = deliveries(&world.daemon, &format!("webhook={id}&status=delivered"), 8).await;
    assert!(done.iter().all(|one| one["attempts"] == 2), "{done:?}");
    assert_eq!(receiver.received().len(), 8, "none is sent twice, and what is not due is not sent");
    assert!(receiver.counts().in_flight_max <= 3, "two at a time, and one of the other: {:?}", receiver.counts());
    for id in [id, as_file] {
        let path = format!("{WEBHOOKS}/{id}");
        assert_eq!(ask(&world.daemon, Some(&partner), "DELETE", &path, None).await.status, 204);
    }
}

/// 11. Clean stop on SIGTERM and SIGINT: nothing lost, in-flight attempts finished or parked.
async fn a_clean_stop(world: &mut World) {
    let partner = world.partner("stop").await;
    let (id, _) = make(&world.daemon, &partner, &world.webhook("/stop", &["pool.swapped"])).await;
    for (signal, count) in [(Signal::TERM, 10), (Signal::INT, 20)] {
        world.receiver.set(Behaviour::Slow(Duration::from_millis(400)));
        let before = world.receiver.counts().requests;
        for number in 0..10 {
            world.publish("pool.swapped", &json!({ "number": number })).await;
        }
        world.receiver.wait_for(before + 3, SOON).await;
        world.daemon.process().signal(signal);
        let ended = world.daemon.process().wait_ended(SOON).await;
        assert!(ended.success(), "{signal:?}: {ended}");
        wait_until("nothing is in flight", SOON, async || world.receiver.counts().in_flight == 0).await;
        world.receiver.set(Behaviour::Ok);
        world.daemon.restart().await;
        deliveries(&world.daemon, &format!("webhook={id}&status=delivered"), count).await;
    }
    let received = world.receiver.received();
    let mut ids: Vec<&str> =
        received.iter().filter(|request| request.path == "/stop").map(|request| request.webhook_id()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), all), (20, 20), "each once: what was in flight had ended");
    let own = comes(&world.daemon, &format!("{DELIVERIES}/stats?webhook={id}"), |told| told["pending"] == 0).await;
    assert_eq!(own["dead_letters"], 0, "{own}");
}

#[test]
fn what_pool_events_says_of_retries_and_limits_is_in_effect() {
    let config = dumped("pool-events.toml");
    for part in [
        "max_attempts = 4",
        "base = \"30s\"",
        "factor = 2",
        "max = \"2m\"",
        "requests_per_minute = 100",
        "tests_per_minute = 5",
        "X-SmartDrop-Signature",
    ] {
        assert!(config.contains(part), "{part}: {config}");
    }
}

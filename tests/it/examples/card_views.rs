//! `card-views.toml`: endpoints owned by users (R2).

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluiced_tests::Behaviour;

use super::{
    DELIVERIES, Issuer, SOON, WEBHOOKS, World, ask, assert_problem, between_ms, body_signature, comes, deliveries,
    make, retry, text, waits_s, walk_schedule,
};

const SIGNATURE: &str = "x-devcard-signature";

fn webhook(world: &World, user: &str) -> Value {
    let url = world.receiver.url(&format!("/{user}"));
    json!({ "name": "views", "url": url, "types": [format!("users.{user}.card.*")] })
}

async fn publish(world: &World, user: &str, kind: &str) {
    world.nats.publish(&format!("cards.users.{user}.card.{kind}"), r#"{"card":"main"}"#).await;
}

#[tokio::test]
async fn every_line_of_card_views() {
    let world = World::start("card-views.toml", Issuer::start("https://id.cards.example/", "cards")).await;
    five_endpoints_without_a_race(&world).await;
    sealed_rotated_and_dated(&world).await;
    an_explicit_schedule_and_a_whole_record(&world).await;
    logs_in_pages_by_endpoint(&world).await;
    described_bounded_and_structured(&world).await;
    timeouts_are_failures_and_are_tried_again(&world).await;
}

/// 1. At most 5 endpoints a user, enforced without a race (two concurrent creates at 4 → exactly one succeeds).
async fn five_endpoints_without_a_race(world: &World) {
    for user in ["r1", "r2", "r3"] {
        let (token, wanted) = (world.issuer.token(user), webhook(world, user));
        for _ in 0..4 {
            make(&world.daemon, &token, &wanted).await;
        }
        let create = || ask(&world.daemon, Some(&token), "POST", WEBHOOKS, Some(&wanted));
        let (a, b) = tokio::join!(create(), create());
        let mut both = [(a.status, a.code()), (b.status, b.code())];
        both.sort();
        assert_eq!(both, [(201, String::new()), (409, "webhooks_per_owner_max".to_owned())], "{user}");
    }
}

/// 2. Secrets encrypted at rest; rotation; created/updated/rotated times on record.
async fn sealed_rotated_and_dated(world: &World) {
    let (daemon, token) = (&world.daemon, world.issuer.token("u2"));
    let (id, secret) = make(daemon, &token, &webhook(world, "u2")).await;
    let path = format!("{WEBHOOKS}/{id}");
    let about = ask(daemon, Some(&token), "GET", &format!("{path}/secret"), None).await.json();
    assert!(about["created_at"].is_string() && about["created_at"] == about["rotated_at"], "{about}");
    let rotated = ask(daemon, Some(&token), "POST", &format!("{path}/rotate-secret"), None).await.json();
    let new = text(&rotated, "secret");
    assert!(between_ms(&rotated, "created_at", "rotated_at") > 0, "{rotated}");
    assert!(rotated["overlap_until"].is_string(), "the earlier one is signed with for a day: {rotated}");
    let changed = ask(daemon, Some(&token), "PATCH", &path, Some(&json!({ "name": "others" }))).await.json();
    assert!(between_ms(&changed, "created_at", "updated_at") > 0, "{changed}");

    publish(world, "u2", "viewed").await;
    world.receiver.wait_for(1, SOON).await;
    let request = world.receiver.received().remove(0);
    assert!(request.verifies(&secret) && request.verifies(&new), "both are valid");
    for secret in [&secret, &new] {
        let bytes = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("base64");
        for needle in [secret.as_bytes(), secret.trim_start_matches("whsec_").as_bytes(), &bytes] {
            assert!(!holds(&daemon.data_dir(), needle), "a secret lies in the data directory");
        }
    }
    assert!(holds(&daemon.data_dir(), id.as_bytes()), "what is no secret is found by the same search");
}

/// Is it in one of the files below that folder?
fn holds(folder: &Path, needle: &[u8]) -> bool {
    fs::read_dir(folder).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => !path.ends_with("plugin-cache") && holds(&path, needle),
            false => fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle)),
        }
    })
}

/// 3. Retry at 30 s, 5 min, 30 min (an explicit schedule).
/// 4. Delivery record: status, response code, error message, attempts, next attempt, created, updated, delivered times.
/// 8. A subscription may name an event type that nothing publishes yet.
async fn an_explicit_schedule_and_a_whole_record(world: &World) {
    let (daemon, token) = (&world.daemon, world.issuer.token("u3"));
    let mut wanted = webhook(world, "u3");
    wanted["types"] = json!(["users.u3.card.shared"]);
    let (id, _) = make(daemon, &token, &wanted).await;
    let none = ask(daemon, Some(&token), "GET", &format!("{WEBHOOKS}/{id}/deliveries"), None).await.json();
    assert_eq!(none["deliveries"], json!([]), "nothing was ever published of its type");

    world.receiver.set(Behaviour::Status(500));
    publish(world, "u3", "shared").await;
    let pending = deliveries(daemon, &format!("webhook={id}&status=pending"), 1).await.remove(0);
    assert_eq!((&pending["attempts"], &pending["response_status"]), (&json!(1), &json!(500)), "{pending}");
    for key in ["error", "class", "next_attempt_at", "created_at", "updated_at", "event_id", "type"] {
        assert!(pending[key].is_string(), "{key}: {pending}");
    }
    let record = walk_schedule(daemon, &token, &text(&pending, "id"), &[30, 300, 1_800]).await;
    assert!(record["failed_at"].is_string() && record["next_attempt_at"].is_null(), "{record}");
    let statuses: Vec<_> = record["history"].as_array().expect("a history").iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses, [500, 500, 500, 500]);

    world.receiver.set(Behaviour::Ok);
    let path = format!("{DELIVERIES}/{}", text(&pending, "id"));
    retry(daemon, &token, &text(&pending, "id")).await;
    let record = comes(daemon, &path, |one| one["status"] == "delivered").await;
    assert_eq!(record["response_status"], 200, "{record}");
    assert!(between_ms(&record, "created_at", "delivered_at") > 0, "{record}");
}

/// 5. Delivery logs paginated and indexed by endpoint; due work indexed by (status, due time): no full scan, proven at
///    1,000,000 records: `cargo bench --bench deliveries` and `--bench parked` measure both in stages up to a million, and
///    `store::tests::outcomes::the_index_changes_nothing_but_how_much_is_read` and
///    `store::tests::state::parked_deliveries_come_in_due_order_and_only_when_due` hold what they read.
async fn logs_in_pages_by_endpoint(world: &World) {
    let (daemon, token) = (&world.daemon, world.issuer.token("u5"));
    let (first, _) = make(daemon, &token, &webhook(world, "u5")).await;
    let (second, _) = make(daemon, &token, &webhook(world, "u5")).await;
    for _ in 0..5 {
        publish(world, "u5", "viewed").await;
    }
    deliveries(daemon, &format!("webhook={second}&status=delivered"), 5).await;
    deliveries(daemon, &format!("webhook={first}&status=delivered"), 5).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for _ in 0..10 {
        let path = format!("{WEBHOOKS}/{first}/deliveries?limit=2{cursor}");
        let page = ask(daemon, Some(&token), "GET", &path, None).await.json();
        let rows = page["deliveries"].as_array().expect("a list");
        assert!(rows.len() <= 2 && rows.iter().all(|row| row["webhook"] == json!(first)), "{page}");
        seen.extend(rows.iter().map(|row| row["sequence"].as_u64().expect("a number")));
        // What comes meanwhile shifts nothing.
        publish(world, "u5", "saved").await;
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first: {seen:?}");
}

/// 6. Every route has a request and a response schema (OpenAPI); lists are limited; errors are structured.
async fn described_bounded_and_structured(world: &World) {
    let (daemon, token) = (&world.daemon, world.issuer.token("u6"));
    let described = ask(daemon, None, "GET", "/api/v1/openapi.json", None).await.json();
    let mut operations = 0;
    for (path, item) in described["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            operations += 1;
            let responses = operation["responses"].as_object().expect("responses");
            let good = responses.iter().find(|(status, _)| status.starts_with('2')).expect("a good answer");
            let content = good.1["content"].as_object();
            assert!(good.0 == "204" || content.is_some_and(|all| !all.is_empty()), "{method} {path}: {good:?}");
            if let Some(body) = operation.get("requestBody") {
                let typed =
                    body["content"].as_object().expect("media types").values().all(|one| one["schema"].is_object());
                assert!(typed, "{method} {path}: {body}");
            }
        }
    }
    assert!(operations > 60, "{operations}");
    for list in [WEBHOOKS, DELIVERIES, "/api/v1/events", "/api/v1/event-types"] {
        let beyond = ask(daemon, Some(&token), "GET", &format!("{list}?limit=101"), None).await;
        assert_problem(&beyond, 400, "invalid_request");
        assert_eq!(beyond.json()["errors"][0]["field"], "limit", "{beyond:?}");
    }
    let wrong = json!({ "name": "", "url": "ftp://x", "types": ["a..b"], "colour": 1 });
    let wrong = ask(daemon, Some(&token), "POST", WEBHOOKS, Some(&wrong)).await;
    assert_problem(&wrong, 400, "invalid_request");
}

/// 7. Signature `X-DevCard-Signature: sha256=<hex>`; timeouts are failures that are retried.
async fn timeouts_are_failures_and_are_tried_again(world: &World) {
    let (daemon, token) = (&world.daemon, world.issuer.token("u7"));
    world.receiver.set(Behaviour::Hang);
    let mut wanted = webhook(world, "u7");
    // Also for the attempt that is answered.
    wanted["timeout"] = json!("2s");
    let (id, secret) = make(daemon, &token, &wanted).await;
    publish(world, "u7", "viewed").await;
    let pending = deliveries(daemon, &format!("webhook={id}&status=pending"), 1).await.remove(0);
    assert!(pending["class"] == "timeout" && pending["attempts"] == 1 && waits_s(&pending, 30), "{pending}");
    world.receiver.set(Behaviour::Ok);
    let path = format!("{DELIVERIES}/{}", text(&pending, "id"));
    retry(daemon, &token, &text(&pending, "id")).await;
    comes(daemon, &path, |one| one["status"] == "delivered").await;
    // Others of earlier users may still come.
    let received = world.receiver.received();
    let own: Vec<_> = received.iter().filter(|request| request.path == "/u7").collect();
    assert_eq!(own.len(), 2);
    for request in own {
        assert_eq!(request.header(SIGNATURE), body_signature(&secret, request));
    }
}

//! `collection-sync.toml`: platform events for integrations (R0).

use serde_json::{Value, json};
use sluiced_tests::Behaviour;
use sluiced_tests::sse::{Auth, SseClient};

use super::{Issuer, SOON, WEBHOOKS, World, ask, assert_problem, comes, deliveries, make, text};

const TYPES: [&str; 5] =
    ["extraction.started", "extraction.completed", "sync.completed", "sync.failed", "gaps.updated"];

fn webhook(world: &World, path: &str, types: &[&str]) -> Value {
    json!({ "name": path, "url": world.receiver.url(path), "types": types })
}

async fn publish(world: &World, kind: &str, data: &Value) {
    world.nats.publish(&format!("collection.{kind}"), data.to_string()).await;
}

#[tokio::test]
async fn every_line_of_collection_sync() {
    let world =
        World::start("collection-sync.toml", Issuer::start("https://id.collection.example/", "collection-sync")).await;
    registered_listed_and_removed(&world).await;
    the_five_types_are_streamed(&world).await;
    signed_with_a_secret_that_is_told_once(&world).await;
    three_attempts_with_growing_waits(&world).await;
    five_webhooks_of_a_user_and_its_own_events(&world).await;
}

/// 1. `POST/GET /api/v1/webhooks`, `DELETE /api/v1/webhooks/{id}`: register, list, remove.
async fn registered_listed_and_removed(world: &World) {
    let user = world.issuer.token("u0");
    let (id, _) = make(&world.daemon, &user, &webhook(world, "/u0", &["sync.*"])).await;
    let list = ask(&world.daemon, Some(&user), "GET", WEBHOOKS, None).await.json();
    assert_eq!((list["webhooks"].as_array().map(Vec::len), &list["webhooks"][0]["id"]), (Some(1), &json!(id)));
    let path = format!("{WEBHOOKS}/{id}");
    assert_eq!(ask(&world.daemon, Some(&user), "DELETE", &path, None).await.status, 204);
    let list = ask(&world.daemon, Some(&user), "GET", WEBHOOKS, None).await.json();
    assert_eq!(list["webhooks"], json!([]));
    assert_problem(&ask(&world.daemon, None, "GET", WEBHOOKS, None).await, 401, "unauthorized");
}

/// 2. `GET /api/v1/events/stream`: SSE, `Authorization: Bearer <jwt>`, frames `event: sync.completed` + JSON `data:`.
/// 3. Event types extraction.started, extraction.completed, sync.completed, sync.failed, gaps.updated.
async fn the_five_types_are_streamed(world: &World) {
    let (daemon, user) = (&world.daemon, world.issuer.token("u0"));
    let catalogue = ask(daemon, Some(&user), "GET", "/api/v1/event-types", None).await.json();
    let listed = catalogue["event_types"].as_array().expect("a list");
    let names: Vec<String> = listed.iter().map(|one| text(one, "type")).collect();
    assert!(TYPES.iter().all(|kind| names.iter().any(|name| name == kind)), "{names:?}");

    let stream = daemon.url("/api/v1/events/stream");
    assert_eq!(SseClient::try_connect(&stream, Auth::None, None).await.err(), Some(401));
    let mut page = SseClient::connect(&stream, Auth::Bearer(&user), None).await;
    for (number, kind) in TYPES.iter().enumerate() {
        publish(world, kind, &json!({ "collection": "stamps", "number": number })).await;
        let event = page.next_event(SOON).await;
        let data: Value = serde_json::from_str(&event.data).expect("JSON");
        assert_eq!((event.event.as_str(), data), (*kind, json!({ "collection": "stamps", "number": number })));
    }
}

/// 4. POST with JSON payload and an HMAC-SHA256 signature header; the secret is generated at registration and returned once.
async fn signed_with_a_secret_that_is_told_once(world: &World) {
    let (daemon, user) = (&world.daemon, world.issuer.token("u4"));
    let (id, secret) = make(daemon, &user, &webhook(world, "/u4", &["sync.completed"])).await;
    assert!(secret.starts_with("whsec_") && secret.len() > 40, "generated: {secret}");
    for path in [WEBHOOKS.to_owned(), format!("{WEBHOOKS}/{id}"), format!("{WEBHOOKS}/{id}/secret")] {
        let shown = ask(daemon, Some(&user), "GET", &path, None).await;
        assert!(shown.status == 200 && !shown.body.contains(&secret), "{path}: {shown:?}");
    }
    let data = json!({ "collection": "coins", "items": 3 });
    publish(world, "sync.completed", &data).await;
    world.receiver.wait_for(1, SOON).await;
    let request = world.receiver.received().remove(0);
    assert_eq!(serde_json::from_slice::<Value>(&request.body).expect("JSON"), data);
    assert_eq!((request.path.as_str(), request.header("content-type")), ("/u4", "application/json"));
    assert!(request.header("webhook-signature").starts_with("v1,") && request.verifies(&secret));
    assert_eq!(ask(daemon, Some(&user), "DELETE", &format!("{WEBHOOKS}/{id}"), None).await.status, 204);
}

/// 5. Retry with exponential backoff, 3 attempts in all.
async fn three_attempts_with_growing_waits(world: &World) {
    let (daemon, user) = (&world.daemon, world.issuer.token("u5"));
    world.receiver.forget();
    world.receiver.set(Behaviour::Status(503));
    let (id, _) = make(daemon, &user, &webhook(world, "/u5", &["sync.failed"])).await;
    publish(world, "sync.failed", &json!({ "reason": "offline" })).await;
    let failed = deliveries(daemon, &format!("webhook={id}&status=failed"), 1).await.remove(0);
    assert_eq!((&failed["attempts"], &failed["response_status"]), (&json!(3), &json!(503)), "{failed}");
    let tried = world.receiver.received();
    assert_eq!(tried.iter().map(|request| request.attempt()).collect::<Vec<_>>(), [1, 2, 3]);
    let waits: Vec<f64> = tried.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
    assert!((0.9..3.6).contains(&waits[0]) && (3.6..15.0).contains(&waits[1]), "1 s, then 4 s: {waits:?}");
    world.receiver.set(Behaviour::Ok);
}

/// 6. At most 5 webhooks a user (configurable); user = JWT `sub`; user-scoped events reach only their user, platform events
///    everyone.
async fn five_webhooks_of_a_user_and_its_own_events(world: &World) {
    let (daemon, one, two) = (&world.daemon, world.issuer.token("u1"), world.issuer.token("u2"));
    world.receiver.forget();
    for number in 0..5 {
        let wanted = webhook(world, &format!("/u1/{number}"), &["sync.completed", "users.u1.>"]);
        assert_eq!(ask(daemon, Some(&one), "POST", WEBHOOKS, Some(&wanted)).await.status, 201);
    }
    let sixth = ask(daemon, Some(&one), "POST", WEBHOOKS, Some(&webhook(world, "/u1/5", &["sync.*"]))).await;
    assert_problem(&sixth, 409, "webhooks_per_owner_max");
    let told = ask(daemon, Some(&one), "GET", "/api/v1/info", None).await.json();
    assert_eq!((&told["principal"]["owner"], &told["limits"]["webhooks_per_owner"]), (&json!("u1"), &json!(5)));
    let (id, _) = make(daemon, &two, &webhook(world, "/u2", &["sync.completed", "users.u2.>"])).await;
    let others = ask(daemon, Some(&one), "GET", &format!("{WEBHOOKS}/{id}"), None).await;
    assert_problem(&others, 404, "not_found");
    let theirs = webhook(world, "/u2/spy", &["users.u1.>"]);
    assert_problem(&ask(daemon, Some(&two), "POST", WEBHOOKS, Some(&theirs)).await, 403, "types_not_allowed");
    let forged = json!({ "type": "sync.completed", "data": {} });
    let forged = ask(daemon, Some(&one), "POST", "/api/v1/events", Some(&forged)).await;
    assert_problem(&forged, 403, "insufficient_scope");

    let stream = daemon.url("/api/v1/events/stream");
    let mut own = SseClient::connect(&stream, Auth::Bearer(&one), None).await;
    let mut other = SseClient::connect(&stream, Auth::Bearer(&two), None).await;
    publish(world, "users.u1.sync.completed", &json!({ "collection": "coins" })).await;
    publish(world, "sync.completed", &json!({ "collection": "stamps" })).await;
    assert_eq!(own.next_event(SOON).await.event, "users.u1.sync.completed");
    assert_eq!(own.next_event(SOON).await.event, "sync.completed");
    assert_eq!(other.next_event(SOON).await.event, "sync.completed", "nothing of another user came before it");
    let done =
        comes(daemon, &format!("/api/v1/deliveries?webhook={id}"), |page| page["deliveries"][0].is_object()).await;
    assert_eq!(done["deliveries"].as_array().map(Vec::len), Some(1), "{done}");
    deliveries(daemon, "event=COLLECTION:8", 5).await;
    let paths = |kind: &str| {
        let received = world.receiver.received();
        let mut paths: Vec<String> =
            received.into_iter().filter(|r| r.header("sluiced-event-type") == kind).map(|r| r.path).collect();
        paths.sort();
        paths
    };
    assert_eq!(paths("users.u1.sync.completed"), ["/u1/0", "/u1/1", "/u1/2", "/u1/3", "/u1/4"]);
    deliveries(daemon, "event=COLLECTION:9", 6).await;
    assert_eq!(paths("sync.completed"), ["/u1/0", "/u1/1", "/u1/2", "/u1/3", "/u1/4", "/u2"]);
}

//! Who may listen, for how long, and how many at once: tickets, tokens that end, keys that are taken back, limits.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::events::{number_of, order};
use sluiced_tests::setup::{EVENTS, config};
use sluiced_tests::sse::{Auth, End};
use sluiced_tests::{ADMIN_KEY, SseClient, SseEvent, TestDaemon, TestNats, wait_until};

use super::{SECRET, admin, ask, in_s, token, token_with};

const SOON: Duration = Duration::from_secs(60);
const STREAM: &str = "/api/v1/events/stream";
const TICKETS: &str = "/api/v1/events/tickets";
const CLIENTS: &str = "/api/v1/events/clients";

/// A configuration whose tokens end to the second.
fn strict(server: &str) -> String {
    format!(
        "[server]\n{server}\n[auth]\njwt = {{ hs256_secret = \"{SECRET}\", leeway = \"0s\" }}\n\
         default_types = [\"platform.>\", \"users.{{sub}}.>\"]\n"
    )
}

async fn listen(daemon: &TestDaemon, path: &str, auth: Auth<'_>) -> SseClient {
    SseClient::connect(&daemon.url(path), auth, None).await
}

async fn refused(daemon: &TestDaemon, path: &str, auth: Auth<'_>) -> Option<u16> {
    SseClient::try_connect(&daemon.url(path), auth, None).await.err()
}

/// The address of a stream with a ticket of its own, which `bearer` asks for.
async fn ticketed(daemon: &TestDaemon, bearer: &str, wanted: &Value, path: &str) -> String {
    let issued = ask(daemon, Some(bearer), "POST", TICKETS, Some(wanted)).await;
    assert_eq!((issued.status, issued.headers["cache-control"].as_bytes()), (201, &b"no-store"[..]), "{issued:?}");
    let (ticket, mark) = (issued.json()["ticket"].as_str().expect("a ticket").to_owned(), path.contains('?'));
    format!("{path}{}ticket={ticket}", if mark { '&' } else { '?' })
}

fn seen(event: &SseEvent) -> (&str, Option<u64>) {
    (&event.event, number_of(event.data.as_bytes()))
}

#[tokio::test]
async fn a_ticket_opens_one_stream_once_with_what_its_owner_may_hear() {
    let nats = TestNats::start().await;
    let named = "[[subscription]]\nname = \"mine\"\nowner = \"u1\"\ntypes = [\"platform.>\"]\nsse = {}\n[log]\nlevel = \"trace\"\n";
    let daemon = TestDaemon::start(&nats, &(config(&strict(""), &[]) + named)).await;
    let own = token("u1");
    let whole = ticketed(&daemon, &own, &json!({}), STREAM).await;
    let narrow = ticketed(&daemon, &own, &json!({ "types": ["users.u1.*"] }), STREAM).await;
    let to_named = ticketed(&daemon, &own, &json!({}), "/api/v1/streams/mine").await;
    let mut clients = Vec::new();
    for path in [&whole, &narrow, &to_named] {
        clients.push(listen(&daemon, path, Auth::None).await);
        let again = ask(&daemon, None, "GET", path, None).await;
        assert_eq!((again.status, &*again.code()), (401, "invalid_ticket"), "once: {again:?}");
    }
    nats.publish("events.users.u2.signed-up", order(1)).await;
    nats.publish("events.users.u1.signed-up", order(2)).await;
    nats.publish("events.platform.notice", order(3)).await;
    nats.publish("events.users.u1.signed-up", order(4)).await;
    let expected: [&[_]; 3] = [
        &[("users.u1.signed-up", Some(2)), ("platform.notice", Some(3)), ("users.u1.signed-up", Some(4))],
        &[("users.u1.signed-up", Some(2)), ("users.u1.signed-up", Some(4))],
        &[("platform.notice", Some(3))],
    ];
    for (client, expected) in clients.iter_mut().zip(expected) {
        let heard = client.collect(expected.len(), SOON).await;
        assert_eq!(heard.iter().map(seen).collect::<Vec<_>>(), expected);
    }

    // It is worth no more than its owner, or than what it was asked for, and nothing elsewhere.
    let wide = ask(&daemon, Some(&own), "POST", TICKETS, Some(&json!({ "types": ["users.>"] }))).await;
    assert_eq!((wide.status, &*wide.code()), (403, "types_not_allowed"), "{wide:?}");
    for path in ["/api/v1/streams/mine", "/api/v1/events/stream?types=platform.*"] {
        let other = ticketed(&daemon, &own, &json!({ "types": ["users.u1.*"] }), path).await;
        let refused = ask(&daemon, None, "GET", &other, None).await;
        assert_eq!((refused.status, &*refused.code()), (403, "types_not_allowed"), "{path}: {refused:?}");
    }
    let elsewhere = ticketed(&daemon, &own, &json!({}), "/api/v1/webhooks").await;
    assert_eq!(ask(&daemon, None, "GET", &elsewhere, None).await.code(), "unauthorized");
    for path in [whole, narrow, to_named, elsewhere] {
        let ticket = path.rsplit("ticket=").next().expect("a ticket");
        assert!(!daemon.log().contains(ticket), "a ticket is in the log");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token_unless_it_is_given_a_new_one() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, &(strict("sse_expiry_notice = \"1h\"") + EVENTS)).await;
    let short = token_with(&json!({ "sub": "u1", "exp": in_s(8) }));
    let mut ends = listen(&daemon, STREAM, Auth::Bearer(&short)).await;
    let by_ticket = ticketed(&daemon, &short, &json!({}), STREAM).await;
    let mut goes_on = listen(&daemon, &by_ticket, Auth::None).await;
    let told = goes_on.next_event(SOON).await;
    assert_eq!((&*told.event, &*told.id), ("token-expiring", ""), "it has no place: {told:?}");
    let said: Value = serde_json::from_str(&told.data).expect("JSON");
    assert_eq!(said["client"], goes_on.header("sluiced-client"), "{said}");
    let renew = said["renew"].as_str().expect("a path").to_owned();

    let narrow = token_with(&json!({ "sub": "u1", "exp": in_s(3_600), "types": ["platform.x"] }));
    for (bearer, status, code) in [
        (Some(token("u2")), 404, "not_found"),
        (Some(ADMIN_KEY.to_owned()), 404, "not_found"),
        (Some(narrow), 403, "types_not_allowed"),
        (Some(token_with(&json!({ "sub": "u1", "exp": in_s(-9) }))), 401, "token_expired"),
        (None, 401, "unauthorized"),
    ] {
        let answer = ask(&daemon, bearer.as_deref(), "POST", &renew, None).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}");
    }
    let renewed = ask(&daemon, Some(&token("u1")), "POST", &renew, None).await;
    assert_eq!((renewed.status, &renewed.json()["client"]), (200, &said["client"]), "{renewed:?}");
    assert_eq!(goes_on.next_event(SOON).await.event, "token-expiring", "of the new one, within the hour too");

    assert_eq!(ends.next_event(SOON).await.event, "token-expiring");
    assert_eq!(ends.try_next(SOON).await, Err(End::Closed), "in order, at its end");
    // A token is looked at by the second.
    wait_until("it opens nothing any more", SOON, async || {
        refused(&daemon, STREAM, Auth::Bearer(&short)).await == Some(401)
    })
    .await;
    nats.publish("events.platform.notice", order(7)).await;
    assert_eq!(seen(&goes_on.next_event(SOON).await), ("platform.notice", Some(7)), "after the first token's end");
}

#[tokio::test]
async fn a_key_that_is_removed_ends_its_streams() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let made = admin(&daemon, "POST", "/api/v1/keys", Some(&json!({ "name": "board" }))).await.json();
    let (key, id) = (made["key"].as_str().expect("a key"), made["id"].as_str().expect("an id"));
    let mut of_key = listen(&daemon, STREAM, Auth::ApiKey(key)).await;
    let by_ticket = ticketed(&daemon, key, &json!({}), STREAM).await;
    let mut of_ticket = listen(&daemon, &by_ticket, Auth::None).await;
    let mut of_operator = listen(&daemon, STREAM, Auth::ApiKey(ADMIN_KEY)).await;
    let unused = ticketed(&daemon, key, &json!({}), STREAM).await;
    assert_eq!(admin(&daemon, "DELETE", &format!("/api/v1/keys/{id}"), None).await.status, 204);
    assert_eq!(of_key.try_next(SOON).await, Err(End::Closed));
    assert_eq!(of_ticket.try_next(SOON).await, Err(End::Closed));
    assert_eq!(ask(&daemon, None, "GET", &unused, None).await.code(), "invalid_ticket");
    nats.publish("events.platform.notice", order(1)).await;
    assert_eq!(seen(&of_operator.next_event(SOON).await), ("platform.notice", Some(1)));
}

#[tokio::test]
async fn there_are_so_many_streams_of_one_and_so_many_in_all() {
    let nats = TestNats::start().await;
    let limits = "[limits]\nsse_clients_per_principal = 2\nsse_clients = 3\n";
    let daemon = TestDaemon::start(&nats, &(strict("") + limits + EVENTS)).await;
    let (one, two) = (token("u1"), token("u2"));
    let first = listen(&daemon, STREAM, Auth::Bearer(&one)).await;
    // A ticket's stream counts as its owner's.
    let by_ticket = ticketed(&daemon, &one, &json!({}), STREAM).await;
    let _second = listen(&daemon, &by_ticket, Auth::None).await;
    let too_many = async |bearer: &str, status: u16, code: &str| {
        let answer = ask(&daemon, Some(bearer), "GET", STREAM, None).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}");
        assert!(answer.header("retry-after").is_some_and(|wait_s| wait_s >= 1), "{answer:?}");
    };
    too_many(&one, 429, "clients_per_principal_max").await;
    let _third = listen(&daemon, STREAM, Auth::Bearer(&two)).await;
    too_many(&two, 503, "clients_max").await;
    for (bearer, code) in [(&one, ""), (&one, "clients_per_principal_max"), (&two, ""), (&two, "clients_max")] {
        assert_eq!(ask(&daemon, Some(bearer), "POST", TICKETS, Some(&json!({}))).await.code(), code);
    }
    drop(first);
    wait_until("a place is free", SOON, async || refused(&daemon, STREAM, Auth::Bearer(&one)).await.is_none()).await;
}

#[tokio::test]
async fn who_listens_is_listed_for_the_operator_and_for_each_owner() {
    let nats = TestNats::start().await;
    let named = "[[subscription]]\nname = \"board\"\ntypes = [\"platform.>\"]\nsse = {}\n";
    let daemon = TestDaemon::start(&nats, &(config(&strict(""), &[]) + named)).await;
    let own = token("u1");
    let _own = listen(&daemon, "/api/v1/events/stream?types=users.u1.x", Auth::Bearer(&own)).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(listen(&daemon, "/api/v1/streams/board", Auth::ApiKey(ADMIN_KEY)).await);
    }
    let list = async |bearer: &str, query: &str| {
        ask(&daemon, Some(bearer), "GET", &format!("{CLIENTS}{query}"), None).await.json()
    };
    let of_owner = list(&own, "").await;
    let shown = &of_owner["clients"][0];
    assert_eq!(of_owner["clients"].as_array().map(Vec::len), Some(1), "{of_owner}");
    assert_eq!((&shown["principal"], &shown["owner"]), (&json!("owner:u1"), &json!("u1")), "{shown}");
    assert_eq!((&shown["types"], &shown["stream"]), (&json!(["users.u1.x"]), &json!(null)), "{shown}");
    assert_eq!(shown["address"], "127.0.0.1", "{shown}");
    assert!(shown["since"].is_string() && shown["expires_at"].is_string(), "{shown}");
    assert_eq!((&shown["state"], &shown["lag"]), (&json!("live"), &json!(0)), "{shown}");
    assert!(shown["cursor"].as_str().is_some_and(|cursor| cursor.starts_with("EVENTS:0:")), "{shown}");

    let (mut ids, mut query) = (Vec::new(), "?limit=2".to_owned());
    while !query.is_empty() {
        let page = list(ADMIN_KEY, &query).await;
        let page_ids = page["clients"].as_array().expect("clients").iter();
        ids.extend(page_ids.map(|client| client["id"].as_str().expect("an id").to_owned()));
        query = page["next"].as_str().map_or_else(String::new, |next| format!("?limit=2&cursor={next}"));
    }
    let expected =
        [shown["id"].as_str().expect("an id")].into_iter().chain(others.iter().map(|c| c.header("sluiced-client")));
    assert_eq!(ids, expected.collect::<Vec<_>>(), "the longest first");
    let of_board = list(ADMIN_KEY, "?stream=board").await;
    assert_eq!(of_board["clients"].as_array().map(Vec::len), Some(4), "{of_board}");
    // A place moves with what is heard; a lag is of JetStream's end, and nothing where nobody listens.
    nats.publish("events.platform.notice", order(1)).await;
    for other in &mut others {
        other.next_event(SOON).await;
    }
    let streams = async || ask(&daemon, Some(ADMIN_KEY), "GET", "/api/v1/streams", None).await.json();
    assert_eq!(
        streams().await["streams"][0],
        json!({ "name": "board", "types": ["platform.>"], "clients": 4, "lag": 0 })
    );
    let place = others[0].last_id().to_owned();
    wait_until("its place has moved", SOON, async || {
        list(ADMIN_KEY, "?stream=board").await["clients"][0]["cursor"] == *place
    })
    .await;
    let gauge = daemon.metrics().await.sum("sluiced_sse_tail_lag_events", &[("stream", "EVENTS")]);
    assert_eq!(gauge, 0.0);
    drop(others);
    wait_until("they have left", SOON, async || {
        list(ADMIN_KEY, "").await["clients"].as_array().is_some_and(|clients| clients.len() == 1)
    })
    .await;
    let refused = ask(&daemon, Some(&own), "GET", &format!("{CLIENTS}?cursor=7"), None).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (400, &json!("cursor")), "{refused:?}");
}

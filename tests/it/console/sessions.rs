//! Sessions, portal links and the overview, over real HTTP and without a browser.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use sluiced_tests::http::client;
use sluiced_tests::setup::config;
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats, TestReceiver, Webhook};

use super::whole;

const SESSION: &str = "/api/v1/session";
const COOKIE: &str = "cookie";

async fn ask(
    daemon: &TestDaemon,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Response {
    let mut request = client().request(method, daemon.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    request.send().await.expect("an answer")
}

async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&whole(response).await).expect("JSON")
}

/// Signs in with a key or a link: the cookie as it is sent back, all that was said of it, and the token.
async fn begin(daemon: &TestDaemon, bearer: &str, origin: &str) -> (String, String, String) {
    let bearer = format!("Bearer {bearer}");
    let response = ask(daemon, Method::POST, SESSION, &[("authorization", &bearer), ("origin", origin)], None).await;
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let told = response.headers()["set-cookie"].to_str().expect("a text").to_owned();
    let cookie = told.split(';').next().expect("a pair").to_owned();
    let token = json_of(response).await["csrf_token"].as_str().expect("a token").to_owned();
    (cookie, told, token)
}

#[tokio::test]
async fn a_session_stands_for_its_key_until_either_ends() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, &config("", &[])).await;
    let admin = ("x-api-key", ADMIN_KEY);
    let made = json!({ "name": "console", "scopes": ["read", "write"] });
    let made = json_of(ask(&daemon, Method::POST, "/api/v1/keys", &[admin], Some(made)).await).await;
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a key"));

    let (cookie, told, token) = begin(&daemon, key, "https://console.example").await;
    assert!(told.contains("HttpOnly; SameSite=Strict; Secure") && told.contains("Path=/api/v1;"), "{told}");
    assert!(!begin(&daemon, key, "http://127.0.0.1").await.1.contains("Secure"), "a browser would not keep it");
    let sent = (COOKIE, &*cookie);
    let info = json_of(ask(&daemon, Method::GET, "/api/v1/info", &[sent], None).await).await;
    assert_eq!(info["principal"]["name"], format!("key:{id}"));
    let again = json_of(ask(&daemon, Method::GET, SESSION, &[sent], None).await).await;
    assert_eq!(again["csrf_token"], *token, "a page that was loaded anew gets it");

    // A change needs the token, and a browser that says that its own page makes it.
    let test = async |headers: &[(&str, &str)]| {
        let headers = [&[sent], headers].concat();
        let answer = ask(&daemon, Method::POST, "/api/v1/webhooks/none/enable", &headers, None).await;
        (answer.status().as_u16(), json_of(answer).await["code"].as_str().expect("a code").to_owned())
    };
    let refused = (403, "cross_site".to_owned());
    assert_eq!(test(&[]).await, refused);
    assert_eq!(test(&[("x-csrf-token", "0")]).await, refused);
    assert_eq!(test(&[("x-csrf-token", &token), ("sec-fetch-site", "cross-site")]).await, refused);
    assert_eq!(test(&[("x-csrf-token", &token), ("origin", "https://evil.example")]).await, refused);
    assert_eq!(
        test(&[("x-csrf-token", &token), ("sec-fetch-site", "same-origin")]).await,
        (404, "not_found".to_owned())
    );
    let elsewhere = ask(&daemon, Method::GET, "/api/v1/info", &[sent, ("sec-fetch-site", "cross-site")], None).await;
    assert_eq!(elsewhere.status(), 403, "not even to look");

    // The key is removed, and the session with it; one that is ended opens nothing.
    assert_eq!(ask(&daemon, Method::DELETE, &format!("/api/v1/keys/{id}"), &[admin], None).await.status(), 204);
    assert_eq!(ask(&daemon, Method::GET, "/api/v1/info", &[sent], None).await.status(), 401);
    let (cookie, _, token) = begin(&daemon, ADMIN_KEY, "http://127.0.0.1").await;
    let sent = [(COOKIE, &*cookie), ("x-csrf-token", &*token)];
    let ended = ask(&daemon, Method::DELETE, SESSION, &sent, None).await;
    assert!(ended.headers()["set-cookie"].to_str().expect("a text").contains("Max-Age=0"));
    assert_eq!(ask(&daemon, Method::GET, "/api/v1/info", &sent, None).await.status(), 401);
    assert!(!daemon.log().contains(key) && !daemon.log().contains(&cookie), "no secret is in the log");
}

/// Reads until what was published comes on a stream.
async fn heard(stream: &mut Response) {
    let said = async {
        let mut text = String::new();
        while !text.contains("data: said") {
            let chunk = stream.chunk().await.expect("a connection").expect("it goes on");
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), said).await.expect("it goes on, and it comes");
}

/// Reads until the end of a stream.
async fn ended(mut stream: Response) {
    let end = async { while stream.chunk().await.expect("it ends in order").is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("it ends at once");
}

#[tokio::test]
async fn streams_of_a_session_end_with_it_and_those_of_others_go_on() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, &config("[auth]\ndefault_types = [\">\"]\n", &[])).await;
    let wanted = Some(json!({ "owner": "u1" }));
    let link =
        json_of(ask(&daemon, Method::POST, "/api/v1/portal-links", &[("x-api-key", ADMIN_KEY)], wanted).await).await;
    let link = link["path"].as_str().and_then(|path| path.strip_prefix("/portal#")).expect("a link").to_owned();
    let listen = async |path: &str, headers: &[(&str, &str)]| {
        let stream = ask(&daemon, Method::GET, path, headers, None).await;
        assert_eq!(stream.status(), 200, "{path}");
        stream
    };
    const STREAM: &str = "/api/v1/events/stream";
    let mut other = {
        let (cookie, ..) = begin(&daemon, ADMIN_KEY, "http://127.0.0.1").await;
        listen(STREAM, &[(COOKIE, &cookie)]).await
    };
    for bearer in [ADMIN_KEY, &link] {
        let (cookie, _, token) = begin(&daemon, bearer, "http://127.0.0.1").await;
        let sent = [(COOKIE, &*cookie), ("x-csrf-token", &*token)];
        let of_cookie = listen(STREAM, &sent).await;
        let ticket = json_of(ask(&daemon, Method::POST, "/api/v1/events/tickets", &sent, Some(json!({}))).await).await;
        let path = format!("{STREAM}?ticket={}", ticket["ticket"].as_str().expect("a ticket"));
        let of_ticket = listen(&path, &[]).await;
        let unused = json_of(ask(&daemon, Method::POST, "/api/v1/events/tickets", &sent, Some(json!({}))).await).await;
        assert_eq!(ask(&daemon, Method::DELETE, SESSION, &sent, None).await.status(), 204);
        ended(of_cookie).await;
        ended(of_ticket).await;
        let late = format!("{STREAM}?ticket={}", unused["ticket"].as_str().expect("a ticket"));
        assert_eq!(ask(&daemon, Method::GET, &late, &[], None).await.status(), 401, "a ticket is worth no more");
    }
    nats.publish("events.platform.notice", "said").await;
    heard(&mut other).await;
}

#[tokio::test]
async fn a_portal_link_opens_one_session_of_its_owner_and_nothing_else() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hooks = [Webhook::new("of-the-operator", &receiver)];
    let head = "[auth]\ndefault_types = [\"platform.>\", \"users.{sub}.>\"]\n";
    let daemon = TestDaemon::start(&nats, &config(head, &hooks)).await;
    let admin = ("x-api-key", ADMIN_KEY);
    let wanted = json!({ "owner": "u1" });
    let link = json_of(ask(&daemon, Method::POST, "/api/v1/portal-links", &[admin], Some(wanted)).await).await;
    let text = link["path"].as_str().and_then(|path| path.strip_prefix("/portal#")).expect("a link").to_owned();
    let bearer = format!("Bearer {text}");
    let direct = ask(&daemon, Method::GET, "/api/v1/info", &[("authorization", &bearer)], None).await;
    assert_eq!(direct.status(), 401, "it is no key");
    let (cookie, ..) = begin(&daemon, &text, "http://127.0.0.1").await;
    let info = json_of(ask(&daemon, Method::GET, "/api/v1/info", &[(COOKIE, &cookie)], None).await).await;
    assert_eq!((&info["principal"]["owner"], &info["principal"]["known_by"]), (&json!("u1"), &json!("portal_link")));
    assert_eq!(info["principal"]["types"], json!(["platform.>", "users.u1.>"]));
    let again = ask(&daemon, Method::POST, SESSION, &[("authorization", &bearer)], None).await;
    assert_eq!(again.status(), 401, "it opens once");

    let seen = json_of(ask(&daemon, Method::GET, "/api/v1/overview", &[(COOKIE, &cookie)], None).await).await;
    assert_eq!((&seen["subscriptions"]["live"], seen.get("daemon")), (&json!(0), None), "{seen}");
    let whole = json_of(ask(&daemon, Method::GET, "/api/v1/overview", &[admin], None).await).await;
    assert_eq!(whole["subscriptions"]["live"], 1, "{whole}");
    assert_eq!(whole["daemon"]["components"]["nats"]["ready"], true);
    assert_eq!(whole["daemon"]["streams"][0]["name"], "EVENTS");
    for (body, field) in [
        (json!({ "owner": "" }), "owner"),
        (json!({ "owner": "u1", "valid_for": "2d" }), "valid_for"),
        (json!({ "owner": "u1", "types": ["a..b"] }), "types"),
    ] {
        let answer = ask(&daemon, Method::POST, "/api/v1/portal-links", &[admin], Some(body)).await;
        assert_eq!(json_of(answer).await["errors"][0]["field"], *field);
    }
    assert!(!daemon.log().contains(&text), "no link is in the log");
}

#[tokio::test]
async fn a_stream_that_nothing_ends_stays_so_when_a_session_of_the_same_key_asks_for_it() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, &config("", &[])).await;
    let mut stream = ask(&daemon, Method::GET, "/api/v1/events/stream", &[("x-api-key", ADMIN_KEY)], None).await;
    let client = stream.headers()["sluiced-client"].to_str().expect("a text").to_owned();
    let (cookie, _, token) = begin(&daemon, ADMIN_KEY, "http://127.0.0.1").await;
    let sent = [(COOKIE, &*cookie), ("x-csrf-token", &*token)];
    let renewed = ask(&daemon, Method::POST, &format!("/api/v1/events/clients/{client}/token"), &sent, None).await;
    assert_eq!(renewed.status(), 200);
    assert_eq!(json_of(renewed).await, json!({ "client": client, "expires_at": null }), "no end is promised");
    assert_eq!(ask(&daemon, Method::DELETE, SESSION, &sent, None).await.status(), 204);
    nats.publish("events.platform.notice", "said").await;
    heard(&mut stream).await;
}

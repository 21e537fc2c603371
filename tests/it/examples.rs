//! The configurations of `config/examples`, each walked line by line: what the systems do that they stand for is asserted of
//! a daemon that runs with that very file.
//!
//! Limits are in effect as the files say. So a test that waits for something looks with a key of its own each time, and what
//! it counts is counted by whoever it is about.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use sluiced_tests::paths::{plugin_dir, sluiced_binary, workspace};
use sluiced_tests::receiver::Received;
use sluiced_tests::{ADMIN_KEY, Behaviour, Reply, TestDaemon, TestNats, TestReceiver, wait_until};

use crate::access::{Answer, ask, in_s, signed};

mod card_views;
mod collection_sync;
mod hiring_relay;
mod pool_events;

const SOON: Duration = Duration::from_secs(60);
const WEBHOOKS: &str = "/api/v1/webhooks";
const DELIVERIES: &str = "/api/v1/deliveries";

/// Who issues the tokens of users.
struct Issuer {
    key: Ed25519KeyPair,
    keys: TestReceiver,
    name: &'static str,
    audience: &'static str,
}

impl Issuer {
    /// One that publishes its key on this machine.
    fn start(name: &'static str, audience: &'static str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let key = Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key");
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1", "x": x }] }).to_string();
        let keys = TestReceiver::start();
        keys.set(Behaviour::custom(move |_| Reply { body: set.clone().into(), ..Reply::status(200) }));
        Self { key, keys, name, audience }
    }

    fn url(&self) -> String {
        self.keys.url("/.well-known/jwks.json")
    }

    /// A token of that user, valid for an hour.
    fn token(&self, user: &str) -> String {
        let claims = json!({ "sub": user, "exp": in_s(3_600), "iss": self.name, "aud": self.audience });
        signed(&json!({ "alg": "EdDSA", "kid": "1" }), &claims, |message| self.key.sign(message).as_ref().to_vec())
    }
}

/// An example whose users have tokens: its daemon, their issuer, and a receiver for all of their webhooks.
struct World {
    nats: TestNats,
    issuer: Issuer,
    receiver: TestReceiver,
    daemon: TestDaemon,
}

impl World {
    /// A daemon that runs with that example, and trusts the issuer that the example names.
    async fn start(example: &str, issuer: Issuer) -> Self {
        let nats = TestNats::start().await;
        let builder = TestDaemon::of_example(&nats, example);
        let daemon = builder.env("SLUICED_AUTH__JWT__JWKS_URL", &issuer.url()).start().await;
        Self { nats, issuer, receiver: TestReceiver::start(), daemon }
    }
}

/// Has the operator make a key.
async fn key(daemon: &TestDaemon, body: &Value) -> String {
    let made = ask(daemon, Some(ADMIN_KEY), "POST", "/api/v1/keys", Some(body)).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["key"].as_str().expect("a text").to_owned()
}

/// What an answer to that path comes to say.
///
/// # Panics
/// With the last answer, when it does not say what is `wanted` in time.
async fn comes(daemon: &TestDaemon, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let watcher = key(daemon, &json!({ "name": "watcher", "scopes": ["read"] })).await;
    let mut last = Value::Null;
    wait_until(&format!("{path} says so"), SOON, async || {
        let answer = ask(daemon, Some(&watcher), "GET", path, None).await;
        if answer.status == 429 {
            return false;
        }
        last = serde_json::from_str(&answer.body).unwrap_or_default();
        wanted(&last)
    })
    .await;
    last
}

/// The deliveries of a query, once there are so many.
async fn deliveries(daemon: &TestDaemon, query: &str, count: usize) -> Vec<Value> {
    let so_many = |page: &Value| page["deliveries"].as_array().is_some_and(|all| all.len() == count);
    let list = comes(daemon, &format!("{DELIVERIES}?{query}"), so_many).await;
    list["deliveries"].as_array().expect("a list").clone()
}

/// A webhook that somebody makes: its id, and its secret.
async fn make(daemon: &TestDaemon, bearer: &str, wanted: &Value) -> (String, String) {
    let made = ask(daemon, Some(bearer), "POST", WEBHOOKS, Some(wanted)).await;
    assert_eq!(made.status, 201, "{made:?}");
    (text(&made.json(), "id"), text(&made.json(), "secret"))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}")).to_owned()
}

/// Milliseconds between two times of a delivery's record.
fn between_ms(record: &Value, from: &str, to: &str) -> i64 {
    let ms = |key: &str| {
        let time = sluiced::telemetry::clock::parse_rfc3339(&text(record, key)).expect("a time");
        i64::try_from(time).expect("a time of this age")
    };
    ms(to) - ms(from)
}

/// Does the delivery wait for its next attempt about so many seconds, counted from its last one?
fn waits_s(record: &Value, seconds: i64) -> bool {
    let waits_ms = between_ms(record, "updated_at", "next_attempt_at");
    (seconds * 1_000 - 500..=seconds * 1_000 + 500).contains(&waits_ms)
}

/// Walks a delivery whose receiver takes nothing through its schedule: it waits these seconds after each attempt, and is tried
/// again by hand in the place of waiting. After the last one it is given up. Its record then.
async fn walk_schedule(daemon: &TestDaemon, bearer: &str, id: &str, waits: &[i64]) -> Value {
    let path = format!("{DELIVERIES}/{id}");
    for (attempts, seconds) in (1..).zip(waits) {
        let record = comes(daemon, &path, |one| one["attempts"] == attempts && one["status"] == "pending").await;
        assert!(waits_s(&record, *seconds), "{seconds} s after attempt {attempts}: {record}");
        retry(daemon, bearer, id).await;
    }
    let record = comes(daemon, &path, |one| one["status"] == "failed").await;
    assert_eq!(record["attempts"], waits.len() + 1, "{record}");
    record
}

/// Has a delivery tried again by hand, once its last attempt is over.
async fn retry(daemon: &TestDaemon, bearer: &str, id: &str) {
    wait_until("it can be tried again", SOON, async || {
        let answer = ask(daemon, Some(bearer), "POST", &format!("{DELIVERIES}/{id}/retry"), None).await;
        // Not yet, or asked too often.
        let again = answer.code() == "delivery_under_way" || answer.status == 429;
        assert!(answer.status == 202 || again, "{answer:?}");
        !again
    })
    .await;
}

/// `sha256=` and the hexadecimal HMAC-SHA256 of a request's body, keyed by a secret's text.
fn body_signature(secret: &str, request: &Received) -> String {
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), &request.body);
    let hex: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// The configuration of an example as the daemon takes it.
fn dumped(name: &str) -> String {
    let mut command = Command::new(sluiced_binary());
    let file = workspace().join("config/examples").join(name);
    let output = command.args(["check", "--dump-config", "--config"]).arg(file).output().expect("it runs");
    assert!(output.status.success(), "{name}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A problem, as each error of the API is: with its status, its code, and no more than that and what was wrong with the
/// request.
fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &*answer.code()), (status, code), "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let keys = ["type", "title", "status", "detail", "code", "errors"];
    let told = answer.json();
    assert!(told.as_object().expect("an object").keys().all(|key| keys.contains(&key.as_str())), "{told}");
    for inside in ["panicked", ".rs:", "/src/", "sled", "stack", ADMIN_KEY] {
        assert!(!answer.body.contains(inside), "{inside}: {answer:?}");
    }
}

#[test]
fn every_example_passes_the_check_and_is_named_by_the_guides() {
    let folder = workspace().join("config/examples");
    let guide = std::fs::read_to_string(workspace().join("docs/examples.md")).expect("docs/examples.md");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let mut check = Command::new(sluiced_binary());
        check.args(["check", "--config"]).arg(&path).env("SLUICED_PLUGINS__DIR", plugin_dir());
        let output = check.output().expect("it runs");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(guide.contains(&format!("(../config/examples/{name})")), "docs/examples.md does not link to {name}");
        seen += 1;
    }
    assert_eq!(seen, 6);
    let readme = std::fs::read_to_string(workspace().join("README.md")).expect("the README");
    assert!(readme.contains("(docs/examples.md)"));
}

//! Who may do what: tokens, API keys, owners, limits and the audit log, over real HTTP.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::HeaderMap;
use ring::hmac;
use serde_json::{Value, json};
use sluiced_tests::http::client;
use sluiced_tests::{ADMIN_KEY, TestDaemon};

mod keys;
mod limits;
mod listening;
mod matrix;
mod owners;
mod tokens;

/// The secret that the tokens of most tests are signed with.
const SECRET: &str = "the issuer's own secret, 32 bytes long";

/// A configuration that trusts tokens signed with [`SECRET`].
const TOKENS: &str = "[auth]\n\
                      jwt = { hs256_secret = \"the issuer's own secret, 32 bytes long\" }\n\
                      default_types = [\"platform.>\", \"users.{sub}.>\"]\n";

/// What a daemon answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of a problem; nothing of what is none.
    pub(super) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.parse().ok()
    }
}

/// Sends a request with a bearer token or key, or without one. The body of an event stream is not waited for.
pub(super) async fn ask(
    daemon: &TestDaemon,
    bearer: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let mut request = client().request(method.parse().expect("a method"), daemon.url(path));
    if let Some(bearer) = bearer {
        request = request.bearer_auth(bearer);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let mut response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let endless = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let mut bytes = Vec::new();
    while !endless && let Some(chunk) = response.chunk().await.expect("a whole answer") {
        bytes.extend_from_slice(&chunk);
    }
    Answer { status, headers, body: String::from_utf8_lossy(&bytes).into_owned() }
}

async fn admin(daemon: &TestDaemon, method: &str, path: &str, body: Option<&Value>) -> Answer {
    ask(daemon, Some(ADMIN_KEY), method, path, body).await
}

/// So many seconds from now on, as a token has it.
pub(super) fn in_s(seconds: i64) -> i64 {
    i64::try_from(sluiced::telemetry::clock::now_ms() / 1_000).expect("a time") + seconds
}

/// A token of any head and claims.
pub(super) fn signed(head: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(head), part(claims));
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(sign(message.as_bytes())))
}

fn by_secret(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

fn token_with(claims: &Value) -> String {
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), claims, |message| by_secret(SECRET.as_bytes(), message))
}

/// A token of that owner, valid for an hour.
fn token(owner: &str) -> String {
    token_with(&json!({ "sub": owner, "exp": in_s(3_600) }))
}

fn webhook(url: &str, types: &[&str]) -> Value {
    json!({ "name": "a webhook", "url": url, "types": types })
}

//! Plain HTTP requests to a server on loopback.

use std::sync::Once;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Response};
use serde_json::Value;

/// A server on this machine that takes longer than this is stuck: more than the minute for which a test asks a daemon to wait
/// while it compiles a plugin.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// A client without proxies and without a bound on the whole response, as a stream of events needs.
pub fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // It fails only when a test has installed one itself, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    let builder = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.connect_timeout(REQUEST_TIMEOUT).build().expect("a plain client can be built")
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Sends a request, with a JSON body where one is given, and reads the whole answer. `None` when the server cannot be
/// reached.
pub async fn try_request(method: &str, url: &str, key: Option<&str>, body: Option<&Value>) -> Option<Answer> {
    match body {
        Some(body) => send(method, url, key, &[("content-type", "application/json")], body.to_string().into()).await,
        None => send(method, url, key, &[], Vec::new()).await,
    }
}

/// Sends a request with any body, and reads the whole answer. `None` when the server cannot be reached.
pub async fn send(
    method: &str,
    url: &str,
    key: Option<&str>,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Option<Answer> {
    let method = method.parse().expect("a known method");
    let mut request = client().request(method, url).timeout(REQUEST_TIMEOUT);
    for (name, value) in key.iter().map(|key| ("x-api-key", *key)).chain(headers.iter().copied()) {
        request = request.header(name, value);
    }
    if !body.is_empty() {
        request = request.body(body);
    }
    let response = request.send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Some(Answer { status, headers, body: read(response).await? })
}

async fn read(mut response: Response) -> Option<String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
    }
    Some(String::from_utf8_lossy(&body).into_owned())
}

//! The resources of the API: events, deliveries, and what one may do with them.

use std::time::Duration;

use serde_json::Value;
use sluiced_tests::TestDaemon;

mod deliveries;
mod event_types;
mod events;
mod webhooks;

const SOON: Duration = Duration::from_secs(60);

/// The answer to a GET that is expected to succeed.
async fn get(daemon: &TestDaemon, path: &str) -> Value {
    let answer = daemon.request("GET", path, None).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// The answer to a POST without a body, with its status.
async fn post(daemon: &TestDaemon, path: &str) -> (u16, Value) {
    let answer = daemon.request("POST", path, None).await;
    (answer.status, answer.json())
}

/// The pages of a listing, one after the other; `between` is called before each but the first.
async fn pages(daemon: &TestDaemon, path: &str, list: &str, mut between: impl AsyncFnMut()) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    for _ in 0..1_000 {
        let sep = if path.contains('?') { '&' } else { '?' };
        let page = get(daemon, &format!("{path}{cursor}")).await;
        found.extend(page[list].as_array().unwrap_or_else(|| panic!("no {list} in {page}")).iter().cloned());
        let Some(next) = page["next"].as_str() else { return found };
        cursor = format!("{sep}cursor={next}");
        between().await;
    }
    panic!("{path} has no end");
}

/// The stream sequences of a listing's entries, in their order.
fn sequences(entries: &[Value]) -> Vec<u64> {
    entries.iter().map(|entry| entry["sequence"].as_u64().unwrap_or_else(|| panic!("no sequence in {entry}"))).collect()
}

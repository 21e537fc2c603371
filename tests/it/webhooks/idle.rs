//! A webhook that cannot run for a while, because its plugin is gone: nothing is lost by it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::paths::plugin_dir;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{Received, TestDaemon, TestNats, TestReceiver, wait_until};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(90);

/// How often each order came live, and how often by a replay.
fn times(receiver: &TestReceiver) -> (HashMap<u64, u64>, HashMap<u64, u64>) {
    let received = receiver.received();
    let (replayed, live): (Vec<&Received>, Vec<_>) =
        received.iter().partition(|r| !r.header("sluiced-replay").is_empty());
    let count = |requests: Vec<&Received>| {
        let mut times = HashMap::new();
        requests.iter().filter_map(|r| r.number()).for_each(|number| *times.entry(number).or_default() += 1);
        times
    };
    (count(live), count(replayed))
}

/// Takes a plugin away: its file, and what the daemon, which has ended, keeps of it, also what it was compiled to.
fn lose(daemon: &TestDaemon, file: &Path) {
    fs::remove_file(file).expect("the plugin can be removed");
    // A link to the folder that tests share, or the daemon's own in its place.
    let cache = daemon.data_dir().join("plugin-cache");
    fs::remove_file(&cache).or_else(|_| fs::remove_dir_all(&cache)).expect("the cache can be removed");
    for entry in fs::read_dir(daemon.data_dir().join("store/bodies")).expect("a folder") {
        let path = entry.expect("a file").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("plugin-")) {
            fs::remove_file(path).expect("a version can be removed");
        }
    }
}

fn once(numbers: std::ops::Range<u64>) -> HashMap<u64, u64> {
    numbers.map(|number| (number, 1)).collect()
}

#[tokio::test]
async fn a_webhook_that_cannot_run_for_a_while_misses_nothing_and_its_job_goes_on_with_it() {
    let (nats, receiver, plugins) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let file = plugins.path().join("jq.wasm");
    symlink(plugin_dir().join("jq.wasm"), &file).expect("a link can be made");
    let text = format!("[plugins]\ndir = {:?}\n{EVENTS}", plugins.path());
    let mut daemon = TestDaemon::start(&nats, &text).await;
    let wanted = json!({
        "name": "crm", "url": receiver.url("/hook"), "types": ["orders.>"], "max_in_flight": 2,
        "filters": [{ "plugin": "jq", "config": { "expr": ".amount >= 0" } }],
    });
    let made = daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await.json();
    let id = made["id"].as_str().expect("an id").to_owned();
    nats.publish_orders("events.orders.created", 0..40).await;
    receiver.wait_for_numbers(0..40, SOON).await;
    receiver.forget();
    let path = format!("/api/v1/subscriptions/{id}/replay");
    // All of them would take five seconds: it is at work when the daemon stops.
    let job = daemon.request("POST", &path, Some(&json!({ "from": 1, "rate": 8 }))).await.json();
    let job = format!("/api/v1/jobs/{}", job["id"].as_str().expect("an id"));
    wait_until("some are replayed", SOON, async || !times(&receiver).1.is_empty()).await;
    assert_eq!(daemon.terminate().await.code(), Some(0));

    lose(&daemon, &file);
    let state = async |daemon: &TestDaemon| daemon.request("GET", &job, None).await.json();
    let waits = |state: &Value| state["reason"].as_str().is_some_and(|reason| reason.contains("jq"));
    for orders in [40..50, 50..60] {
        daemon.restart().await;
        nats.publish_orders("events.orders.created", orders).await;
        wait_until("the job says why it waits", SOON, async || waits(&state(&daemon).await)).await;
        assert_eq!(state(&daemon).await["state"], "running", "it is not over");
    }
    assert!(times(&receiver).0.is_empty(), "nothing is sent while it cannot run");

    symlink(plugin_dir().join("jq.wasm"), &file).expect("a link can be made");
    daemon.reload();
    wait_until("the job is done", SOON, async || state(&daemon).await["state"] == "done").await;
    assert_eq!(state(&daemon).await["reason"], Value::Null);
    nats.publish_orders("events.orders.created", 60..70).await;
    let all_live = async || times(&receiver).0.len() == 30;
    wait_until("what was published meanwhile has come", SOON, all_live).await;
    daemon.wait_held(&id, false, SOON).await;
    assert_eq!(times(&receiver), (once(40..70), once(0..40)), "each once");

    // One that is deleted while it cannot run takes its job along.
    let job = daemon.request("POST", &path, Some(&json!({ "from": 1, "rate": 1 }))).await.json();
    let job = format!("/api/v1/jobs/{}", job["id"].as_str().expect("an id"));
    assert_eq!(daemon.terminate().await.code(), Some(0));
    lose(&daemon, &file);
    daemon.restart().await;
    assert_eq!(daemon.request("DELETE", &format!("/api/v1/webhooks/{id}"), None).await.status, 204);
    let cancelled = async || daemon.request("GET", &job, None).await.json()["state"] == "cancelled";
    wait_until("its job is cancelled", SOON, cancelled).await;
}

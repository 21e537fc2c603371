//! Plugins while the daemon runs: uploads and changed files that take a plugin's place or are refused, the way back, shadow
//! mode, dry runs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::paths::{plugin_dir, test_plugin_dir};
use sluiced_tests::setup::{EVENTS, config};
use sluiced_tests::wait::comes_true;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, Webhook};
use tempfile::TempDir;

mod dry_run;
mod files;
mod shadow;

const SOON: Duration = Duration::from_secs(60);
/// What `redact` puts in the place of a value, and what a second and a third version of it put there.
const MASKS: [&str; 3] = ["***", "###", "+++"];

/// The plugin `redact` with another mask: a version of the same contract, schema and behaviour but for that.
fn version(mask: &str) -> Vec<u8> {
    let mut wasm = fs::read(plugin_dir().join("redact.wasm")).expect("the standard plugin is built");
    let places: Vec<usize> = wasm.windows(3).enumerate().filter(|(_, w)| *w == b"***").map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the mask stands in the plugin's data");
    for at in places {
        wasm[at..at + 3].copy_from_slice(mask.as_bytes());
    }
    wasm
}

/// A daemon whose plugin directory holds what `files` says.
async fn daemon_with(nats: &TestNats, dir: &Path, files: &[(&str, &[u8])], config: &str) -> TestDaemon {
    for (name, wasm) in files {
        fs::write(dir.join(format!("{name}.wasm")), wasm).expect("a file can be written");
    }
    TestDaemon::builder(nats, config).plugins(dir, config).start().await
}

async fn plugin(daemon: &TestDaemon, name: &str) -> Value {
    let answer = daemon.request("GET", &format!("/api/v1/plugins/{name}"), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// What stands in the place of the card's number in everything that was received, in the order of arrival.
fn masks(receiver: &TestReceiver) -> Vec<String> {
    let body = |body: &[u8]| serde_json::from_slice::<Value>(body).expect("JSON");
    let mask = |received: &sluiced_tests::receiver::Received| body(&received.body)["card"].as_str().map(str::to_owned);
    receiver.received().iter().map(|received| mask(received).expect("a card")).collect()
}

fn card(number: u64) -> String {
    format!(r#"{{"number": {number}, "card": "4242"}}"#)
}

/// Publishes one event and says what its card became.
async fn next_mask(nats: &TestNats, receiver: &TestReceiver) -> String {
    let before = receiver.received().len();
    nats.publish("events.orders.paid", card(before as u64)).await;
    receiver.wait_for(before as u64 + 1, SOON).await;
    masks(receiver).pop().expect("one was received")
}

#[tokio::test]
async fn an_upload_takes_the_place_of_the_version_before_and_one_call_goes_back() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let mut daemon = daemon_with(&nats, dir.path(), &[], EVENTS).await;
    assert_eq!(daemon.request("GET", "/api/v1/plugins/mask", None).await.status, 404);

    let made = daemon.send_plugin("mask", version(MASKS[0]), "wait=60").await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!((&made["name"], &made["own_name"], &made["from"]), (&json!("mask"), &json!("redact"), &json!("upload")));
    assert_eq!((&made["transform"], &made["config_schema"]["type"]), (&json!(true), &json!("object")));

    let wanted = json!({
        "name": "a", "url": receiver.url("/a"), "types": [">"],
        "transforms": [{ "plugin": "mask", "config": { "pointers": ["/card"] } }],
    });
    let webhook = daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await;
    assert_eq!(webhook.status, 201, "{webhook:?}");
    let webhook = webhook.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[0]);

    for mask in &MASKS[1..] {
        let replaced = daemon.send_plugin("mask", version(mask), "wait=60").await;
        assert_eq!(replaced.status, 200, "{replaced:?}");
        assert_eq!(next_mask(&nats, &receiver).await, *mask, "in effect when it is answered");
    }
    let again = daemon.send_plugin("mask", version(MASKS[2]), "").await.json();
    assert_eq!(again["versions"].as_array().map(Vec::len), Some(3), "{again}");
    assert_eq!(again["used_by"], json!([{ "subscription": webhook }]));

    let back = daemon.request("POST", "/api/v1/plugins/mask/rollback", None).await;
    assert_eq!(back.status, 200, "{back:?}");
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[1], "the one before");
    let first = again["versions"][2]["digest"].clone();
    let back = daemon.request("POST", "/api/v1/plugins/mask/rollback", Some(&json!({ "digest": first }))).await;
    assert_eq!((back.status, back.json()["digest"].clone()), (200, first), "any that is kept");
    let unknown = json!({ "digest": "00" });
    let unknown = daemon.request("POST", "/api/v1/plugins/mask/rollback", Some(&unknown)).await;
    assert_eq!((unknown.status, unknown.json()["code"].clone()), (404, json!("no_version")));

    // What runs is on record.
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[0]);

    let used = daemon.request("DELETE", "/api/v1/plugins/mask", None).await;
    assert_eq!((used.status, used.json()["code"].clone()), (409, json!("plugin_in_use")), "{used:?}");
    assert!(used.body.contains(&webhook));
    daemon.request("DELETE", &format!("/api/v1/webhooks/{webhook}"), None).await;
    assert_eq!(daemon.request("DELETE", "/api/v1/plugins/mask", None).await.status, 204);
    assert_eq!(daemon.request("GET", "/api/v1/plugins/mask", None).await.status, 404);
    let bodies = fs::read_dir(daemon.data_dir().join("store/bodies")).expect("a folder");
    assert_eq!(bodies.count(), 0, "its versions are gone with it");
}

#[tokio::test]
async fn what_is_no_plugin_or_does_not_fit_a_subscription_is_refused_and_the_old_version_stays() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let hook = Webhook::new("a", &receiver).transform("mask", r#"{ pointers = ["/card"] }"#);
    let daemon = daemon_with(&nats, dir.path(), &[("mask", &version(MASKS[0]))], &config("", &[hook])).await;
    let read = |file: &Path| fs::read(file).expect("a plugin is built");
    let jq = read(&plugin_dir().join("jq.wasm"));
    let torn = version(MASKS[1])[..20_000].to_vec();
    for (wasm, status, code, reason) in [
        (b"no wasm".to_vec(), 400, "invalid_request", "is not WebAssembly"),
        (b"\0asm\x01\0\0\0".to_vec(), 400, "invalid_request", "core module"),
        (torn, 400, "invalid_request", "not a valid WebAssembly component"),
        (jq, 409, "plugin_unfit", "a: the configuration of the plugin `mask`"),
        (read(&plugin_dir().join("schema.wasm")), 409, "plugin_unfit", "is a filter, not a transform"),
    ] {
        let refused = daemon.send_plugin("mask", wasm, "wait=60").await;
        let problem = refused.json();
        assert_eq!((refused.status, &problem["code"]), (status, &json!(code)), "{refused:?}");
        assert!(problem["detail"].as_str().expect("a text").contains(reason), "{problem}");
        let shown = plugin(&daemon, "mask").await;
        assert_eq!(shown["candidate"]["state"], "refused", "{shown}");
        assert!(shown["candidate"]["reason"].as_str().expect("a text").contains(reason), "{shown}");
        assert_eq!(next_mask(&nats, &receiver).await, MASKS[0]);
    }
    let wrong = daemon.send_plugin("Mask", version(MASKS[1]), "").await;
    assert_eq!((wrong.status, wrong.json()["errors"][0]["field"].clone()), (400, json!("plugin")), "{wrong:?}");
    let of_file = daemon.request("DELETE", "/api/v1/plugins/mask", None).await;
    assert_eq!(of_file.json()["code"], "plugin_in_use");
    let taken = daemon.send_plugin("mask", version(MASKS[1]), "wait=60").await.json();
    assert!(taken.get("candidate").is_none(), "a good one ends it: {taken}");
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[1]);
    let books = daemon.accounted("a", 6).await;
    assert_eq!(books.delivered, 6, "{books:?}");
}

#[tokio::test]
async fn a_webhook_that_waited_for_its_plugin_runs_when_it_comes() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let mut daemon = daemon_with(&nats, dir.path(), &[("mask", &version(MASKS[0]))], EVENTS).await;
    let wanted = json!({
        "name": "a", "url": receiver.url("/a"), "types": [">"],
        "transforms": [{ "plugin": "mask", "config": { "pointers": ["/card"] } }],
    });
    assert_eq!(daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await.status, 201);
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[0]);
    daemon.terminate().await;
    // Neither the file nor the version on record is there any more, nor what it was compiled to: a disk was restored in part.
    fs::remove_file(dir.path().join("mask.wasm")).expect("removed");
    fs::remove_file(daemon.data_dir().join("plugin-cache")).expect("a link to the folder that tests share");
    for entry in fs::read_dir(daemon.data_dir().join("store/bodies")).expect("a folder") {
        fs::remove_file(entry.expect("a file").path()).expect("removed");
    }
    nats.publish("events.orders.paid", card(7)).await;
    daemon.restart().await;
    assert_eq!(receiver.received().len(), 1);
    let placed = daemon.send_plugin("mask", version(MASKS[1]), "wait=60").await;
    assert_eq!(placed.status, 200, "{placed:?}");
    receiver.wait_for(2, SOON).await;
    assert_eq!(masks(&receiver)[1], MASKS[1], "what was published in the meantime is not lost");
}

#[tokio::test]
async fn heavy_a_large_component_is_compiled_beside_deliveries_and_a_stop_does_not_wait_for_it() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let hook = Webhook::new("a", &receiver);
    let mut daemon = daemon_with(&nats, dir.path(), &[], &config("", &[hook])).await;
    let mut changes = fs::read(plugin_dir().join("changes.wasm")).expect("the example is built");
    // A custom section more makes it another version, which no cache has.
    changes.extend([0, 5, 1, b'x', b'o', b'n', b'e']);
    let accepted = daemon.send_plugin("changes", changes, "respond-async").await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    assert_eq!(accepted.json()["candidate"]["state"], "compiling");
    let busy = daemon.send_plugin("changes", version(MASKS[0]), "").await;
    assert_eq!((busy.status, busy.json()["code"].clone()), (409, json!("plugin_busy")), "{busy:?}");
    nats.publish("events.orders.paid", order(1)).await;
    receiver.wait_for(1, SOON).await;
    assert_eq!(plugin(&daemon, "changes").await["candidate"]["state"], "compiling", "deliveries do not wait for it");
    assert!(daemon.terminate().await.success(), "a stop neither");
}

//! Files in the plugin directory that change while the daemon runs, or while none does.

use super::*;

fn hook(receiver: &TestReceiver) -> Webhook {
    Webhook::new("a", receiver).transform("mask", r#"{ pointers = ["/card"] }"#)
}

/// Replaces a plugin's file as a deployment does: written beside it, then renamed.
fn replace(dir: &Path, wasm: &[u8]) {
    fs::write(dir.join("mask.wasm.new"), wasm).expect("written");
    fs::rename(dir.join("mask.wasm.new"), dir.join("mask.wasm")).expect("renamed");
}

async fn wait_for(daemon: &TestDaemon, what: &str, done: impl Fn(&Value) -> bool) {
    let reached = comes_true(SOON, async || done(&plugin(daemon, "mask").await)).await;
    assert!(reached, "{what}: {}", plugin(daemon, "mask").await);
}

fn versions(shown: &Value) -> usize {
    shown["versions"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_changed_file_takes_its_place_while_events_flow_and_a_bad_one_changes_nothing() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let config = config("", &[hook(&receiver)]);
    let mut daemon = daemon_with(&nats, dir.path(), &[("mask", &version(MASKS[0]))], &config).await;
    wait_for(&daemon, "the first version is on record", |shown| versions(shown) == 1).await;
    let mut published = 0;
    let flow = async {
        while masks(&receiver).last().map(String::as_str) != Some(MASKS[1]) {
            for _ in 0..50 {
                nats.publish("events.orders.paid", card(published)).await;
                published += 1;
            }
            if published == 50 {
                replace(dir.path(), &version(MASKS[1]));
            }
            receiver.wait_for(published, SOON).await;
        }
    };
    tokio::time::timeout(SOON, flow).await.expect("the new version runs in a while");
    let books = daemon.accounted("a", published).await;
    assert_eq!((books.delivered, books.failed), (published, 0), "{books:?}");

    replace(dir.path(), b"garbage");
    wait_for(&daemon, "the bad file is refused", |shown| shown["candidate"]["state"] == "refused").await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[1]);
    assert!(daemon.log().contains("a version of a plugin is refused"), "{}", daemon.log());

    // The way back is not undone by the file, which is what it was.
    assert_eq!(daemon.request("POST", "/api/v1/plugins/mask/rollback", None).await.status, 200);
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[0], "started with the version on record, not with garbage");
    wait_for(&daemon, "the bad file is refused again", |shown| shown["candidate"]["state"] == "refused").await;
    replace(dir.path(), &version(MASKS[2]));
    wait_for(&daemon, "a good file takes its place", |shown| versions(shown) == 3).await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[2]);
    // Without its file it goes on too.
    fs::remove_file(dir.path().join("mask.wasm")).expect("removed");
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[2]);
}

#[tokio::test]
async fn a_plugin_and_its_configuration_change_together() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let before = config("", &[hook(&receiver)]);
    let mut daemon = daemon_with(&nats, dir.path(), &[("mask", &version(MASKS[0]))], &before).await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[0]);
    wait_for(&daemon, "the first version is on record", |shown| versions(shown) == 1).await;

    // Neither would do with the other as it was: the file alone is refused, both together are taken.
    let jq = fs::read(plugin_dir().join("jq.wasm")).expect("built");
    replace(dir.path(), &jq);
    wait_for(&daemon, "the file alone", |shown| shown["candidate"]["state"] == "refused").await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[0]);
    let with_jq = Webhook::new("a", &receiver).transform("mask", r#"{ expr = ".card = \"by jq\"" }"#);
    daemon.write_config(&config("", std::slice::from_ref(&with_jq)));
    daemon.reload();
    wait_for(&daemon, "both together", |shown| shown["own_name"] == "jq").await;
    assert_eq!(next_mask(&nats, &receiver).await, "by jq");

    // The same while no daemon runs.
    daemon.terminate().await;
    replace(dir.path(), &version(MASKS[1]));
    daemon.write_config(&before);
    daemon.restart().await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[1]);
    let shown = plugin(&daemon, "mask").await;
    assert_eq!((versions(&shown), &shown["own_name"]), (3, &json!("redact")), "{shown}");
}

#[tokio::test]
async fn what_nobody_uses_is_there_to_be_looked_at() {
    let (nats, dir) = (TestNats::start().await, TempDir::new().expect("a folder"));
    let files: Vec<_> = ["jq", "schema"].map(|name| (name, fs::read(plugin_dir().join(format!("{name}.wasm"))))).into();
    let files: Vec<_> = files.iter().map(|(name, wasm)| (*name, &**wasm.as_ref().expect("built"))).collect();
    let daemon = daemon_with(&nats, dir.path(), &files, EVENTS).await;
    let all = daemon.request("GET", "/api/v1/plugins", None).await.json()["plugins"].clone();
    assert_eq!(all, json!([{ "name": "jq", "used_by": [] }, { "name": "schema", "used_by": [] }]), "not loaded");
    let jq = plugin(&daemon, "jq").await;
    assert_eq!((&jq["filter"], &jq["own_name"], &jq["from"]), (&json!(true), &json!("jq"), &json!("file")), "{jq}");
    fs::write(dir.path().join("broken.wasm"), b"garbage").expect("a file can be written");
    let broken = plugin(&daemon, "broken").await;
    assert_eq!(broken["candidate"]["state"], "refused", "{broken}");
    let of_file = daemon.request("DELETE", "/api/v1/plugins/jq", None).await;
    assert_eq!((of_file.status, of_file.json()["code"].clone()), (409, json!("plugin_of_file")));
}

#[tokio::test]
async fn a_directory_that_is_made_later_is_watched_from_then_on() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let later = dir.path().join("later");
    let daemon = daemon_with(&nats, &later, &[], EVENTS).await;
    assert_eq!(daemon.send_plugin("mask", version(MASKS[0]), "wait=60").await.status, 201);
    let wanted = json!({
        "name": "a", "url": receiver.url("/a"), "types": [">"],
        "transforms": [{ "plugin": "mask", "config": { "pointers": ["/card"] } }],
    });
    assert_eq!(daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await.status, 201);
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[0]);
    let log = daemon.log();
    assert!(log.contains("there is no plugin directory") && !log.contains("cannot list"), "{log}");

    fs::create_dir(&later).expect("a folder can be made");
    replace(&later, &version(MASKS[1]));
    wait_for(&daemon, "the file is found", |shown| versions(shown) == 2).await;
    replace(&later, &version(MASKS[2]));
    wait_for(&daemon, "the directory is watched", |shown| versions(shown) == 3).await;
    assert_eq!(next_mask(&nats, &receiver).await, MASKS[2]);
}

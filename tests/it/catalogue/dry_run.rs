//! Dry runs: what a plugin makes of one event, which nobody else sees.

use super::*;

async fn run(daemon: &TestDaemon, name: &str, asked: &Value) -> (u16, Value) {
    let answer = daemon.request("POST", &format!("/api/v1/plugins/{name}/dry-run"), Some(asked)).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_dry_run_tells_verdict_outputs_faults_time_memory_and_log_of_any_event_and_version() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let read = |dir: std::path::PathBuf, name: &str| fs::read(dir.join(name)).expect("built");
    let (jq, hostile) = (read(plugin_dir(), "jq.wasm"), read(test_plugin_dir(), "hostile.wasm"));
    let mask = version(MASKS[0]);
    let files: [(&str, &[u8]); 3] = [("jq", &jq), ("hostile", &hostile), ("mask", &mask)];
    let hook = Webhook::new("a", &receiver);
    let daemon = daemon_with(&nats, dir.path(), &files, &config("", &[hook])).await;
    let sequence = nats.publish("events.orders.paid", card(1)).await;
    receiver.wait_for(1, SOON).await;

    let taken_in = async || daemon.request("GET", "/api/v1/plugins/mask", None).await.status == 200;
    assert!(comes_true(SOON, taken_in).await, "the directory is taken in");

    // A filter, with the event in the request.
    let event = json!({ "type": "orders.paid", "data": { "amount": 5 } });
    let asked = json!({ "role": "filter", "config": { "expr": ".amount > 9" }, "event": event });
    let (status, told) = run(&daemon, "jq", &asked).await;
    assert_eq!((status, &told["verdict"], &told["role"]), (200, &json!("drop"), &json!("filter")), "{told}");
    assert!(told["took_us"].is_u64() && told["memory_bytes"].as_u64() > Some(0), "{told}");

    // A transform, with an event of a stream, in the version that runs and in one that does not.
    assert_eq!(daemon.send_plugin("mask", version(MASKS[1]), "wait=60").await.status, 200);
    let asked = json!({ "config": { "pointers": ["/card"] }, "stream": "EVENTS", "sequence": sequence });
    let (_, told) = run(&daemon, "mask", &asked).await;
    assert!(told["outputs"][0]["data"].as_str().is_some_and(|data| data.contains(MASKS[1])), "{told}");
    let shown = plugin(&daemon, "mask").await;
    let first = shown["versions"].as_array().expect("a list").iter().find(|version| version["is_current"] == false);
    let mut with_first = asked.clone();
    with_first["digest"] = first.expect("the first is kept")["digest"].clone();
    let (_, told) = run(&daemon, "mask", &with_first).await;
    assert!(told["outputs"][0]["data"].as_str().is_some_and(|data| data.contains(MASKS[0])), "{told}");

    // Faults and log lines are told, and stay here.
    for (config, key, value) in [
        (json!({ "do": "trap" }), "fault", json!("trap")),
        (json!({ "do": "loop" }), "fault", json!("deadline")),
        (json!({ "do": "error" }), "fault", json!("reported")),
    ] {
        let (status, told) = run(&daemon, "hostile", &json!({ "config": config, "event": event })).await;
        assert_eq!((status, &told[key]), (200, &value), "{told}");
    }
    let flood = json!({ "config": { "do": "log-flood", "amount": 1_000 }, "event": event });
    let (_, told) = run(&daemon, "hostile", &flood).await;
    assert_eq!(told["log"].as_array().map(Vec::len), Some(100), "{told}");
    assert!(!daemon.log().contains("plugin log"), "{}", daemon.log());

    // What cannot be run is said in the plugin's own words.
    for (name, asked, status, word) in [
        ("jq", json!({ "config": { "expr": "." } }), 400, "event"),
        ("jq", json!({ "config": { "expr": 3 }, "event": event }), 400, "config"),
        ("jq", json!({ "config": { "expr": "][" }, "event": event }), 400, "config"),
        ("jq", json!({ "stream": "EVENTS", "sequence": 999 }), 404, "not_found"),
        ("jq", json!({ "digest": "00", "event": event }), 404, "no_version"),
        ("none", json!({ "event": event }), 404, "not_found"),
        ("jq", json!({ "event": event, "verdict": "keep" }), 400, "body"),
        ("jq", json!({ "event": { "type": "a..b" } }), 400, "type"),
    ] {
        let (got, problem) = run(&daemon, name, &asked).await;
        let told = if status == 400 { &problem["errors"][0]["field"] } else { &problem["code"] };
        assert_eq!((got, told), (status, &json!(word)), "{asked}: {problem}");
    }
    let books = daemon.accounted("a", 1).await;
    assert_eq!(books.delivered, 1, "nothing of it was delivered or counted: {books:?}");
}

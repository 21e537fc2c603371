//! `sluiced plugin test --stream`: a plugin on real events, of which nothing is delivered.

use serde_json::Value;
use sluiced_tests::TestNats;
use sluiced_tests::daemon::complete;
use sluiced_tests::setup::EVENTS;

use super::*;

/// A dry run of jq, away from the runtime that the test's NATS client lives on.
async fn dry_run(config: &Path, more: &[&str]) -> Said {
    let file = plugin_dir().join("jq.wasm");
    let args = ["test", text(&file), "--config", text(config)].into_iter().chain(more.iter().copied());
    let args: Vec<String> = args.map(str::to_owned).collect();
    let run = move || plugin(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.expect("a thread")
}

#[tokio::test]
async fn a_dry_run_over_a_stream_tells_verdicts_reasons_and_faults_and_leaves_no_trace() {
    let nats = TestNats::start().await;
    nats.create_stream("EVENTS", &["events.>"]).await;
    for amount in 0..300 {
        nats.publish("events.orders.created", format!(r#"{{"amount": {amount}}}"#)).await;
    }
    nats.publish("events.orders.created", "not JSON").await;
    nats.publish("events.users.created", "{}").await;
    let dir = tempfile::tempdir().expect("a folder");
    let config = dir.path().join("sluiced.toml");
    fs::write(&config, complete(EVENTS, &dir.path().join("data"), &nats.url(), &plugin_dir())).expect("written");

    let filter = ["--as", "filter", "--with", r#"{"expr": ".amount >= 100"}"#];
    let stream = ["--stream", "EVENTS", "--from", "1h", "--types", "orders.*"];
    let told = dry_run(&config, &[&stream[..], &filter[..], &["--json"]].concat()).await.well();
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&told["kept"], &told["dropped"], &told["faulted"]), (&200.into(), &100.into(), &1.into()), "{told}");
    assert_eq!((&told["first_sequence"], &told["last_sequence"]), (&1.into(), &301.into()));
    assert_eq!((&told["faults"][0]["events"], &told["faults"][0]["sequence"]), (&1.into(), &301.into()), "{told}");
    assert_eq!(told["drops"].as_array().map(Vec::len), Some(1), "reasons that are alike are one: {told}");

    let some = ["--stream", "EVENTS", "--from", "291", "--count", "10", "--as", "transform", "--with"];
    let said = dry_run(&config, &[&some[..], &[r#"{"expr": "., .amount"}"#]].concat()).await.well();
    for part in ["10 events of EVENTS, 291 to 300; nothing is delivered", "kept", "20 outputs", "slowest", "largest"] {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
    assert_eq!(nats.stream_info("EVENTS").await.state.consumer_count, 0, "the reader is gone");
    assert!(!dir.path().join("data").exists(), "no data directory was made");

    let said = dry_run(&config, &["--stream", "EVENTS", "--with", r#"{"expr": "."}"#]).await.badly();
    assert!(said.err.contains("say --as filter or --as transform"), "{}", said.err);
    let said = dry_run(&config, &[&["--stream", "ORDERS"][..], &filter[..]].concat()).await.badly();
    assert!(said.err.contains("has no stream ORDERS"), "{}", said.err);
    let said = dry_run(&config, &[&["--stream", "EVENTS", "--from", "soon"][..], &filter[..]].concat()).await.badly();
    assert!(said.err.contains("a length of time (1h)"), "{}", said.err);
}

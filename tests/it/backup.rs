//! Backups of a running daemon, restored and set to work; and the store's file written anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::json;
use sluiced_tests::paths::sluiced_binary;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(120);

/// Runs `sluiced` with these arguments, on the daemon's configuration.
fn sluiced(daemon: &TestDaemon, args: &[&str]) -> Output {
    let mut command = Command::new(sluiced_binary());
    command.args(args).arg("--config").arg(daemon.config_path()).output().expect("sluiced runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_restored_and_delivers_all_that_was_parked_when_it_was_made() {
    const EVENTS: u64 = 600;
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::Status(503));
    let folder = tempfile::tempdir().expect("a folder");
    // All that is published is parked, and due when the restored daemon runs.
    let webhook = Webhook::new("crm", &receiver).secret(None).retry_after(&["40s"]);
    let webhook = webhook.with("breaker", "{ attempts_min = 1000, failure_ratio = 1.0 }");
    let head = format!("[store]\nbackup_dir = {:?}", folder.path().join("backups"));
    let mut daemon = TestDaemon::start(&nats, &config(&head, &[webhook])).await;
    let secret = daemon.request("POST", "/api/v1/subscriptions/crm/secret/rotate", None).await.json();
    let secret = secret["secret"].as_str().expect("a secret").to_owned();

    nats.publish_orders("events.orders.created", 0..EVENTS / 2).await;
    let parked = async || daemon.reading("sluiced_parked", "crm").await >= EVENTS / 2;
    wait_until("the first half is parked", SOON, parked).await;
    let url = daemon.url("");
    let ask = || sluiced(&daemon, &["backup", "one", "--url", &url]);
    let (asked, ()) = tokio::join!(
        async { tokio::task::block_in_place(ask) },
        nats.publish_orders("events.orders.created", EVENTS / 2..EVENTS)
    );
    assert!(asked.status.success(), "{}", said(&asked));
    assert!(said(&asked).contains("backups/one: "), "{}", said(&asked));
    assert!(said(&asked).contains("master key is not in it"), "{}", said(&asked));
    let again = tokio::task::block_in_place(ask);
    assert!(!again.status.success() && said(&again).contains("backup_exists"), "{}", said(&again));
    for (name, status) in [("one", 409), ("../two", 400)] {
        let answer = daemon.request("POST", "/api/v1/backup", Some(&json!({ "name": name }))).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let backup = folder.path().join("backups/one");
    let refused = sluiced(&daemon, &["backup", path(&folder.path().join("two"))]);
    assert!(!refused.status.success() && said(&refused).contains("--url"), "{}", said(&refused));
    daemon.kill9();

    let refused = sluiced(&daemon, &["restore", path(&backup)]);
    assert!(!refused.status.success() && said(&refused).contains("move it away"), "{}", said(&refused));
    fs::rename(daemon.data_dir().join("store"), folder.path().join("lost")).expect("the store is lost");
    let restored = sluiced(&daemon, &["restore", path(&backup)]);
    assert!(restored.status.success(), "{}", said(&restored));
    receiver.set(Behaviour::Ok);
    receiver.forget();
    daemon.restart().await;
    receiver.wait_for_numbers(0..EVENTS / 2, SOON).await;
    assert!(receiver.received()[0].verifies(&secret), "with the master key the secrets came back too");
}

#[tokio::test]
async fn a_stopped_daemon_is_backed_up_and_compacted_by_the_command_line() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::Status(400));
    let mut daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    nats.publish_orders("events.orders.created", 0..20).await;
    assert_eq!(daemon.accounted("crm", 20).await.failed, 20);
    let unset = daemon.request("POST", "/api/v1/backup", Some(&json!({ "name": "a" }))).await;
    assert_eq!((unset.status, unset.json()["code"].as_str()), (409, Some("no_backup_dir")), "{unset:?}");
    let busy = sluiced(&daemon, &["compact"]);
    assert!(!busy.status.success() && said(&busy).contains("in use by another process"), "{}", said(&busy));
    assert!(daemon.terminate().await.success());

    let backup = daemon.config_path().with_file_name("backup");
    let made = sluiced(&daemon, &["backup", path(&backup)]);
    assert!(made.status.success() && said(&made).contains("master key is not in it"), "{}", said(&made));
    let compacted = sluiced(&daemon, &["compact"]);
    assert!(compacted.status.success() && said(&compacted).contains("bytes after"), "{}", said(&compacted));
    daemon.restart().await;
    let page = daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters?limit=100", None).await.json();
    assert_eq!(page["dead_letters"].as_array().map(Vec::len), Some(20));
    assert!(daemon.terminate().await.success());

    fs::remove_dir_all(daemon.data_dir().join("store")).expect("removed");
    let restored = sluiced(&daemon, &["restore", path(&backup)]);
    assert!(restored.status.success(), "{}", said(&restored));
    daemon.restart().await;
    let page = daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters?limit=100", None).await.json();
    assert_eq!(page["dead_letters"].as_array().map(Vec::len), Some(20));
}

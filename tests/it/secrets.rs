//! Signing secrets: made, sealed, rotated and rekeyed, and at each step a receiver that can still verify.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::paths::sluiced_binary;
use sluiced_tests::setup::config;
use sluiced_tests::{Received, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

mod leaks;

const SOON: Duration = Duration::from_secs(60);
const OTHER: &str = "whsec_b3RoZXItdGVzdC1zZWNyZXQtZm9yLXJvdGF0aW9uLTAx";

/// Publishes one order, and what the receiver got of it.
async fn delivered(nats: &TestNats, receiver: &TestReceiver) -> Received {
    receiver.forget();
    nats.publish("events.orders.created", order(0)).await;
    let there = async || !receiver.received().is_empty();
    wait_until("the order is delivered", SOON, there).await;
    receiver.received().remove(0)
}

async fn secret_of(daemon: &TestDaemon, name: &str) -> Value {
    let answer = daemon.request("GET", &format!("/api/v1/subscriptions/{name}/secret"), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn rotate(daemon: &TestDaemon, name: &str, body: Option<&Value>) -> (u16, Value) {
    let answer = daemon.request("POST", &format!("/api/v1/subscriptions/{name}/secret/rotate"), body).await;
    (answer.status, answer.json())
}

/// Rotates and returns the new secret's text.
async fn rotated(daemon: &TestDaemon, name: &str, body: Option<&Value>) -> String {
    let (status, answer) = rotate(daemon, name, body).await;
    assert_eq!(status, 200, "{answer}");
    answer["secret"].as_str().expect("the answer has the secret").to_owned()
}

/// Runs `sluiced` with arguments on the daemon's configuration.
fn sluiced(daemon: &TestDaemon, args: &[&str]) -> Output {
    let mut command = Command::new(sluiced_binary());
    command.args(args).arg("--config").arg(daemon.config_path());
    command.output().expect("sluiced runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Waits for a daemon that was launched to end, and what it wrote.
async fn refused(daemon: &mut TestDaemon) -> String {
    wait_until("the daemon gives up", SOON, async || daemon.process().ended().is_some()).await;
    daemon.log()
}

#[tokio::test]
async fn a_secret_that_changes_in_the_file_is_signed_with_beside_the_new_one_for_the_overlap() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let webhook = |secret| Webhook::new("crm", &receiver).secret(Some(secret)).with("secret_overlap", "\"12s\"");
    let mut daemon = TestDaemon::start(&nats, &config("", &[webhook(SECRET)])).await;
    let first = delivered(&nats, &receiver).await;
    assert!(first.verifies(SECRET) && !first.verifies(OTHER));

    daemon.write_config(&config("", &[webhook(OTHER)]));
    wait_until("the change is read", SOON, async || daemon.log().contains("configuration reloaded")).await;
    let both = delivered(&nats, &receiver).await;
    assert!(both.verifies(OTHER) && both.verifies(SECRET), "both during the overlap");
    let state = secret_of(&daemon, "crm").await;
    assert_eq!(state["source"], "file");
    assert!(state["overlap_until"].is_string(), "{state}");

    daemon.restart().await;
    assert_eq!(secret_of(&daemon, "crm").await["rotated_at"], state["rotated_at"], "a restart changes nothing");
    let after = delivered(&nats, &receiver).await;
    let still = secret_of(&daemon, "crm").await["overlap_until"].is_string();
    assert!(after.verifies(OTHER));
    assert!(after.verifies(SECRET) || !still, "while the overlap lasts, also after a restart");

    let ended = async || secret_of(&daemon, "crm").await["overlap_until"].is_null();
    wait_until("the overlap ends", SOON, ended).await;
    let alone = delivered(&nats, &receiver).await;
    assert!(alone.verifies(OTHER) && !alone.verifies(SECRET), "after the overlap only the new one");
}

#[tokio::test]
async fn a_secret_without_overlap_ends_at_once_also_over_a_restart() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let webhook = |secret| Webhook::new("crm", &receiver).secret(Some(secret));
    let text = |secret| config("[delivery]\nsecret_overlap = \"0s\"", &[webhook(secret)]);
    let mut daemon = TestDaemon::start(&nats, &text(SECRET)).await;
    daemon.write_config(&text(OTHER));
    daemon.restart().await;
    let request = delivered(&nats, &receiver).await;
    assert!(request.verifies(OTHER) && !request.verifies(SECRET));
    let (status, problem) = rotate(&daemon, "crm", None).await;
    assert_eq!((status, problem["code"].as_str()), (409, Some("secret_from_file")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("secret_overlap")), "{problem}");

    // Without it in the file the daemon goes on with it, and may rotate it.
    daemon.write_config(&config("", &[Webhook::new("crm", &receiver).secret(None)]));
    daemon.restart().await;
    assert!(delivered(&nats, &receiver).await.verifies(OTHER));
    let new = rotated(&daemon, "crm", None).await;
    let request = delivered(&nats, &receiver).await;
    assert!(request.verifies(&new) && request.verifies(OTHER));
}

#[tokio::test]
async fn a_secret_that_the_daemon_makes_is_shown_once_and_rotated() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver).secret(None)])).await;
    let made = secret_of(&daemon, "crm").await;
    assert_eq!((made["source"].as_str(), made["overlap_until"].is_null()), (Some("daemon"), true), "{made}");
    assert!(made.get("secret").is_none(), "{made}");
    let first = delivered(&nats, &receiver).await;
    assert!(first.header("webhook-signature").starts_with("v1,"));

    let text = rotated(&daemon, "crm", Some(&json!({ "overlap": "0s" }))).await;
    let shown = secret_of(&daemon, "crm").await;
    assert!(!shown.to_string().contains(&text), "{shown}");
    assert!(text.starts_with(shown["preview"].as_str().expect("a preview").trim_end_matches('…')), "{shown}");
    assert!(shown["overlap_until"].is_null(), "{shown}");
    let request = delivered(&nats, &receiver).await;
    assert!(request.verifies(&text));
    assert_eq!(request.header("webhook-signature").split(' ').count(), 1, "the first one ended at once");

    daemon.restart().await;
    assert!(delivered(&nats, &receiver).await.verifies(&text), "the same after a restart");
    let own = rotated(&daemon, "crm", Some(&json!({ "secret": OTHER, "overlap": "1h" }))).await;
    assert_eq!(own, OTHER);
    let request = delivered(&nats, &receiver).await;
    let first = request.header("webhook-signature").split(' ').next().expect("a signature").to_owned();
    assert!(request.verifies(OTHER) && request.verifies(&text));
    let mut newest = request.clone();
    newest.headers.insert("webhook-signature", first.parse().expect("a header"));
    assert!(newest.verifies(OTHER), "the newest signature comes first");

    let (status, problem) = rotate(&daemon, "crm", Some(&json!({ "secret": "whsec_hush" }))).await;
    assert_eq!((status, problem["errors"][0]["field"].as_str()), (400, Some("secret")), "{problem}");
    assert!(!problem.to_string().contains("hush"), "{problem}");
    assert_eq!(rotate(&daemon, "none", None).await.0, 404);
    let url = daemon.url("/api/v1/subscriptions/crm/secret/rotate");
    let stranger = sluiced_tests::http::try_request("POST", &url, None, None).await.expect("an answer");
    assert_eq!(stranger.status, 401);
}

#[tokio::test]
async fn a_kill_during_a_rotation_leaves_the_old_secret_or_the_new_one() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver).secret(None)])).await;
    let mut current = rotated(&daemon, "crm", Some(&json!({ "secret": SECRET, "overlap": "0s" }))).await;
    for round in 0..5 {
        let next = &format!("whsec_{}", STANDARD.encode(format!("secret of rotation number {round}")));
        let body = json!({ "secret": next, "overlap": "0s" });
        let answer = {
            let rotating = daemon.request("POST", "/api/v1/subscriptions/crm/secret/rotate", Some(&body));
            tokio::time::timeout(Duration::from_millis(round * 3), rotating).await
        };
        daemon.kill9();
        daemon.restart().await;
        let request = delivered(&nats, &receiver).await;
        let (old, new) = (request.verifies(&current), request.verifies(next));
        assert!(old != new, "round {round}: old {old}, new {new}");
        assert!(new || answer.is_err(), "round {round}: what was answered is kept");
        if new {
            current.clone_from(next);
        }
    }
}

#[tokio::test]
async fn the_master_key_is_made_once_and_missed_when_it_is_gone_or_wrong() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let text = config("", &[Webhook::new("crm", &receiver).secret(None)]);
    let mut daemon = TestDaemon::start(&nats, &text).await;
    let file = daemon.data_dir().join("master.key");
    assert_eq!(fs::metadata(&file).expect("the key is made").permissions().mode() & 0o777, 0o600);
    assert!(daemon.log().contains("made a master key"), "{}", daemon.log());
    let secret = rotated(&daemon, "crm", None).await;
    assert!(daemon.terminate().await.success());

    // Moved to where it belongs, as the warning asks.
    let moved = daemon.config_path().with_file_name("moved.key");
    fs::rename(&file, &moved).expect("moved");
    daemon.launch();
    let log = refused(&mut daemon).await;
    assert!(log.contains("put it back") && !file.exists(), "{log}");
    let named = |path: &std::path::Path| format!("[secrets]\nmaster_key_file = {path:?}\n{text}");
    daemon.write_config(&named(&moved));
    daemon.restart().await;
    assert!(delivered(&nats, &receiver).await.verifies(&secret));
    assert!(daemon.terminate().await.success());

    fs::set_permissions(&moved, fs::Permissions::from_mode(0o644)).expect("changed");
    daemon.launch();
    assert!(refused(&mut daemon).await.contains("chmod 600"));
    let wrong = moved.with_file_name("wrong.key");
    fs::write(&wrong, said(&Command::new(sluiced_binary()).args(["secrets", "key"]).output().expect("runs")))
        .expect("written");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).expect("changed");
    daemon.write_config(&named(&wrong));
    daemon.launch();
    let log = refused(&mut daemon).await;
    assert!(log.contains("the master key does not open") && log.contains("sluiced secrets forget"), "{log}");

    // Lost for good: the way out that the message names.
    assert!(said(&sluiced(&daemon, &["secrets", "forget"])).contains("--yes"));
    let forgotten = sluiced(&daemon, &["secrets", "forget", "--yes"]);
    assert!(forgotten.status.success(), "{}", said(&forgotten));
    daemon.restart().await;
    assert!(!delivered(&nats, &receiver).await.verifies(&secret), "a new secret under the new key");
}

#[tokio::test]
async fn a_rekey_changes_the_master_key_and_no_secret() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let text = config("", &[Webhook::new("crm", &receiver).secret(None), Webhook::new("erp", &receiver)]);
    let mut daemon = TestDaemon::start(&nats, &text).await;
    let secret = rotated(&daemon, "crm", None).await;
    let new = daemon.config_path().with_file_name("new.key");
    let new = new.to_str().expect("a path of text");
    let busy = sluiced(&daemon, &["secrets", "rekey", "--new-master-key-file", new]);
    assert!(!busy.status.success() && said(&busy).contains("in use by another process"), "{}", said(&busy));
    assert!(!std::path::Path::new(new).exists(), "nothing is made while the daemon runs");
    assert!(daemon.terminate().await.success());

    let done = sluiced(&daemon, &["secrets", "rekey", "--new-master-key-file", new]);
    assert!(done.status.success() && said(&done).contains("2 records"), "{}", said(&done));
    let again = sluiced(&daemon, &["secrets", "rekey", "--new-master-key-file", new]);
    assert!(again.status.success() && said(&again).contains("already"), "{}", said(&again));
    daemon.launch();
    assert!(refused(&mut daemon).await.contains("the master key does not open"), "the old key opens nothing");
    daemon.write_config(&format!("[secrets]\nmaster_key_file = {new:?}\n{text}"));
    daemon.restart().await;
    delivered(&nats, &receiver).await;
    let of_crm = || receiver.received().into_iter().find(|request| request.path == "/crm");
    wait_until("the order is delivered to both", SOON, async || of_crm().is_some()).await;
    assert!(of_crm().is_some_and(|request| request.verifies(&secret)));
}

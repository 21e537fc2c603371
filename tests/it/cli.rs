//! The command line for people, against a running daemon: what it prints, how it ends.

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::daemon::ADMIN_KEY;
use sluiced_tests::paths::sluiced_binary;
use sluiced_tests::setup::{EVENTS, config};
use sluiced_tests::{Behaviour, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};
use tokio::process::Command;

mod https;
mod local;

const SOON: Duration = Duration::from_secs(60);

/// A command, without what the environment says of this machine's own daemon.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(sluiced_binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"SLUICED_")) {
        command.env_remove(name);
    }
    command.args(args).kill_on_drop(true);
    command
}

/// Runs a command for that daemon to its end.
async fn run(daemon: &TestDaemon, args: &[&str]) -> Output {
    let mut command = command(args);
    command.env("SLUICED_URL", daemon.url("")).env("SLUICED_API_KEY", ADMIN_KEY);
    let ended = tokio::time::timeout(SOON, command.output()).await;
    ended.unwrap_or_else(|_| panic!("{args:?} does not end")).expect("the daemon's binary runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command prints that succeeds.
async fn prints(daemon: &TestDaemon, args: &[&str]) -> String {
    let output = run(daemon, args).await;
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    out(&output)
}

/// The same as JSON.
async fn json_of(daemon: &TestDaemon, args: &[&str]) -> Value {
    let text = prints(daemon, &[args, &["--json"]].concat()).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn webhooks_are_made_looked_at_changed_and_removed() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let file = Webhook::new("of-the-file", &receiver).types(&["users.>"]);
    let daemon = TestDaemon::start(&nats, &config("", &[file])).await;
    let url = receiver.url("/hook");
    let create = ["webhooks", "create", "--name", "CRM", "--endpoint", &url, "--type", "orders.>"];
    let made =
        json_of(&daemon, &[&create[..], &["--header", "X-Team=sales", "--set", "max_in_flight=4"]].concat()).await;
    let id = made["id"].as_str().expect("an id");
    assert!(made["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{made}");
    assert_eq!((&made["max_in_flight"], &made["headers"]), (&json!(4), &json!({ "X-Team": "***" })));

    let table = prints(&daemon, &["webhooks", "list"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["ID", "NAME", "URL", "TYPES"], "{table}");
    assert!(table.contains(id) && table.contains("of-the-file") && table.contains("orders.>"), "{table}");
    assert!(prints(&daemon, &["webhooks", "get", id]).await.contains("max_in_flight"));

    prints(&daemon, &["webhooks", "update", id, "--set", "max_in_flight=5"]).await;
    assert_eq!(json_of(&daemon, &["webhooks", "get", id]).await["max_in_flight"], 5);
    let rotated = json_of(&daemon, &["webhooks", "rotate-secret", id, "--overlap", "0s"]).await;
    assert_ne!(rotated["secret"], made["secret"]);
    let disabled = json_of(&daemon, &["webhooks", "disable", id, "--reason", "at lunch"]).await;
    assert_eq!((&disabled["state"], &disabled["reason"]), (&json!("disabled"), &json!("at lunch")));
    assert_ne!(json_of(&daemon, &["webhooks", "enable", id]).await["state"], "disabled");

    let sent = json_of(&daemon, &["send", "orders.created", "{\"number\":7}", "--idempotency-key", "k"]).await;
    assert_eq!((&sent["id"], &sent["duplicate"]), (&json!("k"), &json!(false)));
    receiver.wait_for(1, SOON).await;
    assert_eq!(
        json_of(&daemon, &["events", "publish", "orders.created", "{}", "--idempotency-key", "k"]).await["duplicate"],
        true
    );
    let logged = async || prints(&daemon, &["webhooks", "deliveries", id]).await.contains("delivered");
    sluiced_tests::wait_until("the delivery is on record", SOON, logged).await;
    assert!(prints(&daemon, &["webhooks", "test", id]).await.contains("delivered"));
    receiver.set(Behaviour::Status(500));
    let failed = run(&daemon, &["webhooks", "test", id]).await;
    assert!(failed.status.code() == Some(1) && err(&failed).contains("was not delivered"), "{failed:?}");
    assert!(out(&failed).contains("500"), "what became of it is shown as well: {failed:?}");
    let replay = json_of(&daemon, &["webhooks", "replay", id, "--from", "all", "--dry-run"]).await;
    assert_eq!((&replay["kind"], &replay["dry_run"]), (&json!("replay"), &json!(true)));

    assert_eq!(prints(&daemon, &["webhooks", "delete", id]).await, "removed\n");
    let gone = run(&daemon, &["webhooks", "get", id]).await;
    assert_eq!((gone.status.code(), out(&gone).as_str()), (Some(1), ""));
    assert!(err(&gone).contains("there is no webhook of that id (404 not_found)"), "{gone:?}");
}

/// The words of a table's lines.
fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[tokio::test]
async fn events_and_deliveries_are_listed_and_one_is_sent_again() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let hook = Webhook::new("crm", &receiver).types(&["orders.>"]);
    let daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    prints(&daemon, &["send", "orders.created", "{\"number\":1}", "--idempotency-key", "k"]).await;
    receiver.wait_for(1, SOON).await;
    let delivered = async || prints(&daemon, &["deliveries", "list"]).await.contains("delivered");
    sluiced_tests::wait_until("the delivery is on record", SOON, delivered).await;

    let table = prints(&daemon, &["deliveries", "list", "--webhook", "crm", "--status", "delivered"]).await;
    let lines = words(&table);
    assert_eq!(lines[0][..3], ["ID", "STATUS", "WEBHOOK"], "{table}");
    assert_eq!(
        (lines[1][0], &lines[1][1..3]),
        (receiver.received()[0].webhook_id(), &["delivered", "crm"][..]),
        "{table}"
    );
    let one = json_of(&daemon, &["deliveries", "get", lines[1][0]]).await;
    assert_eq!((&one["status"], &one["sequence"]), (&json!("delivered"), &json!(1)), "{one}");
    prints(&daemon, &["deliveries", "retry", lines[1][0]]).await;
    receiver.wait_for(2, SOON).await;

    let table = prints(&daemon, &["events", "list", "--type", "orders.*"]).await;
    let lines = words(&table);
    assert_eq!(lines[0][..4], ["STORED", "AT", "TYPE", "ID"], "{table}");
    assert_eq!(lines[1][1..5], ["orders.created", "k", "EVENTS", "1"], "{table}");
    assert_eq!(json_of(&daemon, &["events", "get", "k"]).await["sequence"], 1);
    let table = prints(&daemon, &["events", "stats"]).await;
    assert_eq!(words(&table), [["TYPE", "EVENTS"], ["orders.created", "1"]], "{table}");
}

#[tokio::test]
async fn keys_are_made_used_and_revoked() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let made = json_of(&daemon, &["keys", "create", "deploy", "--scope", "read", "--owner", "acme"]).await;
    let (id, key) = (made["id"].as_str().expect("an id"), made["key"].as_str().expect("a text"));
    assert_eq!(run(&daemon, &["webhooks", "list", "--key", key]).await.status.code(), Some(0));
    let table = prints(&daemon, &["keys", "list"]).await;
    let lines = words(&table);
    assert_eq!(lines[0][..5], ["ID", "NAME", "KEY", "SCOPES", "OWNER"], "{table}");
    assert_eq!((lines[1][0], lines[1][1], lines[1][4]), (id, "deploy", "acme"), "{table}");
    assert!(key.starts_with(lines[1][2]) && !table.contains(key), "only how it begins: {table}");
    prints(&daemon, &["keys", "revoke", id]).await;
    assert_eq!(run(&daemon, &["webhooks", "list", "--key", key]).await.status.code(), Some(77));
}

#[tokio::test]
async fn how_a_command_ends_says_whose_fault_it_was() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let refused = run(&daemon, &["webhooks", "create", "--name", "x", "--endpoint", "ftp://x", "--type", "a..b"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("url: must begin with http") && err(&refused).contains("types[0]"), "{refused:?}");
    let wrong = run(&daemon, &["webhooks", "list", "--key", "wrong"]).await;
    assert!(wrong.status.code() == Some(77) && err(&wrong).contains("the key is not known here"), "{wrong:?}");
    let nowhere = run(&daemon, &["webhooks", "create", "--name", "x", "--type", "a"]).await;
    assert!(nowhere.status.code() == Some(1) && err(&nowhere).contains("--endpoint"), "{nowhere:?}");
    let unknown = run(&daemon, &["deliveries", "list", "--status", "lost"]).await;
    assert!(err(&unknown).starts_with("status: unknown variant `lost`, expected one of `pending`"), "{unknown:?}");
    let elsewhere = run(&daemon, &["explain", "OTHER:1"]).await;
    assert!(err(&elsewhere).contains("no stream of this daemon is called OTHER"), "{elsewhere:?}");
    let nobody = run(&daemon, &["webhooks", "list", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(69), "{nobody:?}");
    assert!(err(&nobody).contains("no daemon answers at http://127.0.0.1:1"), "{nobody:?}");
    assert_eq!(run(&daemon, &["webhooks", "frobnicate"]).await.status.code(), Some(64));
    let text = run(&daemon, &["send", "a", "hello"]).await;
    assert!(text.status.code() == Some(1) && err(&text).contains("--content-type"), "{text:?}");

    // With the daemon's own configuration neither address nor key have to be said.
    let path = daemon.config_path();
    let output = command(&["webhooks", "list", "--config", path.to_str().expect("a text")]).output().await;
    let output = output.expect("the daemon's binary runs");
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), "none\n"), "{output:?}");
}

#[tokio::test]
async fn a_portal_link_is_printed_as_people_open_it() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let printed = prints(&daemon, &["portal-link", "acme", "--type", "users.{sub}.>"]).await;
    assert!(
        printed.starts_with(&daemon.url("/portal#slp_")) && printed.contains("\nopens once, until 20"),
        "{printed}"
    );
    let public = prints(&daemon, &["portal-link", "acme", "--public-url", "https://events.example/"]).await;
    assert!(public.starts_with("https://events.example/portal#slp_"), "{public}");
    let refused = run(&daemon, &["portal-link", "acme", "--valid-for", "2d"]).await;
    assert!(refused.status.code() == Some(1) && err(&refused).contains("valid_for"), "{refused:?}");
}

#[tokio::test]
async fn health_says_whether_the_daemon_is_ready_and_what_it_waits_for() {
    let mut nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let ask = async || {
        let mut command = command(&["health"]);
        command.env("SLUICED_URL", daemon.url("")).output().await.expect("the daemon's binary runs")
    };
    let ready = ask().await;
    assert_eq!((ready.status.code(), out(&ready).as_str()), (Some(0), "ready\n"), "it takes no key: {ready:?}");
    assert_eq!(json_of(&daemon, &["health"]).await["ready"], true);
    nats.kill();
    let waits = async || err(&ask().await).contains("not ready: nats: ");
    wait_until("it says that NATS is away", SOON, waits).await;
    assert_eq!(ask().await.status.code(), Some(69));
    let receiver = TestReceiver::start();
    let mut health = command(&["health"]);
    health.env("SLUICED_URL", receiver.url("")).env("SLUICED_API_KEY", ADMIN_KEY);
    assert!(health.output().await.expect("the daemon's binary runs").status.success());
    let asked = receiver.received().remove(0);
    assert!(asked.path == "/readyz" && !asked.headers.contains_key("authorization"), "a key is shown: {asked:?}");
}

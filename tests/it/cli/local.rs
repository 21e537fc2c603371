//! Commands that stay on this machine, or listen: `listen`, `tail`, `completions`.

use std::process::Stdio;

use serde_json::{Value, json};
use sluiced_tests::events::{SECRET, order};
use sluiced_tests::setup::{EVENTS, config};
use sluiced_tests::{TestDaemon, TestNats, Webhook, port};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{SOON, command};
use sluiced_tests::daemon::ADMIN_KEY;

/// Starts a command, and gives its lines as they come.
fn start(command: &mut Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the daemon's binary runs");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    (child, lines)
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = timeout(SOON, lines.next_line()).await.expect("a line in time").expect("text");
    line.expect("it goes on")
}

#[tokio::test]
async fn listen_checks_signatures_and_answers_what_it_is_told_to() {
    let nats = TestNats::start().await;
    let mut receivers = Vec::new();
    for args in
        [&["--verify", SECRET][..], &["--verify", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], &["--status", "503"]]
    {
        let args = [&["listen", "--listen", "127.0.0.1:0", "--json", "--count", "1"], args].concat();
        let (child, mut lines) = start(&mut command(&args));
        let first = line(&mut lines).await;
        let url = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("{first}")).to_owned();
        receivers.push((child, lines, url));
    }
    let hooks = receivers
        .iter()
        .enumerate()
        .map(|(at, (_, _, url))| Webhook::to(&format!("hook-{at}"), &format!("{url}/in")).retry_after(&["1h"]));
    let daemon = TestDaemon::start(&nats, &config("", &hooks.collect::<Vec<_>>())).await;
    nats.publish("events.orders.created", order(7)).await;
    for ((mut child, mut lines, _), (verified, answered)) in
        receivers.into_iter().zip([(json!(true), 200), (json!(false), 400), (Value::Null, 503)])
    {
        let told: Value = serde_json::from_str(&line(&mut lines).await).expect("JSON");
        assert_eq!((&told["verified"], &told["answered"]), (&verified, &json!(answered)), "{told}");
        assert_eq!((&told["path"], &told["body"]["number"]), (&json!("/in"), &json!(7)), "{told}");
        let ended = timeout(SOON, child.wait()).await.expect("it ends after one").expect("it ran");
        assert_eq!(ended.code(), Some(0));
    }
    let books = daemon.accounted("hook-0", 1).await;
    assert_eq!(books.delivered, 1, "{books:?}");
}

#[tokio::test]
async fn tail_prints_events_and_goes_on_after_a_restart_of_the_daemon() {
    let nats = TestNats::start().await;
    // A port of its own, so that the daemon comes back where it was.
    let text = format!("[server]\nlisten = \"127.0.0.1:{}\"\n{EVENTS}", port::free());
    let mut daemon = TestDaemon::start(&nats, &text).await;
    let mut tail = command(&["tail", "orders.*", "users.>", "--json", "--count", "3", "--last-event-id", "EVENTS:0"]);
    tail.env("SLUICED_URL", daemon.url("")).env("SLUICED_API_KEY", ADMIN_KEY);
    nats.publish("events.orders.created", order(1)).await;
    let (mut child, mut lines) = start(&mut tail);
    let mut next = async || -> Value { serde_json::from_str(&line(&mut lines).await).expect("JSON") };
    let first = next().await;
    assert_eq!(
        (&first["type"], first["id"].as_str().is_some_and(|id| id.starts_with("EVENTS:1:"))),
        (&json!("orders.created"), true),
        "{first}"
    );
    assert_eq!(first["data"]["number"], 1);
    daemon.kill9();
    nats.publish("events.other.thing", order(2)).await;
    nats.publish("events.orders.paid", order(3)).await;
    daemon.restart().await;
    let second = next().await;
    assert_eq!((&second["type"], &second["data"]["number"]), (&json!("orders.paid"), &json!(3)), "{second}");
    nats.publish("events.users.a.b", order(4)).await;
    assert_eq!(next().await["type"], "users.a.b");
    let ended = timeout(SOON, child.wait()).await.expect("it ends after three").expect("it ran");
    assert_eq!(ended.code(), Some(0));

    // A gap is told, and counts for nothing.
    let mut anew = command(&["tail", "orders.*", "--json", "--count", "1", "--last-event-id", "EVENTS:2:000000"]);
    anew.env("SLUICED_URL", daemon.url("")).env("SLUICED_API_KEY", ADMIN_KEY);
    let (mut child, mut lines) = start(&mut anew);
    let mut told = Vec::new();
    for _ in 0..2 {
        let value: Value = serde_json::from_str(&line(&mut lines).await).expect("JSON");
        told.push(value["type"].as_str().expect("a type").to_owned());
    }
    assert_eq!(told, ["gap", "orders.created"]);
    assert_eq!(timeout(SOON, child.wait()).await.expect("it ends after one event").expect("it ran").code(), Some(0));

    let refused = command(&["tail", "a..b", "--url", &daemon.url(""), "--key", ADMIN_KEY]).output().await;
    let refused = refused.expect("the daemon's binary runs");
    assert_eq!(refused.status.code(), Some(1), "what stays wrong is not tried again: {refused:?}");
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = command(&["completions", shell]).output().await.expect("the daemon's binary runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("rotate-secret"), "{shell}: {output:?}");
    }
}

#[tokio::test]
async fn every_command_gets_its_manual_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("man1");
    let output = command(&["man", dir.to_str().expect("a text")]).output().await.expect("the daemon's binary runs");
    assert!(output.status.success(), "{output:?}");
    let page = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(page("sluiced.1").contains("sluiced\\-run(1)"));
    assert!(page("sluiced-run.1").contains("\\-\\-config"));
    assert!(page("sluiced-webhooks-rotate-secret.1").contains(".SH SYNOPSIS"));
}

//! `sluiced dev`, and the nats-server that it runs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sluiced::app::managed::{Config, Error, Managed};
use sluiced_tests::paths::{nats_server_binary, plugin_dir, sluiced_binary};
use sluiced_tests::process::Process;
use sluiced_tests::wait_until;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);
const WHOLE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn the_demonstration_shows_the_main_job_and_ends_by_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut dev = start(dir.path(), &["--for", "12"]);
    let status = dev.wait_ended(WHOLE).await;
    let account = dev.log();
    assert!(status.success(), "{status}\n{account}");
    let shows = |parts: &[&str]| {
        let found = account.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {parts:?} in\n{account}");
    };
    shows(&["✓ big-orders", "orders.created", "attempt 1", "200  verified", "card ***"]);
    shows(&["· big-orders", "filtered out"]);
    shows(&["✗ chat", "payments.settled", "attempt 1", "503  verified"]);
    shows(&["✓ chat", "payments.settled", "attempt 2", "200  verified", "Payment of "]);
    shows(&["» wallboard", "orders.eu.shipped", "sse id EVENTS:"]);
    shows(&["curl -N http://127.0.0.1:", "/api/v1/streams/wallboard", "X-API-Key: demo-"]);
    shows(&["curl -X POST http://127.0.0.1:", "/api/v1/events"]);
    shows(&["signatures that do not verify: 0"]);
    assert!(!account.to_lowercase().contains("unverified"), "{account}");
    let redacted = account.lines().filter(|line| line.contains("✓ big-orders"));
    assert!(redacted.into_iter().all(|line| !line.contains("card 4")), "{account}");
    retries_keep_their_id(&account);
    assert!(!account.contains('\x1b'), "colours only on a terminal\n{account}");
}

#[tokio::test]
async fn the_nats_server_ends_with_the_daemon_however_that_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    for how in [Signal::KILL, Signal::TERM] {
        let pid_file = dir.path().join("data/nats/pid");
        drop(fs::remove_file(&pid_file));
        let mut dev = start(dir.path(), &[]);
        wait_until("a nats-server runs", SOON, async || pid_in(&pid_file).is_some_and(runs)).await;
        let server = pid_in(&pid_file).expect("it was just read");
        dev.signal(how);
        dev.wait_ended(SOON).await;
        wait_until("the nats-server is gone", SOON, async || !runs(server)).await;
    }
}

#[tokio::test]
async fn a_nats_server_that_dies_comes_back_on_its_port() {
    let dir = tempfile::tempdir().expect("a folder");
    let managed = Managed::start(config(dir.path())).await.expect("it starts");
    let (url, pid_file) = (managed.url().to_owned(), dir.path().join("nats/pid"));
    let first = pid_in(&pid_file).expect("the server writes its process id");
    let stop = CancellationToken::new();
    let check = async {
        for signal in [Signal::KILL, Signal::TERM] {
            let before = pid_in(&pid_file).expect("a server runs");
            kill_process(before, signal).expect("it can be killed");
            let another = async || pid_in(&pid_file).is_some_and(|pid| pid != before && runs(pid));
            wait_until("another server runs", SOON, another).await;
            wait_until("it takes connections", SOON, async || async_nats::connect(&url).await.is_ok()).await;
        }
        stop.cancel();
    };
    tokio::join!(managed.run(stop.clone()), check);
    let last = pid_in(&pid_file);
    assert!(!runs(first) && last.is_none_or(|pid| !runs(pid)), "{last:?} still runs");
}

#[tokio::test]
async fn two_nats_servers_never_share_a_directory() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = Managed::start(config(dir.path())).await.expect("it starts");
    let second = tokio::time::timeout(Duration::from_millis(300), Managed::start(config(dir.path()))).await;
    assert!(second.is_err(), "it waits for the first one: {second:?}");
    drop(first);
    Managed::start(config(dir.path())).await.expect("it starts when the first one is gone");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let error = Managed::start(Config { port: Some(port), ..config(dir.path()) }).await.expect_err("the port is taken");
    let Error::Ended { log, .. } = &error else { panic!("{error:?}") };
    assert!(fs::read_to_string(log).expect("a log").contains("address already in use"), "{error}");
}

fn start(dir: &Path, args: &[&str]) -> Process {
    let mut command = Command::new(sluiced_binary());
    command.arg("dev").arg("--data-dir").arg(dir).args(args);
    command.env("SLUICED_NATS_SERVER", nats_server_binary()).env("SLUICED_PLUGINS__DIR", plugin_dir());
    Process::start("sluiced dev", &mut command, &dir.join("account"))
}

fn config(data_dir: &Path) -> Config {
    Config { binary: Some(nats_server_binary()), data_dir: data_dir.to_owned(), port: None }
}

/// Every chat message that was taken at a later attempt was refused before under the same id.
fn retries_keep_their_id(account: &str) {
    let of_chat = |mark: &str| -> Vec<&str> { account.lines().filter(|line| line.contains(mark)).collect() };
    let id = |line: &&str| line.split_whitespace().find(|word| word.starts_with("msg_")).map(ToOwned::to_owned);
    let refused: Vec<_> = of_chat("✗ chat").iter().map(id).collect();
    for retried in of_chat("✓ chat").iter().filter(|line| !line.contains("attempt 1")) {
        assert!(refused.contains(&id(retried)), "{retried}\n{account}");
    }
}

fn pid_in(file: &Path) -> Option<Pid> {
    Pid::from_raw(fs::read_to_string(file).ok()?.trim().parse().ok()?)
}

/// Does the process run? One that has ended and was not waited for does not.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

//! The receivers of docs/receiving.md, each in its language: they take what the daemon signed, and nothing else.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sluiced::telemetry::clock;
use sluiced_sdk::verify::Verifier;
use sluiced_tests::events::SECRET;
use sluiced_tests::http::client;
use sluiced_tests::paths::{author_cache, example_binary, workspace};
use sluiced_tests::process::Process;
use sluiced_tests::setup::config;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, Webhook, wait_until};
use tempfile::TempDir;

mod clients;

const SOON: Duration = Duration::from_secs(60);
/// A secret that the sample knows besides, as during a change of secrets.
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// One that it does not know.
const FOREIGN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const BODY: &str = r#"{"amount":120}"#;

/// A sample that runs.
struct Sample {
    process: Process,
    url: String,
    _dir: TempDir,
}

impl Sample {
    /// Starts it on a free port of loopback, which it says.
    async fn start(mut command: Command) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        command.arg("0").env("WEBHOOK_SECRETS", format!("{OTHER} {SECRET}"));
        let mut process = Process::start("sample", &mut command, &dir.path().join("log"));
        let mut url = None;
        wait_until("it listens", SOON, async || {
            assert!(process.ended().is_none(), "it ended at once: {}", process.log());
            url = process.log().lines().find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
            url.is_some()
        })
        .await;
        Self { process, url: url.expect("it was just seen"), _dir: dir }
    }

    /// How often it has said that line.
    fn said(&self, line: &str) -> usize {
        self.process.log().lines().filter(|said| *said == line).count()
    }

    async fn post(&self, request: &Signed) -> u16 {
        let mut post = client().post(format!("{}/hook", self.url)).body(request.body);
        post = post.header("sluiced-event-type", "orders.created");
        post = post.header("webhook-id", &request.id).header("webhook-timestamp", &request.timestamp);
        if let Some(signature) = &request.signature {
            post = post.header("webhook-signature", signature);
        }
        post.send().await.expect("it answers").status().as_u16()
    }
}

/// A request as it is sent.
#[derive(Debug, Clone)]
struct Signed {
    id: String,
    timestamp: String,
    signature: Option<String>,
    body: &'static str,
}

/// A request that was signed with that secret, so many seconds from now.
fn signed(secret: &str, id: &str, seconds: i64) -> Signed {
    let now_s = i64::try_from(clock::now_ms() / 1_000).expect("a time of this age");
    let signer = standardwebhooks::Webhook::new(secret).expect("a secret");
    let signature = signer.sign(id, now_s + seconds, BODY.as_bytes()).expect("it is signed");
    Signed { id: id.to_owned(), timestamp: (now_s + seconds).to_string(), signature: Some(signature), body: BODY }
}

#[tokio::test]
async fn the_sample_in_rust_takes_only_what_was_signed() {
    takes_only_what_was_signed(Command::new(example_binary("receive"))).await;
}

#[tokio::test]
async fn the_sample_for_node_takes_only_what_was_signed() {
    if installed("node", "--version") {
        takes_only_what_was_signed(interpreted("node", "receive.mjs")).await;
    }
}

#[tokio::test]
async fn the_sample_in_python_takes_only_what_was_signed() {
    if installed("python3", "--version") {
        takes_only_what_was_signed(interpreted("python3", "receive.py")).await;
    }
}

#[tokio::test]
async fn the_sample_in_go_takes_only_what_was_signed() {
    if installed("go", "version") {
        let dir = tempfile::tempdir().expect("a folder");
        let program = dir.path().join("receive");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(sample("receive.go")).env("GOCACHE", author_cache().join("go"));
        assert!(build.status().expect("go can be started").success());
        takes_only_what_was_signed(Command::new(program)).await;
    }
}

/// Whether the runtime of a sample is there; said, when its test is left out.
fn installed(program: &str, version: &str) -> bool {
    let asked = Command::new(program).arg(version).stdin(Stdio::null()).output();
    let there = asked.is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("SKIPPED: {program} is not installed, its sample of docs/receiving was not run");
    }
    there
}

fn sample(file: &str) -> std::path::PathBuf {
    workspace().join("docs/receiving").join(file)
}

fn interpreted(program: &str, file: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(sample(file)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

async fn takes_only_what_was_signed(command: Command) {
    let (sample, nats) = (Sample::start(command).await, TestNats::start().await);
    takes_what_the_daemon_signs(&sample, &nats).await;
    judges_what_anyone_sends(&sample).await;
}

/// The daemon's own requests, of a subscription with the right secret and of one with a wrong one.
async fn takes_what_the_daemon_signs(sample: &Sample, nats: &TestNats) {
    let right = Webhook::to("right", &format!("{}/hook", sample.url));
    let wrong = Webhook::to("wrong", &format!("{}/hook", sample.url)).secret(Some(FOREIGN));
    let daemon = TestDaemon::start(nats, &config("", &[right, wrong])).await;
    nats.publish("events.orders.created", BODY).await;
    assert_eq!(daemon.accounted("right", 1).await.delivered, 1, "{}", sample.process.log());
    assert_eq!(daemon.accounted("wrong", 1).await.failed, 1, "a dead letter at once, for 400 is final");
    let log = sample.process.log();
    let received: Vec<_> = log.lines().filter_map(|line| line.strip_prefix("received msg_")).collect();
    assert!(matches!(received[..], [one] if one.ends_with(&format!(" orders.created {BODY}"))), "{log}");
    assert_eq!(sample.said("refused: no signature matches") + said_by_the_sdk(sample), 1, "{log}");
}

fn said_by_the_sdk(sample: &Sample) -> usize {
    sample.said("refused: no signature matches: another key, or not the body that was sent")
}

/// Requests that only look like the daemon's.
async fn judges_what_anyone_sends(sample: &Sample) {
    let right = signed(SECRET, "msg_right", 0);
    let signature = right.signature.clone().expect("it was signed");
    let with = |signature: String| Signed { signature: Some(signature), ..right.clone() };
    let splice = format!("{}.{}", right.id, right.timestamp);
    for (what, request, status) in [
        ("a right one", right.clone(), 204),
        ("the same again", right.clone(), 204),
        ("one of the other secret", signed(OTHER, "msg_other", 0), 204),
        ("one of four minutes ago", signed(SECRET, "msg_late", -240), 204),
        ("several signatures", with(format!("v1a,AAAA v1,AAAA {signature} v2,AAAA")), 204),
        ("a body that was changed", Signed { body: r#"{"amount":121}"#, ..right.clone() }, 400),
        ("another id", Signed { id: "msg_another".to_owned(), ..right.clone() }, 400),
        ("an id with a full stop", Signed { id: splice, ..right.clone() }, 400),
        ("one of six minutes ago", signed(SECRET, "msg_old", -360), 400),
        ("one of in six minutes", signed(SECRET, "msg_future", 360), 400),
        ("a time that is none", Signed { timestamp: "soon".to_owned(), ..right.clone() }, 400),
        ("a foreign secret", signed(FOREIGN, "msg_foreign", 0), 400),
        ("a signature cut short", with(signature[..signature.len() - 4].to_owned()), 400),
        ("another version of signature", with(signature.replace("v1,", "v2,")), 400),
        ("an empty signature", with(String::new()), 400),
        ("no signature", Signed { signature: None, ..right.clone() }, 400),
    ] {
        assert_eq!(sample.post(&request).await, status, "{what}: {request:?}\n{}", sample.process.log());
    }
    let taken = |id| sample.said(&format!("received {id} orders.created {BODY}"));
    assert_eq!((taken("msg_right"), sample.said("repeated msg_right")), (1, 2), "{}", sample.process.log());
    assert_eq!((taken("msg_other"), taken("msg_late")), (1, 1));
    let log = sample.process.log();
    assert_eq!(log.lines().filter(|line| line.starts_with("refused: ")).count(), 1 + 11, "{log}");
}

#[tokio::test]
async fn the_sdk_verifies_both_kinds_of_signature_of_the_daemon() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let hook = Webhook::new("crm", &receiver).with("ed25519_key", format_args!("{private:?}"));
    let _daemon = TestDaemon::start(&nats, &config("", &[hook])).await;
    nats.publish("events.orders.created", BODY).await;
    receiver.wait_for(1, SOON).await;
    let request = receiver.received().remove(0);
    let header = |name: &str| request.headers.get(name)?.to_str().ok();
    for keys in [SECRET, public, &format!("{FOREIGN} {public}")] {
        let verifier = Verifier::new(keys).expect("keys");
        let verified = verifier.verify(header, &request.body).expect("it is the daemon's");
        assert_eq!(Some(verified.id), header("webhook-id"));
        assert!(verifier.verify(header, b"{}").is_err());
    }
}

#[test]
fn the_guide_shows_the_samples_as_they_are() {
    let read =
        |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let guide = read(&workspace().join("docs/receiving.md"));
    let rust = workspace().join("sdk/examples/receive.rs");
    for (tag, file) in
        [("rust", rust), ("js", sample("receive.mjs")), ("python", sample("receive.py")), ("go", sample("receive.go"))]
    {
        let block = format!("```{tag}\n{}```\n", read(&file));
        assert!(guide.contains(&block), "docs/receiving.md: copy {} into its block of {tag}", file.display());
    }
}

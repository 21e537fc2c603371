//! The daemon against its own description: requests that fit it and requests that do not, made by schemathesis.

use std::time::Duration;

use sluiced_tests::daemon::ADMIN_KEY;
use sluiced_tests::paths::{schemathesis_binary, workspace};
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{TestDaemon, TestNats};
use tokio::process::Command;
use tokio::time::timeout;

/// The time that it has; on two cores that do nothing else it takes a tenth of it.
const TIME_MAX: Duration = Duration::from_secs(600);
/// These do not end by themselves.
const ENDLESS: [&str; 2] = ["/api/v1/events/stream", "/api/v1/streams/{name}"];

/// Nothing leaves the machine: whatever URL is made up, its deliveries end at a proxy that is not there.
const CONFIG: &str = r#"
[limits]
body_bytes_max = 1048576

[delivery]
proxy = "http://127.0.0.1:9"

[[subscription]]
name = "crm"
types = ["orders.>"]
[subscription.webhook]
url = "http://127.0.0.1:9/"

[[subscription]]
name = "wallboard"
types = ["orders.>"]
sse = {}
"#;

#[tokio::test]
async fn heavy_the_daemon_does_what_its_description_says_to_whatever_it_is_asked() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, &format!("{CONFIG}{EVENTS}")).await;
    let folder = workspace().join("tests/it/contract");
    let passing = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(schemathesis_binary());
    command.arg("--config-file").arg(folder.join("schemathesis.toml"));
    command.args(["run", &daemon.url("/api/v1/openapi.json"), "--header", &format!("X-API-Key: {ADMIN_KEY}")]);
    for path in ENDLESS {
        command.args(["--exclude-path", path]);
    }
    command.args(["--no-color", "--request-timeout", "30", "--workers", "1"]);
    command.env("SCHEMATHESIS_HOOKS", folder.join("hooks.py")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.current_dir(passing.path()).kill_on_drop(true);
    let ended = timeout(TIME_MAX, command.output()).await.expect("it ends in time").expect("schemathesis runs");
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}{}", String::from_utf8_lossy(&ended.stderr));
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

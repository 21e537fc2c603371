//! nginx before the daemon, set up as docs/deployment.md has it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use regex::Regex;
use serde_json::json;
use sluiced_tests::daemon::ADMIN_KEY;
use sluiced_tests::http::{send, try_request};
use sluiced_tests::paths::workspace;
use sluiced_tests::process::Process;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::sse::Auth;
use sluiced_tests::{SseClient, TestDaemon, TestNats, port, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// An event takes milliseconds; a proxy that collects an answer keeps it until the answer ends, which a stream never does.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The page's server, with the daemon's address and without what only a machine on the Internet has: its port and certificate.
fn server(daemon: &TestDaemon, port: u16) -> String {
    let page = fs::read_to_string(workspace().join("docs/deployment.md")).expect("there is the page");
    let block = page.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has a server");
    let address = daemon.url("").trim_start_matches("http://").to_owned();
    let changes = [
        (r"listen 443 ssl http2;", format!("listen 127.0.0.1:{port};")),
        (r"(?m)^ *ssl_certificate.*$", String::new()),
        (r"127\.0\.0\.1:8080", address),
    ];
    changes.into_iter().fold(block.to_owned(), |text, (pattern, with)| {
        let pattern = Regex::new(pattern).expect("a pattern");
        assert!(pattern.is_match(&text), "the page's server has no {pattern}");
        pattern.replace_all(&text, with.as_str()).into_owned()
    })
}

#[tokio::test]
async fn through_nginx_events_come_at_once_and_the_audit_log_has_the_clients_address() {
    let nats = TestNats::start().await;
    let page = fs::read_to_string(workspace().join("docs/deployment.md")).expect("there is the page");
    assert!(page.contains("trusted_proxies = [\"127.0.0.0/8\"]"));
    let daemon = TestDaemon::start(&nats, &format!("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n{EVENTS}")).await;
    let port = port::free();
    let dir = tempfile::tempdir().expect("a folder");
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {kind};"));
    let config = format!(
        "daemon off; pid nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; {}\n{} }}\n",
        places.join(" "),
        server(&daemon, port)
    );
    fs::write(dir.path().join("nginx.conf"), config).expect("a configuration can be written");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
    let _nginx = Process::start("nginx", &mut command, &dir.path().join("log"));
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let answers = async || try_request("GET", &url("/readyz"), None, None).await.is_some_and(|got| got.status == 200);
    wait_until("nginx answers", SOON, answers).await;

    let mut client = SseClient::connect(&url("/api/v1/events/stream?types=%3E"), Auth::ApiKey(ADMIN_KEY), None).await;
    for number in 0..3 {
        nats.publish("events.orders.created", json!({ "number": number }).to_string()).await;
        assert!(client.next_event(AT_ONCE).await.data.contains(&number.to_string()));
    }
    // What a client claims of itself does not count.
    let claimed = [("x-forwarded-for", "203.0.113.9"), ("content-type", "application/json")];
    let key = json!({ "name": "deploys", "scopes": ["read"] }).to_string().into_bytes();
    let made = send("POST", &url("/api/v1/keys"), Some(ADMIN_KEY), &claimed, key).await.expect("an answer");
    assert_eq!(made.status, 201, "{made:?}");
    let audit = daemon.request("GET", "/api/v1/audit", None).await;
    assert!(audit.body.contains("127.0.0.1") && !audit.body.contains("203.0.113.9"), "{}", audit.body);
}

//! No secret leaves the places where it belongs: everything that the daemon says or writes is scanned for all of them.

use std::path::Path;

use rustix::process::Signal;
use sluiced_tests::Behaviour;
use sluiced_tests::daemon::ADMIN_KEY;

use super::*;

const MASTER_KEY: &str = "bGVhay10ZXN0LW1hc3Rlci1rZXktMDEyMzQ1Njc4OTA=";
const FROM_FILE: &str = "whsec_bGVhay10ZXN0LWZyb20tZmlsZS0wMTIzNDU2Nzg5MDEy";
const NEXT_IN_FILE: &str = "whsec_bGVhay10ZXN0LW5leHQtaW4tZmlsZS0xMjM0NTY3ODkw";
const GIVEN: &str = "whsec_bGVhay10ZXN0LWdpdmVuLWJ5LWFwaS0xMjM0NTY3ODkw";
const HEADER: &str = "leak-test-header-value-0123456789";

/// What must be found nowhere, by a name that may be shown.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    /// A text alone.
    fn text(&mut self, name: &str, text: &str) {
        self.0.push((name.to_owned(), text.as_bytes().to_vec()));
    }

    /// The base64 text of bytes, the bytes, and their hexadecimal digits.
    fn key(&mut self, name: &str, text: &str) {
        let encoded = text.trim_start_matches("whsec_");
        let bytes = STANDARD.decode(encoded).expect("a key of a test is base64");
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.text(&format!("{name} in base64"), encoded.trim_end_matches('='));
        self.text(&format!("{name} in hexadecimal"), &digits);
        self.text(&format!("{name} in capital hexadecimal"), &digits.to_uppercase());
        self.0.push((format!("{name} as bytes"), bytes));
    }

    /// Panics when one of them is in there.
    fn scan(&self, place: &str, bytes: &[u8]) {
        for (name, secret) in &self.0 {
            let found = bytes.windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{place} shows the {name}");
        }
    }

    /// Every file of a folder and those below it, links left alone; how many there were.
    fn scan_folder(&self, folder: &Path) -> usize {
        let mut seen = 0;
        for entry in fs::read_dir(folder).expect("a folder can be listed") {
            let path = entry.expect("an entry").path();
            let kind = fs::symlink_metadata(&path).expect("metadata").file_type();
            if kind.is_dir() {
                seen += self.scan_folder(&path);
            } else if kind.is_file() {
                self.scan(&path.display().to_string(), &fs::read(&path).expect("a file can be read"));
                seen += 1;
            }
        }
        seen
    }
}

/// Reads what the API, the metrics and the health pages say.
async fn scan_answers(secrets: &Secrets, daemon: &TestDaemon) {
    for path in [
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/subscriptions",
        "/api/v1/subscriptions/file",
        "/api/v1/subscriptions/file/secret",
        "/api/v1/subscriptions/made/secret",
        "/api/v1/subscriptions/file/deliveries",
        "/api/v1/subscriptions/made/deliveries",
        "/api/v1/subscriptions/made/dead-letters",
        "/api/v1/streams",
        "/api/v1/none",
    ] {
        secrets.scan(path, daemon.request("GET", path, None).await.body.as_bytes());
    }
    let body = json!({ "secret": GIVEN.replace('2', "!"), "overlap": GIVEN });
    for name in ["file", "made", "none"] {
        let answer = rotate(daemon, name, Some(&body)).await;
        assert!(answer.0 >= 400);
        secrets.scan("a refused rotation", answer.1.to_string().as_bytes());
    }
}

/// A configuration that is refused, one that is taken, and what the command line says of both.
async fn change_the_file(secrets: &Secrets, daemon: &mut TestDaemon, text: impl Fn(&str) -> String) {
    daemon.write_config(&text(&NEXT_IN_FILE.replace("whsec_", "whsec_%")));
    wait_until("it is refused", SOON, async || daemon.log().contains("is refused")).await;
    secrets.scan("check", said(&sluiced(daemon, &["check"])).as_bytes());
    daemon.write_config(&text(NEXT_IN_FILE));
    daemon.process().signal(Signal::HUP);
    wait_until("it is taken", SOON, async || daemon.log().contains("configuration reloaded")).await;
    secrets.scan("the dump", said(&sluiced(daemon, &["check", "--dump-config"])).as_bytes());
}

#[tokio::test]
async fn no_secret_is_in_a_log_an_answer_or_a_file_of_the_store() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let text = |secret: &str| {
        let file = Webhook::new("file", &receiver).secret(Some(secret)).retry_after(&["1ms"]);
        let made = Webhook::new("made", &receiver).secret(None).retry_after(&["1ms"]);
        let header = format!("{{ Authorization = \"Bearer {HEADER}\" }}");
        let webhooks = [file.with("headers", &header), made.with("headers", &header)];
        config("[log]\nlevel = \"trace\"\n[store]\ncache_mib = 8", &webhooks)
    };
    let mut secrets = Secrets(Vec::new());
    secrets.text("admin key", ADMIN_KEY);
    secrets.text("header's value", HEADER);
    let keys =
        [("master key", MASTER_KEY), ("file's secret", FROM_FILE), ("next one", NEXT_IN_FILE), ("given one", GIVEN)];
    keys.into_iter().for_each(|(name, key)| secrets.key(name, key));

    let builder = TestDaemon::builder(&nats, &text(FROM_FILE)).env("SLUICED_SECRETS__MASTER_KEY", MASTER_KEY);
    let mut daemon = builder.start().await;
    for behaviour in [Behaviour::Ok, Behaviour::Status(503), Behaviour::Status(400), Behaviour::Reset] {
        receiver.set(behaviour);
        delivered(&nats, &receiver).await;
    }
    receiver.set(Behaviour::Ok);
    for body in [None, Some(json!({ "secret": GIVEN })), Some(json!({ "overlap": "0s" }))] {
        secrets.key("made one", &rotated(&daemon, "made", body.as_ref()).await);
        delivered(&nats, &receiver).await;
    }
    let stranger = daemon.url("/api/v1/subscriptions");
    sluiced_tests::http::try_request("GET", &stranger, Some(GIVEN), None).await.expect("an answer");
    change_the_file(&secrets, &mut daemon, text).await;
    let request = delivered(&nats, &receiver).await;
    assert_eq!(request.header("authorization"), format!("Bearer {HEADER}"), "the header arrives where it belongs");
    scan_answers(&secrets, &daemon).await;

    // A crash, and a start after it; then a clean stop.
    daemon.restart().await;
    scan_answers(&secrets, &daemon).await;
    delivered(&nats, &receiver).await;
    assert!(daemon.terminate().await.success());
    assert!(secrets.scan_folder(&daemon.data_dir()) > 3, "the store's files were looked at");
    let log = daemon.log();
    assert!(log.contains("TRACE") && log.contains("signing secret rotated"), "the log has all that there is");
    secrets.scan("the log", log.as_bytes());
}

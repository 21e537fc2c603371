//! Webhooks that are made over the API, verified by libraries that others wrote: the Standard Webhooks libraries of Python and
//! JavaScript, and Svix's of Python, each with the secret that the API's answer told.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sluiced_tests::paths::{node_client_dir, python_clients, workspace};
use sluiced_tests::receiver::Received;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver};

use super::{FOREIGN, SOON, signed};

/// A body of which parsing and writing it again would not leave the bytes.
const ODD: &str = "{ \"amount\": 1e2,\n  \"name\": \"K\u{e4}se \u{1f9c0}\" }";
const ED25519: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";

/// A request to verify, with its secret and what is to come of it.
struct Case {
    what: &'static str,
    request: Value,
    right: bool,
}

fn case(what: &'static str, secret: &str, request: &Received, right: bool) -> Case {
    let header = |name: &str| (name.to_owned(), json!(request.header(name)));
    let headers: serde_json::Map<String, Value> =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].into_iter().map(header).collect();
    let request = json!({ "secret": secret, "headers": headers, "body": STANDARD.encode(&request.body) });
    Case { what, request, right }
}

/// One more of a case with something else in its place.
fn changed(what: &'static str, of: &Case, path: &str, value: Value) -> Case {
    let mut request = of.request.clone();
    *request.pointer_mut(path).expect("it is there") = value;
    Case { what, request, right: false }
}

#[tokio::test]
async fn the_standardwebhooks_library_of_python_verifies_what_the_api_made() {
    let mut command = python_clients();
    command.arg(workspace().join("tests/clients/verify.py")).arg("standardwebhooks");
    assert_judges(command, &cases().await);
}

#[tokio::test]
async fn the_svix_library_of_python_verifies_what_the_api_made() {
    let mut command = python_clients();
    command.arg(workspace().join("tests/clients/verify.py")).arg("svix");
    assert_judges(command, &cases().await);
}

#[tokio::test]
async fn the_standardwebhooks_library_of_node_verifies_what_the_api_made() {
    let mut command = Command::new("node");
    command.arg(workspace().join("tests/clients/verify.mjs")).arg(node_client_dir());
    assert_judges(command, &cases().await);
}

/// Has a library judge all cases in one go.
fn assert_judges(mut command: Command, cases: &[Case]) {
    let requests: Vec<&Value> = cases.iter().map(|case| &case.request).collect();
    let mut child = command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the library's language is there");
    let mut input = child.stdin.take().expect("it was asked for");
    input.write_all(json!(requests).to_string().as_bytes()).expect("it reads its input");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let told: Vec<bool> = serde_json::from_slice(&output.stdout).expect("a list of verdicts");
    assert_eq!(told.len(), cases.len());
    for (case, told) in cases.iter().zip(told) {
        assert_eq!(told, case.right, "{}: {}", case.what, case.request);
    }
}

/// Requests of a daemon whose webhooks were made over its API, and what only looks like them.
async fn cases() -> Vec<Case> {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let mut hooks = Vec::new();
    for (path, more) in [
        ("/raw", json!({})),
        ("/envelope", json!({ "format": "envelope" })),
        ("/both", json!({ "ed25519_key": ED25519, "body_signature": { "header": "X-Hub-Signature-256" } })),
    ] {
        let mut wanted = json!({ "name": path, "url": receiver.url(path), "types": [">"] });
        wanted.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let made = daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await;
        assert_eq!(made.status, 201, "{made:?}");
        let text = |key: &str| made.json()[key].as_str().expect("a text").to_owned();
        hooks.push((path, text("id"), text("secret")));
    }
    nats.publish("events.orders.created", ODD).await;
    receiver.wait_for(3, SOON).await;
    let received = receiver.received();
    let at = |path: &str| received.iter().find(|request| request.path == path).expect("it came").clone();
    let mut cases: Vec<Case> =
        hooks.iter().map(|(path, _, secret)| case("as it came", secret, &at(path), true)).collect();
    let plain = case("as it came", &hooks[0].2, &at("/raw"), true);
    cases.push(changed("another body", &plain, "/body", json!(STANDARD.encode(ODD.replace("1e2", "1e3")))));
    cases.push(changed("another id", &plain, "/headers/webhook-id", json!("msg_other")));
    cases.push(changed("another secret", &plain, "/secret", json!(FOREIGN)));
    cases.push(changed("the secret of another webhook", &plain, "/secret", json!(hooks[1].2)));
    let old = signed(&hooks[0].2, "msg_old", -600);
    let headers =
        json!({ "webhook-id": old.id, "webhook-timestamp": old.timestamp, "webhook-signature": old.signature });
    cases.push(changed("of ten minutes ago", &plain, "/headers", headers));

    // While one secret takes the place of another, either is right.
    let path = format!("/api/v1/webhooks/{}/rotate-secret", hooks[0].1);
    let rotated = daemon.request("POST", &path, None).await.json();
    nats.publish("events.orders.created", ODD).await;
    receiver.wait_for(6, SOON).await;
    let after = receiver.received().into_iter().rev().find(|request| request.path == "/raw").expect("it came");
    cases.push(case("the earlier secret", &hooks[0].2, &after, true));
    cases.push(case("the new secret", rotated["secret"].as_str().expect("a text"), &after, true));
    cases
}

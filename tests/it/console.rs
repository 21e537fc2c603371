//! The web console: a real browser walks through it, against a real daemon and nats-server.
//!
//! The walks themselves are `console/test/walks.mjs`, and their pictures lie below `<target>/console-pictures`.

use std::time::Duration;

use reqwest::Response;
use reqwest::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH};
use sluiced_tests::http::client;
use sluiced_tests::paths::{console_tests, target};
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats};
use tokio::process::Command;

mod sessions;

/// How long a walk may take: a browser starts, and a plugin may have to be compiled.
const WALK_TIME_MAX: Duration = Duration::from_secs(300);

const CONFIG: &str = "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"orders.>\", \"users.>\"]\ncreate = true\n";

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The body of an answer.
async fn whole(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.expect("a whole answer") {
        body.extend_from_slice(&chunk);
        assert!(body.len() <= ANSWER_BYTES_MAX, "an answer without an end");
    }
    body
}

async fn text(response: Response) -> String {
    String::from_utf8(whole(response).await).expect("a text")
}

/// Takes a walk with a daemon of its own.
async fn walk(name: &str) {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, CONFIG).await;
    let mut node = Command::new("node");
    node.arg(console_tests().join("walks.mjs")).arg(name).kill_on_drop(true);
    node.env("SLUICED_URL", daemon.url("")).env("SLUICED_KEY", ADMIN_KEY);
    node.env("PICTURES", target().join("console-pictures"));
    let ended = tokio::time::timeout(WALK_TIME_MAX, node.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{name} does not end")).expect("node runs");
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{told}\n{}", daemon.log());
    assert!(!daemon.log().contains(" ERROR "), "{}", daemon.log());
}

#[tokio::test]
async fn one_signs_in_for_a_page_or_for_a_while() {
    walk("sign-in").await;
}

#[tokio::test]
async fn a_webhook_is_made_and_its_event_is_seen_to_arrive() {
    walk("make-and-deliver").await;
}

#[tokio::test]
async fn a_failing_endpoint_is_seen_explained_mended_and_redriven() {
    walk("fail-and-mend").await;
}

#[tokio::test]
async fn a_secret_is_rotated_and_shown_once() {
    walk("rotate-secret").await;
}

#[tokio::test]
async fn a_plugin_is_tried_on_a_recent_event() {
    walk("plugin-dry-run").await;
}

#[tokio::test]
async fn history_is_replayed_with_its_progress_shown() {
    walk("replay").await;
}

#[tokio::test]
async fn an_owner_comes_by_a_link_and_sees_its_own() {
    walk("owner").await;
}

#[tokio::test]
async fn every_page_is_accessible_light_and_dark_and_fits_a_phone() {
    walk("every-page").await;
}

#[tokio::test]
async fn the_console_is_served_compressed_and_kept_and_shadows_no_route() {
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, CONFIG).await;
    let get = async |path: &str, header: Option<(reqwest::header::HeaderName, &str)>| {
        let mut request = client().get(daemon.url(path));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.send().await.expect("an answer")
    };
    let index = get("/", None).await;
    let policy = index.headers()[CONTENT_SECURITY_POLICY].to_str().expect("a text").to_owned();
    assert!(policy.contains("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let etag = index.headers()[ETAG].to_str().expect("a text").to_owned();
    let page = text(index).await;
    let script = page.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a script");
    assert!(script.starts_with("/assets/index-"), "{page}");
    assert_eq!(get("/", Some((IF_NONE_MATCH, &etag))).await.status(), 304);
    let packed = get(script, Some((ACCEPT_ENCODING, "gzip"))).await;
    assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
    assert_eq!(packed.headers()[CACHE_CONTROL], "public, max-age=31536000, immutable");
    assert!(whole(packed).await.len() < 150_000);
    assert_eq!(text(get("/webhooks/wh_1", None).await).await, page, "the page reads the address");
    for (path, status) in [("/docs", 200), ("/metrics", 200), ("/readyz", 200), ("/api/v1/nothing", 401), ("/x", 404)] {
        let answer = get(path, None).await;
        assert_eq!(answer.status(), status, "{path}");
        assert!(!text(answer).await.contains("id=\"app\""), "{path} is not the console's");
    }
}

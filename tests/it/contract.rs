//! The contract of the API: its description, its problems, and what holds for every operation.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use sluiced::api::Code;
use sluiced_tests::paths::{sluiced_binary, workspace};
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{TestDaemon, TestNats};

mod schemathesis;
mod webhooks;

/// How the snapshot is renewed.
const RENEW: &str = "look at what has changed, then renew it: cargo run --bin sluiced -- openapi > docs/openapi.json";

fn described() -> String {
    let output = Command::new(sluiced_binary()).arg("openapi").output().expect("the daemon's binary runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("JSON is text")
}

/// Every operation of a document: its method, its path, and what the document says of it.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    let all = paths.flat_map(|(path, item)| {
        let item = item.as_object().expect("operations").iter();
        item.map(move |(method, operation)| (method.clone(), path.clone(), operation))
    });
    all.collect()
}

#[tokio::test]
async fn the_description_is_that_of_the_repository_and_that_of_a_running_daemon() {
    let described = described();
    let kept = fs::read_to_string(workspace().join("docs/openapi.json")).expect("docs/openapi.json");
    assert!(kept == described, "docs/openapi.json is not what the code says: {RENEW}");
    let nats = TestNats::start().await;
    let daemon = TestDaemon::start(&nats, EVENTS).await;
    let served = sluiced_tests::http::try_request("GET", &daemon.url("/api/v1/openapi.json"), None, None).await;
    let served = served.expect("an answer, without a key").json();
    let described: Value = serde_json::from_str(&described).expect("JSON");
    let paths = |document: &Value| operations(document).into_iter().map(|(m, p, _)| (m, p)).collect::<BTreeSet<_>>();
    let lacking: Vec<_> = paths(&served).symmetric_difference(&paths(&described)).cloned().collect();
    assert!(lacking.is_empty(), "api::document() and the daemon differ in {lacking:?}");
    assert!(served == described, "the daemon serves another document than `sluiced openapi` prints");
}

#[test]
fn every_operation_says_what_it_takes_and_answers() {
    let document: Value = serde_json::from_str(&described()).expect("JSON");
    let tags: Vec<&Value> = document["tags"].as_array().expect("tags").iter().map(|tag| &tag["name"]).collect();
    let (mut wrong, mut ids) = (Vec::new(), BTreeSet::new());
    for (method, path, operation) in operations(&document) {
        let mut say = |what: &str| wrong.push(format!("{method} {path}: {what}"));
        if operation["tags"].as_array().is_none_or(|own| own.len() != 1 || !tags.contains(&&own[0])) {
            say("needs one tag, of those of the document");
        }
        if !ids.insert(operation["operationId"].to_string()) {
            say("has the id of another: name its handler otherwise");
        }
        if operation["summary"].as_str().is_none_or(str::is_empty) {
            say("needs a summary: the first line of its comment");
        }
        let responses = operation["responses"].as_object().expect("responses");
        let Some((status, good)) = responses.iter().find(|(status, _)| status.starts_with('2')) else {
            say("answers nothing good");
            continue;
        };
        if status != "204" && good["content"].as_object().is_none_or(serde_json::Map::is_empty) {
            say("its answer has no schema");
        }
        if !responses.contains_key("500") {
            say("can fail as any other");
        }
        for name in path.split(['{', '}']).skip(1).step_by(2) {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let mut named = parameters.filter(|one| one["in"] == "path" && one["name"] == name);
            if named.next().is_none() {
                say(&format!("does not describe {{{name}}}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let folder = workspace().join("docs/errors");
    let index = fs::read_to_string(folder.join("README.md")).expect("docs/errors/README.md");
    let mut wrong = Vec::new();
    for code in Code::ALL {
        let word = code.as_str();
        let page = fs::read_to_string(folder.join(format!("{word}.md"))).unwrap_or_default();
        let head = format!("# `{word}`\n\n{}: {}.\n\n**What it means.** ", code.status().as_u16(), code.title());
        if !page.starts_with(&head) || !page.contains("\n**Why.** ") || !page.contains("\n**What to do.** ") {
            wrong
                .push(format!("docs/errors/{word}.md must begin with {head:?}, and have **Why.** and **What to do.**"));
        }
        let row = format!("| [`{word}`]({word}.md) | {} | {} |", code.status().as_u16(), code.title());
        if !index.contains(&row) {
            wrong.push(format!("docs/errors/README.md lacks {row}"));
        }
    }
    for entry in fs::read_dir(&folder).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let word = name.trim_end_matches(".md");
        if word != "README" && Code::parse(word).is_none() {
            wrong.push(format!("docs/errors/{name} is the page of no code"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

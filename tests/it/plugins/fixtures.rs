//! The fixtures of the standard plugins, run on the built components. The format is in `sdk/FIXTURES.md`.

use std::path::Path;

use sluiced_tests::paths::{author_cache, sluiced_binary, workspace};

use super::*;

#[test]
fn fixtures_of_changes() {
    run("changes");
}

#[test]
fn fixtures_of_cloudevents() {
    run("cloudevents");
}

#[test]
fn fixtures_of_csv() {
    run("csv");
}

#[test]
fn fixtures_of_jq() {
    run("jq");
}

#[test]
fn fixtures_of_redact() {
    run("redact");
}

#[test]
fn fixtures_of_render() {
    run("render");
}

#[test]
fn fixtures_of_route_type() {
    run("route-type");
}

#[test]
fn fixtures_of_sample() {
    run("sample");
}

#[test]
fn fixtures_of_schema() {
    run("schema");
}

/// Runs a standard plugin's fixtures.
fn run(plugin: &str) {
    run_in(&built(&format!("{plugin}.wasm")), &workspace().join("plugins").join(plugin).join("fixtures"));
}

/// Runs the fixtures of a folder on a component, as an author does.
pub(super) fn run_in(file: &Path, fixtures: &Path) {
    let mut test = Command::new(sluiced_binary());
    test.args(["plugin", "test"]).arg(file).arg("--fixtures").arg(fixtures).env("SLUICED_CACHE_DIR", author_cache());
    let output = test.output().expect("sluiced can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

//! The author's path as it is walked: `plugin new`, build, test, upload, a subscription that uses it, an event delivered
//! transformed.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::paths::plugin_cache;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, wait_until};
use tempfile::TempDir;

use super::*;

const SOON: Duration = Duration::from_secs(60);
/// How long a component of another language than Rust may take to compile on a busy machine.
const COMPILED: Duration = Duration::from_secs(180);

/// A project made by `plugin new`.
struct Project {
    dir: TempDir,
}

impl Project {
    fn new(lang: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let said = plugin(&["new", "large-orders", "--lang", lang, "--within", text(dir.path())]).well();
        assert!(said.contains("sluiced plugin build"), "{said}");
        let again = plugin(&["new", "large-orders", "--lang", lang, "--within", text(dir.path())]).badly();
        assert!(again.err.contains("exists already"), "{}", again.err);
        Self { dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("large-orders")
    }

    /// Builds it, and runs its fixtures.
    fn build_and_test(&self) {
        let path = self.path();
        let early = plugin(&["test", text(&path)]).badly();
        assert!(early.err.contains("run `sluiced plugin build"), "{}", early.err);
        let built = plugin(&["build", text(&path)]).well();
        assert!(built.contains("dist/large-orders.wasm") && built.contains("sha256 "), "{built}");
        let tested = plugin(&["test", text(&path)]).well();
        assert!(tested.ends_with("5 passed, 0 failed\n"), "{tested}");
    }

    /// It is uploaded to a daemon, and a subscription filters and transforms with it.
    async fn deliver(&self) {
        let (nats, receiver, empty) = (TestNats::start().await, TestReceiver::start(), tempfile::tempdir());
        let empty = empty.expect("a folder");
        let daemon = TestDaemon::builder(&nats, EVENTS).plugins(empty.path(), EVENTS).start().await;
        let component = fs::read(self.path().join("dist/large-orders.wasm")).expect("it was built");
        let uploaded = daemon.send_plugin("large-orders", component, "wait=29").await;
        assert!(matches!(uploaded.status, 201 | 202), "{uploaded:?}");
        let loaded =
            async || daemon.request("GET", "/api/v1/plugins/large-orders", None).await.json()["version"] == "0.1.0";
        wait_until("it is compiled", COMPILED, loaded).await;
        let used = json!([{ "plugin": "large-orders", "config": { "field": "amount", "min": 100 } }]);
        let hook =
            json!({ "name": "crm", "url": receiver.url("/"), "types": [">"], "filters": used, "transforms": used });
        let hook = daemon.request("POST", "/api/v1/webhooks", Some(&hook)).await;
        assert_eq!(hook.status, 201, "{hook:?}");
        let hook = hook.json()["id"].as_str().expect("an id").to_owned();
        for amount in [80, 120] {
            nats.publish("events.orders.created", format!(r#"{{"amount": {amount}}}"#)).await;
        }
        receiver.wait_for(1, SOON).await;
        let books = daemon.accounted(&hook, 2).await;
        assert_eq!((books.delivered, books.filtered), (1, 1), "{books:?}\n{}", daemon.log());
        let body: Value = serde_json::from_slice(&receiver.received()[0].body).expect("JSON");
        assert_eq!(body, json!({ "amount": 120, "large": true }));
    }
}

#[tokio::test]
async fn the_path_is_walked_in_rust() {
    let project = Project::new("rust");
    // The dependencies in the versions of the workspace, which are on this machine already.
    fs::copy(workspace().join("Cargo.lock"), project.path().join("Cargo.lock")).expect("copied");
    project.build_and_test();
    let mut native = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    native.args(["test", "--quiet"]).current_dir(project.path()).env("CARGO_TARGET_DIR", target().join("author/cargo"));
    let native = Said::from(native.output().expect("cargo can be started")).well();
    assert!(native.contains("2 passed"), "its own tests, natively: {native}");
    project.deliver().await;
}

#[tokio::test]
async fn heavy_the_path_is_walked_in_javascript() {
    walk_with_a_large_component("js").await;
}

#[tokio::test]
async fn heavy_the_path_is_walked_in_python() {
    walk_with_a_large_component("python").await;
}

/// The same in a language whose component is large, and another one each time that it is built.
async fn walk_with_a_large_component(lang: &str) {
    let project = Project::new(lang);
    project.build_and_test();
    let component = project.path().join("dist/large-orders.wasm");
    let told: Value = serde_json::from_str(&plugin(&["inspect", text(&component), "--json"]).well()).expect("JSON");
    let imports: Vec<&str> = told["imports"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(imports.iter().all(|name| name.starts_with("sluiced:plugin/")), "nothing of WASI: {imports:?}");
    assert_eq!(told["config_schema"]["required"], json!(["field", "min"]));
    project.deliver().await;
    forget_compiled(told["digest"].as_str().expect("a digest"));
}

/// Removes what was compiled of a component that nobody will see again: it is some thirty megabytes.
fn forget_compiled(digest: &str) {
    for entry in fs::read_dir(plugin_cache()).expect("the cache can be listed") {
        let path = entry.expect("the cache can be listed").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(digest)) {
            fs::remove_file(path).expect("a file of this user's can be removed");
        }
    }
}

#[test]
fn what_a_build_needs_and_the_machine_has_not_is_named_with_how_to_get_it() {
    let nothing = tempfile::tempdir().expect("a folder");
    for (lang, missing, remedy) in [
        ("rust", "cargo is missing", "https://rustup.rs"),
        ("js", "node is missing", "Node.js 20 or newer, with npm"),
        ("python", "python3 is missing", "Python 3.10 or newer, with pip"),
    ] {
        let project = Project::new(lang);
        let mut build = command(&["build", text(&project.path())]);
        let said = Said::from(build.env("PATH", nothing.path()).env_remove("CARGO").output().expect("it runs")).badly();
        assert!(said.err.contains(missing) && said.err.contains(remedy), "{lang}: {}", said.err);
    }
}

#[test]
fn a_project_of_another_name_or_without_a_language_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = plugin(&["new", "Large Orders", "--within", text(dir.path())]).badly();
    assert!(said.err.contains("is not a plugin name"), "{}", said.err);
    let said = plugin(&["build", text(dir.path())]).badly();
    assert!(said.err.contains("has no Cargo.toml, package.json or pyproject.toml"), "{}", said.err);
}

//! The author's side of plugins: `sluiced plugin`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use sluiced_tests::paths::{author_cache, plugin_dir, sluiced_binary, target, test_plugin_dir, workspace};

mod dry_run;
mod walk;

/// What a command said, and how it ended.
struct Said {
    success: bool,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn well(self) -> String {
        assert!(self.success, "{}\n{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    fn badly(self) -> Self {
        assert!(!self.success, "it should have failed: {}\n{}", self.out, self.err);
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { success: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// `sluiced plugin …`, with caches that all tests share.
fn plugin(args: &[&str]) -> Said {
    command(args).output().expect("sluiced can be started").into()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(sluiced_binary());
    command
        .arg("plugin")
        .args(args)
        .env("SLUICED_CACHE_DIR", author_cache())
        .env("SLUICED_SDK", workspace().join("sdk"));
    // Where cargo puts what it builds of plugins: dependencies are compiled once for all tests and all runs.
    command.env("CARGO_TARGET_DIR", target().join("author/cargo"));
    command
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

#[test]
fn inspect_tells_what_a_plugin_is() {
    let file = plugin_dir().join("jq.wasm");
    let told: Value = serde_json::from_str(&plugin(&["inspect", text(&file), "--json"]).well()).expect("JSON");
    assert_eq!((&told["name"], &told["world"]), (&"jq".into(), &"filter-transform-plugin".into()));
    assert_eq!((&told["contract_version"], &told["needs_payload"]), (&"1.0.0".into(), &true.into()));
    assert_eq!(told["bytes"].as_u64(), Some(fs::metadata(&file).expect("it is there").len()));
    assert_eq!(told["digest"].as_str().map(str::len), Some(64));
    assert!(told["config_schema"]["properties"]["expr"]["type"].is_string(), "{told}");
    let imports = told["imports"].as_array().expect("a list");
    assert!(imports.iter().any(|name| name == "sluiced:plugin/log@1.0.0"), "{imports:?}");

    let said = plugin(&["inspect", text(&plugin_dir().join("redact.wasm"))]).well();
    for part in ["plugin    redact 0.1.0", "sluiced:plugin/transform-plugin@1.0.0", "headers: none", "\"pointers\""] {
        assert!(said.contains(part), "{part:?} is missing in\n{said}");
    }
}

#[test]
fn what_is_no_plugin_is_refused_in_the_hosts_words() {
    let manifest = workspace().join("sdk/Cargo.toml");
    let said = plugin(&["inspect", text(&manifest)]).badly();
    assert!(said.err.contains("the file of plugin `cargo` is not WebAssembly"), "{}", said.err);
    let dir = tempfile::tempdir().expect("a folder");
    let empty = dir.path().join("Some Thing.wasm");
    fs::write(&empty, b"\0asm\x0d\0\x01\0").expect("written");
    let said = plugin(&["inspect", text(&empty)]).badly();
    assert!(said.err.contains("`some-thing` does not export sluiced:plugin/lifecycle@1.0.0"), "{}", said.err);
    let said = plugin(&["inspect", "no/such.wasm"]).badly();
    assert!(said.err.contains("cannot find no/such.wasm"), "{}", said.err);
}

#[test]
fn a_difference_is_shown_fails_the_test_and_can_be_blessed() {
    let dir = tempfile::tempdir().expect("a folder");
    let fixture = |name: &str| workspace().join("plugins/jq/fixtures").join(name);
    for name in ["drop-small-orders.in.json", "drop-small-orders.out.json", "not-json.in.json"] {
        fs::copy(fixture(name), dir.path().join(name)).expect("copied");
    }
    let out = dir.path().join("drop-small-orders.out.json");
    fs::write(&out, r#"{ "verdict": "keep" }"#).expect("written");
    let file = plugin_dir().join("jq.wasm");
    let test = |more: &[&str]| plugin(&[&["test", text(&file), "--fixtures", text(dir.path())], more].concat());
    let said = test(&[]).badly();
    for part in ["FAILED  drop-small-orders", "-   \"verdict\": \"keep\"", "+   \"verdict\": \"drop\"", "--bless"] {
        assert!(said.out.contains(part), "{part:?} is missing in\n{}", said.out);
    }
    assert!(said.out.ends_with("0 passed, 2 failed\n") && said.err.contains("2 of 2 fixtures failed"), "{}", said.out);
    assert!(test(&["--bless"]).well().ends_with("2 passed, 0 failed\n"));
    assert!(test(&[]).well().contains("ok  drop-small-orders"));
    assert!(fs::read_to_string(&out).expect("read").contains("\"drop\""));
    let one = test(&["--only", "small"]).well();
    assert!(one.ends_with("1 passed, 0 failed\n"), "{one}");
}

#[test]
fn a_fault_fails_the_test_with_what_it_cost() {
    let dir = tempfile::tempdir().expect("a folder");
    for misdeed in ["loop", "trap"] {
        let input = format!(
            r#"{{ "config": {{ "do": "{misdeed}", "when_type": "a", "amount": null }}, "as": "filter", "event": {{ "type": "a" }} }}"#
        );
        fs::write(dir.path().join(format!("{misdeed}.in.json")), input).expect("written");
    }
    let said = plugin(&["test", text(&test_plugin_dir().join("hostile.wasm")), "--fixtures", text(dir.path())]).badly();
    assert!(said.out.contains("fault: deadline") && said.out.contains("used up its 50 ms"), "{}", said.out);
    assert!(said.out.contains("fault: trap") && said.out.ends_with("0 passed, 2 failed\n"), "{}", said.out);
    let row = said.out.lines().find(|line| line.contains("FAILED  loop")).expect("a row");
    let took: f64 = row.split_whitespace().nth(2).and_then(|ms| ms.parse().ok()).expect("a time");
    assert!(took >= 50.0 && row.contains("MiB"), "{row}");
}

#[test]
fn a_plugin_is_measured_on_its_fixtures() {
    let (file, fixtures) = (plugin_dir().join("redact.wasm"), workspace().join("plugins/redact/fixtures"));
    let bench = ["bench", text(&file), "--fixtures", text(&fixtures), "--seconds", "0.1"];
    let told: Value = serde_json::from_str(&plugin(&[&bench[..], &["--json"]].concat()).well()).expect("JSON");
    let measured = told["fixtures"].as_array().expect("a list");
    assert!(!measured.is_empty() && measured.iter().all(|one| one["fixture"] != "not-json (transform)"), "{told}");
    for one in measured {
        let us = |kind: &str, what: &str| one[kind][what].as_f64().expect("a figure");
        assert!(us("warm", "wall_us") > 0.0 && us("fresh", "wall_us") > us("warm", "wall_us"), "{one}");
        assert!(one["memory_bytes"].as_u64().is_some_and(|bytes| bytes >= 64 << 10), "{one}");
    }
    assert!(plugin(&bench).well().contains("warm CPU"));
}

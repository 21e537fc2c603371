//! Plugins in their sandbox: the standard ones do what they say, and hostile ones harm nobody but themselves.

use std::cell::Cell;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use sluiced::domain::{Event, Header, OnPluginError, PluginLimits, PluginRef, Position, StreamName, SubscriptionId};
use sluiced::plugin::{Chain, Config, Error, Fault, FaultKind, Host, Limits, Passed, Ran};
use sluiced_tests::paths::{plugin_cache, plugin_dir, test_plugin_dir};
use tempfile::TempDir;
use tokio::time::Instant;

mod calls;
mod fixtures;
mod hostile;
mod limits;
mod loading;
mod shipped;
mod sieve;
mod turns;

/// A plugin directory with some built plugins in it, and a host on it.
struct Lab {
    dir: TempDir,
    host: Host,
}

impl Lab {
    fn new(plugins: &[&str]) -> Self {
        Self::with(plugins, Limits { instances_max: 8, ..Limits::default() })
    }

    fn with(plugins: &[&str], limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for plugin in plugins {
            let file = format!("{plugin}.wasm");
            std::os::unix::fs::symlink(built(&file), dir.path().join(file)).expect("a link");
        }
        // All tests share the compiled plugins: compiling one takes most of a second.
        let host = Host::new(Config { dir: dir.path().into(), cache_dir: plugin_cache(), limits }).expect("a host");
        Self { dir, host }
    }

    fn try_chain(
        &self,
        filters: &[PluginRef],
        transforms: &[PluginRef],
        on_error: OnPluginError,
    ) -> Result<Chain, Error> {
        let id = SubscriptionId::parse("test").expect("a valid id");
        self.host.chain(&id, filters, transforms, on_error)
    }

    fn chain(&self, filters: &[PluginRef], transforms: &[PluginRef]) -> Chain {
        self.try_chain(filters, transforms, OnPluginError::DeadLetter).expect("a chain")
    }
}

/// Measures memory in a process of its own, which runs nothing but this test, named as libtest names it.
fn alone(test: &str, measure: impl FnOnce()) {
    const ALONE: &str = "SLUICED_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return measure();
    }
    let mut process = Command::new(env::current_exe().expect("an executable knows its path"));
    let status = process.args(["--exact", test, "--nocapture"]).env(ALONE, "1").status().expect("it can be started");
    assert!(status.success(), "{status}: what was measured stands above");
}

/// A built plugin's file: a standard one, or one of the tests' own.
fn built(file: &str) -> PathBuf {
    let standard = plugin_dir().join(file);
    if standard.exists() { standard } else { test_plugin_dir().join(file) }
}

fn with(plugin: &str, config: &Value) -> PluginRef {
    PluginRef { plugin: plugin.into(), config: config.to_string().into(), limits: PluginLimits::default() }
}

fn jq(expr: &str) -> PluginRef {
    with("jq", &json!({ "expr": expr }))
}

fn redact(pointers: &[&str]) -> PluginRef {
    with("redact", &json!({ "pointers": pointers }))
}

fn event(kind: &str, data: &Value) -> Event {
    Event {
        id: "e-1".into(),
        kind: kind.into(),
        subject: format!("events.{kind}").into(),
        position: Position { stream: StreamName::parse("EVENTS").expect("a valid name"), sequence: 1 },
        time_ms: 1_700_000_000_000,
        headers: vec![Header { name: "X-Team".into(), value: "sales".into() }],
        content_type: Some("application/json".into()),
        data: Bytes::from(data.to_string()),
        undecodable: None,
    }
}

/// The payloads that go on, as JSON.
fn kept(ran: Ran) -> Vec<Value> {
    match ran.passed {
        Passed::Kept(outputs) => {
            outputs.iter().map(|output| serde_json::from_slice(&output.data).expect("JSON")).collect()
        }
        other => panic!("not kept: {other:?}"),
    }
}

fn fault(ran: Ran) -> Fault {
    match ran.passed {
        Passed::Faulted { fault, policy: OnPluginError::DeadLetter } => fault,
        other => panic!("no fault: {other:?}"),
    }
}

#[tokio::test]
async fn a_filter_keeps_and_drops() {
    let lab = Lab::new(&["jq"]);
    let chain = lab.chain(&[jq(".amount > 100")], &[]);
    let large = event("orders.created", &json!({ "amount": 120 }));
    let Passed::Kept(outputs) = chain.run(&large).await.passed else { panic!("not kept") };
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].data.as_ptr(), large.data.as_ptr(), "the payload is shared, not copied");
    let small = event("orders.created", &json!({ "amount": 80 }));
    assert!(matches!(chain.run(&small).await.passed, Passed::Dropped { plugin, .. } if &*plugin == "jq"));
}

#[tokio::test]
async fn a_filter_and_two_transforms_work_in_order() {
    let lab = Lab::new(&["jq", "redact"]);
    let chain = lab.chain(&[jq(".items | length > 0")], &[jq(".items[]"), redact(&["/card"])]);
    let order = event("orders.created", &json!({ "items": [{ "n": 1, "card": "4111" }, { "n": 2, "card": "5500" }] }));
    let parts = kept(chain.run(&order).await);
    assert_eq!(parts, [json!({ "n": 1, "card": "***" }), json!({ "n": 2, "card": "***" })]);
    let none = event("orders.created", &json!({ "items": [] }));
    assert!(matches!(chain.run(&none).await.passed, Passed::Dropped { .. }));
}

#[tokio::test]
async fn no_output_is_a_drop_by_the_transform() {
    let lab = Lab::new(&["jq"]);
    let chain = lab.chain(&[], &[jq("empty")]);
    let ran = chain.run(&event("a", &json!({}))).await;
    assert_eq!(ran.passed, Passed::Dropped { plugin: "jq".into(), reason: None });
}

#[tokio::test]
async fn a_config_is_refused_by_schema_or_plugin_with_the_reason() {
    let lab = Lab::new(&["jq"]);
    let refuse = |filter| lab.try_chain(&[filter], &[], OnPluginError::Drop).expect_err("refused").to_string();
    assert_eq!(
        refuse(with("jq", &json!({ "expr": 5 }))),
        r#"the configuration of the plugin `jq` at `/expr`: value is not of type "string""#
    );
    assert!(refuse(with("jq", &json!({ "exrp": "." }))).contains("exrp"));
    let broken = refuse(jq(".amount >"));
    assert!(broken.starts_with("the plugin `jq` refuses its configuration: `expr`"), "{broken}");
    assert!(refuse(with("jqq", &json!({}))).starts_with("there is no plugin `jqq`"));
}

#[tokio::test]
async fn a_plugin_is_used_only_in_a_role_that_it_has() {
    let lab = Lab::new(&["redact"]);
    let plugin = lab.host.load("redact").expect("loaded");
    assert_eq!((plugin.is_filter(), plugin.is_transform()), (false, true));
    assert_eq!((plugin.name(), &*plugin.description().name), ("redact", "redact"));
    let error = lab.try_chain(&[redact(&["/a"])], &[], OnPluginError::Drop).expect_err("refused");
    assert_eq!(error.to_string(), "the plugin `redact` is a transform, not a filter");
}

#[tokio::test]
async fn a_plugin_is_loaded_again_only_when_its_file_changes() {
    let lab = Lab::new(&["redact"]);
    let first = lab.host.load("redact").expect("loaded");
    let again = lab.host.load("redact").expect("loaded");
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    let link = lab.dir.path().join("redact.wasm");
    fs::remove_file(&link).expect("removed");
    fs::copy(built("jq.wasm"), &link).expect("another plugin in its place");
    let other = lab.host.load("redact").expect("loaded");
    assert_ne!(first.digest(), other.digest());
    assert_eq!(&*other.description().name, "jq");
}

#[tokio::test]
async fn a_compiled_plugin_comes_from_the_cache_and_a_torn_file_is_made_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::copy(built("redact.wasm"), dir.path().join("redact.wasm")).expect("copied");
    let cache_dir = dir.path().join("cache");
    let works = || {
        let config = Config { dir: dir.path().into(), cache_dir: cache_dir.clone(), limits: Limits::default() };
        let host = Host::new(config).expect("a host");
        host.load("redact").expect("loaded");
        let stats = host.stats();
        (stats.compiled, stats.cache_loaded, stats.cache_discarded)
    };
    assert_eq!(works(), (1, 0, 0));
    assert_eq!(works(), (0, 1, 0));
    let mut files = fs::read_dir(&cache_dir).expect("listed").map(|entry| entry.expect("an entry").path());
    let code = files.find(|path| path.extension().is_some_and(|extension| extension == "cwasm")).expect("the code");
    let length = fs::metadata(&code).expect("there").len();
    fs::OpenOptions::new().write(true).open(&code).and_then(|file| file.set_len(length / 2)).expect("torn");
    assert_eq!(works(), (1, 0, 1));
    assert_eq!(works(), (0, 1, 0));
}

#[tokio::test]
async fn more_users_than_instances_take_turns() {
    let lab = Lab::with(&["jq"], Limits { instances_max: 2, ..Limits::default() });
    let chains: Vec<Chain> = (0..5).map(|n| lab.chain(&[jq(&format!(".n == {n}"))], &[])).collect();
    for _ in 0..2 {
        for (n, chain) in chains.iter().enumerate() {
            assert_eq!(kept(chain.run(&event("a", &json!({ "n": n }))).await).len(), 1);
            assert!(lab.host.stats().instances <= 2);
        }
    }
}

#[tokio::test]
async fn an_instance_is_replaced_after_its_calls() {
    let lab = Lab::with(&["jq"], Limits { calls_per_instance_max: 1, instances_max: 4, ..Limits::default() });
    let chain = lab.chain(&[jq(".ok")], &[]);
    for _ in 0..3 {
        assert_eq!(kept(chain.run(&event("a", &json!({ "ok": true }))).await).len(), 1);
        assert_eq!(lab.host.stats().instances, 0, "it has served its one call");
    }
}

//! Plugins that loop, allocate, trap, recurse, wait, return too much or fail: each a typed fault, and the next event
//! finds a fresh instance.

use super::*;

mod list;

const DEADLINE_MS: u64 = 100;
/// How long a call that is cut off at its deadline may take on a machine that does a lot besides.
const PATIENCE: Duration = Duration::from_secs(10);

/// The plugin that does that to events of the type `a`, and passes on all others as they are.
pub(super) fn hostile(misdeed: &str) -> PluginRef {
    let amount = match misdeed {
        "big-output" => json!(2 << 20),
        "many-outputs" | "log-flood" => json!(1_000),
        _ => json!(null),
    };
    with("hostile", &json!({ "do": misdeed, "when_type": "a", "amount": amount }))
}

fn lab() -> Lab {
    Lab::with(&["hostile", "jq"], limits())
}

/// Small limits, so that the tests are quick; but a call may wait for its turn for long, so that a busy machine does not
/// decide how it ends.
pub(super) fn limits() -> Limits {
    Limits {
        call_deadline_ms: DEADLINE_MS,
        configure_deadline_ms: 200,
        call_wall_ms_max: 60_000,
        memory_bytes_max: 16 << 20,
        instances_max: 8,
        ..Limits::default()
    }
}

async fn fault_of(mode: &str) -> FaultKind {
    fault_in(&lab(), mode).await
}

async fn fault_in(lab: &Lab, mode: &str) -> FaultKind {
    let chain = lab.chain(&[], &[hostile(mode)]);
    let first = fault(chain.run(&event("a", &json!({}))).await);
    assert_eq!(&*first.plugin, "hostile");
    let fine = chain.run(&event("fine", &json!({}))).await;
    assert!(matches!(fine.passed, Passed::Kept(_)), "after a fault the next call works: {fine:?}");
    first.kind
}

#[tokio::test]
async fn a_loop_ends_at_its_deadline_while_its_neighbour_goes_on() {
    let lab = lab();
    let looping = lab.chain(&[], &[hostile("loop")]);
    let neighbour = lab.chain(&[jq(".ok")], &[]);
    let done = Cell::new(false);
    let calls_beside = async {
        let mut calls = 0;
        while !done.get() {
            assert_eq!(kept(neighbour.run(&event("a", &json!({ "ok": true }))).await).len(), 1);
            calls += 1;
            tokio::task::yield_now().await;
        }
        calls
    };
    let start = Instant::now();
    let looped = async {
        let kind = fault(looping.run(&event("a", &json!({}))).await).kind;
        done.set(true);
        (kind, start.elapsed())
    };
    let ((kind, took), calls) = tokio::join!(looped, calls_beside);
    assert_eq!(kind, FaultKind::Deadline { limit_ms: DEADLINE_MS });
    assert!(took < PATIENCE, "{took:?}");
    assert!(calls >= DEADLINE_MS / 2, "the neighbour ran between the slices, but only {calls} times");
}

#[tokio::test]
async fn a_loop_is_cut_off_and_the_next_call_works() {
    assert_eq!(fault_of("loop").await, FaultKind::Deadline { limit_ms: DEADLINE_MS });
}

#[tokio::test]
async fn a_plugin_that_only_waits_is_cut_off_too() {
    let lab = Lab::with(&["hostile"], Limits { call_wall_ms_max: 300, ..limits() });
    assert_eq!(fault_in(&lab, "sleep").await, FaultKind::Deadline { limit_ms: 300 });
}

#[tokio::test]
async fn memory_is_limited() {
    assert_eq!(fault_of("allocate").await, FaultKind::Memory { bytes_max: 16 << 20 });
}

#[tokio::test]
async fn a_trap_is_a_fault() {
    assert!(matches!(fault_of("trap").await, FaultKind::Trap { .. }));
}

#[tokio::test]
async fn the_stack_is_limited() {
    let kind = fault_of("recurse").await;
    assert!(matches!(&kind, FaultKind::Trap { .. }), "{kind:?}");
}

#[tokio::test]
async fn output_is_limited_in_size_and_number() {
    let big = fault_of("big-output").await;
    assert!(matches!(&big, FaultKind::Output { .. }), "{big:?}");
    let many = fault_of("many-outputs").await;
    assert!(matches!(&many, FaultKind::Output { reason } if reason.contains("outputs")), "{many:?}");
}

#[tokio::test]
async fn what_the_plugin_reports_is_passed_on() {
    assert_eq!(fault_of("error").await, FaultKind::Reported { message: "an error, as asked".into() });
}

#[tokio::test]
async fn with_pass_a_failed_filter_keeps_and_a_failed_transform_changes_nothing() {
    let lab = lab();
    let chain =
        lab.try_chain(&[hostile("trap")], &[hostile("error"), jq(".n + 1")], OnPluginError::Pass).expect("a chain");
    let ran = chain.run(&event("a", &json!({ "n": 1 }))).await;
    assert_eq!(ran.passed_over.iter().map(Fault::kind_str).collect::<Vec<_>>(), ["trap", "reported"]);
    assert_eq!(kept(ran), [json!(2)]);
}

#[tokio::test]
async fn faults_in_configure_are_found_at_load() {
    let lab = lab();
    let refuse = |mode| lab.try_chain(&[hostile(mode)], &[], OnPluginError::Drop).expect_err("refused");
    let looping = refuse("loop-in-configure");
    let Error::Configure(fault) = &looping else { panic!("{looping:?}") };
    assert_eq!(fault.kind, FaultKind::Deadline { limit_ms: 200 });
    assert!(matches!(refuse("trap-in-configure"), Error::Configure(Fault { kind: FaultKind::Trap { .. }, .. })));
    let error = refuse("refuse-config").to_string();
    assert_eq!(error, "the plugin `hostile` refuses its configuration: refused, as asked");
}

#[tokio::test]
async fn log_lines_beyond_the_rate_are_dropped() {
    let lab = lab();
    let chain = lab.chain(&[], &[hostile("log-flood")]);
    chain.run(&event("a", &json!({}))).await;
    assert!(lab.host.stats().log_lines_dropped > 0);
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_chain_usable() {
    let lab = lab();
    let chain = lab.chain(&[], &[hostile("loop")]);
    let slow = event("a", &json!({}));
    let cut_short = tokio::time::timeout(Duration::from_millis(5), chain.run(&slow)).await;
    assert!(cut_short.is_err(), "given up in the middle of the call");
    assert_eq!(lab.host.stats().instances, 0, "the instance went with the call");
    let fine = chain.run(&event("fine", &json!({}))).await;
    assert!(matches!(fine.passed, Passed::Kept(_)));
}

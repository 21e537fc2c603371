//! One plugin in several uses, each with limits of its own: what one of them may cost is no matter of the others.

use sluiced::domain::PluginLimits;

use super::hostile::{hostile, limits};
use super::*;

const MIB: usize = 1 << 20;

/// That use of a plugin, with limits of its own.
fn own(used: PluginRef, limits: PluginLimits) -> PluginRef {
    PluginRef { limits, ..used }
}

fn amounting(misdeed: &str, amount: usize) -> PluginRef {
    with("hostile", &json!({ "do": misdeed, "amount": amount }))
}

async fn ran(chain: &Chain) -> Ran {
    chain.run(&event("a", &json!({}))).await
}

/// How an event fares with a use under those limits, beside one under the host's.
async fn beside(used: &PluginRef, limits_of_use: PluginLimits) -> (Ran, Ran) {
    let lab = Lab::with(&["hostile"], limits());
    let one = lab.chain(&[], &[own(used.clone(), limits_of_use)]);
    let other = lab.chain(&[], std::slice::from_ref(used));
    (ran(&one).await, ran(&other).await)
}

#[tokio::test]
async fn each_use_has_its_own_deadline() {
    for deadline_ms in [20, 300] {
        let own = PluginLimits { call_deadline_ms: Some(deadline_ms), ..PluginLimits::default() };
        let (one, other) = beside(&hostile("loop"), own).await;
        assert_eq!(fault(one).kind, FaultKind::Deadline { limit_ms: deadline_ms });
        assert_eq!(fault(other).kind, FaultKind::Deadline { limit_ms: limits().call_deadline_ms });
    }
}

#[tokio::test]
async fn a_long_deadline_is_not_cut_short_by_the_time_that_a_call_may_take_in_all() {
    let lab = Lab::with(&["hostile"], Limits { call_wall_ms_max: 100, ..limits() });
    let own_limits = PluginLimits { call_deadline_ms: Some(400), ..PluginLimits::default() };
    let chain = lab.chain(&[], &[own(hostile("loop"), own_limits)]);
    assert_eq!(fault(ran(&chain).await).kind, FaultKind::Deadline { limit_ms: 400 });
}

#[tokio::test]
async fn each_use_has_its_own_memory() {
    for mib in [4, 40] {
        let own = PluginLimits { memory_bytes_max: Some(mib * MIB), ..PluginLimits::default() };
        let (one, other) = beside(&hostile("allocate"), own).await;
        assert_eq!(fault(one).kind, FaultKind::Memory { bytes_max: mib * MIB });
        assert_eq!(fault(other).kind, FaultKind::Memory { bytes_max: limits().memory_bytes_max });
    }
}

#[tokio::test]
async fn each_use_has_its_own_output() {
    let is_refused = |ran: Ran| matches!(fault(ran).kind, FaultKind::Output { .. });
    let less = PluginLimits { output_bytes_max: Some(64 << 10), ..PluginLimits::default() };
    let (one, other) = beside(&amounting("big-output", 65 << 10), less).await;
    assert!(is_refused(one) && matches!(other.passed, Passed::Kept(_)));

    // More than the host lets pass by default, in a sandbox that has room for it.
    let more = PluginLimits { output_bytes_max: Some(4 * MIB), ..PluginLimits::default() };
    let (one, other) = beside(&amounting("big-output", 3 * MIB), more).await;
    let Passed::Kept(outputs) = one.passed else { panic!("not kept: {one:?}") };
    assert_eq!(outputs[0].data.len(), 3 * MIB);
    assert!(is_refused(other));
}

#[tokio::test]
async fn each_use_has_its_own_number_of_calls_an_instance() {
    let lab = Lab::with(&["hostile"], limits());
    let every_third = PluginLimits { calls_per_instance_max: Some(3), ..PluginLimits::default() };
    let one = lab.chain(&[], &[own(hostile("count"), every_third)]);
    let other = lab.chain(&[], &[hostile("count")]);
    for (third, on) in [1, 2, 3, 1, 2, 3, 1].into_iter().zip(1..) {
        assert_eq!(kept(ran(&one).await), [json!(third)]);
        assert_eq!(kept(ran(&other).await), [json!(on)], "the other one's instance stays");
    }
}

#[tokio::test]
async fn each_use_keeps_its_own_number_of_instances() {
    let busy = amounting("slow", 200_000);
    for (warm, stay) in [(None, 2), (Some(1), 1), (Some(3), 3)] {
        let lab = Lab::with(&["hostile"], Limits { call_deadline_ms: 20_000, ..limits() });
        let limits = PluginLimits { warm_instances_max: warm, ..PluginLimits::default() };
        let chain = lab.chain(&[], &[own(busy.clone(), limits)]);
        // Each takes many slices, so that all are under way at the same time.
        let all = tokio::join!(ran(&chain), ran(&chain), ran(&chain));
        for ran in [all.0, all.1, all.2] {
            assert!(matches!(ran.passed, Passed::Kept(_)), "{ran:?}");
        }
        assert_eq!(lab.host.stats().instances, stay, "of {warm:?}");
    }
}

#[test]
fn limits_of_a_use_beyond_what_the_host_can_give_are_refused() {
    let lab = Lab::with(&["hostile"], limits());
    for refused in [
        PluginLimits { memory_bytes_max: Some(Limits::MEMORY_BYTES_MAX + 1), ..PluginLimits::default() },
        PluginLimits { call_deadline_ms: Some(0), ..PluginLimits::default() },
        PluginLimits { warm_instances_max: Some(0), ..PluginLimits::default() },
        PluginLimits { calls_per_instance_max: Some(0), ..PluginLimits::default() },
    ] {
        let used = own(hostile("nothing"), refused);
        let error = lab.try_chain(&[], &[used], OnPluginError::Drop).expect_err("refused");
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}

/// Where the memory of the two interpreters goes: neither needs more than a plugin may have by default, on events that are
/// far larger than most.
#[tokio::test]
async fn a_plugin_in_javascript_and_one_in_python_need_no_more_memory_than_the_default() {
    let limits = Limits { call_deadline_ms: 60_000, instances_max: 8, ..Limits::default() };
    let lab = Lab::with(&["changes", "csv"], limits);
    let row = |number: usize| json!({ "id": number, "status": "x".repeat(40), "amount": number });
    let columns = json!([{ "name": "id", "pointer": "/id" }, { "name": "status", "pointer": "/status" }]);
    let changes = lab.chain(&[], &[with("changes", &json!({}))]);
    let csv = lab.chain(&[], &[with("csv", &json!({ "columns": columns, "rows": "/rows" }))]);
    // 1,000 rows are about 75 KB.
    for rows in [1, 10, 1_000] {
        let rows: Vec<Value> = (0..rows).map(row).collect();
        let changed = event("a", &json!({ "before": null, "after": { "rows": rows } }));
        let table = event("a", &json!({ "rows": rows }));
        for _ in 0..20 {
            for ran in [changes.run(&changed).await, csv.run(&table).await] {
                assert!(matches!(ran.passed, Passed::Kept(_)), "{ran:?}");
            }
        }
    }
    for (chain, language) in [(&changes, "JavaScript"), (&csv, "Python")] {
        let mib = chain.memory_bytes() / MIB;
        assert!(mib < Limits::default().memory_bytes_max / MIB, "{language}: {mib} MiB");
    }
}

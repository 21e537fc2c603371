//! A million calls: the instances that serve them are warm, are replaced now and then, and leave nothing behind.

use sluiced_tests::proc::rss_bytes;

use super::*;

const CALLS: u64 = 1_000_000;
/// The calls before memory is looked at for the first time: every instance is there, and every allocator has grown.
const WARM_UP: u64 = 50_000;
/// How often it is looked at afterwards.
const LOOKS: u64 = 10;
const SUBSCRIPTIONS: u64 = 4;
/// Each event goes through a filter and a transform.
const CALLS_PER_EVENT: u64 = 2;

#[test]
fn heavy_a_million_calls_leave_resident_memory_as_it_was() {
    alone("plugins::calls::heavy_a_million_calls_leave_resident_memory_as_it_was", measured);
}

fn measured() {
    let lab = Lab::with(&["jq", "redact"], Limits { instances_max: 16, ..Limits::default() });
    let chains: Vec<Chain> =
        (0..SUBSCRIPTIONS).map(|_| lab.chain(&[jq(".amount > 100")], &[redact(&["/card"])])).collect();
    let order = event("orders.created", &json!({ "amount": 120, "card": "4111", "note": "x".repeat(900) }));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
    let call = |calls: u64| {
        let events = calls / CALLS_PER_EVENT / SUBSCRIPTIONS;
        runtime.block_on(async {
            let serve = async |chain: &Chain| {
                for _ in 0..events {
                    let ran = chain.run(&order).await;
                    assert!(matches!(&ran.passed, Passed::Kept(outputs) if outputs.len() == 1), "{ran:?}");
                }
            };
            futures_util::future::join_all(chains.iter().map(serve)).await;
        });
    };
    call(WARM_UP);
    let before = rss_bytes(std::process::id());
    let started = Instant::now();
    let mut most = before;
    for _ in 0..LOOKS {
        call((CALLS - WARM_UP) / LOOKS);
        most = most.max(rss_bytes(std::process::id()));
    }
    let took = started.elapsed();
    eprintln!("{CALLS} calls, {took:?}: {before} bytes resident after {WARM_UP}, {most} at most");
    assert!(lab.host.stats().instances <= 16);
    assert!(most <= before + before / 10, "resident memory grew from {before} to {most} bytes");
}

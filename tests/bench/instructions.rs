//! Case `instructions`: how many instructions the daemon executes for one delivery, counted by callgrind.
//!
//! A count does not depend on what else the machine does, so this is the one figure that a check can go by. The daemon runs
//! twice, on few events and on more: the difference is what the additional deliveries cost, without start and stop.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::paths::workspace;
use sluiced_tests::{TestDaemon, TestNats};

use crate::load::{CONSUMER, DRAIN_TIMEOUT};
use crate::receiver::Receiver;
use crate::report::{Column, Report};
use crate::setup::{
    IN_FLIGHT_MAX, STREAM, SUBJECT, alive, base, fill, fresh_stream, plain, time_max, warm_daemon, webhook,
};
use crate::{Options, say};

/// The events of the two runs.
const EVENTS: [u64; 2] = [500, 2_500];
/// The part of the committed figure by which a figure may be above it.
const GROWTH_MAX: f64 = 0.1;
/// The committed figures, by build and variant, in instructions a delivery.
const FIGURES: &str = "docs/performance/instructions.json";
/// Few enough for the address space that valgrind leaves: less than 64 GiB at a piece, of which an instance reserves over 8.
const INSTANCES_MAX: &str = "[plugins]\ninstances_max = 3\n";

const COLUMNS: &[Column] = &[
    Column { key: "instructions", name: "instructions", unit: "1/delivery", decimals: 0 },
    Column { key: "committed", name: "committed", unit: "1/delivery", decimals: 0 },
    Column { key: "ratio", name: "measured/committed", unit: "times", decimals: 3 },
];

/// Counts, and compares with what is committed.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let path = workspace().join(FIGURES);
    let mut committed: Value = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("in {FIGURES}"))?,
        Err(_) => json!({}),
    };
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    let nats = TestNats::start().await;
    let mut receiver = Receiver::start().await?;
    let url = receiver.url();
    let in_flight = format!("max_in_flight = {IN_FLIGHT_MAX}");
    let variants = [("plain", plain("bench", "order", &url, &in_flight)), ("main", webhook("bench", "order", &url))];
    let what = format!(
        "{} and {} events of 1 KB, 64 at a time, {build} build: what the additional deliveries take; plain: no plugin, \
         main: jq filter and redact transform",
        EVENTS[0], EVENTS[1]
    );
    let mut report = Report::new("instructions", what, COLUMNS);
    let mut grown = Vec::new();
    for (variant, webhook) in variants {
        let counted = per_delivery(&nats, &mut receiver, &(base() + INSTANCES_MAX + &webhook), variant).await?;
        let before = committed[build][variant].as_f64();
        let ratio = before.map(|before| counted / before);
        say(&format!("instructions: {variant}: {counted:.0} a delivery, profile in {}", profile(variant)?.display()));
        report.row(variant.to_owned(), vec![Some(counted), before, ratio]);
        if ratio.is_none_or(|ratio| ratio > 1.0 + GROWTH_MAX) {
            let before = before.map_or("nothing".to_owned(), |before| format!("{before:.0}"));
            grown.push(format!("{variant}: {counted:.0}, committed {before}"));
        }
        committed[build][variant] = json!(counted.round());
    }
    receiver.end().await?;
    if options.commit {
        fs::write(&path, serde_json::to_string_pretty(&committed)? + "\n")?;
    }
    if options.check && !grown.is_empty() {
        let grown = grown.join("; ");
        bail!(
            "a delivery takes over a tenth more instructions than {FIGURES} says ({grown}): find out why, or commit the \
             new figures with `cargo xtask bench instructions --commit`"
        );
    }
    Ok(report)
}

/// Where callgrind writes what it saw, beside this executable: `callgrind_annotate` reads it.
fn profile(variant: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(format!("callgrind-{variant}.out")))
}

async fn per_delivery(nats: &TestNats, receiver: &mut Receiver, config: &str, variant: &str) -> Result<f64> {
    let out = profile(variant)?;
    let mut counts = Vec::new();
    // The first is not counted: valgrind's processor is another one, for which the plugins are compiled anew.
    for events in [1].into_iter().chain(EVENTS) {
        fresh_stream(nats).await;
        let mut daemon = warm_daemon(nats, config).await;
        fill(nats, 0..events, |_| Some(SUBJECT.to_owned()), order).await?;
        counts.push(counted(nats, receiver, &mut daemon, events, &out).await?);
    }
    Ok(counts[2].saturating_sub(counts[1]) as f64 / (EVENTS[1] - EVENTS[0]) as f64)
}

/// The instructions of one run of the daemon, from its start to its end.
async fn counted(
    nats: &TestNats,
    receiver: &mut Receiver,
    daemon: &mut TestDaemon,
    events: u64,
    out: &Path,
) -> Result<u64> {
    let to = format!("--callgrind-out-file={}", out.display());
    daemon.run_under(&["valgrind", "--tool=callgrind", "--quiet", &to]);
    daemon.launch();
    receiver.watch(events, &[daemon.process().id(), nats.id()]).await?;
    receiver.seen(time_max(events) * 10, || alive(daemon)).await?;
    nats.wait_drained(STREAM, CONSUMER, DRAIN_TIMEOUT).await;
    let ended = daemon.terminate().await;
    ensure!(ended.success(), "sluiced under callgrind: {ended}\n{}", daemon.log());
    total(out)
}

/// The sum of a callgrind file, in which instructions are what is counted by default.
fn total(out: &Path) -> Result<u64> {
    let text = fs::read_to_string(out).with_context(|| format!("callgrind left no {}", out.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    let number = line.and_then(|line| line.trim().parse().ok());
    number.with_context(|| format!("no sum in {}", out.display()))
}

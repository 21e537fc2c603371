//! Case `instructions`: how many instructions the daemon executes for one delivery, counted by callgrind.
//!
//! A count does not depend on what else the machine does, so this is the one figure that a check can go by. The daemon runs
//! twice, on few events and on more: the difference is what the additional deliveries cost, without start and stop.
//!
//! Of the plugins only what they execute themselves is counted. How often a call is put aside depends on time, of which
//! everything takes fifty times as much here.

use std::fs;
use std::io::ErrorKind;
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
/// Where sled's threads spin while another one begins: for as long as the other one is not let run.
const WAITING: &str = "sled::lazy::Lazy";
/// How often a check counts what seems to have grown: where the machine is very busy the daemon wakes up more often, which is
/// work too. The least counts.
const TRIES: u32 = 3;
/// The committed figures, by build and variant, in instructions a delivery.
const FIGURES: &str = "docs/performance/instructions.json";
/// Instances few enough for the address space that valgrind leaves: less than 64 GiB at a piece, of which one reserves over 8.
/// And time enough: everything takes fifty times as long, and more on a busy machine.
const PLUGINS: &str = "[plugins]\ninstances_max = 3\ncall_deadline_ms = 60000\n";
/// The same for an attempt.
const TIMEOUT: (&str, &str) = ("max_in_flight", "timeout = \"5m\", max_in_flight");

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
        Err(error) if error.kind() == ErrorKind::NotFound => json!({}),
        Err(error) => return Err(error).with_context(|| format!("reading {FIGURES}")),
    };
    let build = if cfg!(debug_assertions) { "dev" } else { "release" };
    let nats = TestNats::start().await;
    let mut receiver = Receiver::start().await?;
    let url = receiver.url();
    let in_flight = format!("max_in_flight = {IN_FLIGHT_MAX}");
    let variants = [
        ("daemon", "all that the daemon executes, no plugin", plain("bench", "order", &url, &in_flight)),
        ("plugins", "the code of jq filter and redact transform", webhook("bench", "order", &url)),
    ];
    let what = format!(
        "{} and {} events of 1 KB, 64 at a time, {build} build: what each of the additional deliveries takes",
        EVENTS[0], EVENTS[1]
    );
    let mut report = Report::new("instructions", what, COLUMNS);
    let mut grown = Vec::new();
    for (variant, what, webhook) in variants {
        let config = base() + PLUGINS + &webhook.replace(TIMEOUT.0, TIMEOUT.1);
        let before = committed[build][variant].as_f64();
        let is_grown = |counted: f64| before.is_none_or(|before| counted > before * (1.0 + GROWTH_MAX));
        let mut counted = f64::INFINITY;
        for _ in 0..if options.check && before.is_some() { TRIES } else { 1 } {
            let [all, plugins] = per_delivery(&nats, &mut receiver, &config, variant).await?;
            counted = counted.min(if variant == "plugins" { plugins } else { all });
            if !is_grown(counted) {
                break;
            }
        }
        let ratio = before.map(|before| counted / before);
        say(&format!("instructions: {variant}: {counted:.0} a delivery, profile in {}", profile(variant)?.display()));
        report.row(what.to_owned(), vec![Some(counted), before, ratio]);
        if is_grown(counted) {
            let before = before.map_or("nothing".to_owned(), |before| format!("{before:.0}"));
            grown.push(format!("{what}: {counted:.0}, committed {before}"));
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

/// All instructions, and those of the plugins.
async fn per_delivery(nats: &TestNats, receiver: &mut Receiver, config: &str, variant: &str) -> Result<[f64; 2]> {
    let out = profile(variant)?;
    let mut counts = Vec::new();
    // The first is not counted: valgrind's processor is another one, for which the plugins are compiled anew.
    for events in [1].into_iter().chain(EVENTS) {
        fresh_stream(nats).await;
        let mut daemon = warm_daemon(nats, config).await;
        fill(nats, 0..events, |_| Some(SUBJECT.to_owned()), order).await?;
        counts.push(counted(nats, receiver, &mut daemon, events, &out).await?);
    }
    let each = |at: usize| counts[2][at].saturating_sub(counts[1][at]) as f64 / (EVENTS[1] - EVENTS[0]) as f64;
    Ok([each(0), each(1)])
}

/// The instructions of one run of the daemon, from its start to its end.
async fn counted(
    nats: &TestNats,
    receiver: &mut Receiver,
    daemon: &mut TestDaemon,
    events: u64,
    out: &Path,
) -> Result<[u64; 2]> {
    let to = format!("--callgrind-out-file={}", out.display());
    daemon.run_under(&["valgrind", "--tool=callgrind", "--quiet", &to]);
    daemon.launch();
    receiver.watch(events, &[daemon.process().id(), nats.id()]).await?;
    receiver.seen(time_max(events) * 10, || alive(daemon)).await?;
    nats.wait_drained(STREAM, CONSUMER, DRAIN_TIMEOUT).await;
    let ended = daemon.terminate().await;
    ensure!(ended.success(), "sluiced under callgrind: {ended}\n{}", daemon.log());
    sums(out)
}

/// The sums of a callgrind file: of everything but waiting, and of what belongs to no file, which is the plugins' compiled
/// code. See "Callgrind Format Specification" in valgrind's manual.
fn sums(out: &Path) -> Result<[u64; 2]> {
    let text = fs::read_to_string(out).with_context(|| format!("callgrind left no {}", out.display()))?;
    let (mut sums, mut is_of_call) = ([0, 0], false);
    let (mut file, mut function) = (Named::new("???"), Named::new(WAITING));
    for line in text.lines() {
        if file.is_named_by(line, "ob=") || function.is_named_by(line, "fn=") {
            continue;
        }
        if line.starts_with("calls=") {
            is_of_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            // What follows a call is what it cost in all: that is counted where it was spent.
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
            if !std::mem::take(&mut is_of_call) && !function.is_wanted {
                sums[0] += cost;
                sums[1] += if file.is_wanted { cost } else { 0 };
            }
        }
    }
    ensure!(sums[0] > 0 && !function.numbers.is_empty(), "{} counts nothing", out.display());
    Ok(sums)
}

/// What cost lines belong to: files or functions. Each is named the first time that it comes up, and has a number from then
/// on.
struct Named<'a> {
    /// A part of the names of those that are looked for.
    wanted: &'static str,
    numbers: Vec<&'a str>,
    /// Do the next lines belong to one of them?
    is_wanted: bool,
}

impl<'a> Named<'a> {
    fn new(wanted: &'static str) -> Self {
        Self { wanted, numbers: Vec::new(), is_wanted: false }
    }

    /// Takes in a line that names one, as the place of the next lines or as what they call.
    fn is_named_by(&mut self, line: &'a str, key: &str) -> bool {
        let called = line.strip_prefix('c').and_then(|line| line.strip_prefix(key));
        let Some(named) = line.strip_prefix(key).or(called) else { return false };
        let (number, name) = named.split_once(' ').unwrap_or((named, ""));
        if name.contains(self.wanted) {
            self.numbers.push(number);
        }
        if called.is_none() {
            self.is_wanted = self.numbers.contains(&number);
        }
        true
    }
}

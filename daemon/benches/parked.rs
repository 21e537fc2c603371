//! `cargo xtask bench parked`: what parked deliveries cost the store, at 10,000, 100,000 and a million of them.
//!
//! Scans of what is due must not grow with what is not due; memory, reopening and a page of a list have targets of their
//! own. Figures are printed, never asserted: a target that is missed is a finding, not a failure.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use sluiced::domain::{DeliveryId, Position, StreamName, SubscriptionId};
use sluiced::store::{Change, Config, Content, Disposition, LogEntry, Parked, Recorder, Store};
use sluiced::telemetry::clock::now_ms;
use tokio::time::Instant;

/// The deliveries of the last stage, unless `--parked` says otherwise.
const PARKED: u64 = 1_000_000;
/// Subscriptions that they belong to.
const SUBSCRIPTIONS: u64 = 100;
/// Of each subscription so many are due at once.
const DUE: u64 = 20;
/// The size of a body, in bytes.
const BODY_BYTES: usize = 1_000;
/// The rest is due within this time from an hour on, in milliseconds.
const HORIZON_MS: u64 = 24 * 3_600_000;
/// How many changes wait for the writer at most.
const WAITING_MAX: u64 = 10_000;
/// What the last stage should keep to.
const TARGETS: &str =
    "targets at 1,000,000: resident <= 250 MB, reopen <= 5 s, list page <= 20 ms, due scan as at 10,000";

fn main() -> Result<()> {
    let (bench, args): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg == "--bench");
    // `cargo test --all-targets` runs this too, without the word: compiling it was all that was to be tested.
    if bench.is_empty() && args.first().is_none_or(|arg| arg != "reopen") {
        return Ok(());
    }
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["reopen", dir] => reopen(Path::new(dir)),
        [] => stages(PARKED),
        ["--parked", count] => stages(count.parse().context("--parked takes a number")?),
        _ => anyhow::bail!("usage: parked [--parked COUNT]"),
    }
}

/// Fills a store in stages and measures after each.
fn stages(last: u64) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("sluiced-parked-").tempdir()?;
    let store = Store::open(config(dir.path()))?;
    println!("{SUBSCRIPTIONS} subscriptions, {DUE} due in each, bodies of {BODY_BYTES} bytes; {TARGETS}\n");
    println!("| parked | insert /s | due scan µs | next due µs | all next due ms | list page ms | file MB |");
    println!("|---|---|---|---|---|---|---|");
    let mut stages: Vec<u64> = [10_000, 100_000].into_iter().filter(|stage| *stage < last).collect();
    stages.push(last);
    let mut parked = 0;
    for stage in stages {
        let began = Instant::now();
        fill(&store, parked..stage)?;
        let rate = (stage - parked) as f64 / began.elapsed().as_secs_f64();
        parked = stage;
        ensure!(store.totals().parked == parked, "{} of {parked} are on record", store.totals().parked);
        let [due_us, next_us, all_ms, page_ms] = scans(&store)?;
        let file_mb = store.size()?.file_bytes as f64 / 1e6;
        println!("| {parked} | {rate:.0} | {due_us:.0} | {next_us:.1} | {all_ms:.2} | {page_ms:.2} | {file_mb:.0} |");
    }
    drop(store);
    // In a process of its own: what filling has left in memory does not count.
    let status = Command::new(std::env::current_exe()?).arg("reopen").arg(dir.path()).status()?;
    ensure!(status.success(), "reopening failed");
    Ok(())
}

/// Opens a filled store, and says how long that takes and how much memory it needs, also when all of it was read.
fn reopen(dir: &Path) -> Result<()> {
    let began = Instant::now();
    let store = Store::open(config(dir))?;
    let took = began.elapsed();
    let opened_mb = resident_mb()?;
    let (mut read, mut after) = (0, None);
    for n in 0..SUBSCRIPTIONS {
        loop {
            let page = store.parked_page(&subscription(n), after.as_ref(), u64::MAX - 1, 256)?;
            read += page.len();
            after = page.last().map(|(key, _)| key.clone());
            if after.is_none() {
                break;
            }
        }
    }
    ensure!(read as u64 == store.totals().parked, "{read} were read");
    let read_mb = resident_mb()?;
    println!("\nreopen {:.2} s; resident {opened_mb:.0} MB, after reading all {read_mb:.0} MB", took.as_secs_f64());
    Ok(())
}

fn config(dir: &Path) -> Config {
    Config::new(dir.join("store"))
}

fn subscription(n: u64) -> SubscriptionId {
    SubscriptionId::parse(&format!("subscription-{n}")).expect("a valid name")
}

/// Parks deliveries through the group writer, as the daemon does.
fn fill(store: &Store, numbers: std::ops::Range<u64>) -> Result<()> {
    let (confirmed, seen) = sync_channel(64);
    let (recorder, writer) = Recorder::start(store.clone(), move |tokens: Vec<()>, result| {
        // The receiving side is gone only when this function has failed already.
        drop(confirmed.send((tokens.len() as u64, result)));
    })?;
    let mut waiting = 0;
    let confirm = |waiting: &mut u64, at_most: u64| -> Result<()> {
        while *waiting > at_most {
            let (changes, result) = seen.recv()?;
            result?;
            *waiting -= changes;
        }
        Ok(())
    };
    for number in numbers {
        recorder.submit(park(number), ());
        waiting += 1;
        confirm(&mut waiting, WAITING_MAX)?;
    }
    confirm(&mut waiting, 0)?;
    recorder.close();
    ensure!(writer.join().is_ok(), "the writer panicked");
    Ok(())
}

fn park(number: u64) -> Change {
    let subscription = subscription(number % SUBSCRIPTIONS);
    let stream = StreamName::parse("EVENTS").expect("a valid name");
    let position = Position { stream, sequence: number + 1 };
    let now_ms = now_ms();
    // Scattered: each multiple of a prime is another place within the horizon.
    let later_ms = now_ms + 3_600_000 + number.wrapping_mul(2_654_435_761) % HORIZON_MS;
    let due_ms = if number / SUBSCRIPTIONS < DUE { now_ms } else { later_ms };
    let parked = Parked {
        delivery: DeliveryId::derive(&subscription, &position, 0),
        subscription: subscription.clone(),
        position: position.clone(),
        part: 0,
        parts: 1,
        due_ms,
        attempts: 1,
        first_attempt_ms: now_ms,
        last_failure: None,
        content: content(number),
        created_ms: now_ms,
        resent_after: 0,
        order_key: None,
        history: Vec::new(),
    };
    let log = LogEntry {
        subscription,
        position,
        part: 0,
        parts: 1,
        attempt: 1,
        status: Some(503),
        at_ms: now_ms,
        disposition: Disposition::Parked,
        class: None,
        detail: None,
    };
    Change::Park { parked: Box::new(parked), log }
}

fn content(number: u64) -> Content {
    Content {
        event_id: format!("order-{number}").into(),
        event_type: "orders.created".into(),
        event_time_ms: now_ms(),
        content_type: Some("application/json".into()),
        headers: Vec::new(),
        body: Bytes::from(vec![b'x'; BODY_BYTES]),
    }
}

/// Microseconds of a scan of what is due and of a look at the next, milliseconds of a look at all subscriptions' next and
/// of a page of a list: medians.
fn scans(store: &Store) -> Result<[f64; 4]> {
    let now_ms = now_ms();
    let (mut due, mut next, mut pages, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        for n in 0..SUBSCRIPTIONS {
            let id = subscription(n);
            due.push(timed(|| store.parked_page(&id, None, now_ms, 64).map(|page| page.len() as u64 == DUE))?);
            next.push(timed(|| store.next_due_ms(&id).map(|next| next.is_some()))?);
            pages.push(timed(|| store.parked_page(&id, None, u64::MAX - 1, 100).map(|page| page.len() == 100))?);
        }
        all.push(timed(|| store.subscriptions_with_parked().map(|with| with.len() as u64 == SUBSCRIPTIONS))?);
    }
    let (due, next) = (median(due).as_secs_f64() * 1e6, median(next).as_secs_f64() * 1e6);
    Ok([due, next, median(all).as_secs_f64() * 1e3, median(pages).as_secs_f64() * 1e3])
}

fn timed(work: impl FnOnce() -> Result<bool, sluiced::store::Error>) -> Result<Duration> {
    let began = Instant::now();
    let right = work()?;
    let took = began.elapsed();
    ensure!(right, "the store answered something else than was put in");
    Ok(took)
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    of[of.len() / 2]
}

/// Resident memory of this process, in megabytes.
fn resident_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS is not there")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

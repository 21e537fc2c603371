//! `cargo bench --package sluiced --bench deliveries`: what listings of deliveries cost the store, at 10,000, 100,000 and a
//! million records.
//!
//! A page must not grow with what is not on it. Figures are printed, never asserted: a target that is missed is a finding,
//! not a failure.
//!
//! With `--fill FOLDER STREAM` it measures nothing: it records in the store of that folder, for the case `api` of
//! `cargo xtask bench`, a delivery for each line `SUBSCRIPTION SEQUENCE` of its standard input.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluiced::domain::{DeliveryId, Position, StreamName, SubscriptionId};
use sluiced::store::{Change, Config, Disposition, LogEntry, LogFilter, Recorder, Store};
use sluiced::telemetry::clock::now_ms;
use tokio::time::Instant;

/// The records of the last stage, unless `--records` says otherwise.
const RECORDS: u64 = 1_000_000;
/// Subscriptions that most of them belong to.
const SUBSCRIPTIONS: u64 = 100;
/// One record in so many is of a subscription that has few.
const RARE: u64 = 10_000;
/// How often each question is asked.
const QUESTIONS: u64 = 200;
/// How many changes wait for the writer at most.
const WAITING_MAX: u64 = 10_000;
/// What the last stage should keep to.
const TARGET: &str = "target at 1,000,000: each question <= 10 ms at p99";

fn main() -> Result<()> {
    let (bench, args): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg == "--bench");
    // `cargo test --all-targets` runs this too, without the word: compiling it was all that was to be tested.
    if bench.is_empty() {
        return Ok(());
    }
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => stages(RECORDS),
        ["--records", count] => stages(count.parse().context("--records takes a number")?),
        ["--fill", folder, stream] => fill_for_others(folder, &StreamName::parse(stream)?),
        _ => anyhow::bail!("usage: deliveries [--records COUNT | --fill FOLDER STREAM]"),
    }
}

/// Fills a store in stages and measures after each.
fn stages(last: u64) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("sluiced-deliveries-").tempdir()?;
    let store = Store::open(Config::new(dir.path().join("store")))?;
    println!("{SUBSCRIPTIONS} subscriptions, and one with a record in {RARE}; p50 / p99 in ms; {TARGET}\n");
    println!(
        "| records | insert /s | index s | newest page | deep page | rare page | of nobody | all, newest | by id | no such id |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut stages: Vec<u64> = [10_000, 100_000].into_iter().filter(|stage| *stage < last).collect();
    stages.push(last);
    let mut records = 0;
    for stage in stages {
        let began = Instant::now();
        fill(&store, (records..stage).map(|number| Ok(entry(record(number)))))?;
        let rate = (stage - records) as f64 / began.elapsed().as_secs_f64();
        records = stage;
        let began = Instant::now();
        store.index_log(|| false)?;
        let index_s = began.elapsed().as_secs_f64();
        let row: Vec<String> = questions(&store, records)?.into_iter().map(spread).collect();
        println!("| {records} | {rate:.0} | {index_s:.2} | {} |", row.join(" | "));
    }
    Ok(())
}

fn subscription(n: u64) -> SubscriptionId {
    SubscriptionId::parse(&format!("subscription-{n}")).expect("a valid name")
}

/// The subscription and the place of a record.
fn record(number: u64) -> (SubscriptionId, Position) {
    let of =
        if number.is_multiple_of(RARE) { subscription(SUBSCRIPTIONS) } else { subscription(number % SUBSCRIPTIONS) };
    let stream = StreamName::parse("EVENTS").expect("a valid name");
    (of, Position { stream, sequence: number + 1 })
}

fn entry((subscription, position): (SubscriptionId, Position)) -> LogEntry {
    LogEntry {
        subscription,
        position,
        part: 0,
        parts: 1,
        attempt: 1,
        status: Some(200),
        at_ms: now_ms(),
        disposition: Disposition::Delivered,
        class: None,
        detail: None,
    }
}

/// Records what standard input says, and brings the index up to it.
fn fill_for_others(folder: &str, stream: &StreamName) -> Result<()> {
    let store = Store::open(Config::new(folder))?;
    let entries = std::io::stdin().lines().map(|line| {
        let line = line?;
        let (subscription, sequence) = line.split_once(' ').context("a line is `SUBSCRIPTION SEQUENCE`")?;
        let position = Position { stream: stream.clone(), sequence: sequence.parse()? };
        Ok(entry((SubscriptionId::parse(subscription)?, position)))
    });
    fill(&store, entries)?;
    store.index_log(|| false)?;
    Ok(())
}

/// Records deliveries through the group writer, as the daemon does.
fn fill(store: &Store, entries: impl Iterator<Item = Result<LogEntry>>) -> Result<()> {
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
    for entry in entries {
        recorder.submit(Change::Finished(entry?), ());
        waiting += 1;
        confirm(&mut waiting, WAITING_MAX)?;
    }
    confirm(&mut waiting, 0)?;
    recorder.close();
    ensure!(writer.join().is_ok(), "the writer panicked");
    Ok(())
}

/// How long each kind of question takes.
fn questions(store: &Store, records: u64) -> Result<Vec<Vec<Duration>>> {
    let of = |id: SubscriptionId| LogFilter { subscriptions: Some(vec![id]), ..LogFilter::default() };
    let mut took = vec![Vec::new(); 7];
    for n in 0..QUESTIONS {
        let own = of(subscription(n % SUBSCRIPTIONS));
        let newest = store.log_page(&own, None, 100)?;
        // Somewhere in the middle: each page before it leads to the next.
        let mut deep = newest.next;
        for _ in 0..n % 20 {
            deep = deep.and_then(|at| store.log_page(&own, Some(at), 100).ok()?.next);
        }
        let (known, place) = record(n.wrapping_mul(2_654_435_761) % records);
        let known = DeliveryId::derive(&known, &place, 0);
        let unknown = DeliveryId::derive(&subscription(SUBSCRIPTIONS + 1), &place, 0);
        let rare = (records / RARE).clamp(1, 100) as usize;
        let asked: [&dyn Fn() -> Result<bool>; 7] = [
            &|| Ok(!store.log_page(&own, None, 100)?.entries.is_empty()),
            &|| Ok(store.log_page(&own, deep, 100).is_ok()),
            &|| Ok(store.log_page(&of(subscription(SUBSCRIPTIONS)), None, 100)?.entries.len() == rare),
            &|| Ok(store.log_page(&of(subscription(SUBSCRIPTIONS + 1)), None, 100)?.entries.is_empty()),
            &|| Ok(store.log_page(&LogFilter::default(), None, 100)?.entries.len() == 100),
            &|| Ok(store.logged(&known)?.is_some()),
            &|| Ok(store.logged(&unknown)?.is_none()),
        ];
        for (at, question) in asked.into_iter().enumerate() {
            let began = Instant::now();
            ensure!(question()?, "question {at} is answered otherwise than was put in");
            took[at].push(began.elapsed());
        }
    }
    Ok(took)
}

/// The median and the 99th percentile, in milliseconds.
fn spread(mut of: Vec<Duration>) -> String {
    of.sort_unstable();
    let ms = |percent: usize| of[(of.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    format!("{:.2} / {:.2}", ms(50), ms(99))
}

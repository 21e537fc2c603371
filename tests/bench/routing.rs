//! Case `routing`: 10, 1,000, 10,000 and 100,000 subscriptions of which ten match every event.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use sluiced_tests::{SECRET, TestDaemon, TestNats, proc};
use tokio::time::{Instant, sleep};

use crate::load::CONSUMER;
use crate::receiver::Receiver;
use crate::report::{Column, Curve, Report, mib};
use crate::setup::{STREAM, alive, base, fill, free_address, fresh_stream, is_ready, plain, time_max};
use crate::stats::median;
use crate::{Options, say};

const SIZES: [u64; 4] = [10, 1_000, 10_000, 100_000];
/// Subscriptions that match every event.
const MATCHING: u64 = 10;
const EVENTS_MAX: u64 = 2_000;
/// A start with many subscriptions may take longer than a test would wait. A size that takes even longer has no figures.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
const COST_RATIO_MAX: f64 = 1.2;
const RSS_MB_MAX: f64 = 120.0;
/// The size that has a bound of its own.
const RSS_SIZE: u64 = 10_000;

const COLUMNS: &[Column] = &[
    Column { key: "events_per_s", name: "events", unit: "1/s", decimals: 0 },
    Column { key: "cpu_us", name: "CPU", unit: "us/event", decimals: 1 },
    Column { key: "cpu_delivery_us", name: "CPU", unit: "us/delivery", decimals: 1 },
    Column { key: "rss_idle_mib", name: "idle RSS", unit: "MiB", decimals: 1 },
    Column { key: "rss_max_mib", name: "peak RSS", unit: "MiB", decimals: 1 },
    Column { key: "first_start_s", name: "first start", unit: "s", decimals: 2 },
    Column { key: "start_s", name: "next start", unit: "s", decimals: 2 },
    Column { key: "of_ten", name: "CPU", unit: "times that of 10", decimals: 2 },
];

/// One measured size: in the order of [`COLUMNS`], without the last.
struct Run {
    values: [f64; 7],
}

/// Each size up to the option's in turn, and all again in each round.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let events = options.events.min(EVENTS_MAX);
    let what = format!("{events} events of 1 KB, no plugin, each to {MATCHING} of so many subscriptions of the file");
    let mut report = Report::new("routing", what, COLUMNS);
    let sizes: Vec<u64> = SIZES.into_iter().filter(|size| *size <= options.subscriptions).collect();
    let mut runs: Vec<Vec<Run>> = sizes.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (size, runs) in sizes.iter().zip(&mut runs) {
            say(&format!("routing: round {round} of {}, {size} subscriptions", options.rounds));
            match measure(*size, events).await? {
                Some(run) => {
                    say(&format!("routing: CPU {:.1} us/event, ready within {:.1} s", run.values[1], run.values[6]));
                    runs.push(run);
                }
                None => say(&format!("routing: not ready within {READY_TIMEOUT:?}")),
            }
        }
    }
    let mut points: [Vec<(f64, f64)>; 3] = Default::default();
    let mut cost_of_ten = f64::NAN;
    let mut last_ratio = f64::NAN;
    let mut last_size = 0;
    for (size, runs) in sizes.iter().zip(&runs) {
        if runs.is_empty() {
            report.row(format!("{size}: not ready within {READY_TIMEOUT:?}"), vec![None; COLUMNS.len()]);
            continue;
        }
        let medians: Vec<f64> = (0..7).map(|at| median(runs.iter().map(|run| run.values[at]))).collect();
        if *size == SIZES[0] {
            cost_of_ten = medians[1];
        }
        last_ratio = medians[1] / cost_of_ten;
        last_size = *size;
        report.row(format!("{size} median"), medians.iter().copied().chain([last_ratio]).map(Some).collect());
        for (points, value) in points.iter_mut().zip([medians[1], medians[3], medians[6]]) {
            points.push((*size as f64, value));
        }
        if *size == RSS_SIZE {
            let mb = medians[3] * f64::from(1 << 20) / 1e6;
            report.target("resident memory with 10,000 subscriptions", "MB", mb, RSS_MB_MAX);
        }
    }
    let what = match last_size {
        100_000 => "CPU per event, 100,000 subscriptions / 10",
        _ => "CPU per event, largest size / 10 (the target is for 100,000)",
    };
    report.target(what, "times", last_ratio, COST_RATIO_MAX);
    for curve in curves(points) {
        report.curve(curve);
    }
    Ok(report)
}

fn curves([cpu, rss, start]: [Vec<(f64, f64)>; 3]) -> [Curve; 3] {
    let curve = |name, title, unit, points| {
        let lines = vec![("sluiced".to_owned(), points)];
        Curve { name, title, size: "subscriptions, 10 of which match", unit, lines }
    };
    [
        curve("routing-cpu", "CPU per event as the subscriptions grow", "us", cpu),
        curve("routing-memory", "Resident memory as the subscriptions grow", "MiB", rss),
        curve("routing-start", "Exec to ready as the subscriptions grow", "s", start),
    ]
}

/// `None` when the daemon is not ready in time.
async fn measure(size: u64, events: u64) -> Result<Option<Run>> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut receiver = Receiver::start().await?;
    let address = free_address()?;
    let config = format!("{}[server]\nlisten = \"{address}\"\n", config(size, &receiver)?);
    let mut daemon = TestDaemon::builder(&nats, &config).launch();
    let Some(first_start_s) = ready(&mut daemon, address).await? else { return Ok(None) };
    daemon.terminate().await;
    daemon.launch();
    let Some(start_s) = ready(&mut daemon, address).await? else { return Ok(None) };
    let id = daemon.process().id();
    let rss_idle_bytes = proc::rss_bytes(id);
    receiver.watch(events * MATCHING, &[id]).await?;
    fill(&nats, 0..events, |_| Some(crate::setup::SUBJECT.to_owned()), sluiced_tests::events::order).await?;
    let seen = receiver.seen(time_max(events * MATCHING), || alive(&mut daemon)).await?;
    nats.wait_drained(STREAM, CONSUMER, DRAIN_TIMEOUT).await;
    let cpu_us = seen.cpu_us[0] as f64 / events as f64;
    let per_s = events as f64 / seen.seconds;
    let rss_max_bytes = proc::rss_max_bytes(id);
    daemon.terminate().await;
    receiver.end().await?;
    let values =
        [per_s, cpu_us, cpu_us / MATCHING as f64, mib(rss_idle_bytes), mib(rss_max_bytes), first_start_s, start_s];
    Ok(Some(Run { values }))
}

/// The matching ones stand evenly among the others.
fn config(size: u64, receiver: &Receiver) -> Result<String> {
    let (mut config, url) = (base(), receiver.url());
    for number in 0..size {
        if number % (size / MATCHING) == 0 {
            config += &plain(&format!("s{number}"), "order", &url, "max_in_flight = 8");
        } else {
            write!(
                config,
                "[[subscription]]\nname = \"s{number}\"\ntypes = [\"k{number}\"]\n\
                 webhook = {{ url = {url:?}, secret = {SECRET:?}, max_in_flight = 4 }}\n"
            )?;
        }
    }
    Ok(config)
}

/// Seconds until a daemon that was launched just now is ready; `None` when it is not within [`READY_TIMEOUT`].
async fn ready(daemon: &mut TestDaemon, address: SocketAddr) -> Result<Option<f64>> {
    let began = Instant::now();
    while !is_ready(address).await {
        alive(daemon)?;
        if began.elapsed() > READY_TIMEOUT {
            return Ok(None);
        }
        sleep(POLL).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    daemon.wait_ready().await;
    Ok(Some(seconds))
}

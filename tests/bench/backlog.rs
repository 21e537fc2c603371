//! Case `backlog`: 100,000 deliveries parked with their bodies, because the stream forgets what is acked and the endpoint is
//! dead, and their going out once it is back.

use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use sluiced_tests::events::order;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, proc};
use tokio::time::{Instant, sleep};

use crate::report::{Column, Report, mib};
use crate::setup::{IN_FLIGHT_MAX, STREAM, SUBJECT, alive, base, fill, plain};
use crate::{Options, say};

const EVENTS: u64 = 100_000;
/// A bound on each phase that is never met on a machine that works.
const TIME_MAX: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(100);

const COLUMNS: &[Column] = &[
    Column { key: "parked_per_s", name: "parked", unit: "1/s", decimals: 0 },
    Column { key: "delivered_per_s", name: "delivered", unit: "1/s", decimals: 0 },
    Column { key: "cpu_us", name: "CPU", unit: "us/delivery", decimals: 1 },
    Column { key: "rss_parked_mib", name: "RSS, all parked", unit: "MiB", decimals: 1 },
    Column { key: "rss_max_mib", name: "peak RSS", unit: "MiB", decimals: 1 },
];

/// Parks all, brings the endpoint back, and waits until all are delivered.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let events = if options.events < crate::EVENTS { options.events } else { EVENTS };
    let nats = TestNats::start().await;
    let subjects = vec!["bench.>".to_owned()];
    let retention = RetentionPolicy::WorkQueue;
    nats.create_stream_with(Config { name: STREAM.to_owned(), subjects, retention, ..Default::default() }).await;
    // Its port stays free, and whoever connects is refused.
    let mut receiver = TestReceiver::start_counting();
    receiver.stop();
    let settings = format!(
        "max_in_flight = {IN_FLIGHT_MAX}, retry = {{ max_attempts = 100, base = \"1s\", factor = 1 }}, \
         breaker = {{ attempts_min = 3, probe = \"500ms\", probe_max = \"1s\" }}"
    );
    let limits = format!("[delivery]\nmax_overflow = {}\n", 2 * EVENTS);
    let config = base() + &limits + &plain("backlog", "order", &receiver.url("/hook"), &settings);
    let mut daemon = TestDaemon::start(&nats, &config).await;
    let began = Instant::now();
    say(&format!("backlog: parking {events}"));
    fill(&nats, 0..events, |_| Some(SUBJECT.to_owned()), order).await?;
    reaches(&mut daemon, "sluiced_parked", events).await?;
    let parked_per_s = events as f64 / began.elapsed().as_secs_f64();
    let (id, rss_parked_mib) = (daemon.process().id(), mib(daemon.rss_bytes()));
    receiver.resume();
    say("backlog: delivering");
    // From the first ones on: when the endpoint is tried next has nothing to do with how fast the rest is.
    let before = reaches(&mut daemon, "sluiced_deliveries_total", 1).await?;
    let (began, cpu_before) = (Instant::now(), proc::cpu_time(id));
    reaches(&mut daemon, "sluiced_deliveries_total", events).await?;
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), proc::cpu_time(id).saturating_sub(cpu_before));
    let rest = (events as f64 - before).max(1.0);
    let rss_max_mib = mib(proc::rss_max_bytes(id));
    daemon.terminate().await;
    let what = format!("{events} deliveries of 1 KB parked with their bodies, and delivered, 64 at a time, no plugin");
    let mut report = Report::new("backlog", what, COLUMNS);
    let cpu_us = cpu.as_micros() as f64 / rest;
    let figures = [parked_per_s, rest / seconds, cpu_us, rss_parked_mib, rss_max_mib];
    report.row("sluiced".to_owned(), figures.map(Some).to_vec());
    Ok(report)
}

/// Waits until a metric is at least so much, and returns what it is. Of deliveries only those that were delivered count.
async fn reaches(daemon: &mut TestDaemon, name: &str, least: u64) -> Result<f64> {
    let labels: &[_] = if name == "sluiced_deliveries_total" { &[("outcome", "delivered")] } else { &[] };
    let began = Instant::now();
    loop {
        let value = daemon.metrics().await.sum(name, labels);
        if value >= least as f64 {
            return Ok(value);
        }
        alive(daemon)?;
        ensure!(began.elapsed() < TIME_MAX, "{name} is {value}, and not {least}, after {TIME_MAX:?}");
        sleep(POLL).await;
    }
}

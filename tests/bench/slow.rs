//! Case `slow`: 100,000 queued events for a receiver that takes a second for each request. Looked at for a minute, while
//! the queue stays all but full.

use std::time::Duration;

use anyhow::Result;
use sluiced_tests::events::order;
use sluiced_tests::{TestNats, proc};
use tokio::time::{Instant, sleep};

use crate::load::CONSUMER;
use crate::receiver::Receiver;
use crate::report::{Column, Report, mib};
use crate::setup::{IN_FLIGHT_MAX, STREAM, SUBJECT, alive, base, fill, fresh_stream, plain, warm_daemon};
use crate::{Options, say};

const EVENTS: u64 = 100_000;
/// Twice the time after which JetStream sends a message again that nobody has spoken of.
const LOOK: Duration = Duration::from_secs(60);
/// Where only a quick look at the case is wanted.
const LOOK_SHORT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_secs(1);
/// The stated bound.
const RSS_MIB_MAX: f64 = 100.0;

const COLUMNS: &[Column] = &[
    Column { key: "delivered", name: "delivered", unit: "events", decimals: 0 },
    Column { key: "rss_idle_mib", name: "idle RSS", unit: "MiB", decimals: 1 },
    Column { key: "rss_max_mib", name: "peak RSS", unit: "MiB", decimals: 1 },
    Column { key: "ack_pending_max", name: "most unacked", unit: "events", decimals: 0 },
    Column { key: "redelivered", name: "redelivered", unit: "events", decimals: 0 },
    Column { key: "cpu_us", name: "CPU", unit: "us/delivery", decimals: 0 },
];

/// Starts the daemon on the full stream and looks.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let quick = options.events < crate::EVENTS;
    let (events, look) = if quick { (options.events, LOOK_SHORT) } else { (EVENTS, LOOK) };
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let receiver = Receiver::start().await?;
    let in_flight = format!("max_in_flight = {IN_FLIGHT_MAX}, timeout = \"15s\"");
    let mut daemon = warm_daemon(&nats, &(base() + &plain("slow", "order", &receiver.slow_url(), &in_flight))).await;
    daemon.restart().await;
    let (id, rss_idle_bytes) = (daemon.process().id(), daemon.rss_bytes());
    say(&format!("slow: {events} events, for {look:?}"));
    fill(&nats, 0..events, |_| Some(SUBJECT.to_owned()), order).await?;
    let (mut ack_pending_max, mut redelivered) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < look {
        sleep(POLL).await;
        alive(&mut daemon)?;
        if let Some(info) = nats.consumer_info(STREAM, CONSUMER).await {
            ack_pending_max = ack_pending_max.max(info.num_ack_pending);
            // Those of the ones that are open now: it goes down again as they are acknowledged.
            redelivered = redelivered.max(info.num_redelivered);
        }
    }
    let delivered = daemon.metrics().await.sum("sluiced_deliveries_total", &[("outcome", "delivered")]);
    let (cpu, rss_max_mib) = (proc::cpu_time(id), mib(proc::rss_max_bytes(id)));
    daemon.terminate().await;
    receiver.end().await?;
    let what = format!("{events} queued events for a receiver that takes 1 s a request, 64 at a time, for {look:?}");
    let mut report = Report::new("slow", what, COLUMNS);
    let figures = [delivered, mib(rss_idle_bytes), rss_max_mib, ack_pending_max as f64, redelivered as f64];
    let cpu_us = cpu.as_micros() as f64 / delivered.max(1.0);
    report.row("sluiced".to_owned(), figures.into_iter().chain([cpu_us]).map(Some).collect());
    report.target("peak resident memory", "MiB", rss_max_mib, RSS_MIB_MAX);
    report.target("redelivered for lateness", "events", redelivered as f64, 0.0);
    Ok(report)
}

//! Case `latency`: from publish to arrival at 200 events/s, by the bare loop (a) and by the daemon (b) in turn, and what an
//! event costs at that rate.

use std::time::Duration;

use anyhow::Result;
use sluiced_tests::TestNats;

use crate::child::Child;
use crate::receiver::{Receiver, Seen};
use crate::report::{Column, Report};
use crate::setup::{SUBJECT, WARM_SUBJECT, alive, base, fresh_stream, publish, time_max, warm_daemon, webhook};
use crate::stats::median;
use crate::{Options, say};

/// 20 seconds in all; fewer only where fewer are asked for.
const EVENTS_MAX: u64 = 4_000;
const WARM_EVENTS: u64 = 200;
const INTERVAL: Duration = Duration::from_millis(5);
/// What the p99 may be above that of the bare loop.
const ADDED_MS_MAX: f64 = 2.0;

const COLUMNS: &[Column] = &[
    Column { key: "p50_ms", name: "p50", unit: "ms", decimals: 2 },
    Column { key: "p99_ms", name: "p99", unit: "ms", decimals: 2 },
    Column { key: "p999_ms", name: "p99.9", unit: "ms", decimals: 2 },
    Column { key: "late_p99_ms", name: "publisher late", unit: "ms, p99", decimals: 2 },
    Column { key: "cpu_us", name: "CPU", unit: "us/event", decimals: 0 },
    Column { key: "b_over_a", name: "b/a", unit: "CPU", decimals: 2 },
    Column { key: "added_p99_ms", name: "b - a", unit: "ms, p99", decimals: 2 },
];

/// One measured run.
struct Run {
    seen: Seen,
    late_p99_us: u64,
    events: f64,
}

/// Runs a, b, a, b …
pub(crate) async fn run(options: Options) -> Result<Report> {
    let Options { rounds, threads, .. } = options;
    let events = options.events.min(EVENTS_MAX);
    let what = format!(
        "publish to arrival, {events} events of 1 KB at 200 events/s, jq filter and redact transform; a: bare loop, b: \
         sluiced"
    );
    let mut report = Report::new("latency", what, COLUMNS);
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        say(&format!("latency: round {round} of {rounds}, a"));
        let a = bare_loop(events, threads).await?;
        report.row(format!("a {round}"), a.values(None));
        say(&format!("latency: round {round} of {rounds}, b"));
        let b = daemon(events).await?;
        report.row(format!("b {round}"), b.values(Some(&a)));
        of_a.push(a.ms(1));
        of_b.push(b.ms(1));
        ratios.push(b.cpu_us() / a.cpu_us());
    }
    // Of the medians: one disturbed run would make its own difference meaningless.
    report.target("p99 above that of the bare loop", "ms", median(of_b) - median(of_a), ADDED_MS_MAX);
    say(&format!("latency: CPU per event, b/a {:.2}", median(ratios)));
    Ok(report)
}

async fn bare_loop(events: u64, threads: u32) -> Result<Run> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut receiver = Receiver::start().await?;
    let (messages, threads) = ((WARM_EVENTS + events).to_string(), threads.to_string());
    let (nats_url, url) = (nats.url(), receiver.url());
    let mut child =
        Child::start(&["bare", "--nats", &nats_url, "--url", &url, "--messages", &messages, "--threads", &threads])?;
    let run = measure(&nats, &mut receiver, child.id(), events, || Ok(())).await?;
    child.next().await?;
    child.end().await?;
    receiver.end().await?;
    Ok(run)
}

async fn daemon(events: u64) -> Result<Run> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut receiver = Receiver::start().await?;
    let mut daemon = warm_daemon(&nats, &(base() + &webhook("bench", ">", &receiver.url()))).await;
    daemon.restart().await;
    let id = daemon.process().id();
    let run = measure(&nats, &mut receiver, id, events, || alive(&mut daemon)).await?;
    daemon.terminate().await;
    receiver.end().await?;
    Ok(run)
}

/// Publishes some events that do not count, then those that do.
async fn measure(
    nats: &TestNats,
    receiver: &mut Receiver,
    id: u32,
    events: u64,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<Run> {
    receiver.watch(WARM_EVENTS, &[]).await?;
    publish(nats, WARM_SUBJECT, WARM_EVENTS, INTERVAL).await?;
    receiver.seen(time_max(WARM_EVENTS), &mut alive).await?;
    receiver.watch(events, &[id]).await?;
    let late_p99_us = publish(nats, SUBJECT, events, INTERVAL).await?;
    let seen = receiver.seen(time_max(events), alive).await?;
    Ok(Run { seen, late_p99_us, events: events as f64 })
}

impl Run {
    fn cpu_us(&self) -> f64 {
        self.seen.cpu_us[0] as f64 / self.events
    }

    /// One of the percentiles of [`Seen`], in milliseconds.
    fn ms(&self, at: usize) -> f64 {
        self.seen.latency_us[at] as f64 / 1_000.0
    }

    /// In the order of [`COLUMNS`].
    fn values(&self, bare: Option<&Self>) -> Vec<Option<f64>> {
        let late_ms = self.late_p99_us as f64 / 1_000.0;
        let figures = [self.ms(0), self.ms(1), self.ms(2), late_ms, self.cpu_us()].map(Some);
        let beside = [bare.map(|bare| self.cpu_us() / bare.cpu_us()), bare.map(|bare| self.ms(1) - bare.ms(1))];
        figures.into_iter().chain(beside).collect()
    }
}

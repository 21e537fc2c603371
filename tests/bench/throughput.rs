//! Case `main`: the daemon with filter, transform and records (b) beside the bare loop (a), in turns, on the same events
//! and the same receiver.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluiced_tests::{TestNats, proc};

use crate::child::Child;
use crate::receiver::{Receiver, Seen};
use crate::report::{Column, Report, mib};
use crate::setup::{STREAM, SUBJECT, alive, base, fresh_stream, time_max, warm_daemon, webhook};
use crate::stats::median;
use crate::{Options, bare, say};

const NAME: &str = "bench";
/// The daemon's durable consumer, as its defaults name it.
const CONSUMER: &str = "sluiced";
/// From the last delivery to the last acknowledgement.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
const RATIO_MAX: f64 = 2.0;

const COLUMNS: &[Column] = &[
    Column { key: "deliveries_per_s", name: "deliveries", unit: "1/s", decimals: 0 },
    Column { key: "cpu_us", name: "CPU", unit: "us/delivery", decimals: 1 },
    Column { key: "cpu_total_us", name: "CPU, all", unit: "us/delivery", decimals: 1 },
    Column { key: "nats_cpu_us", name: "NATS CPU", unit: "us/delivery", decimals: 1 },
    Column { key: "rss_max_mib", name: "peak RSS", unit: "MiB", decimals: 1 },
    Column { key: "b_over_a", name: "b/a", unit: "CPU", decimals: 2 },
];

/// One measured run.
struct Run {
    seen: Seen,
    events: f64,
    /// CPU time in microseconds from the start to the last acknowledgement.
    cpu_total_us: u128,
    rss_max_bytes: u64,
}

/// Runs a, b, a, b …
pub(crate) async fn run(options: Options) -> Result<Report> {
    let Options { events, rounds, threads, .. } = options;
    let nats = TestNats::start().await;
    let mut receiver = Receiver::start().await?;
    let what =
        format!("{events} events of 1 KB, 64 at a time; CPU from first to last delivery; a: bare loop, b: sluiced");
    let mut report = Report::new("main", what, COLUMNS);
    let (mut of_a, mut of_b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        say(&format!("main: round {round} of {rounds}, a"));
        let a = bare_loop(&nats, &mut receiver, events, threads).await?;
        say(&format!("main: {}", a.line()));
        report.row(format!("a {round}"), a.values(None));
        say(&format!("main: round {round} of {rounds}, b"));
        let b = daemon(&nats, &mut receiver, events).await?;
        say(&format!("main: {}", b.line()));
        let ratio = b.cpu_us() / a.cpu_us();
        report.row(format!("b {round}"), b.values(Some(ratio)));
        of_a.push(a.values(None));
        of_b.push(b.values(Some(ratio)));
        ratios.push(ratio);
    }
    report.row("a median".to_owned(), medians(&of_a));
    report.row("b median".to_owned(), medians(&of_b));
    report.target("CPU per delivery, b/a", "times", median(ratios), RATIO_MAX);
    receiver.end().await?;
    Ok(report)
}

/// (a): the bare loop.
async fn bare_loop(nats: &TestNats, receiver: &mut Receiver, events: u64, threads: u32) -> Result<Run> {
    fresh_stream(nats).await;
    nats.publish_orders(SUBJECT, 0..events).await;
    let (deliveries, threads) = (events.to_string(), threads.to_string());
    let (nats_url, url) = (nats.url(), receiver.url());
    let args = ["bare", "--nats", &nats_url, "--url", &url, "--deliveries", &deliveries, "--threads", &threads];
    let mut child = Child::start(&args)?;
    receiver.watch(events, &[child.id(), nats.id()]).await?;
    // It gives up by itself when it gets nothing to deliver.
    let seen = receiver.seen(time_max(events), || Ok(())).await?;
    child.next().await?;
    nats.wait_drained(STREAM, bare::CONSUMER, DRAIN_TIMEOUT).await;
    let run = Run::close(seen, events, child.id());
    child.end().await?;
    Ok(run)
}

/// (b): the daemon, started on a full stream as after a pause.
async fn daemon(nats: &TestNats, receiver: &mut Receiver, events: u64) -> Result<Run> {
    fresh_stream(nats).await;
    let config = base() + &webhook(NAME, "order", &receiver.url());
    let mut daemon = warm_daemon(nats, &config).await;
    nats.publish_orders(SUBJECT, 0..events).await;
    daemon.launch();
    let id = daemon.process().id();
    receiver.watch(events, &[id, nats.id()]).await?;
    let seen = receiver.seen(time_max(events), || alive(&mut daemon)).await?;
    nats.wait_drained(STREAM, CONSUMER, DRAIN_TIMEOUT).await;
    daemon.wait_ready().await;
    let books = daemon.accounted(NAME, events).await;
    ensure!(books.delivered == events, "not every event was delivered: {books:?}");
    let run = Run::close(seen, events, id);
    daemon.terminate().await;
    Ok(run)
}

impl Run {
    fn close(seen: Seen, events: u64, id: u32) -> Self {
        let cpu_total_us = proc::cpu_time(id).as_micros();
        Self { seen, events: events as f64, cpu_total_us, rss_max_bytes: proc::rss_max_bytes(id) }
    }

    /// What is said while the rounds go on.
    fn line(&self) -> String {
        format!("{:.0} deliveries/s, CPU {:.1} us/delivery", self.per_s(), self.cpu_us())
    }

    fn per_s(&self) -> f64 {
        (self.events - 1.0) / self.seen.seconds
    }

    fn cpu_us(&self) -> f64 {
        self.seen.cpu_us[0] as f64 / self.events
    }

    /// In the order of [`COLUMNS`].
    fn values(&self, ratio: Option<f64>) -> Vec<Option<f64>> {
        let (total, nats) = (self.cpu_total_us as f64 / self.events, self.seen.cpu_us[1] as f64 / self.events);
        vec![Some(self.per_s()), Some(self.cpu_us()), Some(total), Some(nats), Some(mib(self.rss_max_bytes)), ratio]
    }
}

/// The median of each column.
fn medians(rows: &[Vec<Option<f64>>]) -> Vec<Option<f64>> {
    let column = |at: usize| rows.iter().map(|row| row[at]).collect::<Option<Vec<f64>>>().map(median);
    (0..COLUMNS.len()).map(column).collect()
}

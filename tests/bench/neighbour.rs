//! Case `neighbour`: what a healthy endpoint notices of another that never answers the same events.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluiced_tests::TestNats;

use crate::receiver::{Receiver, Seen};
use crate::report::{Column, Report};
use crate::say;
use crate::setup::{SUBJECT, WARM_SUBJECT, alive, base, fresh_stream, publish, time_max, warm_daemon, webhook};
use crate::stats::median;

const EVENTS: u64 = 4_000;
const WARM_EVENTS: u64 = 200;
/// 200 events a second: 20 seconds in all.
const INTERVAL: Duration = Duration::from_millis(5);
const RATIO_MAX: f64 = 2.0;

const COLUMNS: &[Column] = &[
    Column { key: "p50_ms", name: "p50", unit: "ms", decimals: 2 },
    Column { key: "p99_ms", name: "p99", unit: "ms", decimals: 2 },
    Column { key: "p999_ms", name: "p99.9", unit: "ms", decimals: 2 },
    Column { key: "settled_p99_ms", name: "p99 from 2 s on", unit: "ms", decimals: 2 },
    Column { key: "late_p99_ms", name: "publisher late", unit: "ms, p99", decimals: 2 },
    Column { key: "hanging", name: "hanging", unit: "requests", decimals: 0 },
    Column { key: "p99_ratio", name: "p99", unit: "with/without", decimals: 2 },
];

/// One measured run.
struct Run {
    seen: Seen,
    late_p99_us: u64,
}

/// Runs without, with, without, with …
pub(crate) async fn run(rounds: u32) -> Result<Report> {
    let what = "publish to arrival at a healthy endpoint, 200 events/s for 20 s, without and with a hanging neighbour";
    let mut report = Report::new("neighbour", what.to_owned(), COLUMNS);
    let (mut alone_us, mut beside_us) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        say(&format!("neighbour: round {round} of {rounds}, without"));
        let alone = measure(false).await?;
        report.row(format!("without {round}"), alone.values(None));
        say(&format!("neighbour: round {round} of {rounds}, with"));
        let beside = measure(true).await?;
        ensure!(beside.seen.hanging > 0, "the neighbour got no request");
        let ratio = beside.p99_us() / alone.p99_us();
        report.row(format!("with {round}"), beside.values(Some(ratio)));
        alone_us.push(alone.p99_us());
        beside_us.push(beside.p99_us());
    }
    // Of the medians: one disturbed run would make its own ratio meaningless.
    let ratio = median(beside_us) / median(alone_us);
    report.target("p99 of a healthy endpoint, with/without a hanging neighbour", "times", ratio, RATIO_MAX);
    Ok(report)
}

/// One run on parts of its own. The neighbour wants only the measured events, so that its first hanging request, and all
/// that follows from it, lies within the measurement.
async fn measure(neighbour: bool) -> Result<Run> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut receiver = Receiver::start().await?;
    let mut config = base() + &webhook("healthy", ">", &receiver.url());
    if neighbour {
        config += &webhook("hanging", "order", &receiver.hanging_url());
    }
    let mut daemon = warm_daemon(&nats, &config).await;
    daemon.restart().await;
    receiver.watch(WARM_EVENTS, &[]).await?;
    publish(&nats, WARM_SUBJECT, WARM_EVENTS, INTERVAL).await?;
    receiver.seen(time_max(WARM_EVENTS), || alive(&mut daemon)).await?;
    receiver.watch(EVENTS, &[]).await?;
    let late_p99_us = publish(&nats, SUBJECT, EVENTS, INTERVAL).await?;
    let seen = receiver.seen(time_max(EVENTS), || alive(&mut daemon)).await?;
    // Not stopped in order: that would wait for the requests that hang.
    daemon.kill9();
    receiver.end().await?;
    Ok(Run { seen, late_p99_us })
}

impl Run {
    fn p99_us(&self) -> f64 {
        self.seen.latency_us[1] as f64
    }

    /// In the order of [`COLUMNS`].
    fn values(&self, ratio: Option<f64>) -> Vec<Option<f64>> {
        let ms = |us: u64| Some(us as f64 / 1_000.0);
        let [p50, p99, p999, settled_p99] = self.seen.latency_us.map(ms);
        vec![p50, p99, p999, settled_p99, ms(self.late_p99_us), Some(self.seen.hanging as f64), ratio]
    }
}

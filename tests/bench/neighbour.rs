//! Case `neighbour`: what a healthy endpoint notices of another that never answers the same events.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluiced_tests::TestNats;
use tokio::time::interval;

use crate::receiver::{Receiver, Seen};
use crate::report::{Column, Report};
use crate::say;
use crate::setup::{SUBJECT, WARM_SUBJECT, alive, base, fresh_stream, stamped, time_max, warm_daemon, webhook};
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
    Column { key: "hanging", name: "hanging", unit: "requests", decimals: 0 },
    Column { key: "p99_ratio", name: "p99", unit: "with/without", decimals: 2 },
];

/// Runs without, with, without, with …
pub(crate) async fn run(rounds: u32) -> Result<Report> {
    let what = "publish to arrival at a healthy endpoint, 200 events/s for 20 s, without and with a hanging neighbour";
    let mut report = Report::new("neighbour", what.to_owned(), COLUMNS);
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        say(&format!("neighbour: round {round} of {rounds}, without"));
        let alone = measure(false).await?;
        report.row(format!("without {round}"), values(&alone, None));
        say(&format!("neighbour: round {round} of {rounds}, with"));
        let beside = measure(true).await?;
        ensure!(beside.hanging > 0, "the neighbour got no request");
        let ratio = beside.latency_us[1] as f64 / alone.latency_us[1] as f64;
        report.row(format!("with {round}"), values(&beside, Some(ratio)));
        ratios.push(ratio);
    }
    report.target("p99 of a healthy endpoint, with/without a hanging neighbour", "times", median(ratios), RATIO_MAX);
    Ok(report)
}

/// One run on parts of its own. The neighbour wants only the measured events, so that its first hanging request, and all
/// that follows from it, lies within the measurement.
async fn measure(neighbour: bool) -> Result<Seen> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut receiver = Receiver::start().await?;
    let mut config = base() + &webhook("healthy", ">", &receiver.url());
    if neighbour {
        config += &webhook("hanging", "order", &receiver.hanging_url());
    }
    let mut daemon = warm_daemon(&nats, &config).await;
    daemon.restart().await;
    for (subject, events) in [(WARM_SUBJECT, WARM_EVENTS), (SUBJECT, EVENTS)] {
        receiver.watch(events, &[]).await?;
        publish(&nats, subject, events).await?;
        let seen = receiver.seen(time_max(events), || alive(&mut daemon)).await?;
        if subject == SUBJECT {
            // Not stopped in order: that would wait for the requests that hang.
            daemon.kill9();
            receiver.end().await?;
            return Ok(seen);
        }
    }
    unreachable!("the measured events are the last")
}

/// Publishes at the pace of [`INTERVAL`]. What is late is caught up at once, as a real publisher's burst would be.
async fn publish(nats: &TestNats, subject: &'static str, events: u64) -> Result<()> {
    let client = nats.client().await;
    let mut pace = interval(INTERVAL);
    for number in 0..events {
        pace.tick().await;
        client.publish(subject, stamped(number)).await?;
    }
    Ok(client.flush().await?)
}

/// In the order of [`COLUMNS`].
fn values(seen: &Seen, ratio: Option<f64>) -> Vec<Option<f64>> {
    let [p50, p99, p999, settled_p99] = seen.latency_us.map(|us| Some(us as f64 / 1_000.0));
    vec![p50, p99, p999, settled_p99, Some(seen.hanging as f64), ratio]
}

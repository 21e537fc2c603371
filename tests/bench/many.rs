//! Case `many`: what the live ones of thousands of endpoints notice of hundreds that are dead.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use sluiced_tests::{SECRET, TestNats, TestReceiver};
use tokio::time::interval;

use crate::receiver::{Receiver, Seen};
use crate::report::{Column, Report};
use crate::say;
use crate::setup::{alive, base, fresh_stream, stamped, warm_daemon};
use crate::stats::median;

/// All endpoints, each with an event type of its own.
const ENDPOINTS: u64 = 5_000;
/// The dead ones among them.
const DEAD: u64 = 500;
/// Three for each endpoint.
const EVENTS: u64 = 3 * ENDPOINTS;
/// 500 events a second: 30 seconds in all.
const INTERVAL: Duration = Duration::from_millis(2);
/// A bound that is never met on a machine that works.
const TIME_MAX: Duration = Duration::from_secs(300);
const RATIO_MAX: f64 = 2.0;

const COLUMNS: &[Column] = &[
    Column { key: "p50_ms", name: "p50", unit: "ms", decimals: 2 },
    Column { key: "p99_ms", name: "p99", unit: "ms", decimals: 2 },
    Column { key: "p999_ms", name: "p99.9", unit: "ms", decimals: 2 },
    Column { key: "failing", name: "failing", unit: "endpoints", decimals: 0 },
    Column { key: "p99_ratio", name: "p99", unit: "with/without", decimals: 2 },
];

/// Runs without, with, without, with …
pub(crate) async fn run(rounds: u32) -> Result<Report> {
    let what = format!(
        "publish to arrival at {} live endpoints, 500 events/s for 30 s, without and with {DEAD} dead ones",
        ENDPOINTS - DEAD
    );
    let mut report = Report::new("many", what, COLUMNS);
    let (mut without_us, mut with_us) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        say(&format!("many: round {round} of {rounds}, without"));
        let (without, _) = measure(false).await?;
        report.row(format!("without {round}"), values(&without, 0.0, None));
        say(&format!("many: round {round} of {rounds}, with"));
        let (with, failing) = measure(true).await?;
        let ratio = with.latency_us[1] as f64 / without.latency_us[1] as f64;
        report.row(format!("with {round}"), values(&with, failing, Some(ratio)));
        without_us.push(without.latency_us[1] as f64);
        with_us.push(with.latency_us[1] as f64);
    }
    // Of the medians: one disturbed run would make its own ratio meaningless.
    let ratio = median(with_us) / median(without_us);
    report.target("p99 of the live endpoints, with/without the dead ones", "times", ratio, RATIO_MAX);
    Ok(report)
}

/// One run on parts of its own: what the live ones saw, and how many endpoints counted as failing at its end.
async fn measure(with_dead: bool) -> Result<(Seen, f64)> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut receiver = Receiver::start().await?;
    // Its port stays free, and whoever connects is refused.
    let mut dead = TestReceiver::start_counting();
    dead.stop();
    let mut config = base() + "[delivery]\nallow_cidrs = [\"127.0.0.0/8\"]\nbreaker = { attempts_min = 3 }\n";
    for number in if with_dead { 0 } else { DEAD }..ENDPOINTS {
        let url = if number < DEAD { dead.url("/hook") } else { receiver.url() };
        write!(
            config,
            "[[subscription]]\nname = \"s{number}\"\ntypes = [\"k{number}\"]\n\
             webhook = {{ url = {url:?}, secret = {SECRET:?}, max_in_flight = 4 }}\n"
        )?;
    }
    let mut daemon = warm_daemon(&nats, &config).await;
    daemon.restart().await;
    receiver.watch(EVENTS / ENDPOINTS * (ENDPOINTS - DEAD), &[]).await?;
    let client = nats.client().await;
    let mut pace = interval(INTERVAL);
    for number in 0..EVENTS {
        pace.tick().await;
        client.publish(format!("bench.k{}", number % ENDPOINTS), stamped(number)).await?;
    }
    client.flush().await?;
    let seen = receiver.seen(TIME_MAX, || alive(&mut daemon)).await?;
    let failing = daemon.metrics().await.sum("sluiced_failing", &[]);
    daemon.terminate().await;
    receiver.end().await?;
    Ok((seen, failing))
}

/// In the order of [`COLUMNS`].
fn values(seen: &Seen, failing: f64, ratio: Option<f64>) -> Vec<Option<f64>> {
    let ms = |us: u64| Some(us as f64 / 1_000.0);
    let [p50, p99, p999, _] = seen.latency_us.map(ms);
    vec![p50, p99, p999, Some(failing), ratio]
}

//! Case `idle`: the memory of a daemon that has nothing to do, with its plugins loaded from the cache.

use std::time::Duration;

use anyhow::Result;
use sluiced_tests::{TestNats, proc};
use tokio::time::sleep;

use crate::report::{Column, Report, mib};
use crate::setup::{alive, fresh_stream, three_plugins, warm_daemon};

/// How long it is left alone: what start-up frees is given back by then.
const REST: Duration = Duration::from_secs(5);
const RSS_MIB_MAX: f64 = 40.0;

const COLUMNS: &[Column] = &[
    Column { key: "rss_mib", name: "RSS", unit: "MiB", decimals: 1 },
    Column { key: "pss_mib", name: "PSS", unit: "MiB", decimals: 1 },
    Column { key: "rss_max_mib", name: "peak RSS", unit: "MiB", decimals: 1 },
];

/// Starts it with a warm cache, leaves it alone, and looks.
pub(crate) async fn run() -> Result<Report> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut daemon = warm_daemon(&nats, &three_plugins()).await;
    daemon.restart().await;
    sleep(REST).await;
    alive(&mut daemon)?;
    let id = daemon.process().id();
    let bytes = [proc::rss_bytes(id), proc::pss_bytes(id), proc::rss_max_bytes(id)];
    let what = "idle, three plugins loaded from the cache, two subscriptions, 5 s after ready";
    let mut report = Report::new("idle", what.to_owned(), COLUMNS);
    report.row("sluiced".to_owned(), bytes.map(|bytes| Some(mib(bytes))).to_vec());
    report.target("resident memory", "MiB", mib(bytes[0]), RSS_MIB_MAX);
    daemon.terminate().await;
    Ok(report)
}

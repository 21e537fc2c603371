//! Case `start`: from exec to the first 200 of `/readyz`, with a warm plugin cache and a running NATS server.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluiced_tests::{SECRET, TestNats};
use tokio::time::{Instant, sleep};

use crate::report::{Column, Report};
use crate::say;
use crate::setup::{alive, base, free_address, fresh_stream, is_ready, three_plugins, warm_daemon};
use crate::stats::median;

const STARTS: u32 = 10;
/// Of the set-up with five plugins.
const SUBSCRIPTIONS: usize = 1_000;
const POLL: Duration = Duration::from_millis(1);
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const START_MS_MAX: f64 = 300.0;

const COLUMNS: &[Column] = &[
    Column { key: "median_ms", name: "median", unit: "ms", decimals: 0 },
    Column { key: "min_ms", name: "fastest", unit: "ms", decimals: 0 },
    Column { key: "max_ms", name: "slowest", unit: "ms", decimals: 0 },
];

/// Starts each set-up ten times on the same data.
pub(crate) async fn run() -> Result<Report> {
    let what = "from exec to /readyz 200, warm plugin cache, running NATS, 10 starts each";
    let mut report = Report::new("start", what.to_owned(), COLUMNS);
    let three = times_ms("3 plugins", &three_plugins()).await?;
    report.row("3 plugins, 2 subscriptions".to_owned(), values(&three));
    let many = times_ms("5 plugins", &five_plugins()).await?;
    report.row(format!("5 plugins, {SUBSCRIPTIONS} subscriptions"), values(&many));
    report.target("exec to ready, 3 plugins, median", "ms", median(three), START_MS_MAX);
    report.target("exec to ready, 5 plugins and 1,000 subscriptions, median", "ms", median(many), START_MS_MAX);
    Ok(report)
}

/// In the order of [`COLUMNS`].
fn values(times_ms: &[f64]) -> Vec<Option<f64>> {
    let (fastest, slowest) = (times_ms.iter().copied().reduce(f64::min), times_ms.iter().copied().reduce(f64::max));
    vec![Some(median(times_ms.iter().copied())), fastest, slowest]
}

async fn times_ms(name: &str, config: &str) -> Result<Vec<f64>> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    // A port that is known before the start can be asked from its first moment on.
    let address = free_address()?;
    let config = format!("{config}\n[server]\nlisten = \"{address}\"\n");
    let mut daemon = warm_daemon(&nats, &config).await;
    let mut times_ms = Vec::new();
    for start in 1..=STARTS {
        say(&format!("start: {name}, {start} of {STARTS}"));
        let began = Instant::now();
        daemon.launch();
        while !is_ready(address).await {
            alive(&mut daemon)?;
            ensure!(began.elapsed() < READY_TIMEOUT, "not ready within {READY_TIMEOUT:?}");
            sleep(POLL).await;
        }
        times_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
        daemon.terminate().await;
    }
    Ok(times_ms)
}

/// A thousand subscriptions, each with one of five plugins.
fn five_plugins() -> String {
    const PLUGINS: [&str; 5] = [
        r#"filters = [{ plugin = "jq", config = { expr = ".amount >= 0" } }]"#,
        r#"filters = [{ plugin = "sample", config = { percent = 50 } }]"#,
        r#"transforms = [{ plugin = "redact", config = { pointers = ["/card/number"] } }]"#,
        r#"transforms = [{ plugin = "render", config = { template = "Order {{ data.number }}" } }]"#,
        r#"transforms = [{ plugin = "route-type", config = { headers = { X-Number = "{/number}" } } }]"#,
    ];
    let mut config = base();
    for (number, plugin) in (0..SUBSCRIPTIONS).zip(PLUGINS.iter().cycle()) {
        config += &format!(
            "[[subscription]]\nname = \"s{number}\"\ntypes = [\"k{number}\"]\n{plugin}\n\
             webhook = {{ url = \"http://127.0.0.1:9/never-called\", secret = {SECRET:?} }}\n"
        );
    }
    config
}

//! Case `console`: what the daemon spends on a page of the web console that somebody looks at while 10,000 events a second
//! flow, and how the page feels in a browser that shares the machine.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sluiced_tests::events::order;
use sluiced_tests::paths::console_tests;
use sluiced_tests::{ADMIN_KEY, SECRET, TestDaemon, TestNats};
use tokio::process::Command;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::child::Child;
use crate::receiver::Receiver;
use crate::report::{Column, Report};
use crate::setup::{IN_FLIGHT_MAX, SUBJECT, alive, base, fresh_stream};
use crate::stats::median;
use crate::{Options, say};

/// Events are published so many at a time, which makes 10,000 a second.
const BATCH: u64 = 100;
const BATCH_PACE: Duration = Duration::from_millis(10);
const RECEIVED: &str = "sluiced_events_received_total";
/// How long is looked at the daemon with a page, and without one.
const LOOK: Duration = Duration::from_secs(10);
/// What has just begun is not measured.
const REST: Duration = Duration::from_secs(2);
const PAGES: [(&str, &str); 2] = [("overview", "/"), ("events, live", "/events")];

/// Of one core.
const SHARE_MAX: f64 = 5.0;
/// A click that is answered within this feels immediate.
const CLICK_MS_MAX: f64 = 200.0;

const COLUMNS: &[Column] = &[
    Column { key: "events_per_s", name: "events", unit: "1/s", decimals: 0 },
    Column { key: "core_percent", name: "daemon", unit: "% of a core", decimals: 1 },
    Column { key: "share_percent", name: "for the page", unit: "% of a core", decimals: 1 },
    Column { key: "late_p99_ms", name: "page late", unit: "ms, p99", decimals: 0 },
    Column { key: "late_max_ms", name: "page late", unit: "ms, most", decimals: 0 },
    Column { key: "click_max_ms", name: "click", unit: "ms, most", decimals: 0 },
];

/// What the daemon did for some time.
struct Look {
    events_per_s: f64,
    core_percent: f64,
}

/// How a page felt, in milliseconds.
struct Felt {
    late_p99_ms: f64,
    late_max_ms: f64,
    click_max_ms: f64,
}

/// Looks without a page, with one, without, with the next.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let receiver = Receiver::start().await?;
    let subscription = format!(
        "[[subscription]]\nname = \"bench\"\ntypes = [\"order\"]\nwebhook = {{ url = {:?}, secret = {SECRET:?}, \
         max_in_flight = {IN_FLIGHT_MAX} }}\n",
        receiver.url()
    );
    let mut daemon = TestDaemon::start(&nats, &(base() + &subscription)).await;
    let client = nats.client().await;
    let report = tokio::select! {
        report = rounds(&mut daemon, options.rounds) => report?,
        ended = flow(client) => bail!("nothing is published any more: {ended:?}"),
    };
    daemon.kill9();
    receiver.end().await?;
    Ok(report)
}

async fn rounds(daemon: &mut TestDaemon, rounds: u32) -> Result<Report> {
    let what = "the daemon while 10,000 events of 1 KB a second are delivered, without and with a page of the console";
    let mut report = Report::new("console", what.to_owned(), COLUMNS);
    let (mut shares, mut clicks) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (name, path) in PAGES {
            say(&format!("console: round {round} of {rounds}, {name}"));
            sleep(REST).await;
            let without = look(daemon).await?;
            let (with, felt) = beside(daemon, path).await?;
            alive(daemon)?;
            let share = with.core_percent - without.core_percent;
            report.row(format!("none {round}"), without.values(None));
            report.row(format!("{name} {round}"), with.values(Some((share, &felt))));
            shares.push(share);
            clicks.push(felt.click_max_ms);
        }
    }
    report.target("the daemon's time for a page", "% of a core", median(shares), SHARE_MAX);
    report.target("the slowest click", "ms", median(clicks), CLICK_MS_MAX);
    Ok(report)
}

/// Publishes until it is stopped.
async fn flow(client: async_nats::Client) -> Result<()> {
    let mut pace = interval(BATCH_PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        if number % BATCH == 0 {
            pace.tick().await;
        }
        client.publish(SUBJECT, order(number)).await?;
    }
    Ok(())
}

/// Looks at the daemon for [`LOOK`].
async fn look(daemon: &TestDaemon) -> Result<Look> {
    looked_at(daemon, async || {
        sleep(LOOK).await;
        Ok(())
    })
    .await
    .map(|(look, ())| look)
}

/// Looks at the daemon beside a page that is looked at for as long.
async fn beside(daemon: &TestDaemon, path: &str) -> Result<(Look, Felt)> {
    let mut watch = Command::new("node");
    watch.arg(console_tests().join("watch.mjs")).arg(path).arg(LOOK.as_secs().to_string());
    watch.env("SLUICED_URL", daemon.url("")).env("SLUICED_KEY", ADMIN_KEY);
    let mut page = Child::run(watch).context("the case needs Node.js")?;
    page.next().await.context("the page does not show")?;
    let (look, felt) = looked_at(daemon, async || page.next().await).await?;
    page.end().await?;
    let ms = |key: &str| felt[key].as_f64().with_context(|| format!("the page did not tell its {key}: {felt}"));
    let felt =
        Felt { late_p99_ms: ms("late_p99_ms")?, late_max_ms: ms("late_max_ms")?, click_max_ms: ms("click_max_ms")? };
    Ok((look, felt))
}

/// Looks at the daemon while something goes on.
async fn looked_at<T>(daemon: &TestDaemon, work: impl AsyncFnOnce() -> Result<T>) -> Result<(Look, T)> {
    let received = daemon.metrics().await.sum(RECEIVED, &[]);
    let (cpu, began) = (daemon.cpu_time(), Instant::now());
    let done = work().await?;
    let (cpu, took) = (daemon.cpu_time() - cpu, began.elapsed().as_secs_f64());
    let received = daemon.metrics().await.sum(RECEIVED, &[]) - received;
    Ok((Look { events_per_s: received / took, core_percent: 100.0 * cpu.as_secs_f64() / took }, done))
}

impl Look {
    /// In the order of [`COLUMNS`].
    fn values(&self, page: Option<(f64, &Felt)>) -> Vec<Option<f64>> {
        let felt = |of: fn(&Felt) -> f64| page.map(|(_, felt)| of(felt));
        vec![
            Some(self.events_per_s),
            Some(self.core_percent),
            page.map(|(share, _)| share),
            felt(|felt| felt.late_p99_ms),
            felt(|felt| felt.late_max_ms),
            felt(|felt| felt.click_max_ms),
        ]
    }
}

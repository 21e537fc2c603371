//! Case `plugins`: what healthy subscriptions notice of another one whose plugin takes all the time that it may, or some of it
//! on every event.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluiced_tests::{TestDaemon, TestNats};

use crate::receiver::{Receiver, Seen};
use crate::report::{Column, Report};
use crate::say;
use crate::setup::{SUBJECT, WARM_SUBJECT, alive, base, fresh_stream, publish, time_max, webhook};
use crate::stats::median;

const EVENTS: u64 = 2_000;
const WARM_EVENTS: u64 = 200;
/// 200 events a second: 10 seconds in all.
const INTERVAL: Duration = Duration::from_millis(5);
/// The undisturbed subscriptions, each with a filter and a transform.
const HEALTHY: u64 = 2;
/// Events that a plugin with a backlog finds: more than it can work on in a run.
const BACKLOG: u64 = 80_000;
const RATIO_MAX: f64 = 2.0;

const COLUMNS: &[Column] = &[
    Column { key: "p50_ms", name: "p50", unit: "ms", decimals: 2 },
    Column { key: "p99_ms", name: "p99", unit: "ms", decimals: 2 },
    Column { key: "p999_ms", name: "p99.9", unit: "ms", decimals: 2 },
    Column { key: "late_p99_ms", name: "publisher late", unit: "ms, p99", decimals: 2 },
    Column { key: "cpu_cores", name: "CPU", unit: "cores", decimals: 2 },
    Column { key: "calls_per_s", name: "its calls", unit: "1/s", decimals: 0 },
    Column { key: "p99_ratio", name: "p99", unit: "with/without", decimals: 2 },
];

/// What runs beside the healthy ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Neighbour {
    Nobody,
    /// A plugin that loops until its deadline, on every event.
    Loops,
    /// Three of them.
    ThreeLoop,
    /// A filter in JavaScript, on the events of the healthy ones.
    JavaScript,
    /// The same with a backlog: it is called again as soon as it has answered.
    JavaScriptBusy,
}

/// One measured run.
struct Run {
    seen: Seen,
    late_p99_us: u64,
    calls_per_s: f64,
}

impl Neighbour {
    const ALL: [Self; 5] = [Self::Nobody, Self::Loops, Self::ThreeLoop, Self::JavaScript, Self::JavaScriptBusy];

    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "undisturbed",
            Self::Loops => "a loop",
            Self::ThreeLoop => "three loops",
            Self::JavaScript => "JavaScript",
            Self::JavaScriptBusy => "JavaScript, busy",
        }
    }

    /// Its subscriptions; every event ends in the filter.
    fn subscriptions(self) -> String {
        let subscription = |number: u32, rest: &str| {
            format!(
                "\n[[subscription]]\nname = \"neighbour-{number}\"\n{rest}\non_plugin_error = \"drop\"\n\
                 webhook = {{ url = \"http://127.0.0.1:9/never-called\" }}\n"
            )
        };
        let looping = "types = [\"order\"]\nfilters = [{ plugin = \"hostile\", config = { do = \"loop\" } }]";
        // It parses the event, and compares the card with itself.
        let unchanged = "filters = [{ plugin = \"changes\", config = { before = \"/card\", after = \"/card\" } }]";
        match self {
            Self::Nobody => String::new(),
            Self::Loops => subscription(1, looping),
            Self::ThreeLoop => (1..=3).map(|number| subscription(number, looping)).collect(),
            Self::JavaScript => subscription(1, &format!("types = [\"order\"]\n{unchanged}")),
            Self::JavaScriptBusy => {
                subscription(1, &format!("types = [\"order\", \"warm\"]\ndeliver_from = \"all\"\n{unchanged}"))
            }
        }
    }
}

/// Runs one after the other, `rounds` times.
pub(crate) async fn run(rounds: u32) -> Result<Report> {
    let what = format!(
        "publish to arrival at {HEALTHY} subscriptions with a filter and a transform, 200 events/s for 10 s, beside others' plugins"
    );
    let mut report = Report::new("plugins", what, COLUMNS);
    let mut p99_us: [Vec<f64>; Neighbour::ALL.len()] = Default::default();
    for round in 1..=rounds {
        for (neighbour, all) in Neighbour::ALL.into_iter().zip(&mut p99_us) {
            say(&format!("plugins: round {round} of {rounds}, {}", neighbour.name()));
            let run = measure(neighbour).await?;
            all.push(run.p99_us());
            report.row(format!("{} {round}", neighbour.name()), run.values(None));
        }
    }
    // Of the medians: one disturbed run would make its own ratio meaningless.
    let [undisturbed, beside @ ..] = p99_us.map(median);
    let mut worst: f64 = 0.0;
    for (neighbour, p99_us) in Neighbour::ALL.into_iter().skip(1).zip(beside) {
        let ratio = p99_us / undisturbed;
        worst = worst.max(ratio);
        let mut values = vec![None; COLUMNS.len()];
        (values[1], values[COLUMNS.len() - 1]) = (Some(p99_us / 1_000.0), Some(ratio));
        report.row(format!("{}, median", neighbour.name()), values);
    }
    report.target("p99 of the healthy ones beside the worst neighbour, with/without", "times", worst, RATIO_MAX);
    Ok(report)
}

/// One run on parts of its own.
async fn measure(neighbour: Neighbour) -> Result<Run> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    if neighbour == Neighbour::JavaScriptBusy {
        nats.publish_orders(WARM_SUBJECT, 0..BACKLOG).await;
    }
    let mut receiver = Receiver::start().await?;
    // It is to fail on every event, and never to be set aside for that.
    let mut config = base() + "[plugins]\nquarantine_faults = 0\n";
    for number in 1..=HEALTHY {
        config += &webhook(&format!("healthy-{number}"), "order", &receiver.url());
    }
    config += &neighbour.subscriptions();
    let mut daemon = TestDaemon::builder(&nats, &config).hostile_plugins(&config).start().await;
    let id = daemon.process().id();
    receiver.watch(WARM_EVENTS * HEALTHY, &[]).await?;
    publish(&nats, SUBJECT, WARM_EVENTS, INTERVAL).await?;
    receiver.seen(time_max(WARM_EVENTS), || alive(&mut daemon)).await?;
    let calls_before = calls(&daemon).await;
    receiver.watch(EVENTS * HEALTHY, &[id]).await?;
    let late_p99_us = publish(&nats, SUBJECT, EVENTS, INTERVAL).await?;
    let seen = receiver.seen(time_max(EVENTS), || alive(&mut daemon)).await?;
    let calls_per_s = (calls(&daemon).await - calls_before) / seen.seconds;
    ensure!(neighbour == Neighbour::Nobody || calls_per_s > 0.0, "the neighbour's plugin was not called");
    // Not stopped in order: that would wait for what the neighbours have in hand.
    daemon.kill9();
    receiver.end().await?;
    Ok(Run { seen, late_p99_us, calls_per_s })
}

/// The calls of the neighbours' plugins so far: each ended in a drop, or in a fault.
async fn calls(daemon: &TestDaemon) -> f64 {
    let metrics = daemon.metrics().await;
    let of = |number: u32| {
        let name = format!("neighbour-{number}");
        let labels = [("subscription", name.as_str())];
        metrics.sum("sluiced_events_filtered_total", &labels) + metrics.sum("sluiced_plugin_faults_total", &labels)
    };
    (1..=3).map(of).sum()
}

impl Run {
    fn p99_us(&self) -> f64 {
        self.seen.latency_us[1] as f64
    }

    /// In the order of [`COLUMNS`].
    fn values(&self, ratio: Option<f64>) -> Vec<Option<f64>> {
        let ms = |us: u64| Some(us as f64 / 1_000.0);
        let [p50, p99, p999, _] = self.seen.latency_us.map(ms);
        let cores = self.seen.cpu_us.iter().sum::<u64>() as f64 / 1_000_000.0 / self.seen.seconds;
        vec![p50, p99, p999, ms(self.late_p99_us), Some(cores), Some(self.calls_per_s), ratio]
    }
}

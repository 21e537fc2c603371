//! A load of queued events, delivered by the bare loop (a) and by the daemon (b) in turn: the one way in which all cases of
//! throughput measure.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use sluiced_tests::{TestDaemon, TestNats, proc};

use crate::child::Child;
use crate::receiver::{Receiver, Seen};
use crate::report::{Column, Report, mib};
use crate::setup::{IN_FLIGHT_MAX, STREAM, alive, fill, fresh_stream, time_max};
use crate::stats::median;
use crate::{Options, bare, say};

/// The daemon's durable consumer, as its defaults name it.
pub(crate) const CONSUMER: &str = "sluiced";
/// From the last delivery to the last acknowledgement.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Figures for each delivery.
pub(crate) const DELIVERED: &[Column] = &[
    Column { key: "deliveries_per_s", name: "deliveries", unit: "1/s", decimals: 0 },
    Column { key: "cpu_us", name: "CPU", unit: "us/delivery", decimals: 1 },
    Column { key: "cpu_total_us", name: "CPU, all", unit: "us/delivery", decimals: 1 },
    Column { key: "nats_cpu_us", name: "NATS CPU", unit: "us/delivery", decimals: 1 },
    Column { key: "rss_idle_mib", name: "idle RSS", unit: "MiB", decimals: 1 },
    Column { key: "rss_max_mib", name: "peak RSS", unit: "MiB", decimals: 1 },
    Column { key: "b_over_a", name: "b/a", unit: "CPU", decimals: 2 },
    Column { key: "throughput_b_over_a", name: "b/a", unit: "throughput", decimals: 2 },
];
/// The same for each event: most of them end without a delivery.
pub(crate) const DECIDED: &[Column] = &[
    Column { key: "events_per_s", name: "events", unit: "1/s", decimals: 0 },
    Column { key: "cpu_us", name: "CPU", unit: "us/event", decimals: 1 },
    Column { key: "cpu_total_us", name: "CPU, all", unit: "us/event", decimals: 1 },
    Column { key: "nats_cpu_us", name: "NATS CPU", unit: "us/event", decimals: 1 },
    DELIVERED[4],
    DELIVERED[5],
    DELIVERED[6],
    DELIVERED[7],
];

/// What is delivered, and how the bare loop does the same.
pub(crate) struct Load {
    /// What stands before `a` and `b` in the names of its rows.
    pub(crate) name: String,
    /// The daemon's configuration.
    pub(crate) config: String,
    pub(crate) events: u64,
    /// Deliveries that the receiver counts: the load is measured from the first to the last.
    pub(crate) deliveries: u64,
    /// What its figures are of: its deliveries, or its events.
    pub(crate) units: u64,
    pub(crate) subject: fn(u64) -> String,
    pub(crate) body: fn(u64) -> Bytes,
    /// The events that the bare loop gets.
    pub(crate) for_bare: fn(u64) -> bool,
    /// Of how many events the bare loop posts one.
    pub(crate) bare_every: u64,
    /// How often the bare loop posts each.
    pub(crate) bare_copies: u64,
    /// Requests at a time of the bare loop: as many as all subscriptions together make.
    pub(crate) bare_in_flight: usize,
    /// Whether every event of the stream is done with at the last delivery.
    pub(crate) settles: bool,
}

/// Medians of the rounds.
pub(crate) struct Pair {
    /// CPU time in microseconds: of the bare loop, and of the daemon.
    pub(crate) cpu_us: [f64; 2],
    /// CPU of the daemon over that of the bare loop.
    pub(crate) cpu_ratio: f64,
    /// Throughput of the daemon over that of the bare loop.
    pub(crate) throughput_ratio: f64,
    /// Throughput of the daemon, a second.
    pub(crate) per_s: f64,
    /// The daemon's peak of resident memory, the largest of all rounds.
    pub(crate) rss_max_mib: f64,
}

/// One measured run.
struct Run {
    seen: Seen,
    units: f64,
    /// What the time from the first to the last delivery was for.
    spanned: f64,
    /// CPU time in microseconds from the start to the last acknowledgement.
    cpu_total_us: u128,
    rss_idle_bytes: Option<u64>,
    rss_max_bytes: u64,
}

impl Load {
    /// A kilobyte each, every event delivered once to one subscription.
    pub(crate) fn new(config: String, events: u64) -> Self {
        Self {
            name: String::new(),
            config,
            events,
            deliveries: events,
            units: events,
            subject: |_| crate::setup::SUBJECT.to_owned(),
            body: sluiced_tests::events::order,
            for_bare: |_| true,
            bare_every: 1,
            bare_copies: 1,
            bare_in_flight: IN_FLIGHT_MAX,
            settles: true,
        }
    }

    /// Runs a, b, a, b …, and adds a row for each and for their medians.
    pub(crate) async fn compare(
        &self,
        report: &mut Report,
        nats: &TestNats,
        receiver: &mut Receiver,
        options: Options,
    ) -> Result<Pair> {
        let Options { rounds, threads, .. } = options;
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            say(&format!("{}: round {round} of {rounds}, {}a", report.case(), self.name));
            let a = self.bare_loop(nats, receiver, threads).await?;
            say(&format!("{}: {}", report.case(), a.line()));
            report.row(format!("{}a {round}", self.name), a.values(None));
            say(&format!("{}: round {round} of {rounds}, {}b", report.case(), self.name));
            let b = self.daemon(nats, receiver).await?;
            say(&format!("{}: {}", report.case(), b.line()));
            let values = b.values(Some(&a));
            report.row(format!("{}b {round}", self.name), values.clone());
            of_a.push(a.values(None));
            of_b.push(values);
        }
        report.row(format!("{}a median", self.name), medians(&of_a));
        let median_b = medians(&of_b);
        report.row(format!("{}b median", self.name), median_b.clone());
        let of = |values: &[Option<f64>], at: usize| values[at].unwrap_or(f64::NAN);
        let rss_max_mib = of_b.iter().map(|values| of(values, 5)).fold(0.0, f64::max);
        Ok(Pair {
            cpu_us: [of(&medians(&of_a), 1), of(&median_b, 1)],
            cpu_ratio: of(&median_b, 6),
            throughput_ratio: of(&median_b, 7),
            per_s: of(&median_b, 0),
            rss_max_mib,
        })
    }

    /// (a): the bare loop.
    async fn bare_loop(&self, nats: &TestNats, receiver: &mut Receiver, threads: u32) -> Result<Run> {
        fresh_stream(nats).await;
        let wanted = |number: u64| (self.for_bare)(number).then(|| (self.subject)(number));
        fill(nats, 0..self.events, wanted, self.body).await?;
        let messages = (0..self.events).filter(|number| (self.for_bare)(*number)).count().to_string();
        let [every, copies, threads] =
            [self.bare_every, self.bare_copies, threads.into()].map(|value| value.to_string());
        let in_flight = self.bare_in_flight.to_string();
        let (nats_url, url) = (nats.url(), receiver.url());
        let mut args = vec!["bare", "--nats", &nats_url, "--url", &url, "--messages", &messages, "--every", &every];
        args.extend(["--copies", &copies, "--in-flight", &in_flight, "--threads", &threads]);
        let mut child = Child::start(&args)?;
        receiver.watch(self.deliveries, &[child.id(), nats.id()]).await?;
        // It gives up by itself when it gets nothing to deliver.
        let seen = receiver.seen(time_max(self.deliveries), || Ok(())).await?;
        child.next().await?;
        nats.wait_drained(STREAM, bare::CONSUMER, DRAIN_TIMEOUT).await;
        let run = self.close(seen, child.id(), None);
        child.end().await?;
        Ok(run)
    }

    /// (b): the daemon, started on a full stream as after a pause.
    async fn daemon(&self, nats: &TestNats, receiver: &mut Receiver) -> Result<Run> {
        fresh_stream(nats).await;
        let mut daemon = TestDaemon::start(nats, &self.config).await;
        // The first start may have compiled plugins, which leaves its mark on memory.
        daemon.restart().await;
        let rss_idle_bytes = daemon.rss_bytes();
        daemon.terminate().await;
        fill(nats, 0..self.events, |number| Some((self.subject)(number)), self.body).await?;
        daemon.launch();
        let id = daemon.process().id();
        receiver.watch(self.deliveries, &[id, nats.id()]).await?;
        let seen = receiver.seen(time_max(self.deliveries), || alive(&mut daemon)).await?;
        daemon.wait_ready().await;
        if self.settles {
            nats.wait_drained(STREAM, CONSUMER, DRAIN_TIMEOUT).await;
            let delivered = daemon.metrics().await.sum("sluiced_deliveries_total", &[("outcome", "delivered")]) as u64;
            ensure!(delivered == self.deliveries, "{delivered} of {} deliveries are on the books", self.deliveries);
        }
        let run = self.close(seen, id, Some(rss_idle_bytes));
        daemon.terminate().await;
        Ok(run)
    }

    fn close(&self, seen: Seen, id: u32, rss_idle_bytes: Option<u64>) -> Run {
        let units = self.units as f64;
        Run {
            seen,
            units,
            spanned: units - units / self.deliveries as f64,
            cpu_total_us: proc::cpu_time(id).as_micros(),
            rss_idle_bytes,
            rss_max_bytes: proc::rss_max_bytes(id),
        }
    }
}

impl Run {
    /// What is said while the rounds go on.
    fn line(&self) -> String {
        format!("{:.0} 1/s, CPU {:.1} us each", self.per_s(), self.cpu_us())
    }

    fn per_s(&self) -> f64 {
        self.spanned / self.seen.seconds
    }

    fn cpu_us(&self) -> f64 {
        self.seen.cpu_us[0] as f64 / self.units
    }

    /// In the order of [`DELIVERED`].
    fn values(&self, bare: Option<&Self>) -> Vec<Option<f64>> {
        let (total, nats) = (self.cpu_total_us as f64 / self.units, self.seen.cpu_us[1] as f64 / self.units);
        vec![
            Some(self.per_s()),
            Some(self.cpu_us()),
            Some(total),
            Some(nats),
            self.rss_idle_bytes.map(mib),
            Some(mib(self.rss_max_bytes)),
            bare.map(|bare| self.cpu_us() / bare.cpu_us()),
            bare.map(|bare| self.per_s() / bare.per_s()),
        ]
    }
}

/// The median of each column.
fn medians(rows: &[Vec<Option<f64>>]) -> Vec<Option<f64>> {
    let column = |at: usize| rows.iter().map(|row| row[at]).collect::<Option<Vec<f64>>>().map(median);
    (0..DELIVERED.len()).map(column).collect()
}

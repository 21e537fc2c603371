//! The cases of throughput: the daemon (b) beside the bare loop (a), in turns, on the same events and the same receiver.

use std::fmt::Write as _;

use anyhow::Result;
use bytes::Bytes;
use serde_json::Value;
use sluiced_tests::events::order;
use sluiced_tests::{SECRET, TestNats};

use crate::Options;
use crate::load::{DECIDED, DELIVERED, Load, Pair};
use crate::receiver::Receiver;
use crate::report::{Curve, Report};
use crate::setup::{FILTER, IN_FLIGHT_MAX, base, plain, webhook};

const NAME: &str = "bench";
const CPU_RATIO_MAX: f64 = 1.3;
const THROUGHPUT_RATIO_MIN: f64 = 0.8;
/// What a decision may cost of pulling and acknowledging alone, where the machine is too slow for the figure beside it.
const DROP_RATIO_MAX: f64 = 1.5;
const DECIDED_PER_S_MIN: f64 = 100_000.0;
/// Of so many events the filter of `drop` keeps one.
const KEEPS_ONE_OF: u64 = 100;
/// `drop` takes so many times the events of `--events`: a decision is short, and CPU time is told in steps of 10 ms.
const DROP_FACTOR: u64 = 5;
const LARGE_BYTES: usize = 64 << 10;
const FANOUTS: [u64; 3] = [1, 5, 20];
const BURST_EVENTS: u64 = 100_000;
/// The stated bound of resident memory under a burst.
const BURST_MIB_MAX: f64 = 100.0;
/// The endpoints of `failing`, each with an event type of its own; every second one fails.
const MIXED: u64 = 10;
/// The endpoints of `even`, each with an event type of its own.
const EVEN: u64 = 1_000;

/// What the headings of all of them say.
const MEASURED: &str = "CPU from first to last delivery; a: bare loop, b: sluiced";

/// The parts of a case, which all its runs share.
struct Parts {
    nats: TestNats,
    receiver: Receiver,
}

impl Parts {
    async fn start() -> Result<Self> {
        Ok(Self { nats: TestNats::start().await, receiver: Receiver::start().await? })
    }

    async fn compare(&mut self, report: &mut Report, load: &Load, options: Options) -> Result<Pair> {
        load.compare(report, &self.nats, &mut self.receiver, options).await
    }
}

/// Case `main`: filter, transform and records.
pub(crate) async fn main(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let config = base() + &webhook(NAME, "order", &parts.receiver.url());
    let what = format!("{} events of 1 KB, jq filter and redact transform, 64 at a time; {MEASURED}", options.events);
    let mut report = Report::new("main", what, DELIVERED);
    let pair = parts.compare(&mut report, &Load::new(config, options.events), options).await?;
    report.target("CPU per delivery, b/a", "times", pair.cpu_ratio, CPU_RATIO_MAX);
    report.target_min("throughput, b/a", "times", pair.throughput_ratio, THROUGHPUT_RATIO_MIN);
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `plain`: no plugin, records only.
pub(crate) async fn no_plugin(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let config = base() + &plain(NAME, "order", &parts.receiver.url(), &in_flight(IN_FLIGHT_MAX));
    let what = format!("{} events of 1 KB, no plugin, 64 at a time; {MEASURED}", options.events);
    let mut report = Report::new("plain", what, DELIVERED);
    parts.compare(&mut report, &Load::new(config, options.events), options).await?;
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `filter`: a filter that keeps everything, no transform.
pub(crate) async fn filter(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let config = filtered(FILTER, &parts.receiver);
    let what = format!("{} events of 1 KB, jq filter that keeps all, 64 at a time; {MEASURED}", options.events);
    let mut report = Report::new("filter", what, DELIVERED);
    parts.compare(&mut report, &Load::new(config, options.events), options).await?;
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `drop`: a filter that keeps one event of a hundred, beside a loop that pulls and acks all and posts as many.
pub(crate) async fn drop(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let keeps = format!("filters = [{{ plugin = \"jq\", config = {{ expr = \".amount % {KEEPS_ONE_OF} == 0\" }} }}]");
    // Whole hundreds: the last delivery is then that of the last hundred's first event, in both runs.
    let events = (options.events * DROP_FACTOR).next_multiple_of(KEEPS_ONE_OF);
    let mut load = Load::new(filtered(&keeps, &parts.receiver), events);
    load.deliveries = events / KEEPS_ONE_OF;
    load.bare_every = KEEPS_ONE_OF;
    let what = format!(
        "{events} events of 1 KB, jq filter that drops 99 %; CPU from first to last delivery; a: a loop that pulls and \
         acks all and posts each hundredth, b: sluiced"
    );
    let mut report = Report::new("drop", what, DECIDED);
    let pair = parts.compare(&mut report, &load, options).await?;
    report.target_min("events decided", "1/s", pair.per_s, DECIDED_PER_S_MIN);
    report.target("or: CPU per event, b/a", "times", pair.cpu_ratio, DROP_RATIO_MAX);
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `large`: bodies of 64 KB, without plugins.
pub(crate) async fn large(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let config = base() + &plain(NAME, "order", &parts.receiver.url(), &in_flight(IN_FLIGHT_MAX));
    let mut load = Load::new(config, options.events.div_ceil(10));
    load.body = large_order;
    let what = format!("{} events of 64 KB, no plugin, 64 at a time; {MEASURED}", load.events);
    let mut report = Report::new("large", what, DELIVERED);
    parts.compare(&mut report, &load, options).await?;
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `fanout`: each event to 1, 5 and 20 subscriptions.
pub(crate) async fn fanout(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let what = format!(
        "{} deliveries of 1 KB, no plugin, each event to 1, 5 and 20 subscriptions; {MEASURED}",
        options.events
    );
    let mut report = Report::new("fanout", what, DELIVERED);
    let mut lines = [("bare loop".to_owned(), Vec::new()), ("sluiced".to_owned(), Vec::new())];
    for copies in FANOUTS {
        let each = (IN_FLIGHT_MAX as u64).div_ceil(copies);
        let mut config = base();
        for number in 0..copies {
            let in_flight = format!("max_in_flight = {each}");
            config += &plain(&format!("f{number}"), "order", &parts.receiver.url(), &in_flight);
        }
        let events = options.events.div_ceil(copies);
        let mut load = Load::new(config, events);
        load.name = format!("1 to {copies}, ");
        (load.deliveries, load.units) = (events * copies, events * copies);
        load.bare_copies = copies;
        load.bare_in_flight = usize::try_from(each * copies)?;
        let pair = parts.compare(&mut report, &load, options).await?;
        for (line, cpu_us) in lines.iter_mut().zip(pair.cpu_us) {
            line.1.push((copies as f64, cpu_us));
        }
    }
    report.curve(Curve {
        name: "fanout",
        title: "CPU per delivery as the fan-out grows",
        size: "subscriptions to each event",
        unit: "us",
        lines: lines.to_vec(),
    });
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `burst`: as `main`, with 100,000 events queued.
pub(crate) async fn burst(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let config = base() + &webhook(NAME, "order", &parts.receiver.url());
    // No more than asked for, where a quick look at the case is wanted.
    let events = if options.events < crate::EVENTS { options.events } else { BURST_EVENTS };
    let what = format!("{events} queued events of 1 KB, jq filter and redact transform, 64 at a time; {MEASURED}");
    let mut report = Report::new("burst", what, DELIVERED);
    let pair = parts.compare(&mut report, &Load::new(config, events), options).await?;
    report.target("peak resident memory", "MiB", pair.rss_max_mib, BURST_MIB_MAX);
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `failing`: ten endpoints with as many events each, five of which answer 500. The bare loop gets only the events of
/// the healthy ones.
pub(crate) async fn failing(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let (healthy_url, failing_url) = (parts.receiver.url(), parts.receiver.failing_url());
    let mut config = base();
    for number in 0..MIXED {
        let url = if healthy(number) { &healthy_url } else { &failing_url };
        config += &plain(&format!("e{number}"), &format!("k{number}"), url, &in_flight(IN_FLIGHT_MAX / 4));
    }
    // Whole rounds of the endpoints.
    let mut load = Load::new(config, options.events.next_multiple_of(MIXED));
    (load.deliveries, load.units) = (load.events / 2, load.events / 2);
    load.subject = |number| format!("bench.k{}", number % MIXED);
    load.for_bare = healthy;
    load.bare_in_flight = IN_FLIGHT_MAX / 4 * 5;
    load.settles = false;
    let what = format!(
        "{} events of 1 KB, half of them for endpoints that answer 500, which the bare loop does not get; no plugin, 80 \
         at a time; deliveries are those of the healthy endpoints; {MEASURED}",
        load.events
    );
    let mut report = Report::new("failing", what, DELIVERED);
    parts.compare(&mut report, &load, options).await?;
    parts.receiver.end().await?;
    Ok(report)
}

/// Case `even`: a thousand endpoints with as many events each.
pub(crate) async fn even(options: Options) -> Result<Report> {
    let mut parts = Parts::start().await?;
    let mut config = base();
    for number in 0..EVEN {
        write!(
            config,
            "{}",
            plain(&format!("e{number}"), &format!("k{number}"), &parts.receiver.url(), "max_in_flight = 4")
        )?;
    }
    let mut load = Load::new(config, options.events);
    load.subject = |number| format!("bench.k{}", number % EVEN);
    let what = format!("{} events of 1 KB over {EVEN} endpoints, no plugin; {MEASURED}", options.events);
    let mut report = Report::new("even", what, DELIVERED);
    parts.compare(&mut report, &load, options).await?;
    parts.receiver.end().await?;
    Ok(report)
}

fn in_flight(max: usize) -> String {
    format!("max_in_flight = {max}")
}

fn healthy(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// A subscription with a filter and no transform.
fn filtered(filter: &str, receiver: &Receiver) -> String {
    let url = receiver.url();
    let head = format!("\n[[subscription]]\nname = {NAME:?}\ntypes = [\"order\"]\n{filter}\n");
    base() + &head + &format!("webhook = {{ url = {url:?}, secret = {SECRET:?}, max_in_flight = {IN_FLIGHT_MAX} }}\n")
}

fn large_order(number: u64) -> Bytes {
    let mut order: Value = serde_json::from_slice(&order(number)).expect("an order is JSON");
    order["note"] = "x".repeat(LARGE_BYTES).into();
    Bytes::from(order.to_string())
}

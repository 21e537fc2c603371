//! Case `dead`: a million events beside a thousand endpoints that are dead, and their coming back.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use sluiced_tests::events::order;
use sluiced_tests::{SECRET, TestDaemon, TestNats, TestReceiver};
use tokio::time::{Instant, sleep};

use crate::receiver::Receiver;
use crate::report::{Column, Report, mib};
use crate::say;
use crate::setup::{alive, base, fresh_stream, warm_daemon};

const EVENTS: u64 = 1_000_000;
/// Endpoints that refuse connections, each with an event type of its own.
const DEAD: u64 = 1_000;
/// Three of ten events are for one of them: 300 for each.
const FOR_DEAD_OF_TEN: u64 = 3;
/// Events that are published before their acknowledgements are waited for.
const UNACKED_MAX: u64 = 2_000;
/// A bound on each phase that is never met on a machine that works.
const TIME_MAX: Duration = Duration::from_secs(900);
/// How often a state is looked at.
const POLL: Duration = Duration::from_millis(500);
const GROWTH_MIB_MAX: f64 = 10.0;

const COLUMNS: &[Column] = &[
    Column { key: "healthy_per_s", name: "healthy", unit: "deliveries/s", decimals: 0 },
    Column { key: "store_mib", name: "store", unit: "MiB", decimals: 1 },
    Column { key: "rss_mib", name: "RSS", unit: "MiB", decimals: 1 },
    Column { key: "parked", name: "parked", unit: "deliveries", decimals: 0 },
    Column { key: "waiting", name: "waiting", unit: "deliveries", decimals: 0 },
    Column { key: "catch_up_s", name: "catch up", unit: "s", decimals: 1 },
];

struct Run {
    store_mib: f64,
    values: Vec<Option<f64>>,
}

/// Without and with the dead ones: the difference is what they cost, since the healthy one's records are in both.
pub(crate) async fn run() -> Result<Report> {
    let what =
        format!("{EVENTS} events to a healthy endpoint, without and with {DEAD} dead ones that want 30 % of them");
    let mut report = Report::new("dead", what, COLUMNS);
    say("dead: without");
    let without = measure(false).await?;
    report.row("without".to_owned(), without.values);
    say("dead: with");
    let with = measure(true).await?;
    report.row("with".to_owned(), with.values);
    let growth_mib = with.store_mib - without.store_mib;
    report.target("growth of the store by dead endpoints", "MiB", growth_mib, GROWTH_MIB_MAX);
    Ok(report)
}

async fn measure(with_dead: bool) -> Result<Run> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    let mut receiver = Receiver::start().await?;
    let mut dead = TestReceiver::start_counting();
    dead.stop();
    let mut daemon = warm_daemon(&nats, &config(&receiver, with_dead.then_some(&dead))?).await;
    daemon.restart().await;
    receiver.watch(EVENTS, &[]).await?;
    publish(&nats).await?;
    let seen = receiver.seen(TIME_MAX, || alive(&mut daemon)).await?;
    let metrics = daemon.metrics().await;
    let store_mib = mib(metrics.metric("sluiced_store_bytes", &[]) as u64);
    let rss_mib = mib(daemon.rss_bytes());
    let parked = metrics.sum("sluiced_parked", &[]);
    let wanted = if with_dead { EVENTS / 10 * FOR_DEAD_OF_TEN } else { 0 };
    dead.resume();
    let began = Instant::now();
    wait_for_deliveries(&mut daemon, EVENTS + wanted).await?;
    let values = vec![
        Some(EVENTS as f64 / seen.seconds),
        Some(store_mib),
        Some(rss_mib),
        Some(parked),
        Some(wanted as f64),
        with_dead.then(|| began.elapsed().as_secs_f64()),
    ];
    daemon.terminate().await;
    receiver.end().await?;
    Ok(Run { store_mib, values })
}

fn config(receiver: &Receiver, dead: Option<&TestReceiver>) -> Result<String> {
    let mut config = base() + "[delivery]\nallow_cidrs = [\"127.0.0.0/8\"]\nbreaker = { attempts_min = 3 }\n";
    let url = receiver.url();
    write!(
        config,
        "[[subscription]]\nname = \"healthy\"\ntypes = [\">\"]\n\
         webhook = {{ url = {url:?}, secret = {SECRET:?}, max_in_flight = 64 }}\n"
    )?;
    let Some(dead) = dead else { return Ok(config) };
    let url = dead.url("/hook");
    for number in 0..DEAD {
        write!(
            config,
            "[[subscription]]\nname = \"dead-{number}\"\ntypes = [\"k{number}\"]\n\
             webhook = {{ url = {url:?}, secret = {SECRET:?}, max_in_flight = 4 }}\n"
        )?;
    }
    Ok(config)
}

/// As fast as the stream stores them: the daemon has its own pace.
async fn publish(nats: &TestNats) -> Result<()> {
    let jetstream = nats.jetstream().await;
    let mut number = 0;
    while number < EVENTS {
        let mut unacked = Vec::new();
        for number in number..EVENTS.min(number + UNACKED_MAX) {
            let body: Bytes = order(number);
            let sent = jetstream.publish(subject(number), body).await?;
            unacked.push(sent.into_future());
        }
        number += unacked.len() as u64;
        try_join_all(unacked).await?;
    }
    Ok(())
}

fn subject(number: u64) -> String {
    if number % 10 < FOR_DEAD_OF_TEN {
        // Each dead endpoint gets the same number of them.
        let nth = number / 10 * FOR_DEAD_OF_TEN + number % 10;
        return format!("bench.k{}", nth % DEAD);
    }
    "bench.order".to_owned()
}

async fn wait_for_deliveries(daemon: &mut TestDaemon, deliveries: u64) -> Result<()> {
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let metrics = daemon.metrics().await;
        if metrics.sum("sluiced_deliveries_total", &[("outcome", "delivered")]) as u64 >= deliveries {
            return Ok(());
        }
        alive(daemon)?;
        ensure!(Instant::now() < deadline, "not all {deliveries} deliveries were made within {TIME_MAX:?}");
        sleep(POLL).await;
    }
}

//! Case `sse`: event streams with thousands of clients, beside nchan where that is installed: memory of an idle
//! connection, CPU and latency of a frame, a slow client among others, and what comes after a restart.

mod fleet;
mod nchan;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::jetstream::Context;
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats, proc};
use tokio::time::{Instant, interval, sleep};

use crate::report::{Column, Report, mib};
use crate::setup::{STREAM, SUBJECT, alive, base, fill, free_address, fresh_stream};
use crate::{Options, say};

pub(crate) use fleet::{Arguments, serve};
use fleet::{Fleet, body};
use nchan::Nchan;

const PATH: &str = "/api/v1/events/stream?types=order";
const BODY_BYTES: usize = 250;
/// 10 events a second.
const PACE: Duration = Duration::from_millis(100);
const WARM_EVENTS: u64 = 20;
const EVENTS: u64 = 150;
/// What a new connection has made settles by then.
const REST: Duration = Duration::from_secs(3);

const IDLE_CLIENTS: usize = 10_000;
const FEW: usize = 1_000;
const MANY: usize = 5_000;
/// Bodies and pace of the case with a client that does not read: more than sockets hold for it.
const SLOW_BODY_BYTES: usize = 8_000;
const SLOW_PACE: Duration = Duration::from_millis(50);
const SLOW_EVENTS: u64 = 300;
/// A minute at 10 events a second: how old the places are that clients come back with.
const STORM_EVENTS_BEFORE: u64 = 600;
/// A client has caught up when it is no further behind.
const STORM_BEHIND_MAX: u64 = 10;
/// A reader for each permit of the daemon, the live tail, and the consumer of the deliveries.
const CONSUMERS_MAX: f64 = 18.0;

const KIB_MAX: f64 = 10.0;
const FEW_US_MAX: f64 = 10.0;
const MANY_US_MAX: f64 = 13.0;
const P99_MS_MAX: f64 = 230.0;
const SLOW_RATIO_MAX: f64 = 1.5;

const COLUMNS: &[Column] = &[
    Column { key: "clients", name: "clients", unit: "", decimals: 0 },
    Column { key: "cpu_us", name: "CPU", unit: "us/frame", decimals: 1 },
    Column { key: "p50_ms", name: "p50", unit: "ms", decimals: 1 },
    Column { key: "p99_ms", name: "p99", unit: "ms", decimals: 1 },
    Column { key: "kib_each", name: "memory", unit: "KiB/client", decimals: 1 },
    Column { key: "rss_max_mib", name: "peak RSS", unit: "MiB", decimals: 0 },
    Column { key: "caught_up_s", name: "caught up", unit: "s", decimals: 1 },
    Column { key: "consumers_max", name: "consumers", unit: "most", decimals: 0 },
    Column { key: "missed", name: "missed", unit: "events", decimals: 0 },
    Column { key: "repeated", name: "repeated", unit: "events", decimals: 0 },
];

/// What one part of the case gave; what it does not measure stays `None`.
#[derive(Default, Clone)]
struct Figures {
    clients: usize,
    cpu_us: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    kib_each: Option<f64>,
    rss_max_mib: Option<f64>,
    caught_up_s: Option<f64>,
    consumers_max: Option<f64>,
    missed: Option<f64>,
    repeated: Option<f64>,
}

impl Figures {
    /// In the order of [`COLUMNS`].
    fn values(&self) -> Vec<Option<f64>> {
        let Self {
            cpu_us, p50_ms, p99_ms, kib_each, rss_max_mib, caught_up_s, consumers_max, missed, repeated, ..
        } = *self;
        let all = [cpu_us, p50_ms, p99_ms, kib_each, rss_max_mib, caught_up_s, consumers_max, missed, repeated];
        std::iter::once(Some(self.clients as f64)).chain(all).collect()
    }
}

/// One who sends events to clients.
enum Side {
    Sluiced {
        nats: Box<TestNats>,
        jetstream: Box<Context>,
        daemon: Box<TestDaemon>,
        address: SocketAddr,
        published: u64,
    },
    Nchan {
        nginx: Box<Nchan>,
        published: u64,
    },
}

/// Every part, sluiced first and nchan after it.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let quick = options.events < crate::EVENTS;
    let scale = |clients: usize| if quick { clients / 10 } else { clients };
    let what =
        "event streams on loopback, clients and server on the same cores; 250 byte events, 10 a second".to_owned();
    let mut report = Report::new("sse", what, COLUMNS);
    let with_nchan = nchan::is_there();
    if !with_nchan {
        say(
            "sse: nginx with nchan is not installed (Debian: nginx, libnginx-mod-nchan), so there is nothing beside sluiced",
        );
    }
    let idle_clients = scale(IDLE_CLIENTS);
    let idle = idle(Side::sluiced().await?, idle_clients).await?;
    report.row("idle, sluiced".to_owned(), idle.values());
    if with_nchan {
        report.row("idle, nchan".to_owned(), self::idle(Side::nchan().await?, idle_clients).await?.values());
    }
    report.target("memory of an idle client", "KiB", idle.kib_each.unwrap_or(f64::NAN), KIB_MAX);
    let of = [
        (scale(FEW), FEW_US_MAX, "CPU of a frame, 1,000 clients", "p99, 1,000 clients"),
        (scale(MANY), MANY_US_MAX, "CPU of a frame, 5,000 clients", "p99, 5,000 clients"),
    ];
    for (clients, us_max, cpu, p99) in of {
        let figures = steady(Side::sluiced().await?, clients).await?;
        report.row(format!("{clients} clients, sluiced"), figures.values());
        report.target(cpu, "us", figures.cpu_us.unwrap_or(f64::NAN), us_max);
        report.target(p99, "ms", figures.p99_ms.unwrap_or(f64::NAN), P99_MS_MAX);
        if with_nchan {
            report.row(format!("{clients} clients, nchan"), steady(Side::nchan().await?, clients).await?.values());
        }
    }
    let (without, with) = slow(Side::sluiced().await?, scale(FEW)).await?;
    report.row("none slow".to_owned(), without.values());
    report.row("one slow".to_owned(), with.values());
    let ratio = with.p99_ms.unwrap_or(f64::NAN) / without.p99_ms.unwrap_or(f64::NAN);
    report.target("p99 with a slow client, beside without", "times", ratio, SLOW_RATIO_MAX);
    report.target("events missed with a slow client", "events", with.missed.unwrap_or(f64::NAN), 0.0);
    report.target("events repeated with a slow client", "events", with.repeated.unwrap_or(f64::NAN), 0.0);
    let storm = storm(scale(MANY)).await?;
    report.row("restart".to_owned(), storm.values());
    report.target("events missed after a restart", "events", storm.missed.unwrap_or(f64::NAN), 0.0);
    report.target("events repeated after a restart", "events", storm.repeated.unwrap_or(f64::NAN), 0.0);
    report.target("consumers after a restart", "most", storm.consumers_max.unwrap_or(f64::NAN), CONSUMERS_MAX);
    Ok(report)
}

impl Side {
    async fn sluiced() -> Result<Self> {
        let nats = TestNats::start().await;
        fresh_stream(&nats).await;
        let address = free_address()?;
        let config = format!(
            "[server]\nlisten = \"{address}\"\n[limits]\nsse_clients = 20000\nsse_clients_per_principal = 20000\n{}",
            base()
        );
        let daemon = Box::new(TestDaemon::start(&nats, &config).await);
        let jetstream = Box::new(nats.jetstream().await);
        Ok(Self::Sluiced { nats: Box::new(nats), jetstream, daemon, address, published: 0 })
    }

    async fn nchan() -> Result<Self> {
        Ok(Self::Nchan { nginx: Box::new(Nchan::start().await?), published: 0 })
    }

    async fn fleet(&self, clients: usize) -> Result<Fleet> {
        match self {
            Self::Sluiced { address, .. } => Fleet::start(*address, PATH, ADMIN_KEY, clients).await,
            Self::Nchan { nginx, .. } => Fleet::start(nginx.address, nchan::PATH, "", clients).await,
        }
    }

    fn cpu_time(&self) -> Duration {
        match self {
            Self::Sluiced { daemon, .. } => daemon.cpu_time(),
            Self::Nchan { nginx, .. } => nginx.cpu_time(),
        }
    }

    fn pss_bytes(&mut self) -> u64 {
        match self {
            Self::Sluiced { daemon, .. } => proc::pss_bytes(daemon.process().id()),
            Self::Nchan { nginx, .. } => nginx.pss_bytes(),
        }
    }

    fn rss_max_mib(&mut self) -> f64 {
        mib(match self {
            Self::Sluiced { daemon, .. } => proc::rss_max_bytes(daemon.process().id()),
            Self::Nchan { nginx, .. } => nginx.rss_max_bytes(),
        })
    }

    fn alive(&mut self) -> Result<()> {
        match self {
            Self::Sluiced { daemon, .. } => alive(daemon),
            Self::Nchan { .. } => Ok(()),
        }
    }

    /// Publishes so many events with a pace. Returns the number of the last.
    async fn publish(&mut self, events: u64, pace: Duration, bytes: usize) -> Result<u64> {
        let mut pace = interval(pace);
        for _ in 0..events {
            pace.tick().await;
            match self {
                Self::Sluiced { jetstream, published, .. } => {
                    *published += 1;
                    jetstream.publish(SUBJECT, body(*published, bytes).into()).await?.await?;
                }
                Self::Nchan { nginx, published } => {
                    *published += 1;
                    nginx.publish(&body(*published, bytes)).await?;
                }
            }
        }
        self.alive()?;
        Ok(self.published())
    }

    fn published(&self) -> u64 {
        match self {
            Self::Sluiced { published, .. } | Self::Nchan { published, .. } => *published,
        }
    }

    async fn end(self) {
        if let Self::Sluiced { mut daemon, .. } = self {
            daemon.terminate().await;
        }
    }
}

/// Memory of clients that hear nothing.
async fn idle(mut side: Side, clients: usize) -> Result<Figures> {
    say(&format!("sse: {clients} idle clients"));
    // The first clients make what all share.
    let first = side.fleet(10).await?;
    sleep(REST).await;
    let before = side.pss_bytes();
    let fleet = side.fleet(clients).await?;
    sleep(REST).await;
    side.alive()?;
    let grown = side.pss_bytes().saturating_sub(before);
    let rss_max_mib = side.rss_max_mib();
    fleet.end().await?;
    first.end().await?;
    side.end().await;
    let kib_each = grown as f64 / 1024.0 / clients as f64;
    Ok(Figures { clients, kib_each: Some(kib_each), rss_max_mib: Some(rss_max_mib), ..Figures::default() })
}

/// CPU and latency with events at a steady rate.
async fn steady(mut side: Side, clients: usize) -> Result<Figures> {
    say(&format!("sse: {clients} clients with 10 events a second"));
    let mut fleet = side.fleet(clients).await?;
    let figures = measure(&mut side, &mut fleet, EVENTS, PACE, BODY_BYTES).await?;
    let rss_max_mib = side.rss_max_mib();
    fleet.end().await?;
    side.end().await;
    Ok(Figures { clients, rss_max_mib: Some(rss_max_mib), ..figures })
}

/// Publishes some events that do not count, then those that do, and waits until every client that reads has them.
async fn measure(side: &mut Side, fleet: &mut Fleet, events: u64, pace: Duration, bytes: usize) -> Result<Figures> {
    let warm = side.publish(WARM_EVENTS, PACE, BODY_BYTES).await?;
    let told = fleet.wait("the first events are there", |told| told.number_least >= warm).await?;
    let clients = told.connected;
    fleet.forget().await?;
    let before = side.cpu_time();
    let last = side.publish(events, pace, bytes).await?;
    let told = fleet.wait("every event is there", |told| told.number_least >= last).await?;
    let cpu = side.cpu_time() - before;
    ensure!(told.connected == clients, "clients went away: {told:?}");
    Ok(Figures {
        cpu_us: Some(cpu.as_micros() as f64 / told.frames as f64),
        p50_ms: Some(told.p50_us as f64 / 1000.0),
        p99_ms: Some(told.p99_us as f64 / 1000.0),
        missed: Some(told.missed as f64),
        repeated: Some(told.repeated as f64),
        ..Figures::default()
    })
}

/// Latency of clients that read, without and with one beside them that does not, and then does.
async fn slow(mut side: Side, clients: usize) -> Result<(Figures, Figures)> {
    say(&format!("sse: a slow client among {clients}"));
    let mut fleet = side.fleet(clients).await?;
    let without = measure(&mut side, &mut fleet, SLOW_EVENTS, SLOW_PACE, SLOW_BODY_BYTES).await?;
    fleet.forget().await?;
    fleet.pause(true).await?;
    let before = side.cpu_time();
    let last = side.publish(SLOW_EVENTS, SLOW_PACE, SLOW_BODY_BYTES).await?;
    // All but the slow one; its own frames are old when it reads them, and are none of the others' latency.
    let others = SLOW_EVENTS * (clients as u64 - 1);
    let told = fleet.wait("the others have every event", |told| told.frames >= others).await?;
    let cpu = side.cpu_time() - before;
    fleet.pause(false).await?;
    let end = fleet.wait("the slow one has them too", |told| told.number_least >= last).await?;
    let with = Figures {
        clients,
        cpu_us: Some(cpu.as_micros() as f64 / told.frames as f64),
        p50_ms: Some(told.p50_us as f64 / 1000.0),
        p99_ms: Some(told.p99_us as f64 / 1000.0),
        rss_max_mib: Some(side.rss_max_mib()),
        missed: Some(end.missed as f64),
        repeated: Some(end.repeated as f64),
        ..Figures::default()
    };
    fleet.end().await?;
    side.end().await;
    Ok((Figures { clients, ..without }, with))
}

/// All clients come back within seconds after a restart, with places of up to a minute ago, while events go on.
async fn storm(clients: usize) -> Result<Figures> {
    say(&format!("sse: {clients} clients come back after a restart"));
    let mut side = Side::sluiced().await?;
    if let Side::Sluiced { nats, published, .. } = &mut side {
        fill(nats, 1..STORM_EVENTS_BEFORE + 1, |_| Some(SUBJECT.to_owned()), |n| body(n, BODY_BYTES).into()).await?;
        *published = STORM_EVENTS_BEFORE;
    }
    let mut fleet = side.fleet(clients).await?;
    let seen = side.publish(WARM_EVENTS, PACE, BODY_BYTES).await?;
    fleet.wait("every client has a place", |told| told.number_least >= seen).await?;
    fleet.rewind(STORM_EVENTS_BEFORE).await?;
    let Side::Sluiced { daemon, .. } = &mut side else { unreachable!("it has just been made") };
    daemon.terminate().await;
    fleet.forget().await?;
    daemon.restart().await;
    let began = Instant::now();
    let mut consumers_max = 0;
    let mut caught_up = None;
    while caught_up.is_none() {
        let last = side.publish(2, PACE, BODY_BYTES).await?;
        if let Side::Sluiced { nats, .. } = &side {
            consumers_max = consumers_max.max(nats.stream_info(STREAM).await.state.consumer_count);
        }
        let told = fleet.tell().await?;
        if told.connected == clients as u64 && told.number_least + STORM_BEHIND_MAX >= last {
            caught_up = Some(began.elapsed());
        }
        ensure!(began.elapsed() < Duration::from_secs(120), "not caught up within two minutes: {told:?}");
    }
    let last = side.published();
    let told = fleet.wait("every event is there", |told| told.number_least >= last).await?;
    let figures = Figures {
        clients,
        rss_max_mib: Some(side.rss_max_mib()),
        caught_up_s: caught_up.map(|time| time.as_secs_f64()),
        consumers_max: Some(consumers_max as f64),
        missed: Some(told.missed as f64),
        repeated: Some(told.repeated as f64),
        ..Figures::default()
    };
    fleet.end().await?;
    side.end().await;
    Ok(figures)
}

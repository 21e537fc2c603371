//! Case `api`: how long the management API takes for an answer, at 10,000 webhooks and a million deliveries.
//!
//! The webhooks are made over the API. The records of deliveries are put into the store with the daemon's own code, while no
//! daemon runs: made by delivering they would be the same, minutes later. Each is of an event that the stream has and of a
//! webhook that takes its type. Failed deliveries, to be retried, are real ones.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sluiced_tests::paths::workspace;
use sluiced_tests::{ADMIN_KEY, Behaviour, TestDaemon, TestNats, TestReceiver};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::process::Command;
use tokio::time::Instant;

use crate::report::{Column, Report};
use crate::setup::{STREAM, base, fill, fresh_stream, plain};
use crate::stats::percentile;
use crate::{EVENTS, Options, say};

/// Of both, unless `--events` makes the case short.
const WEBHOOKS_AND_EVENTS: u64 = 10_000;
/// Each webhook takes one of so many event types, and each event is of one.
const TYPES: u64 = 100;
/// How often each question is asked.
const QUESTIONS: u64 = 500;
/// What each question should keep to.
const P99_MS_MAX: f64 = 10.0;

const COLUMNS: &[Column] = &[
    Column { key: "p50_ms", name: "p50", unit: "ms", decimals: 2 },
    Column { key: "p99_ms", name: "p99", unit: "ms", decimals: 2 },
    Column { key: "max_ms", name: "slowest", unit: "ms", decimals: 2 },
    Column { key: "asked", name: "asked", unit: "times", decimals: 0 },
];

/// Asks one question after the other, each as often, over one connection.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let size = (WEBHOOKS_AND_EVENTS * options.events / EVENTS).clamp(TYPES, WEBHOOKS_AND_EVENTS);
    let deliveries = size * (size / TYPES);
    let what = format!("one request after the other, at {size} webhooks and {deliveries} deliveries");
    let mut report = Report::new("api", what, COLUMNS);
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    fill(&nats, 0..size, |number| Some(format!("bench.k{}", number % TYPES)), |_| Bytes::from_static(b"{}")).await?;
    let refusing = TestReceiver::start_counting();
    refusing.set(Behaviour::Status(400));
    let config = base() + &plain("refusing", "refused", &refusing.url("/"), "max_in_flight = 16");
    let mut daemon = TestDaemon::start(&nats, &config).await;
    let webhooks = make_webhooks(&Api::of(&daemon), size).await?;
    daemon.terminate().await;
    say(&format!("api: recording {deliveries} deliveries"));
    let store = daemon.data_dir().join("store");
    record(&store, &webhooks, size).await?;
    daemon.restart().await;
    // Other numbers than before: they are the ids by which JetStream knows duplicates.
    let refused = size..size + QUESTIONS;
    fill(&nats, refused, |_| Some("bench.refused".to_owned()), |_| Bytes::from_static(b"{}")).await?;
    daemon.wait_metric("sluiced_dead_letters", &[], QUESTIONS as f64).await;
    let asking = Asking { api: Api::of(&daemon), webhooks, events: size };
    asking.all(&mut report).await?;
    daemon.terminate().await;
    Ok(report)
}

/// Makes so many webhooks; their ids.
async fn make_webhooks(api: &Api, count: u64) -> Result<Vec<String>> {
    let began = Instant::now();
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(make_webhook(api, number).await?.1);
        if ids.len().is_multiple_of(1_000) {
            say(&format!("api: {} of {count} webhooks after {:.0} s", ids.len(), began.elapsed().as_secs_f64()));
        }
    }
    Ok(ids)
}

/// Makes one: how long the answer took, and its id.
async fn make_webhook(api: &Api, number: u64) -> Result<(u64, String)> {
    let url = "http://127.0.0.1:9/never-called";
    let types = [format!("k{}", number % TYPES)];
    let wanted = json!({ "name": format!("webhook {number}"), "url": url, "types": types, "max_in_flight": 4 });
    let (took_us, made) = api.ask(Method::POST, "/webhooks", Some(&wanted)).await?;
    let id = made["id"].as_str().context("no id")?;
    Ok((took_us, id.to_owned()))
}

/// Records a delivery of each event to each webhook that takes its type, in the order of the events: with the daemon's own
/// store, in a process of its own that `cargo` knows.
async fn record(store: &Path, webhooks: &[String], events: u64) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // As `cargo xtask bench` has built it.
    command.args([
        "bench",
        "--quiet",
        "--package",
        "sluiced",
        "--package",
        "sluiced-tests",
        "--bench",
        "deliveries",
        "--",
    ]);
    command.arg("--fill").arg(store).arg(STREAM);
    let mut filler = command.current_dir(workspace()).stdin(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufWriter::new(filler.stdin.take().context("it has a standard input")?);
    for event in 0..events {
        for webhook in webhooks.iter().skip((event % TYPES) as usize).step_by(TYPES as usize) {
            lines.write_all(format!("{webhook} {}\n", event + 1).as_bytes()).await?;
        }
    }
    lines.shutdown().await?;
    drop(lines);
    let ended = filler.wait().await?;
    ensure!(ended.success(), "recording deliveries ended with {ended}");
    Ok(())
}

/// The API, asked as a program of an operator's does: with the admin key, over a connection that stays.
struct Api {
    http: Client,
    base: String,
}

impl Api {
    fn of(daemon: &TestDaemon) -> Self {
        Self { http: sluiced_tests::http::client(), base: daemon.url("/api/v1") }
    }

    /// Asks: how many microseconds until the whole answer was there, and the answer, which is a good one.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u64, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).header("x-api-key", ADMIN_KEY);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let began = Instant::now();
        let mut response = request.send().await?;
        let (status, mut text) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
        }
        let took_us = u64::try_from(began.elapsed().as_micros())?;
        ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&text));
        Ok((took_us, serde_json::from_slice(&text)?))
    }

    async fn get(&self, path: &str) -> Result<(u64, Value)> {
        self.ask(Method::GET, path, None).await
    }

    /// Asks for a list that must not be empty.
    async fn list(&self, path: &str, list: &str) -> Result<(u64, Value)> {
        let (took_us, page) = self.get(path).await?;
        ensure!(page[list].as_array().is_some_and(|all| !all.is_empty()), "{path}: nothing is listed");
        Ok((took_us, page))
    }
}

/// The questions.
struct Asking {
    api: Api,
    webhooks: Vec<String>,
    events: u64,
}

impl Asking {
    /// Asks all of them. What changes something comes last.
    async fn all(&self, report: &mut Report) -> Result<()> {
        let p99 = self.webhooks(report).await?;
        report.target("list webhooks, p99", "ms", p99[0], P99_MS_MAX);
        report.target("get a webhook, p99", "ms", p99[1], P99_MS_MAX);
        let p99 = self.deliveries(report).await?;
        let slowest = p99[..5].iter().copied().fold(0.0, f64::max);
        report.target("list deliveries, p99 of the slowest question", "ms", slowest, P99_MS_MAX);
        report.target("get a delivery, p99", "ms", p99[5], P99_MS_MAX);
        say("api: retry");
        let mut took_us = Vec::new();
        for id in self.failed().await? {
            took_us.push(self.api.ask(Method::POST, &format!("/deliveries/{id}/retry"), None).await?.0);
        }
        row(report, "retry a delivery", took_us);
        say("api: create");
        let mut took_us = Vec::new();
        for number in 0..QUESTIONS {
            took_us.push(make_webhook(&self.api, number).await?.0);
        }
        let p99 = row(report, "create a webhook", took_us);
        report.target("create a webhook, p99", "ms", p99, P99_MS_MAX);
        Ok(())
    }

    /// Lists all webhooks page by page, and again, and gets some.
    async fn webhooks(&self, report: &mut Report) -> Result<[f64; 2]> {
        say("api: webhooks");
        let (mut took_us, mut cursor) = (Vec::new(), None::<String>);
        for _ in 0..QUESTIONS {
            let on = cursor.map_or_else(String::new, |cursor| format!("?cursor={cursor}"));
            let (took, page) = self.api.list(&format!("/webhooks{on}"), "webhooks").await?;
            took_us.push(took);
            cursor = page["next"].as_str().map(str::to_owned);
        }
        let list = row(report, "list webhooks", took_us);
        let get = self.each("get a webhook", report, |n| format!("/webhooks/{}", self.webhook(n)), None).await?;
        Ok([list, get])
    }

    /// Lists deliveries in each way, and gets some.
    async fn deliveries(&self, report: &mut Report) -> Result<[f64; 6]> {
        say("api: deliveries");
        let list = Some("deliveries");
        let of_webhook = |n| format!("/webhooks/{}/deliveries", self.webhook(n));
        let of_event = |n| format!("/deliveries?event={STREAM}:{}", self.scattered(n) + 1);
        let ids = self.ids().await?;
        let one = |n: u64| format!("/deliveries/{}", ids[n as usize % ids.len()]);
        Ok([
            self.each("list deliveries", report, |_| "/deliveries".to_owned(), list).await?,
            self.each("… of a webhook", report, of_webhook, list).await?,
            self.each("… that are delivered", report, |_| "/deliveries?status=delivered".to_owned(), list).await?,
            self.each("… that failed", report, |_| "/deliveries?status=failed".to_owned(), list).await?,
            self.each("… of an event", report, of_event, list).await?,
            self.each("get a delivery", report, one, None).await?,
        ])
    }

    /// Asks for one thing or list after the other; the p99 in milliseconds.
    async fn each(
        &self,
        what: &str,
        report: &mut Report,
        path: impl Fn(u64) -> String,
        list: Option<&str>,
    ) -> Result<f64> {
        let mut took_us = Vec::new();
        for number in 0..QUESTIONS {
            let path = path(number);
            let (took, _) = match list {
                None => self.api.get(&path).await?,
                Some(list) => self.api.list(&path, list).await?,
            };
            took_us.push(took);
        }
        Ok(row(report, what, took_us))
    }

    /// The ids of deliveries here and there.
    async fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for number in 0..QUESTIONS {
            let path = format!("/deliveries?limit=1&event={STREAM}:{}", self.scattered(number + QUESTIONS) + 1);
            ids.extend(self.api.list(&path, "deliveries").await?.1["deliveries"][0]["id"].as_str().map(str::to_owned));
        }
        Ok(ids)
    }

    /// The ids of the deliveries that failed.
    async fn failed(&self) -> Result<Vec<String>> {
        let (mut ids, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let on = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
            // A page may be empty and have a next one: the search behind it is bounded.
            let (_, page) = self.api.get(&format!("/deliveries?status=failed&limit=100{on}")).await?;
            let all = page["deliveries"].as_array().into_iter().flatten();
            ids.extend(all.filter_map(|one| one["id"].as_str().map(str::to_owned)));
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() || ids.len() as u64 >= QUESTIONS {
                return Ok(ids);
            }
        }
    }

    /// A number below that of the events, elsewhere for each question.
    fn scattered(&self, n: u64) -> u64 {
        n.wrapping_mul(2_654_435_761) % self.events
    }

    fn webhook(&self, n: u64) -> &str {
        &self.webhooks[(self.scattered(n) % self.webhooks.len() as u64) as usize]
    }
}

/// Adds a row; its p99 in milliseconds.
fn row(report: &mut Report, what: &str, mut took_us: Vec<u64>) -> f64 {
    took_us.sort_unstable();
    let ms = |us: u64| us as f64 / 1_000.0;
    let (p50, p99, max) = (percentile(&took_us, 500), percentile(&took_us, 990), percentile(&took_us, 1_000));
    report.row(what.to_owned(), vec![Some(ms(p50)), Some(ms(p99)), Some(ms(max)), Some(took_us.len() as f64)]);
    ms(p99)
}

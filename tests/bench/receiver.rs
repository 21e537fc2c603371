//! The receiver that every endpoint of a bench points at: answers 200 at once, counts, and measures what it is told to
//! watch at the very moments of the first and the last delivery.

use std::convert::Infallible;
use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluiced_tests::proc;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::child::Child;
use crate::clock::now_us;
use crate::stats::percentile;

/// Requests to this path are never answered, and not counted as deliveries.
const HANG_PATH: &str = "/hang";
/// Requests to this path are answered 500, and not counted.
const FAIL_PATH: &str = "/fail";
/// Requests to this path are answered 200 after [`SLOW`], and not counted.
const SLOW_PATH: &str = "/slow";
/// What a slow receiver takes for a request.
pub(crate) const SLOW: Duration = Duration::from_secs(1);
/// Bodies that are larger have no time of publishing, and looking for one would be most of the work here.
const STAMPED_BYTES_MAX: usize = 4_096;

/// The line that says that an order to watch is understood.
const WATCHING: &str = "watching";

const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the process that should deliver is asked whether it still runs.
const ALIVE_INTERVAL: Duration = Duration::from_millis(200);

/// The receiver as the bench holds it.
pub(crate) struct Receiver {
    child: Child,
    address: String,
}

/// What a receiver saw from the first delivery to the last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Seconds from the first to the last.
    pub(crate) seconds: f64,
    /// CPU time in microseconds that each watched process used meanwhile.
    pub(crate) cpu_us: Vec<u64>,
    /// p50, p99 and p99.9 in microseconds from `sent_us` in the body to arrival, and the p99 without the first tenth of
    /// all; 0 when the bodies have none.
    pub(crate) latency_us: [u64; 4],
    /// Requests so far that are left hanging.
    pub(crate) hanging: u64,
}

impl Receiver {
    /// Starts it on a free port.
    pub(crate) async fn start() -> Result<Self> {
        let mut child = Child::start(&["receiver"])?;
        let line = timeout(START_TIMEOUT, child.next()).await.context("the receiver does not start")??;
        let address = line.as_str().context("the receiver's first line is its address")?.to_owned();
        Ok(Self { child, address })
    }

    /// The URL that is answered at once.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The URL that is never answered.
    pub(crate) fn hanging_url(&self) -> String {
        format!("http://{}{HANG_PATH}", self.address)
    }

    /// The URL that is answered 500.
    pub(crate) fn failing_url(&self) -> String {
        format!("http://{}{FAIL_PATH}", self.address)
    }

    /// The URL that is answered after [`SLOW`].
    pub(crate) fn slow_url(&self) -> String {
        format!("http://{}{SLOW_PATH}", self.address)
    }

    /// Counts from now on, up to `deliveries`, and samples the CPU time of the processes `ids` at the first and the last.
    pub(crate) async fn watch(&mut self, deliveries: u64, ids: &[u32]) -> Result<()> {
        self.child.send(&json!({ "deliveries": deliveries, "ids": ids })).await?;
        // Not before it has read that: a first delivery can be quicker.
        let line = timeout(START_TIMEOUT, self.child.next()).await.context("the receiver does not listen")??;
        ensure!(line == WATCHING, "the receiver says something else: {line}");
        Ok(())
    }

    /// What it saw, once the last delivery is in. Gives up after `time_max`, or when `alive` says why it must.
    pub(crate) async fn seen(&mut self, time_max: Duration, mut alive: impl FnMut() -> Result<()>) -> Result<Seen> {
        let deadline = Instant::now() + time_max;
        loop {
            if let Ok(line) = timeout(ALIVE_INTERVAL, self.child.next()).await {
                return Seen::read(&line?);
            }
            alive()?;
            ensure!(Instant::now() < deadline, "not every delivery came within {time_max:?}");
        }
    }

    /// Ends it.
    pub(crate) async fn end(self) -> Result<()> {
        self.child.end().await
    }
}

impl Seen {
    fn read(line: &Value) -> Result<Self> {
        let whole = |value: &Value| value.as_u64().context("a whole number");
        let wholes = |value: &Value| value.as_array().context("a list")?.iter().map(whole).collect::<Result<Vec<_>>>();
        let unwatched = whole(&line["unwatched"])?;
        if unwatched > 0 {
            bail!("{unwatched} deliveries came twice, or before they were watched");
        }
        let latency_us = wholes(&line["latency_us"])?.try_into().ok().context("four percentiles")?;
        let seconds = line["seconds"].as_f64().context("a number")?;
        Ok(Self { seconds, cpu_us: wholes(&line["cpu_us"])?, latency_us, hanging: whole(&line["hanging"])? })
    }
}

/// The process: prints its address, then serves until its standard input ends.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", json!(listener.local_addr()?.to_string()));
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(connection(Arc::clone(&tally), accepted?.0));
            }
            Some(_) = connections.join_next() => {}
            order = orders.next_line() => match order? {
                Some(order) => {
                    tally.lock().watch(&serde_json::from_str(&order)?);
                    println!("{}", json!(WATCHING));
                }
                None => return Ok(()),
            }
        }
    }
}

/// Serves one connection. Its only errors are its client's going away.
async fn connection(tally: Arc<Mutex<Tally>>, stream: TcpStream) {
    drop(stream.set_nodelay(true));
    let service = service_fn(|request| answer(&tally, request));
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(tally: &Mutex<Tally>, request: Request<Incoming>) -> hyper::Result<Response<Empty<Bytes>>> {
    let (head, body) = request.into_parts();
    if head.uri.path() == HANG_PATH {
        tally.lock().hanging += 1;
        pending::<Infallible>().await;
    }
    let body = body.collect().await?.to_bytes();
    let mut response = Response::new(Empty::new());
    match head.uri.path() {
        FAIL_PATH => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        SLOW_PATH => sleep(SLOW).await,
        _ => tally.lock().count(&body),
    }
    Ok(response)
}

/// What the receiver's process counts.
#[derive(Default)]
struct Tally {
    watch: Option<Watch>,
    unwatched: u64,
    hanging: u64,
}

struct Watch {
    deliveries: u64,
    ids: Vec<u32>,
    first: Option<(Instant, Vec<Duration>)>,
    seen: u64,
    latencies_us: Vec<u64>,
}

impl Tally {
    fn watch(&mut self, order: &Value) {
        let ids = order["ids"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        let ids = ids.filter_map(|id| u32::try_from(id).ok()).collect();
        let deliveries = order["deliveries"].as_u64().unwrap_or(0);
        self.watch = Some(Watch { deliveries, ids, first: None, seen: 0, latencies_us: Vec::new() });
    }

    fn count(&mut self, body: &[u8]) {
        let Some(watch) = &mut self.watch else {
            self.unwatched += 1;
            return;
        };
        if let Some(sent_us) = sent_us(body) {
            watch.latencies_us.push(now_us().saturating_sub(sent_us));
        }
        watch.seen += 1;
        if watch.first.is_none() {
            watch.first = Some((Instant::now(), watch.cpu_times()));
        }
        if watch.seen == watch.deliveries {
            println!("{}", watch.close(self.unwatched, self.hanging));
            self.watch = None;
        }
    }
}

impl Watch {
    fn cpu_times(&self) -> Vec<Duration> {
        self.ids.iter().map(|id| proc::cpu_time(*id)).collect()
    }

    /// The line that [`Seen::read`] takes.
    fn close(&mut self, unwatched: u64, hanging: u64) -> Value {
        let (began, before) = self.first.take().unwrap_or_else(|| (Instant::now(), self.cpu_times()));
        let seconds = began.elapsed().as_secs_f64();
        let used = self.cpu_times().into_iter().zip(before).map(|(now, before)| now.saturating_sub(before));
        let cpu_us: Vec<u64> = used.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).collect();
        let mut settled_us = self.latencies_us.split_off(self.latencies_us.len() / 10);
        settled_us.sort_unstable();
        let settled_p99 = percentile(&settled_us, 990);
        self.latencies_us.append(&mut settled_us);
        self.latencies_us.sort_unstable();
        let [p50, p99, p999] = [500, 990, 999].map(|per_mille| percentile(&self.latencies_us, per_mille));
        let latency_us = [p50, p99, p999, settled_p99];
        json!({
            "unwatched": unwatched, "hanging": hanging, "seconds": seconds, "cpu_us": cpu_us, "latency_us": latency_us,
        })
    }
}

/// When a body was published, where it says so. Looked for as text: parsing each body would be most of the work here.
fn sent_us(body: &[u8]) -> Option<u64> {
    if body.len() > STAMPED_BYTES_MAX {
        return None;
    }
    let key = crate::setup::SENT_KEY;
    let at = body.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.map(|digit| u64::from(digit - b'0')).reduce(|number, digit| number * 10 + digit)
}

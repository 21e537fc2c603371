//! Clients of an event stream by the thousand, in a process of their own: each is a socket and its place, and comes back
//! by itself with it. They check that the numbers of the events come without a step, and measure how old these are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::child::Child;
use crate::clock::now_us;
use crate::stats::percentile;

/// What an event begins with: its number, then the time of its publishing.
const NUMBER: &[u8] = b"data: {\"number\":";
const SENT: &[u8] = b",\"sent_us\":";

/// Clients that connect at the same time; the next waits for the first bytes of one of them.
const CONNECTING_MAX: usize = 128;
/// After the end of a stream a client comes back within this time.
const RETURN_WITHIN: Duration = Duration::from_secs(3);
/// The wait after a connection that was refused.
const REFUSED_DELAY: Duration = Duration::from_millis(100);
const GREETED_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// Of the client that may be told to stop reading: a kernel that takes little for it.
const SLOW_BUFFER_BYTES: u32 = 4_096;

/// What this executable is told when it is to be the clients.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    path: String,
    #[arg(long, default_value = "")]
    key: String,
    #[arg(long)]
    clients: usize,
}

/// The body of an event: about 250 bytes, or as many as asked for.
pub(crate) fn body(number: u64, bytes: usize) -> Vec<u8> {
    let mut text = format!("{{\"number\":{number},\"sent_us\":{},\"note\":\"", now_us()).into_bytes();
    text.resize(bytes.max(text.len() + 2) - 2, b'x');
    text.extend_from_slice(b"\"}");
    text
}

/// The clients as the bench holds them.
pub(crate) struct Fleet(Child);

/// What they saw since they were last told to forget it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) connected: u64,
    pub(crate) frames: u64,
    pub(crate) missed: u64,
    pub(crate) repeated: u64,
    /// The number of the newest event of the client that is furthest behind; 0 when one has seen none.
    pub(crate) number_least: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Fleet {
    /// Starts so many clients of a path, and waits until all are connected.
    pub(crate) async fn start(address: SocketAddr, path: &str, key: &str, clients: usize) -> Result<Self> {
        let (address, count) = (address.to_string(), clients.to_string());
        let args = ["fleet", "--address", &address, "--path", path, "--key", key, "--clients", &count];
        let mut fleet = Self(Child::start(&args)?);
        fleet.wait("every client is connected", |told| told.connected == clients as u64).await?;
        Ok(fleet)
    }

    /// Forgets what was counted and measured; every client keeps its place.
    pub(crate) async fn forget(&mut self) -> Result<()> {
        self.say(&json!({ "do": "forget" })).await.map(drop)
    }

    /// The first client reads no more, or goes on.
    pub(crate) async fn pause(&mut self, paused: bool) -> Result<()> {
        self.say(&json!({ "do": "pause", "paused": paused })).await.map(drop)
    }

    /// A client that comes back asks for up to so many events again, each for another number of them.
    pub(crate) async fn rewind(&mut self, events_max: u64) -> Result<()> {
        self.say(&json!({ "do": "rewind", "events_max": events_max })).await.map(drop)
    }

    pub(crate) async fn tell(&mut self) -> Result<Told> {
        self.say(&json!({ "do": "tell" })).await
    }

    /// Asks until it is so.
    pub(crate) async fn wait(&mut self, what: &str, so: impl Fn(&Told) -> bool) -> Result<Told> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let told = self.tell().await?;
            if so(&told) {
                return Ok(told);
            }
            ensure!(Instant::now() < deadline, "not within two minutes: {what}: {told:?}");
            sleep(POLL).await;
        }
    }

    pub(crate) async fn end(self) -> Result<()> {
        self.0.end().await
    }

    async fn say(&mut self, order: &Value) -> Result<Told> {
        self.0.send(order).await?;
        let told = timeout(ANSWER_TIMEOUT, self.0.next()).await.context("the clients do not answer")??;
        let number = |key: &str| told[key].as_u64().with_context(|| format!("the clients do not tell {key}"));
        Ok(Told {
            connected: number("connected")?,
            frames: number("frames")?,
            missed: number("missed")?,
            repeated: number("repeated")?,
            number_least: number("number_least")?,
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
        })
    }
}

#[derive(Default)]
struct Tally {
    connected: u64,
    frames: u64,
    missed: u64,
    repeated: u64,
    ages_us: Vec<u64>,
    /// Of each client, the number of its newest event.
    numbers: Vec<Option<u64>>,
    rewind_max: u64,
}

struct Shared {
    arguments: Arguments,
    tally: Mutex<Tally>,
    paused: watch::Receiver<bool>,
    connecting: Semaphore,
    scratch: Mutex<Vec<u8>>,
}

/// The clients themselves: an answer for each order on standard input, until that ends.
pub(crate) async fn serve(arguments: Arguments) -> Result<()> {
    let (pause, paused) = watch::channel(false);
    let clients = arguments.clients;
    let tally = Mutex::new(Tally { numbers: vec![None; clients], ..Tally::default() });
    let (connecting, scratch) = (Semaphore::new(CONNECTING_MAX), Mutex::new(vec![0; 256 << 10]));
    let shared = Arc::new(Shared { arguments, tally, paused, connecting, scratch });
    let mut all = JoinSet::new();
    for index in 0..clients {
        all.spawn(Client { index, place: None, rest: Vec::new(), shared: Arc::clone(&shared) }.run());
    }
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    while let Some(line) = orders.next_line().await? {
        let order: Value = serde_json::from_str(&line)?;
        match order["do"].as_str() {
            Some("forget") => shared.tally.lock().forget(),
            Some("pause") => drop(pause.send_replace(order["paused"] == true)),
            Some("rewind") => shared.tally.lock().rewind_max = order["events_max"].as_u64().unwrap_or(0),
            _ => {}
        }
        let told = shared.tally.lock().told();
        out.write_all(format!("{told}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

impl Tally {
    fn forget(&mut self) {
        (self.frames, self.missed, self.repeated) = (0, 0, 0);
        self.ages_us.clear();
    }

    fn told(&mut self) -> Value {
        self.ages_us.sort_unstable();
        json!({
            "connected": self.connected, "frames": self.frames, "missed": self.missed, "repeated": self.repeated,
            "number_least": self.numbers.iter().min().copied().flatten().unwrap_or(0),
            "p50_us": percentile(&self.ages_us, 500), "p99_us": percentile(&self.ages_us, 990),
        })
    }

    fn count(&mut self, index: usize, number: u64, sent_us: u64) {
        self.frames += 1;
        self.ages_us.push(now_us().saturating_sub(sent_us));
        if let Some(before) = self.numbers[index] {
            self.missed += number.saturating_sub(before + 1);
            self.repeated += u64::from(number <= before);
        }
        self.numbers[index] = Some(number);
    }
}

struct Client {
    index: usize,
    place: Option<Vec<u8>>,
    /// Bytes after the last whole line.
    rest: Vec<u8>,
    shared: Arc<Shared>,
}

impl Client {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let Ok(connecting) = shared.connecting.acquire().await else { return };
            let connected = timeout(GREETED_TIMEOUT, self.connect()).await;
            drop(connecting);
            let Ok(Some(stream)) = connected else {
                sleep(REFUSED_DELAY).await;
                continue;
            };
            shared.tally.lock().connected += 1;
            while self.read(&stream).await {}
            shared.tally.lock().connected -= 1;
            drop(stream);
            sleep(RETURN_WITHIN.mul_f64(rand::random())).await;
            self.rewind();
        }
    }

    /// A stream that has been answered with 200.
    async fn connect(&mut self) -> Option<TcpStream> {
        let Arguments { address, path, key, .. } = &self.shared.arguments;
        let socket = TcpSocket::new_v4().ok()?;
        if self.index == 0 {
            socket.set_recv_buffer_size(SLOW_BUFFER_BYTES).ok()?;
        }
        let mut stream = socket.connect(*address).await.ok()?;
        let mut request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n").into_bytes();
        if !key.is_empty() {
            request.extend_from_slice(format!("X-API-Key: {key}\r\n").as_bytes());
        }
        if let Some(place) = &self.place {
            request.extend_from_slice(&[b"Last-Event-ID: ", &place[..], b"\r\n"].concat());
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await.ok()?;
        self.rest.clear();
        let mut status = [0; b"HTTP/1.1 200".len()];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut status).await.ok()?;
        status.ends_with(b" 200").then_some(stream)
    }

    /// Reads what is there; false at the end.
    async fn read(&mut self, stream: &TcpStream) -> bool {
        let shared = Arc::clone(&self.shared);
        if self.index == 0 && shared.paused.clone().wait_for(|paused| !paused).await.is_err() {
            return false;
        }
        if stream.readable().await.is_err() {
            return false;
        }
        let mut scratch = shared.scratch.lock();
        match stream.try_read(&mut scratch) {
            Ok(0) => false,
            Ok(bytes) => {
                self.take(&scratch[..bytes]);
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// Looks at every whole line: an id is a place, and data an event. What chunks put between them says nothing.
    fn take(&mut self, bytes: &[u8]) {
        let mut tally = self.shared.tally.lock();
        let joined;
        let mut left = match self.rest.is_empty() {
            true => bytes,
            false => {
                joined = [&self.rest[..], bytes].concat();
                &joined[..]
            }
        };
        while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&left[..end], &left[end + 1..]);
            left = after;
            if let Some(place) = line.strip_prefix(b"id: ") {
                let kept = self.place.get_or_insert_default();
                kept.clear();
                kept.extend_from_slice(place);
            } else if let Some((number, sent_us)) = line.strip_prefix(NUMBER).and_then(read_event) {
                tally.count(self.index, number, sent_us);
            }
        }
        self.rest = left.to_vec();
    }

    /// Goes back by some events, as one that was away for longer.
    fn rewind(&mut self) {
        let mut tally = self.shared.tally.lock();
        let (rewind_max, number) = (tally.rewind_max, tally.numbers[self.index]);
        let (Some(place), Some(number)) = (&self.place, number) else { return };
        let text = String::from_utf8_lossy(place);
        let Some((stream, sequence)) = text.rsplit_once(':') else { return };
        let Ok(sequence) = sequence.parse::<u64>() else { return };
        let events = rand::random_range(0..=rewind_max).min(number).min(sequence);
        let place = format!("{stream}:{}", sequence - events).into_bytes();
        tally.numbers[self.index] = Some(number - events);
        self.place = Some(place);
    }
}

/// Number and time of publishing of what follows [`NUMBER`].
fn read_event(data: &[u8]) -> Option<(u64, u64)> {
    let (number, rest) = digits(data);
    let (sent_us, _) = digits(rest.strip_prefix(SENT)?);
    Some((number, sent_us))
}

fn digits(text: &[u8]) -> (u64, &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let value = text[..end].iter().fold(0_u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    (value, &text[end..])
}

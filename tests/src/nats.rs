//! A real nats-server with JetStream on a free loopback port.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::{self, consumer, stream};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::future::try_join_all;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::events::order;
use crate::paths::nats_server_binary;
use crate::process::Process;
use crate::wait::{comes_true, wait_until};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How many publishes wait for their acknowledgement at a time.
const UNACKED_MAX: u64 = 500;

/// A nats-server and its store, which outlives a kill. Ended on drop.
#[derive(Debug)]
pub struct TestNats {
    process: Option<Process>,
    port: u16,
    dir: TempDir,
}

impl TestNats {
    /// Starts a server with an empty store.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("sluiced-nats-").tempdir().expect("a temporary folder");
        let mut nats = Self { process: None, port: 0, dir };
        nats.launch().await;
        nats
    }

    /// `nats://127.0.0.1:PORT`, the same over restarts.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port, the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id.
    ///
    /// # Panics
    /// When the server is stopped.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Ends the server in order.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            process.wait_ended(STOP_TIMEOUT).await;
        }
    }

    /// Tells the server to announce its end to its clients and to leave within some seconds (lame duck mode).
    pub fn lame_duck(&mut self) {
        self.process.as_mut().expect("the server runs").signal(Signal::USR2);
    }

    /// Deletes a consumer.
    pub async fn delete_consumer(&self, stream: &str, consumer: &str) {
        let stream = self.jetstream().await.get_stream(stream).await.expect("the stream exists");
        stream.delete_consumer(consumer).await.expect("the consumer can be deleted");
    }

    /// Deletes a stream.
    pub async fn delete_stream(&self, stream: &str) {
        self.jetstream().await.delete_stream(stream).await.expect("the stream can be deleted");
    }

    /// Discards every message of a stream.
    pub async fn purge(&self, stream: &str) {
        let stream = self.jetstream().await.get_stream(stream).await.expect("the stream exists");
        stream.purge().await.expect("the stream can be purged");
    }

    /// Starts the server again on the same port and store, after killing it where it still runs.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    /// A new connection.
    pub async fn client(&self) -> Client {
        async_nats::connect(self.url()).await.expect("a running server takes connections")
    }

    /// JetStream over a new connection.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// Creates a stream in file storage.
    pub async fn create_stream(&self, name: &str, subjects: &[&str]) {
        let subjects = subjects.iter().map(ToString::to_string).collect();
        self.create_stream_with(stream::Config { name: name.to_owned(), subjects, ..Default::default() }).await;
    }

    /// Creates a stream as configured.
    pub async fn create_stream_with(&self, config: stream::Config) {
        self.jetstream().await.create_stream(config).await.expect("the stream can be created");
    }

    /// What the server knows of a stream.
    pub async fn stream_info(&self, name: &str) -> stream::Info {
        let stream = self.jetstream().await.get_stream(name).await.expect("the stream exists");
        stream.cached_info().clone()
    }

    /// What the server knows of a consumer, `None` when there is none.
    pub async fn consumer_info(&self, stream: &str, consumer: &str) -> Option<consumer::Info> {
        let stream = self.jetstream().await.get_stream(stream).await.ok()?;
        stream.consumer_info(consumer).await.ok()
    }

    /// Publishes one message and waits until it is stored. Returns its sequence.
    pub async fn publish(&self, subject: &str, body: impl Into<Bytes>) -> u64 {
        self.publish_with(subject, HeaderMap::new(), body).await
    }

    /// Publishes one message with headers and waits until it is stored. Returns its sequence.
    pub async fn publish_with(&self, subject: &str, headers: HeaderMap, body: impl Into<Bytes>) -> u64 {
        // Held until the acknowledgement is in: the connection closes with its last handle.
        let jetstream = self.jetstream().await;
        let stored = jetstream.publish_with_headers(subject.to_owned(), headers, body.into()).await;
        stored.expect("the server takes it").await.expect("a stream stores it").sequence
    }

    /// Publishes [`order`]s of the given numbers, each with `Nats-Msg-Id: order-NUMBER`, and waits until all are stored.
    pub async fn publish_orders(&self, subject: &str, numbers: std::ops::Range<u64>) {
        let jetstream = self.jetstream().await;
        let mut next = numbers.start;
        while next < numbers.end {
            let mut unacked = Vec::new();
            for number in next..numbers.end.min(next + UNACKED_MAX) {
                let mut headers = HeaderMap::new();
                headers.insert(NATS_MESSAGE_ID, format!("order-{number}"));
                let sent = jetstream.publish_with_headers(subject.to_owned(), headers, order(number)).await;
                unacked.push(sent.expect("the server takes it").into_future());
            }
            next += unacked.len() as u64;
            try_join_all(unacked).await.expect("a stream stores every order");
        }
    }

    /// Waits until a consumer has nothing left: every message delivered and acknowledged.
    pub async fn wait_drained(&self, stream: &str, consumer: &str, timeout: Duration) {
        let drained = async || {
            let info = self.consumer_info(stream, consumer).await;
            info.is_some_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
        };
        wait_until(&format!("consumer {consumer} of {stream} is drained"), timeout, drained).await;
    }

    /// Starts the process and waits until JetStream answers. A first start takes any free port.
    async fn launch(&mut self) {
        let ports = self.dir.path().join("ports");
        fs::create_dir_all(&ports).expect("the folder can be created");
        let port = if self.port == 0 { "-1".to_owned() } else { self.port.to_string() };
        let mut command = Command::new(nats_server_binary());
        command.args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"]).arg(self.dir.path());
        command.arg("--ports_file_dir").arg(&ports);
        let process = self.process.insert(Process::start("nats-server", &mut command, &self.dir.path().join("log")));
        let ending = format!("_{}.ports", process.id());
        let mut taken = None;
        let started = comes_true(START_TIMEOUT, async || {
            assert!(process.ended().is_none(), "nats-server ended at start: {}", process.log());
            taken = ports_file(&ports, &ending).and_then(|text| port_in(&text));
            taken.is_some()
        });
        assert!(started.await, "nats-server did not start within {START_TIMEOUT:?}");
        self.port = taken.expect("it was just seen");
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(self.url()).await;
        let jetstream = jetstream::new(client.expect("it retries until the server answers"));
        let answers = async || jetstream.query_account().await.is_ok();
        wait_until("JetStream answers", START_TIMEOUT, answers).await;
    }
}

/// The file that the server writes once it listens: its name is that of the executable, then the process id.
fn ports_file(dir: &Path, ending: &str) -> Option<String> {
    let mut paths = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let path = paths.find(|path| path.to_string_lossy().ends_with(ending))?;
    fs::read_to_string(path).ok()
}

/// The client port in a ports file: `{"nats":["nats://127.0.0.1:4222"]}`.
fn port_in(text: &str) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_str(text).ok()?;
    ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}

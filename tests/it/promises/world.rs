//! A daemon with subscriptions of every ordering, and what can happen to them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Received, Reply, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);
/// How many keys the events have.
pub(super) const KEYS: u64 = 4;

const HEAD: &str = r#"
[delivery]
breaker = { attempts_min = 6, probe = "100ms", probe_max = "200ms" }
retry = { max_attempts = 100, base = "50ms", factor = 1, max = "100ms", jitter = 0.2 }
secret_overlap = "1h"
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ordering {
    None,
    Key,
    Strict,
}

/// A request that was answered 200.
pub(super) struct Receipt {
    pub(super) number: u64,
    /// The replay that it is of; empty when it is of none.
    pub(super) job: String,
    pub(super) at: Instant,
}

/// A signing secret, and for how long it is valid.
pub(super) struct Secret {
    pub(super) text: String,
    /// When the daemon was asked for it, and when it had answered.
    pub(super) asked: Instant,
    pub(super) made: Instant,
    /// When a rotation without overlap had ended it.
    pub(super) ended: Option<Instant>,
}

/// While one order was in effect: what was published in that time.
pub(super) struct Epoch {
    pub(super) ordering: Ordering,
    pub(super) numbers: Range<u64>,
    pub(super) since: Instant,
    pub(super) until: Option<Instant>,
}

pub(super) struct Sub {
    pub(super) name: &'static str,
    pub(super) receiver: TestReceiver,
    pub(super) accepted: Arc<Mutex<Vec<Receipt>>>,
    pub(super) in_flight_max: u64,
    pub(super) secrets: Vec<Secret>,
    pub(super) epochs: Vec<Epoch>,
    /// Replays with the sequences that they are of.
    pub(super) replays: Vec<(String, u64, u64)>,
    /// How many events each replay left alone.
    pub(super) left: BTreeMap<String, u64>,
    disabled: bool,
}

pub(super) struct World {
    nats: TestNats,
    daemon: TestDaemon,
    pub(super) subs: Vec<Sub>,
    pub(super) published: u64,
    pub(super) kills: u64,
    reloads: usize,
}

impl Sub {
    fn new(name: &'static str, ordering: Ordering) -> Self {
        let epoch = Epoch { ordering, numbers: 0..u64::MAX, since: Instant::now(), until: None };
        let sub = Self {
            name,
            receiver: TestReceiver::start(),
            accepted: Arc::default(),
            in_flight_max: 4,
            secrets: Vec::new(),
            epochs: vec![epoch],
            replays: Vec::new(),
            left: BTreeMap::new(),
            disabled: false,
        };
        sub.endpoint(0);
        sub
    }

    fn ordering(&self) -> Ordering {
        self.epochs.last().expect("it began with one").ordering
    }

    fn webhook(&self) -> Webhook {
        let webhook = Webhook::new(self.name, &self.receiver).secret(None).with("max_in_flight", self.in_flight_max);
        match self.ordering() {
            Ordering::None => webhook,
            Ordering::Key => webhook.with("ordering", r#""key""#).with("order_key", r#"{ header = "X-Key" }"#),
            Ordering::Strict => webhook.with("ordering", r#""strict""#),
        }
    }

    /// The endpoint works, fails now and then, or fails always.
    pub(super) fn endpoint(&self, how: u32) {
        let accepted = Arc::clone(&self.accepted);
        let times = Mutex::new(0u32);
        self.receiver.set(Behaviour::custom(move |request: &Received| {
            let mut times = times.lock();
            *times += 1;
            if how == 2 || (how == 1 && *times % 3 == 0) {
                return Reply::status(503);
            }
            let (number, job) = (request.number().expect("an order has a number"), request.header("sluiced-replay"));
            accepted.lock().push(Receipt { number, job: job.to_owned(), at: request.at });
            Reply::status(200)
        }));
    }
}

impl World {
    pub(super) async fn start() -> Self {
        let nats = TestNats::start().await;
        let subs = vec![
            Sub::new("plain", Ordering::None),
            Sub::new("keyed", Ordering::Key),
            Sub::new("strict", Ordering::Strict),
            Sub::new("changing", Ordering::Key),
        ];
        let daemon = TestDaemon::start(&nats, &text(&subs)).await;
        let mut world = Self { nats, daemon, subs, published: 0, kills: 0, reloads: 0 };
        for sub in 0..world.subs.len() {
            world.rotate(sub, false).await;
        }
        world
    }

    async fn post(&self, path: &str, body: Option<&Value>) -> (u16, Value) {
        let answer = self.daemon.request("POST", &format!("/api/v1/{path}"), body).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
    }

    pub(super) async fn publish(&mut self, events: u64) {
        let jetstream = self.nats.jetstream().await;
        for _ in 0..events {
            let mut headers = HeaderMap::new();
            headers.insert("X-Key", (self.published % KEYS).to_string());
            let sent = jetstream.publish_with_headers("events.orders.created", headers, order(self.published)).await;
            sent.expect("the server takes it").await.expect("the stream stores it");
            self.published += 1;
        }
    }

    pub(super) async fn turn_off_or_on(&mut self, sub: usize) {
        let disabled = !self.subs[sub].disabled;
        self.set_disabled(sub, disabled).await;
    }

    async fn set_disabled(&mut self, sub: usize, disabled: bool) {
        let wish = if disabled { "disable" } else { "enable" };
        let (status, answer) = self.post(&format!("subscriptions/{}/{wish}", self.subs[sub].name), None).await;
        assert!(status < 300, "{wish}: {status} {answer}");
        self.subs[sub].disabled = disabled;
    }

    /// Another signing secret: the ones before it end at once, or stay for the overlap.
    pub(super) async fn rotate(&mut self, sub: usize, overlap: bool) {
        let asked = Instant::now();
        let body = if overlap { None } else { Some(json!({ "overlap": "0s" })) };
        let path = format!("subscriptions/{}/secret/rotate", self.subs[sub].name);
        let (status, answer) = self.post(&path, body.as_ref()).await;
        if overlap && status == 409 {
            // No more earlier ones are kept.
            return;
        }
        assert_eq!(status, 200, "{answer}");
        let text = answer["secret"].as_str().expect("the answer has it").to_owned();
        let made = Instant::now();
        let secrets = &mut self.subs[sub].secrets;
        if !overlap {
            secrets.iter_mut().for_each(|secret| secret.ended = secret.ended.or(Some(made)));
        }
        secrets.push(Secret { text, asked, made, ended: None });
    }

    /// A stretch of history once more, unless another job is not over.
    pub(super) async fn replay(&mut self, sub: usize, from: u64) {
        if self.published == 0 {
            return;
        }
        let to = self.published.min(from + 40);
        let body = json!({ "from": from, "to": to, "rate": 200 });
        let (status, job) = self.post(&format!("subscriptions/{}/replay", self.subs[sub].name), Some(&body)).await;
        if status == 202 {
            let id = job["id"].as_str().expect("an id").to_owned();
            self.subs[sub].replays.push((id, from, to));
        } else {
            assert_eq!(status, 409, "{job}");
        }
    }

    /// One subscription keeps another order from now on.
    pub(super) async fn order_otherwise(&mut self, how: usize) {
        let ordering = [Ordering::None, Ordering::Key, Ordering::Strict][how];
        let published = self.published;
        let changing = self.subs.last_mut().expect("there are some");
        if changing.ordering() == ordering {
            return;
        }
        let before = changing.epochs.last_mut().expect("it began with one");
        before.numbers.end = published;
        before.until = Some(Instant::now());
        changing.epochs.push(Epoch { ordering, numbers: published..u64::MAX, since: Instant::now(), until: None });
        self.daemon.write_config(&text(&self.subs));
        self.daemon.reload();
        self.reloads += 1;
        let of = async || self.daemon.log().matches("configuration reloaded").count() >= self.reloads;
        wait_until("the change is in effect", SOON, of).await;
        // The file's watcher reads it once more.
        self.reloads = self.daemon.log().matches("configuration reloaded").count();
        self.subs.last_mut().expect("there are some").epochs.last_mut().expect("just now").since = Instant::now();
    }

    pub(super) async fn kill(&mut self) {
        self.kills += 1;
        self.daemon.kill9();
        self.daemon.restart().await;
        self.reloads = self.daemon.log().matches("configuration reloaded").count();
    }

    pub(super) async fn stop(&mut self) {
        assert_eq!(self.daemon.terminate().await.code(), Some(0));
        self.daemon.restart().await;
        self.reloads = self.daemon.log().matches("configuration reloaded").count();
    }

    pub(super) async fn settle_a_little(&self) {
        let requests: Vec<u64> = self.subs.iter().map(|sub| sub.receiver.counts().requests).collect();
        let now = async || self.subs.iter().zip(&requests).any(|(s, before)| s.receiver.counts().requests > before + 5);
        sluiced_tests::wait::comes_true(Duration::from_millis(300), now).await;
    }

    /// Everything works again, and everything ends.
    pub(super) async fn finish(&mut self) {
        for sub in 0..self.subs.len() {
            self.subs[sub].endpoint(0);
            self.set_disabled(sub, false).await;
        }
        for sub in &self.subs {
            sub.receiver.wait_for_numbers(0..self.published, SOON).await;
            let idle = async || {
                let metrics = self.daemon.metrics().await;
                let of = |name| metrics.sum(name, &[("subscription", sub.name)]);
                of("sluiced_parked") == 0.0 && of("sluiced_in_flight") == 0.0 && of("sluiced_held") == 0.0
            };
            wait_until(&format!("{} is idle", sub.name), SOON, idle).await;
        }
        for sub in 0..self.subs.len() {
            for (id, from, to) in self.subs[sub].replays.clone() {
                let job = async || self.daemon.request("GET", &format!("/api/v1/jobs/{id}"), None).await.json();
                wait_until(&format!("replay {id} is over"), SOON, async || job().await["state"] == "done").await;
                let counts = job().await["counts"].clone();
                assert_eq!(counts["seen"], to + 1 - from, "{}: {counts}", self.subs[sub].name);
                self.subs[sub].left.insert(id, counts["pending"].as_u64().expect("a count"));
            }
        }
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        for sub in &self.subs {
            self.daemon.wait_metric("sluiced_parked", &[("subscription", sub.name)], 0.0).await;
        }
    }
}

fn text(subs: &[Sub]) -> String {
    config(HEAD, &subs.iter().map(Sub::webhook).collect::<Vec<_>>())
}

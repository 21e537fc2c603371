//! A real HTTP/1.1 receiver of webhooks on loopback whose behaviour a test sets and switches while it runs.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use standardwebhooks::Webhook;
use tokio::time::Instant;

use crate::events::number_of;
use crate::serving::{self, Serving};
use crate::wait::comes_true;

mod behaviour;
mod server;

pub use behaviour::{Behaviour, Reply};

/// A receiver on a thread of its own. Stopped on drop.
#[derive(Debug)]
pub struct TestReceiver {
    shared: Arc<Shared>,
    address: SocketAddr,
    serving: Option<Serving>,
}

/// One request as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// When the body had been read.
    pub at: Instant,
    /// Whether the signature is right; `None` when the receiver was given no secret.
    pub verified: Option<bool>,
}

/// Counts since the start of the receiver; they go on over [`TestReceiver::stop`] and [`TestReceiver::resume`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests read.
    pub requests: u64,
    /// Requests whose signature did not verify.
    pub unverified: u64,
    /// Requests being answered right now.
    pub in_flight: u64,
    /// The most that were being answered at one time.
    pub in_flight_max: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// What the test and the receiver's thread share.
struct Shared {
    verifier: Option<Webhook>,
    recording: bool,
    state: Mutex<State>,
    /// Taken before `state`, never under it.
    numbered: Mutex<Numbered>,
}

/// The order numbers of the recorded requests, as far as they have been read. They are read once, and not under the lock
/// that every answer takes: tests that ask again and again for those of 20,000 requests kept the receiver from answering.
#[derive(Default)]
struct Numbered {
    /// How many of the recorded requests have been read.
    requests: usize,
    times: HashMap<u64, u64>,
    by_path: HashMap<String, Vec<u64>>,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    /// Requests since the behaviour was set.
    since_set: u64,
    received: Vec<Received>,
    counts: Counts,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("counts", &self.state.lock().counts).finish_non_exhaustive()
    }
}

impl TestReceiver {
    /// Starts one that answers 200, records every request and verifies no signature.
    pub fn start() -> Self {
        Self::launch(None, true)
    }

    /// Starts one that verifies the signature of every request.
    pub fn start_verifying(secret: &str) -> Self {
        Self::launch(Some(secret), true)
    }

    /// Starts one that only counts, for benchmarks.
    pub fn start_counting() -> Self {
        Self::launch(None, false)
    }

    /// Where it listens, the same after [`TestReceiver::resume`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT` followed by `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Switches how requests from now on are answered. Those already hanging stay so.
    pub fn set(&self, behaviour: Behaviour) {
        let mut state = self.shared.state.lock();
        state.behaviour = behaviour;
        state.since_set = 0;
    }

    /// Every request so far, in the order in which they came in.
    pub fn received(&self) -> Vec<Received> {
        self.shared.state.lock().received.clone()
    }

    /// Forgets the recorded requests; the counts stay.
    pub fn forget(&self) {
        let mut numbered = self.shared.numbered.lock();
        self.shared.state.lock().received.clear();
        *numbered = Numbered::default();
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }

    /// How often each order number came in.
    pub fn numbers(&self) -> HashMap<u64, u64> {
        self.numbered().times.clone()
    }

    /// The order numbers of all recorded requests.
    fn numbered(&self) -> MutexGuard<'_, Numbered> {
        let mut numbered = self.shared.numbered.lock();
        let of = |received: &Received| (received.path.clone(), received.body.clone());
        let new: Vec<_> = self.shared.state.lock().received.iter().skip(numbered.requests).map(of).collect();
        numbered.requests += new.len();
        for (path, number) in new.into_iter().filter_map(|(path, body)| Some((path, number_of(&body)?))) {
            *numbered.times.entry(number).or_default() += 1;
            numbered.by_path.entry(path).or_default().push(number);
        }
        numbered
    }

    /// The order numbers that came in at the path of a subscription, one for each request, in ascending order.
    pub fn numbers_of(&self, subscription: &str) -> Vec<u64> {
        let mut numbers = self.numbered().by_path.get(&format!("/{subscription}")).cloned().unwrap_or_default();
        numbers.sort_unstable();
        numbers
    }

    /// Waits until at least `requests` have come in, counted from the start.
    ///
    /// # Panics
    /// When they have not within `timeout`.
    pub async fn wait_for(&self, requests: u64, timeout: Duration) {
        let came = comes_true(timeout, async || self.counts().requests >= requests).await;
        assert!(came, "{} of {requests} requests within {timeout:?}", self.counts().requests);
    }

    /// Waits until at least one request of each order number in the range has come in.
    ///
    /// # Panics
    /// When they have not within `timeout`.
    pub async fn wait_for_numbers(&self, numbers: std::ops::Range<u64>, timeout: Duration) {
        let at_least = numbers.end.saturating_sub(numbers.start);
        let mut missing = Vec::new();
        let came = comes_true(timeout, async || {
            if self.counts().requests < at_least {
                return false;
            }
            let seen = self.numbered();
            missing = numbers.clone().filter(|number| !seen.times.contains_key(number)).collect();
            missing.is_empty()
        });
        assert!(came.await, "missing within {timeout:?}: {} orders, {:?}…", missing.len(), missing.first());
    }

    /// Closes the port and every connection. Requests are refused until [`TestReceiver::resume`].
    pub fn stop(&mut self) {
        self.serving = None;
    }

    /// Listens again on the same port, with the same behaviour and records.
    pub fn resume(&mut self) {
        self.stop();
        self.serving = Some(listen(&self.shared, self.address));
    }

    fn launch(secret: Option<&str>, recording: bool) -> Self {
        let verifier = secret.map(|secret| Webhook::new(secret).expect("a secret of a test is base64"));
        let shared = Shared { verifier, recording, state: Mutex::default(), numbered: Mutex::default() };
        let shared = Arc::new(shared);
        let serving = listen(&shared, serving::ANY);
        Self { shared, address: serving.address(), serving: Some(serving) }
    }
}

impl Received {
    /// A header's value; empty when it is absent or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Is one of its signatures of this secret?
    pub fn verifies(&self, secret: &str) -> bool {
        let verifier = Webhook::new(secret).expect("a secret of a test is base64");
        verifier.verify(&self.body, &self.headers).is_ok()
    }

    /// The delivery's id.
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// Which attempt this is, from 1; 0 when the header is absent.
    pub fn attempt(&self) -> u32 {
        self.header("sluiced-attempt").parse().unwrap_or(0)
    }

    /// The order number in the body.
    pub fn number(&self) -> Option<u64> {
        number_of(&self.body)
    }
}

fn listen(shared: &Arc<Shared>, address: SocketAddr) -> Serving {
    let shared = Arc::clone(shared);
    Serving::start("receiver", address, async move |listener| server::serve(&shared, &listener).await)
}

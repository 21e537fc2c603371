//! The other side: a receiver of webhooks that verifies what it gets, and that can be broken and healed by hand.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::account::{Account, Mark};
use super::samples::summary;
use crate::deliver::signing::{self, Signed};
use crate::domain::WebhookSecret;
use crate::telemetry::clock::now_ms;

/// The largest request body, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Connections at a time; later ones wait.
const CONNECTIONS_MAX: usize = 256;
/// Deliveries whose refusals are planned; when there are more, the plans are forgotten.
const PLANS_MAX: usize = 1_024;
/// How far a message's time may be off: what Standard Webhooks recommends.
const TOLERANCE_S: u64 = 300;
/// How long to wait when no connection can be taken, as when too many files are open.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// How the receiver treats requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It takes all, but for the planned refusals of `/chat`.
    Healthy,
    /// It answers 503 to all.
    Failing,
    /// It does not answer.
    Hanging,
}

/// What has come in so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Taken.
    pub(super) taken: u64,
    /// Taken at the second attempt or later.
    pub(super) retried: u64,
    /// Refused.
    pub(super) refused: u64,
    /// With a signature that does not verify.
    pub(super) unverified: u64,
}

/// A receiver that listens and does not answer yet.
#[derive(Debug)]
pub(super) struct Receiver {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    secret: WebhookSecret,
    account: Account,
    mode: watch::Sender<Mode>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// How many chat messages were seen for the first time.
    messages: u64,
    /// How many attempts of each chat message are refused on purpose, by its webhook-id.
    plans: HashMap<String, u32>,
}

impl Receiver {
    /// Listens on any free port of 127.0.0.1.
    pub(super) async fn bind(secret: WebhookSecret, account: Account) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let shared = Shared { secret, account, mode: watch::Sender::new(Mode::Healthy), state: Mutex::default() };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`. Returns what came in.
    pub(super) async fn run(self, stop: CancellationToken) -> Counts {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((socket, _)) => {
                        let shared = Arc::clone(&self.shared);
                        let service = service_fn(move |request| Arc::clone(&shared).answer(request));
                        // A connection that breaks is the daemon's affair: it will say so.
                        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_DELAY).await,
                },
                Some(_) = connections.join_next() => {}
                () = stop.cancelled() => break,
            }
        }
        self.shared.state.lock().counts
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let (status, text) = match (request.method(), path.as_str()) {
            (&Method::POST, "big-orders" | "chat") => self.webhook(&path, request).await,
            (&Method::POST, "fail") => self.turn(Mode::Failing, "answers 503 to everything from now on"),
            (&Method::POST, "hang") => self.turn(Mode::Hanging, "answers nothing from now on"),
            (&Method::POST, "heal") => self.turn(Mode::Healthy, "is healthy again"),
            _ => (StatusCode::NOT_FOUND, "POST /fail, /hang or /heal"),
        };
        let mut response = Response::new(Full::from(format!("{text}\n")));
        *response.status_mut() = status;
        Ok(response)
    }

    fn turn(&self, mode: Mode, text: &'static str) -> (StatusCode, &'static str) {
        self.mode.send_replace(mode);
        self.account.line(Mark::Note, "receiver", "", text);
        (StatusCode::OK, text)
    }

    async fn webhook(&self, name: &str, request: Request<Incoming>) -> (StatusCode, &'static str) {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return (StatusCode::PAYLOAD_TOO_LARGE, "too large");
        };
        let body = body.to_bytes();
        let delivery = Delivery::new(name, &head.headers);
        if let Err(why) = self.verify(&head.headers, &body) {
            let mut state = self.state.lock();
            state.counts.unverified += 1;
            state.counts.refused += 1;
            self.tell(Mark::Refused, &delivery, StatusCode::BAD_REQUEST, &format!("UNVERIFIED: {why}"));
            return (StatusCode::BAD_REQUEST, "the signature does not verify");
        }
        let mode = *self.mode.borrow();
        match mode {
            Mode::Hanging => {
                self.account.line(Mark::Refused, name, &delivery.kind, &format!("{}  no answer", delivery.attempt()));
                self.state.lock().counts.refused += 1;
                // Given up with the connection, as soon as the daemon has waited long enough.
                let _ = self.mode.subscribe().wait_for(|mode| *mode != Mode::Hanging).await;
                return (StatusCode::SERVICE_UNAVAILABLE, "too late");
            }
            Mode::Failing => return self.refuse(&delivery, "broken by hand"),
            Mode::Healthy if name == "chat" && self.is_refused(&delivery) => {
                return self.refuse(&delivery, "on purpose, it will be tried again");
            }
            Mode::Healthy => {}
        }
        let mut state = self.state.lock();
        state.counts.taken += 1;
        state.counts.retried += u64::from(delivery.number > 1);
        state.plans.remove(&delivery.id);
        let data = serde_json::from_slice(&body).unwrap_or_default();
        self.tell(Mark::Delivered, &delivery, StatusCode::OK, &summary(&data));
        (StatusCode::OK, "thank you")
    }

    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), signing::Unverified> {
        let [id, timestamp, signatures] =
            ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| text(headers, name));
        signing::verify(&self.secret, &Signed { id, timestamp, signatures, body }, now_ms() / 1_000, TOLERANCE_S)
    }

    /// Is this attempt one that fails on purpose? Of six messages the first fails once and the fourth twice, which leaves an
    /// attempt of the configured three.
    fn is_refused(&self, delivery: &Delivery<'_>) -> bool {
        let mut state = self.state.lock();
        if state.plans.len() >= PLANS_MAX {
            state.plans.clear();
        }
        if !state.plans.contains_key(&delivery.id) {
            state.messages += 1;
            let refusals = match state.messages % 6 {
                1 => 1,
                4 => 2,
                _ => 0,
            };
            state.plans.insert(delivery.id.clone(), refusals);
        }
        state.plans.get(&delivery.id).is_some_and(|refusals| delivery.number <= *refusals)
    }

    fn refuse(&self, delivery: &Delivery<'_>, why: &str) -> (StatusCode, &'static str) {
        self.state.lock().counts.refused += 1;
        self.tell(Mark::Refused, delivery, StatusCode::SERVICE_UNAVAILABLE, why);
        (StatusCode::SERVICE_UNAVAILABLE, "try again")
    }

    fn tell(&self, mark: Mark, delivery: &Delivery<'_>, status: StatusCode, what: &str) {
        let verified = if status == StatusCode::BAD_REQUEST { "" } else { "  verified" };
        let text = format!("{}  {}{verified}  {}  {what}", delivery.attempt(), status.as_u16(), delivery.short_id());
        self.account.line(mark, delivery.name, &delivery.kind, &text);
    }
}

/// What a request says of itself.
struct Delivery<'a> {
    name: &'a str,
    kind: String,
    id: String,
    number: u32,
}

impl<'a> Delivery<'a> {
    fn new(name: &'a str, headers: &HeaderMap) -> Self {
        let number = text(headers, "sluiced-attempt").parse().unwrap_or_default();
        let (kind, id) = (text(headers, "sluiced-event-type").to_owned(), text(headers, "webhook-id").to_owned());
        Self { name, kind, id, number }
    }

    fn attempt(&self) -> String {
        format!("attempt {}", self.number)
    }

    /// Enough of the webhook-id to see that it stays the same.
    fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// A header's value; empty when it is missing or not text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

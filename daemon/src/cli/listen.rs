//! `sluiced listen`: a receiver on this machine, to see what a webhook is sent. It checks signatures, and answers as it is
//! told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::remote::plain;
use super::write_out;
use crate::deliver::signing::{self, Signed};
use crate::domain::WebhookSecret;
use crate::telemetry::clock;

/// The largest request body, in bytes.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Connections at a time; later ones wait.
const CONNECTIONS_MAX: usize = 256;
/// How far a message's time may be off: what Standard Webhooks recommends.
const TOLERANCE_S: u64 = 300;
/// How long to wait when no connection can be taken, as when too many files are open.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);
/// How long connections may take to get their answers at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to listen, and what to answer.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// The address; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8099", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// The webhook's signing secret; better given as SLUICED_WEBHOOK_SECRET. What does not verify is answered 400.
    #[arg(long, value_name = "SECRET")]
    verify: Option<String>,
    /// The status to answer.
    #[arg(long, default_value_t = 200, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// End after so many requests.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print one JSON object a request.
    #[arg(long)]
    json: bool,
}

struct Shared {
    secret: Option<WebhookSecret>,
    status: StatusCode,
    is_json: bool,
    /// How many requests are still to be told of.
    left: watch::Sender<Option<u64>>,
}

/// Listens until it is stopped, or has had as many requests as were asked for.
///
/// # Errors
/// When the secret is none, or the address cannot be had.
pub fn run(args: &ListenArgs) -> anyhow::Result<()> {
    let given = args.verify.clone().or_else(|| std::env::var("SLUICED_WEBHOOK_SECRET").ok());
    let secret = given.as_deref().map(signing::parse_secret).transpose().context("the secret cannot be used")?;
    let status = StatusCode::from_u16(args.status).context("that is no status")?;
    let shared = Arc::new(Shared { secret, status, is_json: args.json, left: watch::Sender::new(args.count) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args.listen, shared))
}

async fn serve(address: SocketAddr, shared: Arc<Shared>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    write_out(&format!("listening on http://{}\n", listener.local_addr()?))?;
    let mut enough = shared.left.subscribe();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((socket, _)) => {
                    let shared = Arc::clone(&shared);
                    let service = service_fn(move |request| Arc::clone(&shared).answer(request));
                    // A connection that breaks is the sender's affair: it will say so.
                    connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
                }
                Err(_) => tokio::time::sleep(ACCEPT_DELAY).await,
            },
            Some(_) = connections.join_next() => {}
            _ = enough.wait_for(|left| *left == Some(0)) => break,
        }
    }
    // The last answer is on its way; a connection that stays open for more is not waited for.
    let drained = async { while connections.join_next().await.is_some() {} };
    drop(tokio::time::timeout(DRAIN_TIMEOUT, drained).await);
    Ok(())
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let mut response = Response::new(Full::default());
        response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            return Ok(response);
        };
        let body = body.to_bytes();
        let verified = self.secret.as_ref().map(|secret| verify(secret, &head.headers, &body));
        let status = if matches!(verified, Some(Err(_))) { StatusCode::BAD_REQUEST } else { self.status };
        let seen = Seen { path: head.uri.path(), headers: &head.headers, body: &body, verified: &verified, status };
        // When nobody reads what is told, the answer is still one.
        drop(write_out(&if self.is_json { seen.json() } else { seen.line() }));
        self.left.send_modify(|left| *left = left.map(|left| left.saturating_sub(1)));
        *response.status_mut() = status;
        Ok(response)
    }
}

fn verify(secret: &WebhookSecret, headers: &HeaderMap, body: &[u8]) -> Result<(), signing::Unverified> {
    let [id, timestamp, signatures] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| text(headers, name));
    signing::verify(secret, &Signed { id, timestamp, signatures, body }, clock::now_ms() / 1_000, TOLERANCE_S)
}

/// A request and what was answered to it.
struct Seen<'a> {
    path: &'a str,
    headers: &'a HeaderMap,
    body: &'a [u8],
    verified: &'a Option<Result<(), signing::Unverified>>,
    status: StatusCode,
}

impl Seen<'_> {
    fn verdict(&self) -> String {
        match self.verified {
            None => "not checked".to_owned(),
            Some(Ok(())) => "verified".to_owned(),
            Some(Err(why)) => format!("UNVERIFIED: {why}"),
        }
    }

    fn line(&self) -> String {
        let of = |name| plain(text(self.headers, name));
        format!(
            "{}  {}  {}  attempt {}  {}  {}  {}  {}\n",
            clock::rfc3339(clock::now_ms()),
            self.status.as_u16(),
            plain(self.path),
            of("sluiced-attempt"),
            of("webhook-id"),
            of("sluiced-event-type"),
            self.verdict(),
            plain(&String::from_utf8_lossy(self.body)),
        )
    }

    fn json(&self) -> String {
        let headers: serde_json::Map<String, Value> = self
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
            .collect();
        let body = String::from_utf8_lossy(self.body);
        let body = serde_json::from_slice(self.body).unwrap_or_else(|_| json!(body));
        let (verified, status) = (self.verified.as_ref().map(Result::is_ok), self.status.as_u16());
        let told = json!({
            "path": self.path, "headers": headers, "verified": verified, "answered": status, "body": body,
        });
        format!("{told}\n")
    }
}

/// A header's value; empty when it is missing or not text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

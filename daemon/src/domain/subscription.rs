//! A subscription: what to match, which plugins, where to deliver, and under which policies.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::domain::begin::DeliverFrom;
use crate::domain::event::Header;
use crate::domain::health::HealthPolicy;
use crate::domain::order::{HeadOfLine, Order};
use crate::domain::owner::Owner;
use crate::domain::rate::RateLimit;
use crate::domain::retry::RetryPolicy;
use crate::domain::subject::Pattern;
use crate::domain::webhook::{AnswerRules, RequestShape};

/// The longest subscription id accepted, in bytes.
pub const SUBSCRIPTION_ID_BYTES_MAX: usize = 64;

/// Names a subscription for its whole life; delivery ids are made from it. A subscription from the configuration file
/// has its name as its id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(Arc<str>);

/// A text that is not a subscription id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a name is 1 to {SUBSCRIPTION_ID_BYTES_MAX} letters, digits, `-`, `_` or `.`, and starts with a letter or digit"
)]
pub struct SubscriptionIdError;

impl SubscriptionId {
    /// Parses an id.
    ///
    /// # Errors
    /// When the text is empty, too long or has characters that would need quoting in a URL.
    pub fn parse(text: &str) -> Result<Self, SubscriptionIdError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if text.len() > SUBSCRIPTION_ID_BYTES_MAX || !starts || !text.chars().all(allowed) {
            return Err(SubscriptionIdError);
        }
        Ok(Self(text.into()))
    }

    /// The text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A plugin and its configuration, as one subscription uses it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PluginRef {
    /// The plugin's name: `NAME.wasm` in the plugin directory.
    pub plugin: Box<str>,
    /// Its configuration: a JSON text.
    pub config: Box<str>,
    /// What it may cost there.
    pub limits: PluginLimits,
}

/// What a plugin may cost in one use of it. What is not given is as for every plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PluginLimits {
    /// The running time of one call, in milliseconds.
    pub call_deadline_ms: Option<u64>,
    /// The memory of one instance, in bytes.
    pub memory_bytes_max: Option<usize>,
    /// The payloads and headers that one event may become, in bytes; of a transform.
    pub output_bytes_max: Option<usize>,
    /// The instances that are kept for the next events.
    pub warm_instances_max: Option<usize>,
    /// The calls that an instance serves before a fresh one takes its place.
    pub calls_per_instance_max: Option<u64>,
}

/// What becomes of an event whose plugin failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnPluginError {
    /// It is kept as a dead letter.
    #[default]
    DeadLetter,
    /// It is dropped, and counted.
    Drop,
    /// It goes on as if the failed plugin were not there.
    Pass,
}

/// A signing secret's bytes. It has neither `Debug` output nor `Display`, so that it cannot reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Box<[u8]>);

impl WebhookSecret {
    /// The secret with those bytes: 24 to 64 of them, as Standard Webhooks 1.0 asks. `None` when there are fewer or more.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Option<Self> {
        let bytes = bytes.into();
        (24..=64).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// The key bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for WebhookSecret {
    /// Leaves no copy behind in memory that is given back.
    fn drop(&mut self) {
        self.0.fill(0);
        // Seen by somebody, as far as the compiler knows: the bytes are really written.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// The oldest version of TLS that is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246); anything older is never spoken.
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// How TLS is done with one endpoint, where that differs from the default. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointTls {
    /// The certificate authorities to trust instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// What the daemon shows of itself.
    pub client: Option<ClientIdentity>,
    /// The oldest version to speak.
    pub min_version: TlsVersion,
}

/// A client's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate, and those between it and its authority.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// A webhook subscription's receiver, with its secret and policies.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where to POST: an absolute `http` or `https` URL without user information.
    pub url: Box<str>,
    /// What to sign with. Without one the daemon makes a secret and keeps it.
    pub secret: Option<WebhookSecret>,
    /// How long a secret is still signed with after another one has taken its place. Zero is not at all.
    pub secret_overlap: Duration,
    /// Extra headers of every request.
    pub headers: Vec<Header>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// The most attempts at a time; also the most that a crash can repeat.
    pub in_flight_max: NonZeroU32,
    /// How many attempts a time may be made; without one, as many as the slots allow.
    pub rate_limit: Option<RateLimit>,
    /// Which events wait for each other.
    pub order: Order,
    /// What becomes of a delivery that cannot be made while others wait for it.
    pub head_of_line: HeadOfLine,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an attempt may take in all, the response's body included.
    pub total_timeout: Duration,
    /// What its requests look like.
    pub request: RequestShape,
    /// What its answers mean.
    pub answer: AnswerRules,
    /// How TLS is done, where that differs from the default.
    pub tls: Option<EndpointTls>,
    /// When it is left alone, and when its subscription is disabled.
    pub health: HealthPolicy,
}

impl Endpoint {
    /// A number that tells the endpoint's URL from another one, over restarts, without saying what it is.
    pub fn digest(&self) -> u64 {
        let digest: [u8; 32] = Sha256::digest(self.url.as_bytes()).into();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Where a subscription delivers.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Signed POST requests to an endpoint.
    Webhook(Box<Endpoint>),
    /// A named Server-Sent Events stream.
    Sse,
}

/// A subscription, valid as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Its name for life.
    pub id: SubscriptionId,
    /// Whose it is; without one it is the operator's.
    pub owner: Option<Owner>,
    /// The event types that it matches.
    pub types: Vec<Pattern>,
    /// Its filters, in order; an event goes on only when each keeps it.
    pub filters: Vec<PluginRef>,
    /// Its transforms, in order; each works on every output of the one before.
    pub transforms: Vec<PluginRef>,
    /// What becomes of an event whose plugin failed.
    pub on_plugin_error: OnPluginError,
    /// Where it begins in a stream in which it is new.
    pub deliver_from: DeliverFrom,
    /// Where it delivers.
    pub target: Target,
}

//! The configuration: layers (compiled-in defaults < file < environment < flags), read as raw tables, then checked into
//! domain types.
//!
//! [`load`] reads one file and nothing else of the world: no broker, no data directory, no network. What it returns is valid
//! as far as a file alone can tell; whether the plugins exist and take their configuration is for the plugin host to say,
//! and [`Config::locate`] names the place to report.
//!
//! Reading order: `layers` merges, `raw` has the shape of every table, `shape` reads them, `valid`, `subscription`,
//! `webhook` and `request` check them, `places` finds the line of a key, `problem` is what the caller sees.

mod auth;
mod begin;
mod dead_letters;
mod definition;
mod dump;
mod event_type;
mod health;
mod layers;
mod pace;
mod places;
pub mod problem;
mod proxy;
mod raw;
mod reference;
mod report;
mod request;
mod shape;
mod subscription;
mod traces;
mod valid;
mod webhook;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;

use crate::api::Tls;
use crate::api::event_types::EventType;
use crate::api::forwarded::Proxies;
use crate::domain::{
    BodySignature, HealthPolicy, Pattern, RateLimit, RetryPolicy, Scopes, StatusRules, StreamName, Subject,
    Subscription,
};
pub use definition::Flaw;
use layers::Layers;
use places::KeyPath;
pub use problem::{Error, Place, Problem, Source};
pub use reference::reference;
pub use valid::bounds;

/// A configuration, valid as it stands.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the store and the cache of compiled plugins live.
    pub data_dir: PathBuf,
    /// The HTTP server.
    pub server: Server,
    /// Who may call the API.
    pub auth: Auth,
    /// `[secrets]`: the master key that secrets are sealed under in the store.
    pub secrets: MasterKeySource,
    /// What one caller, and all together, may use.
    pub limits: Limits,
    /// The NATS server.
    pub nats: Nats,
    /// The streams to read: at least one, with subjects that do not overlap.
    pub streams: Vec<Stream>,
    /// The event types that are described.
    pub event_types: Vec<(Subject, EventType)>,
    /// The plugin host.
    pub plugins: Plugins,
    /// The delivery of webhooks.
    pub delivery: Delivery,
    /// What is published of endpoints.
    pub operational_events: OperationalEvents,
    /// The store.
    pub store: Store,
    /// What becomes of dead letters besides being kept.
    pub dead_letters: DeadLetters,
    /// Logs.
    pub log: Log,
    /// Spans of what happens to events.
    pub traces: Traces,
    /// The subscriptions, in the order of the file.
    pub subscriptions: Vec<Subscription>,
    layers: Arc<Layers>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where to listen; port 0 takes any free port. Loopback, unless there is an admin key.
    pub listen: SocketAddr,
    /// The certificate for HTTPS; without one it is plain HTTP.
    pub tls: Option<Tls>,
    /// How long a clean stop may take.
    pub drain_timeout: Duration,
    /// How often an idle SSE stream carries a comment.
    pub sse_heartbeat: Duration,
    /// How long an SSE client may read nothing before its connection is ended; two heartbeats at least.
    pub sse_unread_timeout: Duration,
    /// How long a ticket opens an SSE stream.
    pub sse_ticket_lifetime: Duration,
    /// How long before its end an SSE client is told of its token's end.
    pub sse_expiry_notice: Duration,
    /// Web origins whose pages may call the API; `*` is any.
    pub cors_origins: Vec<String>,
    /// The proxies that stand before it.
    pub proxies: Proxies,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The key that may do everything: visible ASCII.
    pub admin_key: Option<Secret>,
    /// Whose tokens are trusted.
    pub jwt: Option<Jwt>,
    /// The allow-list of a token that names no types: patterns, in which `{sub}` stands for the owner.
    pub default_types: Vec<String>,
    /// What the holder of a token may do, within its types.
    pub owner_scopes: Scopes,
}

/// `jwt` of `[auth]`: how tokens are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// Where the keys come from.
    pub keys: JwtKeys,
    /// Who must have issued a token.
    pub issuer: Option<String>,
    /// For one of whom a token must be; without any that does not matter.
    pub audience: Vec<String>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
}

/// Where the keys of tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtKeys {
    /// A secret that is shared with the issuer.
    Hs256(Secret),
    /// A file with a public key in PEM.
    PublicKeyFile(PathBuf),
    /// A file with a set of keys.
    JwksFile(PathBuf),
    /// A URL with a set of keys: http or https.
    JwksUrl(Uri),
}

/// Where the master key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterKeySource {
    /// From `master.key` in the data directory, which is made on the first run.
    DataDir,
    /// It is the configuration's own: a text that [`MasterKey::parse`](crate::store::MasterKey::parse) takes.
    Given(Secret),
    /// From a file that holds that text.
    File(PathBuf),
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest request body, in bytes.
    pub body_bytes_max: usize,
    /// SSE clients at a time, all together.
    pub sse_clients: usize,
    /// SSE clients at a time, of one principal.
    pub sse_clients_per_principal: usize,
    /// Readers of history for SSE clients at a time.
    pub sse_readers: usize,
    /// About how many bytes of history an SSE client may hold.
    pub sse_client_bytes: usize,
    /// Requests a minute, of one principal and from one address; 0 is no limit.
    pub requests_per_minute: u32,
    /// Tests of webhooks a minute, of one principal; 0 is no limit.
    pub tests_per_minute: u32,
    /// Webhooks of one owner that are made over the API.
    pub webhooks_per_owner: usize,
}

/// `[nats]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// The servers of one cluster, at least one; of no meaning when `managed`.
    pub urls: Vec<String>,
    /// The daemon starts nats-server itself.
    pub managed: bool,
    /// The nats-server to start; `None` is the one on `PATH`.
    pub server_binary: Option<PathBuf>,
    /// How to log in.
    pub login: NatsLogin,
    /// Certificate authorities (PEM) to trust besides those of the system.
    pub tls_ca_file: Option<PathBuf>,
    /// The name of the durable consumers: letters, digits, `-` and `_`.
    pub consumer_name: String,
}

/// How to log in to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsLogin {
    /// Not at all.
    Anonymous,
    /// By user and password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// By token.
    Token(Secret),
    /// By a credentials file (`.creds`).
    CredentialsFile(PathBuf),
}

/// `[[stream]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The stream's name.
    pub name: StreamName,
    /// The subjects that it holds, none overlapping another or one of another stream.
    pub subjects: Vec<Pattern>,
    /// An event's type is its subject less this prefix: empty, or literal tokens each with its dot. Every subject begins
    /// with it.
    pub type_prefix: String,
    /// Create the stream when it does not exist.
    pub create: bool,
}

/// `[plugins]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugins {
    /// The folder of the `NAME.wasm` files.
    pub dir: PathBuf,
    /// How long one call may take.
    pub call_deadline: Duration,
    /// The memory of one instance, in MiB.
    pub memory_mib_max: u32,
    /// All that one call of a transform may return, in KiB.
    pub output_kib_max: u32,
    /// The instances that exist at a time, of all uses together.
    pub instances_max: u32,
    /// The instances of one use that are kept for its next events.
    pub warm_instances_max: usize,
    /// The calls that an instance serves before a fresh one takes its place.
    pub calls_per_instance_max: u64,
    /// The faults in a row after which a subscription's use of a plugin is set aside; 0 is never.
    pub quarantine_faults: u32,
    /// How long it is set aside before it is tried again.
    pub quarantine_probe: Duration,
}

/// `[delivery]`
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Networks that the address guard lets through.
    pub allow_cidrs: Vec<IpNet>,
    /// Ports that it refuses at every address.
    pub deny_ports: Vec<u16>,
    /// The name servers to ask; without any, those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// The proxy that all requests go through.
    pub proxy: Option<Proxy>,
    /// Connections at a time, all webhooks together.
    pub connections_max: usize,
    /// The retry policy of a webhook without its own. Each [`Subscription`] already has what is in effect for it; this
    /// and the next three are for subscriptions that come from elsewhere.
    pub retry: RetryPolicy,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an attempt may take in all.
    pub total_timeout: Duration,
    /// Attempts at a time of one webhook.
    pub in_flight_max: NonZeroU32,
    /// Which statuses are tried again and which fail at once.
    pub statuses: StatusRules,
    /// The longest wait that a receiver can ask for.
    pub retry_after_max: Duration,
    /// How much of an answer's body is kept, in bytes.
    pub capture_bytes_max: usize,
    /// Attempts a time of one webhook; `None` is no limit.
    pub rate_limit: Option<RateLimit>,
    /// How long a subscription may keep all others waiting before it is held.
    pub hold_after: Duration,
    /// Held subscriptions that catch up at a time.
    pub readers_max: usize,
    /// How many deliveries a subscription may have parked, until events of a stream that forgets what is acked wait in it.
    pub overflow_parked_max: u64,
    /// When an endpoint without its own policy is left alone, and when its subscription is disabled.
    pub health: HealthPolicy,
    /// How long a signing secret is still signed with after another one took its place.
    pub secret_overlap: Duration,
    /// The further signature of a webhook that has none of its own.
    pub body_signature: Option<BodySignature>,
}

/// `[operational_events]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationalEvents {
    /// What comes before an event's type in its subject; `None` publishes nothing.
    pub subject_prefix: Option<String>,
}

/// The proxy of `[delivery]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How to log in, if it asks for that.
    pub login: Option<ProxyLogin>,
}

/// How to log in to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyLogin {
    /// The user: visible ASCII without a colon.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The store's cache, in MiB.
    pub cache_mib: u32,
    /// How long the log of finished deliveries is kept.
    pub log_retention: Duration,
    /// About how many MiB of it are kept.
    pub log_mib_max: u32,
    /// How long dead letters are kept.
    pub dead_letter_retention: Duration,
    /// How many MiB of dead letters are kept.
    pub dead_letter_mib_max: u32,
    /// The folder below which the API makes backups.
    pub backup_dir: Option<PathBuf>,
}

/// `[dead_letters]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetters {
    /// Where they are published, when they are.
    pub publish_subject: Option<DeadLetterSubject>,
}

/// The subjects that dead letters are published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSubject {
    /// What a subject begins with, or is.
    before: Box<str>,
    /// The subscription's name comes after it.
    named: bool,
}

/// `[traces]`
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// Where spans go; without it none are made.
    pub collector: Option<Collector>,
    /// Of the events without a trace, the part that is traced: 0 to 1.
    pub sample_ratio: f64,
    /// What the daemon is called in traces.
    pub service_name: String,
}

/// A collector of spans that takes OTLP over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Where.
    pub url: Uri,
    /// Headers of the requests to it, by their names.
    pub headers: Vec<(String, Secret)>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How a line is written.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: tracing::Level,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A key, password or token. Its value reaches no log: `Debug` does not show it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What command-line flags set, over every other layer.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data-dir`
    pub data_dir: Option<String>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
}

impl Overrides {
    /// The keys that are set, with the flag and the value of each.
    fn values(self) -> impl Iterator<Item = (&'static str, &'static str, String)> {
        let all = [
            ("data_dir", "--data-dir", self.data_dir),
            ("server.listen", "--listen", self.listen),
            ("log.level", "--log-level", self.log_level),
        ];
        all.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value?)))
    }
}

/// Reads and checks a configuration. `env` is the process's environment; variables that are not ours are passed over.
///
/// # Errors
/// With every problem found, when the file cannot be read or is not TOML, or a layer has an unknown key or a value that
/// does not fit.
pub fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    overrides: Overrides,
) -> Result<Config, Error> {
    valid::config(Layers::read(file, env, overrides)?)
}

impl Config {
    /// The place of an element of a subscription's list, such as the third filter of the first subscription:
    /// `locate(0, "filters", 2)`; for a problem that only another part of the daemon can see.
    pub fn locate(&self, subscription: usize, list: &str, index: usize) -> Place {
        let path = KeyPath::top("subscription").index(subscription).key(list).index(index);
        self.layers.places.find(&path)
    }

    /// The place of a key of a subscription's webhook, such as the first subscription's `tls.ca_file`:
    /// `locate_webhook(0, &["tls", "ca_file"])`.
    pub fn locate_webhook(&self, subscription: usize, keys: &[&str]) -> Place {
        let webhook = KeyPath::top("subscription").index(subscription).key("webhook");
        self.layers.places.find(&keys.iter().fold(webhook, |path, key| path.key(key)))
    }

    /// The place of a key outside the subscriptions, such as `server.tls.cert_file`: `locate_key("server", &["tls", "cert_file"])`.
    pub fn locate_key(&self, section: &str, keys: &[&str]) -> Place {
        self.layers.places.find(&keys.iter().fold(KeyPath::top(section), |path, key| path.key(key)))
    }

    /// The same, without what only tells of how it was written: nothing of it can be located or dumped any more. With ten
    /// thousand subscriptions that is several times what they themselves take.
    pub fn settled(self) -> Self {
        Self { layers: Arc::new(self.layers.settled(self.definitions_of_file())), ..self }
    }

    /// What is in effect, all layers merged, as TOML with `***` in the place of every secret.
    pub fn dump(&self) -> String {
        dump::toml(&self.layers.values)
    }
}

/// What differs between two configurations, by name: sections, and of subscriptions each one.
pub fn changed(old: &Config, new: &Config) -> Vec<String> {
    let mut changed: Vec<String> = restart_needed(old, new).into_iter().map(str::to_owned).collect();
    let differing = |one: &[Subscription], other: &[Subscription]| -> Vec<String> {
        let other: HashMap<_, _> = other.iter().map(|subscription| (&subscription.id, subscription)).collect();
        let differs = one.iter().filter(|subscription| other.get(&subscription.id) != Some(subscription));
        differs.map(|subscription| format!("subscription.{}", subscription.id)).collect()
    };
    changed.extend(differing(&old.subscriptions, &new.subscriptions));
    changed.extend(differing(&new.subscriptions, &old.subscriptions));
    let described = |config: &Config| -> Vec<_> {
        let all = config.event_types.iter();
        all.map(|(name, kind)| (name.clone(), kind.definition().clone())).collect()
    };
    if described(old) != described(new) {
        changed.push("event_type".to_owned());
    }
    changed.sort();
    changed.dedup();
    changed
}

/// The sections that differ between two configurations and are read only at start: everything but the subscriptions and
/// the defaults of `[delivery]` that have gone into them.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let delivery = |config: &Config| {
        let delivery = &config.delivery;
        let guard = (delivery.allow_cidrs.clone(), delivery.deny_ports.clone());
        let client = (delivery.dns_servers.clone(), delivery.proxy.clone(), delivery.connections_max);
        let waits = (delivery.hold_after, delivery.readers_max, delivery.overflow_parked_max);
        (guard, client, delivery.retry_after_max, waits)
    };
    let differs = [
        ("data_dir", old.data_dir != new.data_dir),
        ("server", old.server != new.server),
        ("auth", old.auth != new.auth),
        ("secrets", old.secrets != new.secrets),
        ("limits", old.limits != new.limits),
        ("nats", old.nats != new.nats),
        ("stream", old.streams != new.streams),
        ("plugins", old.plugins != new.plugins),
        ("delivery", delivery(old) != delivery(new)),
        ("operational_events", old.operational_events != new.operational_events),
        ("store", old.store != new.store),
        ("dead_letters", old.dead_letters != new.dead_letters),
        ("log", old.log != new.log),
        ("traces", old.traces != new.traces),
    ];
    differs.into_iter().filter_map(|(section, differs)| differs.then_some(section)).collect()
}

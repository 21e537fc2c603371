//! A configuration as it is written: the shape of every table, with nothing checked beyond it. The checks and the units are
//! in [`super::valid`] and [`super::subscription`]; the documentation of each key is `config/default.toml`.
//!
//! Numbers are `i64` and enumerations are texts, so that one out of bounds is reported with its bounds and not as a shape.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub(super) listen: String,
    pub(super) tls: Option<Table<ServerTls>>,
    pub(super) drain_timeout: String,
    pub(super) sse_heartbeat: String,
    pub(super) sse_ticket_lifetime: String,
    pub(super) sse_expiry_notice: String,
    pub(super) cors_origins: Vec<String>,
    pub(super) trusted_proxies: Vec<String>,
    pub(super) forwarded_header: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerTls {
    pub(super) cert_file: String,
    pub(super) key_file: String,
    pub(super) min_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    pub(super) admin_key: Option<String>,
    pub(super) jwt: Option<Table<Jwt>>,
    pub(super) default_types: Vec<String>,
    pub(super) owner_scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwt {
    pub(super) hs256_secret: Option<String>,
    pub(super) public_key_file: Option<String>,
    pub(super) jwks_file: Option<String>,
    pub(super) jwks_url: Option<String>,
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<Texts>,
    pub(super) leeway: Option<String>,
}

/// One text, or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Several(Vec<String>),
}

impl Texts {
    pub(super) fn all(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Several(texts) => texts,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) body_bytes_max: i64,
    pub(super) sse_clients: i64,
    pub(super) sse_clients_per_principal: i64,
    pub(super) requests_per_minute: i64,
    pub(super) tests_per_minute: i64,
    pub(super) webhooks_per_owner: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nats {
    pub(super) url: String,
    pub(super) managed: bool,
    pub(super) server_binary: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) token: Option<String>,
    pub(super) credentials_file: Option<String>,
    pub(super) tls_ca_file: Option<String>,
    pub(super) consumer_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) subjects: Vec<String>,
    #[serde(default)]
    pub(super) type_prefix: String,
    #[serde(default)]
    pub(super) create: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventType {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) schema: Option<serde_json::Value>,
    pub(super) example: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) enforce: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plugins {
    pub(super) dir: String,
    pub(super) call_deadline_ms: i64,
    pub(super) memory_mib_max: i64,
    pub(super) output_kib_max: i64,
    pub(super) instances_max: i64,
    pub(super) warm_instances_max: i64,
    pub(super) calls_per_instance_max: i64,
    pub(super) quarantine_faults: i64,
    pub(super) quarantine_probe: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delivery {
    pub(super) allow_cidrs: Vec<String>,
    pub(super) deny_ports: Vec<i64>,
    pub(super) dns_servers: Vec<String>,
    pub(super) proxy: Option<String>,
    pub(super) proxy_user: Option<String>,
    pub(super) proxy_password: Option<String>,
    pub(super) connections_max: i64,
    pub(super) retry: Table<Retry>,
    pub(super) connect_timeout: String,
    pub(super) timeout: String,
    pub(super) max_in_flight: i64,
    pub(super) retry_statuses: Vec<String>,
    pub(super) fail_statuses: Vec<String>,
    pub(super) retry_after_max: String,
    pub(super) capture_bytes_max: i64,
    pub(super) rate_limit: Table<RateLimit>,
    pub(super) hold_after: String,
    pub(super) max_readers: i64,
    pub(super) max_overflow: i64,
    pub(super) breaker: Table<Breaker>,
    pub(super) disable_after: String,
    pub(super) secret_overlap: String,
    pub(super) body_signature: Option<Table<BodySignature>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secrets {
    pub(super) master_key: Option<String>,
    pub(super) master_key_file: Option<String>,
}

/// A complete breaker policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Breaker {
    pub(super) failure_ratio: f64,
    pub(super) attempts_min: i64,
    pub(super) window: String,
    pub(super) probe: String,
    pub(super) probe_max: String,
}

/// A webhook's own breaker policy, in part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BreakerPart {
    failure_ratio: Option<f64>,
    attempts_min: Option<i64>,
    window: Option<String>,
    probe: Option<String>,
    probe_max: Option<String>,
}

impl BreakerPart {
    /// The complete policy: each key that is missing is taken from `default`.
    pub(super) fn over(self, default: &Breaker) -> Breaker {
        Breaker {
            failure_ratio: self.failure_ratio.unwrap_or(default.failure_ratio),
            attempts_min: self.attempts_min.unwrap_or(default.attempts_min),
            window: self.window.unwrap_or_else(|| default.window.clone()),
            probe: self.probe.unwrap_or_else(|| default.probe.clone()),
            probe_max: self.probe_max.unwrap_or_else(|| default.probe_max.clone()),
        }
    }
}

/// A complete retry policy: the defaults have every key but `schedule`, which wins where it is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) max_attempts: i64,
    pub(super) base: String,
    pub(super) factor: f64,
    pub(super) max: String,
    pub(super) jitter: f64,
    pub(super) schedule: Option<Vec<String>>,
}

/// A webhook's own retry policy, in part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryPart {
    max_attempts: Option<i64>,
    base: Option<String>,
    factor: Option<f64>,
    max: Option<String>,
    jitter: Option<f64>,
    schedule: Option<Vec<String>>,
}

impl RetryPart {
    /// The complete policy: each key that is missing is taken from `default`, save that growing waits replace a schedule.
    pub(super) fn over(self, default: &Retry) -> Retry {
        let grows = self.max_attempts.is_some() || self.base.is_some() || self.factor.is_some() || self.max.is_some();
        let inherited = default.schedule.clone().filter(|_| !grows);
        Retry {
            max_attempts: self.max_attempts.unwrap_or(default.max_attempts),
            base: self.base.unwrap_or_else(|| default.base.clone()),
            factor: self.factor.unwrap_or(default.factor),
            max: self.max.unwrap_or_else(|| default.max.clone()),
            jitter: self.jitter.unwrap_or(default.jitter),
            schedule: self.schedule.or(inherited),
        }
    }
}

/// A complete rate limit: the defaults have every key but `burst`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimit {
    pub(super) rate: i64,
    pub(super) per: String,
    pub(super) burst: Option<i64>,
}

/// A webhook's own rate limit, in part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimitPart {
    rate: Option<i64>,
    per: Option<String>,
    burst: Option<i64>,
}

impl RateLimitPart {
    /// The complete limit: each key that is missing is taken from `default`, save that another rate has a burst of its own.
    pub(super) fn over(self, default: &RateLimit) -> RateLimit {
        let inherited = default.burst.filter(|_| self.rate.is_none());
        RateLimit {
            rate: self.rate.unwrap_or(default.rate),
            per: self.per.unwrap_or_else(|| default.per.clone()),
            burst: self.burst.or(inherited),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperationalEvents {
    pub(super) subject_prefix: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    pub(super) cache_mib: i64,
    pub(super) log_retention: String,
    pub(super) log_mib_max: i64,
    pub(super) dead_letter_retention: String,
    pub(super) dead_letter_mib_max: i64,
    pub(super) backup_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetters {
    pub(super) publish_subject: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub(super) format: String,
    pub(super) level: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscription {
    pub(super) name: String,
    pub(super) owner: Option<String>,
    pub(super) types: Vec<String>,
    #[serde(default)]
    pub(super) filters: Vec<Table<PluginRef>>,
    #[serde(default)]
    pub(super) transforms: Vec<Table<PluginRef>>,
    pub(super) on_plugin_error: Option<String>,
    pub(super) deliver_from: Option<serde_json::Value>,
    pub(super) webhook: Option<Table<Webhook>>,
    pub(super) sse: Option<Table<Sse>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginRef {
    pub(super) plugin: String,
    #[serde(default)]
    pub(super) config: serde_json::Map<String, serde_json::Value>,
    pub(super) call_deadline_ms: Option<i64>,
    pub(super) memory_mib_max: Option<i64>,
    pub(super) output_kib_max: Option<i64>,
    pub(super) warm_instances_max: Option<i64>,
    pub(super) calls_per_instance_max: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Webhook {
    pub(super) url: String,
    pub(super) secret: Option<String>,
    pub(super) secret_overlap: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) max_in_flight: Option<i64>,
    pub(super) rate_limit: Option<Table<RateLimitPart>>,
    pub(super) ordering: Option<String>,
    pub(super) order_key: Option<Table<OrderKey>>,
    pub(super) head_of_line: Option<String>,
    pub(super) retry: Option<Table<RetryPart>>,
    pub(super) connect_timeout: Option<String>,
    pub(super) timeout: Option<String>,
    pub(super) format: Option<String>,
    pub(super) cloudevents_source: Option<String>,
    pub(super) body_signature: Option<Table<BodySignature>>,
    pub(super) ed25519_key: Option<String>,
    pub(super) retry_statuses: Option<Vec<String>>,
    pub(super) fail_statuses: Option<Vec<String>>,
    pub(super) capture_bytes_max: Option<i64>,
    pub(super) tls: Option<Table<Tls>>,
    pub(super) breaker: Option<Table<BreakerPart>>,
    pub(super) disable_after: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderKey {
    pub(super) token: Option<i64>,
    pub(super) header: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Traces {
    pub(super) otlp_url: Option<String>,
    #[serde(default)]
    pub(super) otlp_headers: BTreeMap<String, String>,
    pub(super) sample_ratio: f64,
    pub(super) service_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BodySignature {
    pub(super) header: String,
    pub(super) keyed_by: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) ca_file: Option<String>,
    pub(super) client_cert_file: Option<String>,
    pub(super) client_key_file: Option<String>,
    pub(super) min_version: Option<String>,
}

/// The empty table of `sse = {}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sse {}

/// A table and nothing else: serde by itself would also read a struct from a list, field by field.
#[derive(Debug)]
pub(super) struct Table<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TableVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TableVisitor<T> {
            type Value = Table<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Table)
            }
        }

        deserializer.deserialize_map(TableVisitor(PhantomData))
    }
}

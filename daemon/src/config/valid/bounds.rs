//! The bounds of every number and duration, both ends included. `config/default.toml` states them too, and a test compares.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::report::short;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// `server.drain_timeout`
pub const DRAIN_TIMEOUT: RangeInclusive<Duration> = SECOND..=Duration::from_secs(600);
/// `server.sse_heartbeat`
pub const SSE_HEARTBEAT: RangeInclusive<Duration> = SECOND..=Duration::from_secs(300);
/// `server.sse_unread_timeout`
pub const SSE_UNREAD_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(3600);
/// `server.sse_ticket_lifetime`
pub const SSE_TICKET_LIFETIME: RangeInclusive<Duration> = SECOND..=Duration::from_secs(600);
/// `server.sse_expiry_notice`
pub const SSE_EXPIRY_NOTICE: RangeInclusive<Duration> = SECOND..=Duration::from_secs(3_600);
/// `auth.admin_key`, its length in bytes
pub const ADMIN_KEY_BYTES_MAX: usize = 256;
/// `auth.jwt.hs256_secret`, its length in bytes: RFC 7518 §3.2 asks for as many as the hash has
pub const HS256_SECRET_BYTES: RangeInclusive<usize> = 32..=1024;
/// `auth.jwt.leeway`
pub const LEEWAY: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
/// `limits.requests_per_minute` and `limits.tests_per_minute`; 0 is no limit
pub const REQUESTS_PER_MINUTE: RangeInclusive<i64> = 0..=1_000_000;
/// `limits.webhooks_per_owner`
pub const WEBHOOKS_PER_OWNER: RangeInclusive<i64> = 0..=1_000_000;
/// `limits.body_bytes_max`, in bytes
pub const BODY_BYTES: RangeInclusive<i64> = 1024..=67_108_864;
/// `limits.sse_clients` and `limits.sse_clients_per_principal`
pub const SSE_CLIENTS: RangeInclusive<i64> = 1..=1_000_000;
/// `limits.sse_readers`
pub const SSE_READERS: RangeInclusive<i64> = 1..=1_000;
/// `limits.sse_client_bytes`, in bytes
pub const SSE_CLIENT_BYTES: RangeInclusive<i64> = 4_096..=67_108_864;
/// `call_deadline_ms` of `[plugins]` and of a plugin's use, in milliseconds
pub const CALL_DEADLINE_MS: RangeInclusive<i64> = 1..=60_000;
/// `memory_mib_max` of `[plugins]` and of a plugin's use, in MiB
pub const MEMORY_MIB: RangeInclusive<i64> = 1..=1024;
/// `output_kib_max` of `[plugins]` and of a plugin's use, in KiB
pub const OUTPUT_KIB: RangeInclusive<i64> = 1..=65_536;
/// `plugins.instances_max`
pub const INSTANCES: RangeInclusive<i64> = 1..=crate::plugin::Limits::INSTANCES_MAX as i64;
/// `warm_instances_max` of `[plugins]` and of a plugin's use
pub const WARM_INSTANCES: RangeInclusive<i64> = 1..=64;
/// `calls_per_instance_max` of `[plugins]` and of a plugin's use
pub const CALLS_PER_INSTANCE: RangeInclusive<i64> = 1..=1_000_000_000;
/// `plugins.quarantine_faults`
pub const QUARANTINE_FAULTS: RangeInclusive<i64> = 0..=1_000_000;
/// `plugins.quarantine_probe`
pub const QUARANTINE_PROBE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
/// `connect_timeout` of `[delivery]` and of a webhook
pub const CONNECT_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// `timeout` of `[delivery]` and of a webhook
pub const TOTAL_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);
/// `max_in_flight` of `[delivery]` and of a webhook
pub const IN_FLIGHT: RangeInclusive<i64> = 1..=1024;
/// `delivery.retry_after_max`
pub const RETRY_AFTER: RangeInclusive<Duration> = SECOND..=Duration::from_secs(24 * 3600);
/// `capture_bytes_max` of `[delivery]` and of a webhook, in bytes
pub const CAPTURE_BYTES: RangeInclusive<i64> = 0..=65_536;
/// `cloudevents_source` of a webhook, in bytes
pub const CLOUDEVENTS_SOURCE_BYTES_MAX: usize = 1024;
/// `rate` and `burst` of a rate limit; a rate of 0 is none
pub const RATE_TOKENS: RangeInclusive<i64> = 0..=crate::domain::rate::TOKENS_MAX as i64;
/// `per` of a rate limit
pub const RATE_SPAN: RangeInclusive<Duration> = crate::domain::rate::SPAN_MIN..=crate::domain::rate::SPAN_MAX;
/// `order_key.token` of a webhook, counted from 1
pub const KEY_TOKEN: RangeInclusive<i64> = 1..=64;
/// `delivery.hold_after`
pub const HOLD_AFTER: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// `delivery.max_readers`
pub const READERS: RangeInclusive<i64> = 1..=256;
/// `delivery.max_overflow`
pub const OVERFLOW: RangeInclusive<i64> = 0..=1_000_000;
/// `attempts_min` of a breaker
pub const BREAKER_ATTEMPTS: RangeInclusive<i64> = 1..=1000;
/// `window` of a breaker
pub const BREAKER_WINDOW: RangeInclusive<Duration> = SECOND..=HOUR;
/// `probe` and `probe_max` of a breaker
pub const BREAKER_PROBE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(24 * 3600);
/// `delivery.connections_max`
pub const CONNECTIONS: RangeInclusive<i64> = 1..=1_000_000;
/// A port of `delivery.deny_ports`
pub const PORT: RangeInclusive<i64> = 1..=65_535;
/// `disable_after` of `[delivery]` and of a webhook, when it is not off
pub const DISABLE_AFTER: RangeInclusive<Duration> = SECOND..=Duration::from_secs(365 * 24 * 3600);
/// `secret_overlap` of `[delivery]` and of a webhook
pub const SECRET_OVERLAP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 3600);
/// `store.cache_mib`, in MiB
pub const CACHE_MIB: RangeInclusive<i64> = 8..=65_536;
/// `store.log_retention`
pub const LOG_RETENTION: RangeInclusive<Duration> = HOUR..=Duration::from_secs(365 * 24 * 3600);
/// `store.log_mib_max`, in MiB
pub const LOG_MIB: RangeInclusive<i64> = 8..=1_048_576;
/// `store.dead_letter_retention`
pub const DEAD_LETTER_RETENTION: RangeInclusive<Duration> = HOUR..=Duration::from_secs(3650 * 24 * 3600);
/// `store.dead_letter_mib_max`, in MiB
pub const DEAD_LETTER_MIB: RangeInclusive<i64> = 1..=1_048_576;
/// `max_attempts` of a retry policy
pub const ATTEMPTS: RangeInclusive<i64> = 1..=crate::domain::retry::ATTEMPTS_MAX as i64;
/// A wait of a retry policy
pub const RETRY_WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=crate::domain::retry::DELAY_MAX;
/// `traces.sample_ratio`
pub const SAMPLE_RATIO: RangeInclusive<f64> = 0.0..=1.0;
/// Filters, or transforms, of one subscription
pub const PLUGINS_PER_LIST_MAX: usize = 16;
/// Extra headers of one webhook
pub const HEADERS_MAX: usize = 32;
/// The value of an extra header, in bytes
pub const HEADER_VALUE_BYTES_MAX: usize = 4096;

/// The bounds of the keys that are one number or one duration, as they are written: what the reference shows of each.
pub(in crate::config) fn stated() -> Vec<(&'static str, String)> {
    let times =
        |key, range: &RangeInclusive<Duration>| (key, format!("{} to {}", short(*range.start()), short(*range.end())));
    let numbers = |key, range: &RangeInclusive<i64>| (key, format!("{} to {}", range.start(), range.end()));
    vec![
        times("server.drain_timeout", &DRAIN_TIMEOUT),
        times("server.sse_heartbeat", &SSE_HEARTBEAT),
        times("server.sse_unread_timeout", &SSE_UNREAD_TIMEOUT),
        times("server.sse_ticket_lifetime", &SSE_TICKET_LIFETIME),
        times("server.sse_expiry_notice", &SSE_EXPIRY_NOTICE),
        numbers("limits.body_bytes_max", &BODY_BYTES),
        numbers("limits.sse_clients", &SSE_CLIENTS),
        numbers("limits.sse_clients_per_principal", &SSE_CLIENTS),
        numbers("limits.sse_readers", &SSE_READERS),
        numbers("limits.sse_client_bytes", &SSE_CLIENT_BYTES),
        numbers("limits.requests_per_minute", &REQUESTS_PER_MINUTE),
        numbers("limits.tests_per_minute", &REQUESTS_PER_MINUTE),
        numbers("limits.webhooks_per_owner", &WEBHOOKS_PER_OWNER),
        numbers("plugins.call_deadline_ms", &CALL_DEADLINE_MS),
        numbers("plugins.memory_mib_max", &MEMORY_MIB),
        numbers("plugins.output_kib_max", &OUTPUT_KIB),
        numbers("plugins.instances_max", &INSTANCES),
        numbers("plugins.warm_instances_max", &WARM_INSTANCES),
        numbers("plugins.calls_per_instance_max", &CALLS_PER_INSTANCE),
        numbers("plugins.quarantine_faults", &QUARANTINE_FAULTS),
        times("plugins.quarantine_probe", &QUARANTINE_PROBE),
        numbers("delivery.connections_max", &CONNECTIONS),
        times("delivery.connect_timeout", &CONNECT_TIMEOUT),
        times("delivery.timeout", &TOTAL_TIMEOUT),
        numbers("delivery.max_in_flight", &IN_FLIGHT),
        times("delivery.retry_after_max", &RETRY_AFTER),
        numbers("delivery.capture_bytes_max", &CAPTURE_BYTES),
        times("delivery.hold_after", &HOLD_AFTER),
        numbers("delivery.max_readers", &READERS),
        numbers("delivery.max_overflow", &OVERFLOW),
        times("delivery.disable_after", &DISABLE_AFTER),
        times("delivery.secret_overlap", &SECRET_OVERLAP),
        numbers("store.cache_mib", &CACHE_MIB),
        times("store.log_retention", &LOG_RETENTION),
        numbers("store.log_mib_max", &LOG_MIB),
        times("store.dead_letter_retention", &DEAD_LETTER_RETENTION),
        numbers("store.dead_letter_mib_max", &DEAD_LETTER_MIB),
    ]
}

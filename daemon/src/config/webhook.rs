//! A webhook's URL, secret, headers and policies.

use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderName, HeaderValue};
use url::Url;

use super::places::KeyPath;
use super::report::{Report, short};
use super::valid::{all, bounds};
use super::{Delivery, health, pace, raw, request};
use crate::domain::retry::Error as RetryError;
use crate::domain::{ClientIdentity, Endpoint, EndpointTls, Header, RetryPolicy, TlsVersion, WebhookSecret};

const SECRET_PREFIX: &str = "whsec_";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Headers that the request has by itself, or that would change what HTTP makes of it.
const RESERVED_HEADERS: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Reserved beginnings of header names.
const RESERVED_PREFIXES: [&str; 3] = ["webhook-", "sluiced-", "proxy-"];

/// What a webhook falls back to: `[delivery]`.
pub(super) struct Defaults<'a> {
    pub(super) retry: &'a raw::Retry,
    pub(super) retry_statuses: &'a [String],
    pub(super) fail_statuses: &'a [String],
    pub(super) breaker: &'a raw::Breaker,
    pub(super) rate_limit: &'a raw::RateLimit,
    pub(super) valid: &'a Delivery,
}

impl<'a> Defaults<'a> {
    /// What `[delivery]` says, as written and as checked.
    pub(super) fn of(raw: &'a raw::Delivery, valid: &'a Delivery) -> Self {
        Self {
            retry: &raw.retry.0,
            retry_statuses: &raw.retry_statuses,
            fail_statuses: &raw.fail_statuses,
            breaker: &raw.breaker.0,
            rate_limit: &raw.rate_limit.0,
            valid,
        }
    }
}

/// Checks a subscription's webhook.
pub(super) fn endpoint(
    at: &KeyPath,
    raw: raw::Webhook,
    defaults: Option<&Defaults<'_>>,
    report: &mut Report<'_>,
) -> Option<Endpoint> {
    let url = report.check(&at.key("url"), url(&raw.url, defaults.map_or(&[], |defaults| &defaults.valid.deny_ports)));
    let secret = raw.secret.as_deref().map(|text| report.check(&at.key("secret"), secret(text)));
    let headers = headers(&at.key("headers"), &raw, report);
    let order = pace::order(at, &raw, report);
    let own_overlap = raw
        .secret_overlap
        .as_ref()
        .map(|text| report.duration(&at.key("secret_overlap"), text, &bounds::SECRET_OVERLAP));
    let own_in_flight = raw.max_in_flight.map(|n| in_flight(at, n, report));
    let own_connect = raw
        .connect_timeout
        .as_ref()
        .map(|text| report.duration(&at.key("connect_timeout"), text, &bounds::CONNECT_TIMEOUT));
    let own_total = raw.timeout.as_ref().map(|text| report.duration(&at.key("timeout"), text, &bounds::TOTAL_TIMEOUT));
    let shape = request::shape(at, &raw, defaults, report);
    let answer = request::answer(at, &raw, defaults, report);

    let tls = match raw.tls {
        None => Some(None),
        Some(raw) => tls(&at.key("tls"), &raw.0, report).map(Some),
    };

    let defaults = defaults?;
    let retry = match raw.retry {
        None => Some(defaults.valid.retry.clone()),
        Some(part) => retry(&at.key("retry"), &part.0.over(defaults.retry), report),
    };
    let rate_limit = match raw.rate_limit {
        None => Some(defaults.valid.rate_limit),
        Some(part) => pace::rate_limit(&at.key("rate_limit"), &part.0.over(defaults.rate_limit), report),
    };
    let total_timeout = own_total.unwrap_or(Some(defaults.valid.total_timeout));
    let connect_timeout = match own_connect {
        Some(own) => connect_within_total(at, own, total_timeout, report),
        None => total_timeout.map(|total| defaults.valid.connect_timeout.min(total)),
    };
    let health = health::of_webhook(at, raw.breaker, raw.disable_after.as_deref(), defaults, report);
    Some(Endpoint {
        url: url?,
        secret: match secret {
            Some(checked) => Some(checked?),
            None => None,
        },
        secret_overlap: own_overlap.unwrap_or(Some(defaults.valid.secret_overlap))?,
        headers: headers?,
        retry: retry?,
        in_flight_max: own_in_flight.unwrap_or(Some(defaults.valid.in_flight_max))?,
        rate_limit: rate_limit?,
        order: order.as_ref()?.0.clone(),
        head_of_line: order?.1,
        connect_timeout: connect_timeout?,
        total_timeout: total_timeout?,
        request: shape?,
        answer: answer?,
        tls: tls?,
        health: health?,
    })
}

/// Reads a signing secret: `whsec_` and the base64 text (padded or not) of its bytes. The reason does not show the text.
pub(super) fn secret(text: &str) -> Result<WebhookSecret, &'static str> {
    let bytes = text.strip_prefix(SECRET_PREFIX).and_then(|encoded| BASE64.decode(encoded).ok());
    bytes
        .and_then(WebhookSecret::new)
        .ok_or("must be `whsec_` and the base64 text of 24 to 64 bytes: make one with `sluiced secret`")
}

/// The reasons do not show the text: many receivers have their credentials in the URL.
fn url(text: &str, deny_ports: &[u16]) -> Result<Box<str>, String> {
    let url = Url::parse(text).map_err(|reason| format!("must be an absolute URL: {reason}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("must begin with http:// or https://, not {}:", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password: send them in `headers`, as Authorization".into());
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment (#…): it is never sent".into());
    }
    if let Some(port) = url.port_or_known_default().filter(|port| deny_ports.contains(port)) {
        return Err(format!("leads to port {port}, which delivery.deny_ports refuses"));
    }
    Ok(String::from(url).into())
}

const TLS_VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

/// The oldest version of TLS that a table asks for.
pub(super) fn tls_version(at: &KeyPath, word: Option<&str>, report: &mut Report<'_>) -> Option<TlsVersion> {
    word.map_or(Some(TlsVersion::default()), |word| report.word(&at.key("min_version"), word, &TLS_VERSIONS))
}

/// Checks the table alone: what the files hold is for the one who reads them to say.
fn tls(at: &KeyPath, raw: &raw::Tls, report: &mut Report<'_>) -> Option<EndpointTls> {
    let ca_file = report.path_if_any(&at.key("ca_file"), raw.ca_file.as_deref());
    let cert_file = report.path_if_any(&at.key("client_cert_file"), raw.client_cert_file.as_deref());
    let key_file = report.path_if_any(&at.key("client_key_file"), raw.client_key_file.as_deref());
    let min_version = tls_version(at, raw.min_version.as_deref(), report);
    let client = match (cert_file?, key_file?) {
        (None, None) => None,
        (Some(cert_file), Some(key_file)) => Some(ClientIdentity { cert_file, key_file }),
        (Some(_), None) => {
            report.problem(&at.key("client_cert_file"), "needs `client_key_file` beside it");
            return None;
        }
        (None, Some(_)) => {
            report.problem(&at.key("client_key_file"), "needs `client_cert_file` beside it");
            return None;
        }
    };
    Some(EndpointTls { ca_file: ca_file?, client, min_version: min_version? })
}

fn headers(at: &KeyPath, raw: &raw::Webhook, report: &mut Report<'_>) -> Option<Vec<Header>> {
    let max = bounds::HEADERS_MAX;
    if raw.headers.len() > max {
        report.problem(at, format_args!("has {} headers, {max} is the limit", raw.headers.len()));
    }
    let mut names: Vec<HeaderName> = Vec::new();
    all(raw.headers.iter().map(|(name, value)| {
        let at = at.key(name);
        let parsed = report.check(&at, header_name(name))?;
        if names.contains(&parsed) {
            report.problem(&at, "stands here twice, since case makes no difference: remove one");
        }
        names.push(parsed);
        let fits =
            value.len() <= bounds::HEADER_VALUE_BYTES_MAX && value.is_ascii() && HeaderValue::from_str(value).is_ok();
        let header = fits.then(|| Header { name: name.as_str().into(), value: value.as_str().into() });
        let max = bounds::HEADER_VALUE_BYTES_MAX;
        report.check(&at, header.ok_or_else(|| format!("its value must be at most {max} visible ASCII characters")))
    }))
}

/// A header's name, when it is not one that the request has by itself.
pub(super) fn header_name(name: &str) -> Result<HeaderName, &'static str> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not a header name")?;
    let text = parsed.as_str();
    if RESERVED_HEADERS.contains(&text) || RESERVED_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
        return Err("is set by sluiced itself, and cannot be replaced");
    }
    Ok(parsed)
}

/// Checks `max_in_flight` of the table at `at`.
pub(super) fn in_flight(at: &KeyPath, n: i64, report: &mut Report<'_>) -> Option<NonZeroU32> {
    report.int::<u32>(&at.key("max_in_flight"), n, &bounds::IN_FLIGHT).and_then(NonZeroU32::new)
}

/// The connect timeout of the table at `at`, when it is not longer than the timeout of the whole attempt.
pub(super) fn connect_within_total(
    at: &KeyPath,
    connect: Option<Duration>,
    total: Option<Duration>,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let (connect, total) = (connect?, total?);
    let within = (connect <= total).then_some(connect);
    let reason = || format!("must not be longer than the timeout of the whole attempt, {}", short(total));
    report.check(&at.key("connect_timeout"), within.ok_or_else(reason))
}

/// Checks a complete retry policy, given in full or in part by the table at `at`.
pub(super) fn retry(at: &KeyPath, raw: &raw::Retry, report: &mut Report<'_>) -> Option<RetryPolicy> {
    let policy = match &raw.schedule {
        Some(schedule) => scheduled(at, schedule, raw.jitter, report)?,
        None => growing(at, raw, report)?,
    };
    policy
        .map_err(|error| {
            let key = match error {
                RetryError::Attempts if raw.schedule.is_some() => at.key("schedule"),
                RetryError::Attempts => at.key("max_attempts"),
                RetryError::Factor => at.key("factor"),
                RetryError::Jitter => at.key("jitter"),
                RetryError::Bounds | RetryError::Delay => at.key("max"),
            };
            report.problem(&key, error);
        })
        .ok()
}

fn growing(at: &KeyPath, raw: &raw::Retry, report: &mut Report<'_>) -> Option<Result<RetryPolicy, RetryError>> {
    let attempts = report.int(&at.key("max_attempts"), raw.max_attempts, &bounds::ATTEMPTS);
    let base = report.duration(&at.key("base"), &raw.base, &bounds::RETRY_WAIT);
    let max = report.duration(&at.key("max"), &raw.max, &bounds::RETRY_WAIT);
    Some(RetryPolicy::exponential(attempts?, base?, raw.factor, max?, raw.jitter))
}

fn scheduled(
    at: &KeyPath,
    schedule: &[String],
    jitter: f64,
    report: &mut Report<'_>,
) -> Option<Result<RetryPolicy, RetryError>> {
    for key in ["max_attempts", "base", "factor", "max"] {
        if report.given(&at.key(key)) {
            report.problem(&at.key(key), "has no meaning beside `schedule`: remove one of them");
        }
    }
    let at = at.key("schedule");
    let delays =
        all(schedule.iter().enumerate().map(|(i, text)| report.duration(&at.index(i), text, &bounds::RETRY_WAIT)));
    Some(RetryPolicy::schedule(delays?, jitter))
}

//! From raw tables to valid sections: bounds, names, addresses, and what must agree between sections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;
use url::Url;

use super::layers::Layers;
use super::places::KeyPath;
use super::report::Report;
use super::{
    Config, Delivery, Error, Limits, Log, LogFormat, MasterKeySource, Nats, NatsLogin, Plugins, Secret, Server, Store,
    Stream,
};
use super::{auth, dead_letters, event_type, health, pace, proxy, raw, request, shape, subscription, traces, webhook};
use crate::api::Tls;
use crate::api::forwarded::{ForwardedHeader, Proxies};
use crate::domain::{HealthPolicy, Pattern, StreamName};
use crate::store::MasterKey;

pub mod bounds;

/// Every top-level key.
const KEYS: [&str; 16] = [
    "data_dir",
    "server",
    "auth",
    "secrets",
    "limits",
    "nats",
    "stream",
    "event_type",
    "plugins",
    "delivery",
    "operational_events",
    "store",
    "dead_letters",
    "log",
    "traces",
    "subscription",
];

/// Checks all layers' values.
pub(super) fn config(layers: Layers) -> Result<Config, Error> {
    let mut values = layers.values.clone();
    let layers = Arc::new(layers);
    let mut report = Report::new(&layers.places);

    let data_dir = data_dir(shape::text(&mut values, "data_dir", &mut report), &mut report);
    let server = shape::table(&mut values, "server", &mut report).and_then(|raw| server(&raw, &mut report));
    let auth = shape::table(&mut values, "auth", &mut report).and_then(|raw| auth::auth(raw, &mut report));
    auth::public_needs_key(server.as_ref(), auth.as_ref(), &mut report);
    let secrets = shape::table(&mut values, "secrets", &mut report).and_then(|raw| secrets(raw, &mut report));
    let limits = shape::table(&mut values, "limits", &mut report).and_then(|raw| limits(&raw, &mut report));
    let nats = shape::table(&mut values, "nats", &mut report).and_then(|raw| nats(raw, &mut report));
    let streams = streams(shape::tables(&mut values, "stream", &mut report), &mut report);
    let event_types = event_type::all(shape::tables(&mut values, "event_type", &mut report), &mut report);
    let plugins = shape::table(&mut values, "plugins", &mut report).and_then(|raw| plugins(&raw, &mut report));
    let raw_delivery: Option<raw::Delivery> = shape::table(&mut values, "delivery", &mut report);
    let delivery = raw_delivery.as_ref().and_then(|raw| delivery(raw, &mut report));
    let operational_events = shape::table(&mut values, "operational_events", &mut report)
        .and_then(|raw| health::operational_events(raw, streams.as_deref(), &mut report));
    let store = shape::table(&mut values, "store", &mut report).and_then(|raw| store(&raw, &mut report));
    let dead_letters = shape::table(&mut values, "dead_letters", &mut report)
        .and_then(|raw| dead_letters::dead_letters(raw, streams.as_deref(), &mut report));
    let log = shape::table(&mut values, "log", &mut report).and_then(|raw| log(&raw, &mut report));

    let traces = shape::table(&mut values, "traces", &mut report).and_then(|raw| traces::traces(raw, &mut report));

    let defaults = delivery.as_ref().zip(raw_delivery.as_ref()).map(|(valid, raw)| webhook::Defaults::of(raw, valid));
    let raw_subscriptions = shape::tables(&mut values, "subscription", &mut report);
    let subscriptions = subscription::all(raw_subscriptions, streams.as_deref(), defaults.as_ref(), &mut report);
    shape::nothing_left(&values, &KEYS, &mut report);

    let config = || {
        Some(Config {
            data_dir: data_dir?,
            server: server?,
            auth: auth?,
            secrets: secrets?,
            limits: limits?,
            nats: nats?,
            streams: streams?,
            event_types: event_types?,
            plugins: plugins?,
            delivery: delivery?,
            operational_events: operational_events?,
            store: store?,
            dead_letters: dead_letters?,
            log: log?,
            traces: traces?,
            subscriptions: subscriptions?,
            layers: Arc::clone(&layers),
        })
    };
    report.finish(config())
}

fn data_dir(raw: Option<String>, report: &mut Report<'_>) -> Option<PathBuf> {
    report.path(&KeyPath::top("data_dir"), &raw?)
}

fn server(raw: &raw::Server, report: &mut Report<'_>) -> Option<Server> {
    let at = KeyPath::top("server");
    let listen = raw.listen.parse::<SocketAddr>();
    let listen = listen.map_err(|_| format!("{:?} is not an address and port, such as \"127.0.0.1:8080\"", raw.listen));
    let listen = report.check(&at.key("listen"), listen);
    let tls = match &raw.tls {
        None => Some(None),
        Some(raw) => server_tls(&at.key("tls"), &raw.0, report).map(Some),
    };
    let drain_timeout = report.duration(&at.key("drain_timeout"), &raw.drain_timeout, &bounds::DRAIN_TIMEOUT);
    let sse_heartbeat = report.duration(&at.key("sse_heartbeat"), &raw.sse_heartbeat, &bounds::SSE_HEARTBEAT);
    let own = at.key("sse_unread_timeout");
    let sse_unread_timeout = report.duration(&own, &raw.sse_unread_timeout, &bounds::SSE_UNREAD_TIMEOUT);
    let lifetime = at.key("sse_ticket_lifetime");
    let sse_ticket_lifetime = report.duration(&lifetime, &raw.sse_ticket_lifetime, &bounds::SSE_TICKET_LIFETIME);
    let notice = at.key("sse_expiry_notice");
    let sse_expiry_notice = report.duration(&notice, &raw.sse_expiry_notice, &bounds::SSE_EXPIRY_NOTICE);
    let origins = at.key("cors_origins");
    let cors_origins = all(raw.cors_origins.iter().enumerate().map(|(i, text)| {
        let origin = is_origin(text).then(|| text.clone());
        let reason =
            || format!("{text:?} is not a web origin: write one such as \"https://app.example\", or \"*\" for any");
        report.check(&origins.index(i), origin.ok_or_else(reason))
    }));
    Some(Server {
        listen: listen?,
        tls: tls?,
        drain_timeout: drain_timeout?,
        sse_heartbeat: sse_heartbeat?,
        sse_unread_timeout: sse_unread_timeout?,
        sse_ticket_lifetime: sse_ticket_lifetime?,
        sse_expiry_notice: sse_expiry_notice?,
        cors_origins: cors_origins?,
        proxies: proxies(&at, raw, report)?,
    })
}

const FORWARDED_HEADERS: [(&str, ForwardedHeader); 2] =
    [("x-forwarded-for", ForwardedHeader::XForwardedFor), ("forwarded", ForwardedHeader::Forwarded)];

fn proxies(at: &KeyPath, raw: &raw::Server, report: &mut Report<'_>) -> Option<Proxies> {
    let trusted = networks(&at.key("trusted_proxies"), &raw.trusted_proxies, report);
    let header = report.word(&at.key("forwarded_header"), &raw.forwarded_header, &FORWARDED_HEADERS);
    Some(Proxies { trusted: trusted?, header: header? })
}

/// Networks in CIDR notation.
fn networks(at: &KeyPath, texts: &[String], report: &mut Report<'_>) -> Option<Vec<IpNet>> {
    all(texts.iter().enumerate().map(|(i, text)| {
        let network = text.parse::<IpNet>().map(|network| network.trunc());
        let reason = |_| format!("{text:?} is not a network: write one such as \"10.0.0.0/8\" or \"::1/128\"");
        report.check(&at.index(i), network.map_err(reason))
    }))
}

/// Checks the table alone: what the files hold is for the one who reads them to say.
fn server_tls(at: &KeyPath, raw: &raw::ServerTls, report: &mut Report<'_>) -> Option<Tls> {
    let cert_file = report.path(&at.key("cert_file"), &raw.cert_file);
    let key_file = report.path(&at.key("key_file"), &raw.key_file);
    let version_min = webhook::tls_version(at, raw.min_version.as_deref(), report);
    Some(Tls { cert_file: cert_file?, key_file: key_file?, version_min: version_min? })
}

/// A URL of something that the operator runs.
pub(super) fn plain_url(text: &str) -> Result<Uri, &'static str> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let plain = url.filter(|url| url.username().is_empty() && url.password().is_none());
    let uri = plain.and_then(|url| url.as_str().parse().ok());
    uri.ok_or("must be an http or https URL without user and password")
}

/// Is it exactly what a browser sends as `Origin`?
fn is_origin(text: &str) -> bool {
    let origin = Url::parse(text).ok().map(|url| url.origin());
    text == "*" || origin.is_some_and(|origin| origin.is_tuple() && origin.ascii_serialization() == text)
}

fn secrets(raw: raw::Secrets, report: &mut Report<'_>) -> Option<MasterKeySource> {
    let at = KeyPath::top("secrets");
    match (raw.master_key, raw.master_key_file) {
        (None, None) => Some(MasterKeySource::DataDir),
        (Some(text), None) => {
            let key = MasterKey::parse(&text).map(|_| MasterKeySource::Given(Secret(text.into())));
            report.check(&at.key("master_key"), key)
        }
        (None, Some(file)) => report.path(&at.key("master_key_file"), &file).map(MasterKeySource::File),
        (Some(_), Some(_)) => {
            report.problem(&at.key("master_key_file"), "stands beside `master_key`: give one of them");
            None
        }
    }
}

fn limits(raw: &raw::Limits, report: &mut Report<'_>) -> Option<Limits> {
    let at = KeyPath::top("limits");
    let body_bytes_max = report.int(&at.key("body_bytes_max"), raw.body_bytes_max, &bounds::BODY_BYTES);
    let sse_clients = report.int(&at.key("sse_clients"), raw.sse_clients, &bounds::SSE_CLIENTS);
    let own = at.key("sse_clients_per_principal");
    let sse_clients_per_principal = report.int(&own, raw.sse_clients_per_principal, &bounds::SSE_CLIENTS);
    let sse_readers = report.int(&at.key("sse_readers"), raw.sse_readers, &bounds::SSE_READERS);
    let own = at.key("sse_client_bytes");
    let sse_client_bytes = report.int(&own, raw.sse_client_bytes, &bounds::SSE_CLIENT_BYTES);
    let requests_per_minute =
        report.int(&at.key("requests_per_minute"), raw.requests_per_minute, &bounds::REQUESTS_PER_MINUTE);
    let tests_per_minute = report.int(&at.key("tests_per_minute"), raw.tests_per_minute, &bounds::REQUESTS_PER_MINUTE);
    let webhooks_per_owner =
        report.int(&at.key("webhooks_per_owner"), raw.webhooks_per_owner, &bounds::WEBHOOKS_PER_OWNER);
    Some(Limits {
        requests_per_minute: requests_per_minute?,
        tests_per_minute: tests_per_minute?,
        webhooks_per_owner: webhooks_per_owner?,
        body_bytes_max: body_bytes_max?,
        sse_clients: sse_clients?,
        sse_clients_per_principal: sse_clients_per_principal?,
        sse_readers: sse_readers?,
        sse_client_bytes: sse_client_bytes?,
    })
}

fn nats(raw: raw::Nats, report: &mut Report<'_>) -> Option<Nats> {
    let at = KeyPath::top("nats");
    let url = at.key("url");
    let urls = all(raw.url.split(',').map(|text| {
        let text = text.trim();
        report.check(&url, nats_url(text)).map(|()| text.to_owned())
    }));
    if raw.managed && report.given(&url) {
        let reason = "a managed server has its own address: remove `url`, or set `managed = false`";
        report.problem(&at.key("managed"), reason);
    }
    let server_binary = report.path_if_any(&at.key("server_binary"), raw.server_binary.as_deref());
    let tls_ca_file = report.path_if_any(&at.key("tls_ca_file"), raw.tls_ca_file.as_deref());
    let name = StreamName::parse(&raw.consumer_name);
    let name = name.map_err(|_| "must be 1 to 64 letters, digits, `-` or `_`");
    let consumer_name = report.check(&at.key("consumer_name"), name);
    let login = nats_login(&at, raw.user, raw.password, raw.token, raw.credentials_file, report);
    Some(Nats {
        urls: urls?,
        managed: raw.managed,
        server_binary: server_binary?,
        login: login?,
        tls_ca_file: tls_ca_file?,
        consumer_name: consumer_name?.as_str().to_owned(),
    })
}

/// The reasons do not show the text: it may hold a password.
fn nats_url(text: &str) -> Result<(), &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL such as \"nats://127.0.0.1:4222\"")?;
    if !matches!(url.scheme(), "nats" | "tls") {
        return Err("must begin with nats:// or tls://");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host: write one such as \"nats://127.0.0.1:4222\"");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password, since URLs are logged: use nats.user and nats.password");
    }
    Ok(())
}

fn nats_login(
    at: &KeyPath,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    file: Option<String>,
    report: &mut Report<'_>,
) -> Option<NatsLogin> {
    let secret = |text: String| Secret(text.into());
    match (user, password, token, file) {
        (None, None, None, None) => Some(NatsLogin::Anonymous),
        (Some(user), Some(password), None, None) => Some(NatsLogin::Password { user, password: secret(password) }),
        (None, None, Some(token), None) => Some(NatsLogin::Token(secret(token))),
        (None, None, None, Some(file)) => {
            report.path(&at.key("credentials_file"), &file).map(NatsLogin::CredentialsFile)
        }
        (Some(_), None, None, None) => {
            report.problem(&at.key("user"), "needs `password` beside it");
            None
        }
        (None, Some(_), None, None) => {
            report.problem(&at.key("password"), "needs `user` beside it");
            None
        }
        _ => {
            report.problem(at, "log in one way only: `user` and `password`, or `token`, or `credentials_file`");
            None
        }
    }
}

fn streams(raw: Vec<(KeyPath, Option<raw::Stream>)>, report: &mut Report<'_>) -> Option<Vec<Stream>> {
    if raw.is_empty() {
        report.problem(
            &KeyPath::top("stream"),
            "there is no stream to read: add a [[stream]] with `name` and `subjects`",
        );
        return None;
    }
    let mut valid: Vec<Stream> = Vec::new();
    let mut complete = true;
    for (at, raw) in raw {
        let stream = raw.and_then(|raw| stream(&at, &raw, &valid, report));
        complete &= stream.is_some();
        valid.extend(stream);
    }
    complete.then_some(valid)
}

fn stream(at: &KeyPath, raw: &raw::Stream, others: &[Stream], report: &mut Report<'_>) -> Option<Stream> {
    let name = report.check(&at.key("name"), StreamName::parse(&raw.name));
    if others.iter().any(|other| other.name.as_str() == raw.name) {
        report.problem(&at.key("name"), format_args!("{:?} is the name of another stream already", raw.name));
    }
    let prefix_at = at.key("type_prefix");
    let prefix = report.check(&prefix_at, type_prefix(&raw.type_prefix));
    if raw.subjects.is_empty() {
        report.problem(&at.key("subjects"), "must name at least one subject, such as \"events.>\"");
    }
    let mut subjects: Vec<Pattern> = Vec::new();
    for (i, text) in raw.subjects.iter().enumerate() {
        let at = at.key("subjects").index(i);
        let Some(subject) = report.check(&at, subject(text)) else { continue };
        if prefix.as_ref().is_some_and(|prefix| !text.starts_with(*prefix) || text.len() == prefix.len()) {
            let reason = format!("{text:?} does not begin with the type_prefix {:?}", raw.type_prefix);
            report.problem(&at, reason);
        }
        if let Some(own) = subjects.iter().find(|own| own.overlaps(&subject)) {
            report.problem(&at, format_args!("{text:?} overlaps \"{own}\" of the same stream: keep the wider one"));
        }
        for other in others {
            if let Some(taken) = other.subjects.iter().find(|taken| taken.overlaps(&subject)) {
                let reason =
                    format!("{text:?} overlaps \"{taken}\" of stream {}, so events would come twice", other.name);
                report.problem(&at, reason);
            }
        }
        subjects.push(subject);
    }
    let complete = subjects.len() == raw.subjects.len();
    let type_prefix = prefix?.to_owned();
    complete.then_some(Stream { name: name?, subjects, type_prefix, create: raw.create })
}

fn type_prefix(text: &str) -> Result<&str, String> {
    let tokens = text.strip_suffix('.');
    let valid = text.is_empty() || tokens.is_some_and(|tokens| crate::domain::Subject::parse(tokens).is_ok());
    valid
        .then_some(text)
        .ok_or_else(|| format!("{text:?} must be literal tokens that end with a dot, such as \"events.\""))
}

fn subject(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text).map_err(|reason| format!("{text:?} is not a subject: {reason}"))?;
    if text == ">" {
        return Err("\">\" would take in NATS's own subjects: begin with a literal token, such as \"events.>\"".into());
    }
    if text.starts_with('$') {
        return Err(format!("{text:?} is among NATS's own subjects ($…): begin with another token"));
    }
    Ok(pattern)
}

fn plugins(raw: &raw::Plugins, report: &mut Report<'_>) -> Option<Plugins> {
    let at = KeyPath::top("plugins");
    let dir = report.path(&at.key("dir"), &raw.dir);
    let deadline_ms = report.int(&at.key("call_deadline_ms"), raw.call_deadline_ms, &bounds::CALL_DEADLINE_MS);
    let memory_mib_max = report.int(&at.key("memory_mib_max"), raw.memory_mib_max, &bounds::MEMORY_MIB);
    let output_kib_max = report.int(&at.key("output_kib_max"), raw.output_kib_max, &bounds::OUTPUT_KIB);
    let instances_max = report.int(&at.key("instances_max"), raw.instances_max, &bounds::INSTANCES);
    let warm = report.int(&at.key("warm_instances_max"), raw.warm_instances_max, &bounds::WARM_INSTANCES);
    let calls_at = at.key("calls_per_instance_max");
    let calls_per_instance_max = report.int(&calls_at, raw.calls_per_instance_max, &bounds::CALLS_PER_INSTANCE);
    let faults = report.int(&at.key("quarantine_faults"), raw.quarantine_faults, &bounds::QUARANTINE_FAULTS);
    let probe = report.duration(&at.key("quarantine_probe"), &raw.quarantine_probe, &bounds::QUARANTINE_PROBE);
    Some(Plugins {
        dir: dir?,
        call_deadline: Duration::from_millis(deadline_ms?),
        memory_mib_max: memory_mib_max?,
        output_kib_max: output_kib_max?,
        instances_max: instances_max?,
        warm_instances_max: warm?,
        calls_per_instance_max: calls_per_instance_max?,
        quarantine_faults: faults?,
        quarantine_probe: probe?,
    })
}

fn delivery(raw: &raw::Delivery, report: &mut Report<'_>) -> Option<Delivery> {
    let at = KeyPath::top("delivery");
    let allow_cidrs = networks(&at.key("allow_cidrs"), &raw.allow_cidrs, report);
    let ports = at.key("deny_ports");
    let deny_ports =
        all(raw.deny_ports.iter().enumerate().map(|(i, port)| report.int(&ports.index(i), *port, &bounds::PORT)));
    let servers = at.key("dns_servers");
    let dns_servers = all(raw.dns_servers.iter().enumerate().map(|(i, text)| {
        let server = text.parse::<SocketAddr>();
        let reason = |_| format!("{text:?} is not an address and port, such as \"10.0.0.53:53\"");
        report.check(&servers.index(i), server.map_err(reason))
    }));
    let proxy = proxy::proxy(&at, raw, report);
    let connections_max = report.int(&at.key("connections_max"), raw.connections_max, &bounds::CONNECTIONS);
    let retry = webhook::retry(&at.key("retry"), &raw.retry.0, report);
    let connect_timeout = report.duration(&at.key("connect_timeout"), &raw.connect_timeout, &bounds::CONNECT_TIMEOUT);
    let total_timeout = report.duration(&at.key("timeout"), &raw.timeout, &bounds::TOTAL_TIMEOUT);
    let connect_timeout = webhook::connect_within_total(&at, connect_timeout, total_timeout, report);
    let in_flight_max = webhook::in_flight(&at, raw.max_in_flight, report);
    let statuses = request::statuses(&at, &raw.retry_statuses, &raw.fail_statuses, report);
    let retry_after_max = report.duration(&at.key("retry_after_max"), &raw.retry_after_max, &bounds::RETRY_AFTER);
    let capture_bytes_max = request::capture(&at, raw.capture_bytes_max, report);
    let rate_limit = pace::rate_limit(&at.key("rate_limit"), &raw.rate_limit.0, report);
    let hold_after = report.duration(&at.key("hold_after"), &raw.hold_after, &bounds::HOLD_AFTER);
    let readers_max = report.int(&at.key("max_readers"), raw.max_readers, &bounds::READERS);
    let overflow_parked_max = report.int(&at.key("max_overflow"), raw.max_overflow, &bounds::OVERFLOW);
    let breaker = health::breaker(&at.key("breaker"), &raw.breaker.0, report);
    let disable_after = health::disable_after(&at.key("disable_after"), &raw.disable_after, report);
    let secret_overlap = report.duration(&at.key("secret_overlap"), &raw.secret_overlap, &bounds::SECRET_OVERLAP);
    let signature = raw.body_signature.as_ref();
    let body_signature = signature.map(|of| request::body_signature(&at.key("body_signature"), &of.0, report));
    Some(Delivery {
        allow_cidrs: allow_cidrs?,
        deny_ports: deny_ports?,
        dns_servers: dns_servers?,
        proxy: proxy?,
        connections_max: connections_max?,
        retry: retry?,
        connect_timeout: connect_timeout?,
        total_timeout: total_timeout?,
        in_flight_max: in_flight_max?,
        statuses: statuses?,
        retry_after_max: retry_after_max?,
        capture_bytes_max: capture_bytes_max?,
        rate_limit: rate_limit?,
        hold_after: hold_after?,
        readers_max: readers_max?,
        overflow_parked_max: overflow_parked_max?,
        health: HealthPolicy { breaker: breaker?, disable_after: disable_after? },
        secret_overlap: secret_overlap?,
        body_signature: request::given(body_signature)?,
    })
}

fn store(raw: &raw::Store, report: &mut Report<'_>) -> Option<Store> {
    let at = KeyPath::top("store");
    let cache_mib = report.int(&at.key("cache_mib"), raw.cache_mib, &bounds::CACHE_MIB);
    let log_retention = report.duration(&at.key("log_retention"), &raw.log_retention, &bounds::LOG_RETENTION);
    let log_mib_max = report.int(&at.key("log_mib_max"), raw.log_mib_max, &bounds::LOG_MIB);
    let dead_letter_retention =
        report.duration(&at.key("dead_letter_retention"), &raw.dead_letter_retention, &bounds::DEAD_LETTER_RETENTION);
    let dead_letter_mib_max =
        report.int(&at.key("dead_letter_mib_max"), raw.dead_letter_mib_max, &bounds::DEAD_LETTER_MIB);
    let backup_dir = report.path_if_any(&at.key("backup_dir"), raw.backup_dir.as_deref());
    Some(Store {
        cache_mib: cache_mib?,
        log_retention: log_retention?,
        log_mib_max: log_mib_max?,
        dead_letter_retention: dead_letter_retention?,
        dead_letter_mib_max: dead_letter_mib_max?,
        backup_dir: backup_dir?,
    })
}

fn log(raw: &raw::Log, report: &mut Report<'_>) -> Option<Log> {
    use tracing::Level;

    let at = KeyPath::top("log");
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let format = report.word(&at.key("format"), &raw.format, &formats);
    let level = report.word(&at.key("level"), &raw.level, &levels);
    Some(Log { format: format?, level: level? })
}

/// All values, or `None` when one is missing: unlike `collect` it goes through to the end, so that each is checked.
pub(super) fn all<T>(values: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let values: Vec<Option<T>> = values.collect();
    values.into_iter().collect()
}

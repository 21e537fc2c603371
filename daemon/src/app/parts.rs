//! From the configuration to each stage's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Error, managed};
use crate::api;
use crate::config::{Config, NatsLogin, Problem};
use crate::deliver::{self, Secrets, attempt, prepared, proxy};
use crate::domain::{OnPluginError, PluginRef, StreamName, Subscription, SubscriptionId, Target};
use crate::ingest::{self, StreamConfig, connect::Hidden};
use crate::pipeline::subscriptions::{self, Ready};
use crate::pipeline::{self, Spec};
use crate::plugin::{self, Host, Limits};
use crate::stream::{self, Named};
use crate::{config, store, telemetry};

/// The fewest and the most messages that JetStream hands out unacknowledged, per stream.
const ACK_PENDING: (u32, u32) = (2_000, 20_000);
/// After how long JetStream sends a message again that was neither acked nor reported as in progress: how long events that
/// were in hand at a crash take to come back.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// One part in so many of the open files that the system allows are for connections to receivers; the rest is for the
/// API's clients, name look-ups and the store.
const CONNECTIONS_SHARE: usize = 2;

/// How the store of a configuration is set up.
pub fn store_config(config: &Config) -> store::Config {
    store::Config {
        cache_bytes: u64::from(config.store.cache_mib) << 20,
        log_retention: config.store.log_retention,
        log_bytes_max: u64::from(config.store.log_mib_max) << 20,
        publish_dead_letters: config.dead_letters.publish_subject.is_some(),
        dead_letter_retention: config.store.dead_letter_retention,
        dead_letter_bytes_max: u64::from(config.store.dead_letter_mib_max) << 20,
        ..store::Config::new(config.data_dir.join("store"))
    }
}

/// What a plugin may cost, as the configuration says.
pub fn plugin_limits(config: &Config) -> Limits {
    Limits {
        call_deadline_ms: u64::try_from(config.plugins.call_deadline.as_millis()).unwrap_or(u64::MAX),
        memory_bytes_max: (config.plugins.memory_mib_max as usize) << 20,
        output_bytes_max: (config.plugins.output_kib_max as usize) << 10,
        instances_max: config.plugins.instances_max,
        warm_instances_max: config.plugins.warm_instances_max,
        calls_per_instance_max: config.plugins.calls_per_instance_max,
        quarantine_faults: config.plugins.quarantine_faults,
        quarantine_probe_ms: u64::try_from(config.plugins.quarantine_probe.as_millis()).unwrap_or(u64::MAX),
        ..Limits::default()
    }
}

pub(super) fn plugins(config: &Config) -> plugin::Config {
    plugin::Config {
        dir: config.plugins.dir.clone(),
        cache_dir: plugin_cache_dir(config),
        limits: plugin_limits(config),
    }
}

/// The nats-server that the daemon runs itself, on any free port of loopback.
pub(super) fn managed(config: &Config) -> managed::Config {
    managed::Config { binary: config.nats.server_binary.clone(), data_dir: config.data_dir.clone(), port: None }
}

/// The HTTP client, with no more connections than `descriptors_max` open files leave room for.
pub(super) fn client(config: &Config, descriptors_max: usize) -> attempt::Config {
    let delivery = &config.delivery;
    let proxy = delivery.proxy.as_ref().map(|proxy| {
        let login = proxy.login.as_ref().map(|login| (login.user.as_str(), login.password.expose()));
        proxy::Config::new(&proxy.host, proxy.port, login)
    });
    attempt::Config {
        allow_cidrs: delivery.allow_cidrs.clone(),
        deny_ports: delivery.deny_ports.clone(),
        dns_servers: delivery.dns_servers.clone(),
        proxy,
        connections_max: delivery.connections_max.min(descriptors_max / CONNECTIONS_SHARE),
        retry_after_max: delivery.retry_after_max,
        ..attempt::Config::default()
    }
}

pub(super) fn pipeline(config: &Config) -> pipeline::Config {
    pipeline::Config {
        hold_after: config.delivery.hold_after,
        readers_max: config.delivery.readers_max,
        overflow_parked_max: config.delivery.overflow_parked_max,
        drain_timeout: config.server.drain_timeout,
    }
}

pub(super) fn nats(config: &Config, specs: &[(SubscriptionId, Spec)]) -> ingest::Config {
    // What a lane can have in hand, and a pull and a half.
    let in_hand = |spec: &Spec| spec.in_flight_max.saturating_add(subscriptions::queue_events_max(spec));
    let wanted: u32 = specs.iter().map(|(_, spec)| in_hand(spec)).fold(750, u32::saturating_add);
    let nats = &config.nats;
    let mut to = ingest::Config {
        urls: nats.urls.clone(),
        credentials_file: None,
        token: None,
        user: None,
        ca_file: nats.tls_ca_file.clone(),
        consumer_name: nats.consumer_name.clone(),
        ack_pending_max: wanted.clamp(ACK_PENDING.0, ACK_PENDING.1),
        ack_wait: ACK_WAIT,
        streams: config.streams.iter().map(jetstream).collect(),
    };
    match &nats.login {
        NatsLogin::Anonymous => {}
        NatsLogin::Password { user, password } => to.user = Some((user.clone(), Hidden(password.expose().to_owned()))),
        NatsLogin::Token(token) => to.token = Some(Hidden(token.expose().to_owned())),
        NatsLogin::CredentialsFile(file) => to.credentials_file = Some(file.clone()),
    }
    to
}

/// The connection of somebody who only reads that stream, and makes none; `None` when it is not configured.
pub fn reading(config: &Config, stream: &StreamName) -> Option<ingest::Config> {
    let mut nats = nats(config, &[]);
    nats.streams.retain(|known| known.name == *stream);
    nats.streams.first_mut()?.create = false;
    Some(nats)
}

fn jetstream(stream: &config::Stream) -> StreamConfig {
    StreamConfig {
        name: stream.name.clone(),
        subjects: stream.subjects.clone(),
        type_prefix: stream.type_prefix.as_str().into(),
        create: stream.create,
    }
}

pub(super) fn stream(config: &Config) -> stream::Config {
    stream::Config {
        clients_max: config.limits.sse_clients,
        clients_per_principal_max: config.limits.sse_clients_per_principal,
        heartbeat: config.server.sse_heartbeat,
        ..stream::Config::default()
    }
}

pub(super) fn api(config: &Config) -> api::Config {
    api::Config {
        listen: config.server.listen,
        tls: config.server.tls.clone(),
        body_bytes_max: config.limits.body_bytes_max,
        cors_origins: config.server.cors_origins.clone(),
        drain_timeout: config.server.drain_timeout,
    }
}

/// All subscriptions, ready to run.
pub(super) struct Prepared {
    pub(super) webhooks: Vec<(SubscriptionId, Spec)>,
    pub(super) named: Vec<Named>,
}

/// Every subscription, ready to run. Blocks: it loads, and may compile, plugins.
///
/// # Errors
/// With the place in the configuration of every plugin that cannot be used as it says.
pub(super) fn prepare(host: &Host, secrets: &Secrets, config: &Config) -> Result<Prepared, config::Error> {
    let mut prepared = Prepared { webhooks: Vec::new(), named: Vec::new() };
    let mut problems = Vec::new();
    for (index, subscription) in config.subscriptions.iter().enumerate() {
        match subscriptions::prepare(host, secrets, subscription) {
            Ok(Ready::Webhook(spec)) => prepared.webhooks.push((subscription.id.clone(), *spec)),
            Ok(Ready::Stream(chain)) => {
                prepared.named.push(Named { subscription: subscription.clone(), process: Arc::new(chain) });
            }
            Err(error) => {
                let mut found = plugin_problems(host, config, index, subscription);
                found.extend(endpoint_problem(config, index, subscription));
                if found.is_empty() {
                    found.push(Problem { place: config.locate(index, "webhook", 0), reason: telemetry::chain(&error) });
                }
                problems.extend(found);
            }
        }
    }
    if problems.is_empty() { Ok(prepared) } else { Err(config::Error { problems }) }
}

/// What is wrong with a subscription's plugins, each at its place.
pub(super) fn plugin_problems(host: &Host, config: &Config, index: usize, subscription: &Subscription) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut check = |list: &str, at: usize, filters: &[PluginRef], transforms: &[PluginRef]| {
        if let Err(error) = host.chain(&subscription.id, filters, transforms, OnPluginError::default()) {
            let place = config.locate(index, list, at);
            problems.push(Problem { place, reason: telemetry::chain(&error) });
        }
    };
    for (at, filter) in subscription.filters.iter().enumerate() {
        check("filters", at, std::slice::from_ref(filter), &[]);
    }
    for (at, transform) in subscription.transforms.iter().enumerate() {
        check("transforms", at, &[], std::slice::from_ref(transform));
    }
    problems
}

/// What is wrong with a webhook's endpoint, at its place. Blocks: it reads the files that the endpoint names.
fn endpoint_problem(config: &Config, index: usize, subscription: &Subscription) -> Option<Problem> {
    let Target::Webhook(endpoint) = &subscription.target else { return None };
    let error = deliver::Prepared::new(endpoint).err()?;
    let (keys, reason) = match &error {
        prepared::Error::Tls(file) => (vec!["tls", file.key], file.to_string()),
        other => (vec![], telemetry::chain(other)),
    };
    Some(Problem { place: config.locate_webhook(index, &keys), reason })
}

/// Where the daemon keeps compiled plugins.
pub fn plugin_cache_dir(config: &Config) -> PathBuf {
    config.data_dir.join("plugin-cache")
}

/// What is wrong with the listener's certificate, at its place. Blocks: it reads the files.
fn listener_problem(config: &Config) -> Option<Problem> {
    let error = config.server.tls.as_ref()?.check().err()?;
    Some(Problem { place: config.locate_key("server", &["tls", error.key]), reason: error.to_string() })
}

/// The endpoints of a configuration and its listener's certificate, checked without a daemon: `sluiced check`. Blocks: it
/// reads the files that they name.
///
/// # Errors
/// [`Error::Config`] with every problem found.
pub fn check_endpoints(config: &Config) -> Result<(), Error> {
    let all = config.subscriptions.iter().enumerate();
    let endpoints = all.filter_map(|(index, s)| endpoint_problem(config, index, s));
    let problems: Vec<Problem> = listener_problem(config).into_iter().chain(endpoints).collect();
    if problems.is_empty() { Ok(()) } else { Err(config::Error { problems }.into()) }
}

/// The plugins of a configuration, checked without a daemon: `sluiced check`. Compiled plugins are taken from `cache_dir`
/// and kept there. Blocks.
///
/// # Errors
/// [`Error::Config`] with every problem found, or when the plugin host cannot be set up.
pub fn check_plugins(config: &Config, cache_dir: PathBuf) -> Result<(), Error> {
    let host = Host::new(plugin::Config { cache_dir, ..plugins(config) })?;
    let all = config.subscriptions.iter().enumerate();
    let problems: Vec<Problem> = all.flat_map(|(index, s)| plugin_problems(&host, config, index, s)).collect();
    if problems.is_empty() { Ok(()) } else { Err(config::Error { problems }.into()) }
}

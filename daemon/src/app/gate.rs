//! The gate of the API, from the configuration: the admin key, whose tokens are trusted, API keys, limits, the audit log.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Error, parts};
use crate::api::auth::{jwks, token};
use crate::api::events::tickets::{TicketLimits, Tickets};
use crate::api::keys::ApiKeys;
use crate::api::{AdminKey, Gate, Owners, info};
use crate::config::{Config, Jwt, JwtKeys};
use crate::deliver::fetch::Fetcher;
use crate::store::Store;
use crate::telemetry::clock;
use crate::telemetry::metrics::Metrics;

/// The gate, with the API keys and the tickets that it knows.
pub(super) fn gate(config: &Config, store: &Store, metrics: &Metrics) -> Result<(Gate, ApiKeys, Tickets), Error> {
    let auth = &config.auth;
    let api_keys = ApiKeys::load(store.clone())?;
    let tickets = Tickets::new(TicketLimits {
        lifetime: config.server.sse_ticket_lifetime,
        tickets_max: config.limits.sse_clients,
        tickets_per_principal_max: config.limits.sse_clients_per_principal,
    });
    let mut gate = Gate::new(auth.admin_key.as_ref().map(|key| AdminKey::new(key.expose())))
        .with_api_keys(api_keys.clone())
        .with_tickets(tickets.clone())
        .with_limits(config.limits.requests_per_minute, config.limits.tests_per_minute)
        .with_proxies(config.server.proxies.clone())
        .with_audit(store.clone());
    if let Some(jwt) = &auth.jwt {
        let config = token::Config {
            keys: keys(config, jwt, metrics)?,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            leeway: jwt.leeway,
            default_types: auth.default_types.clone(),
            scopes: auth.owner_scopes,
        };
        gate = gate.with_tokens(config).map_err(Error::TokenKeys)?;
    }
    Ok((gate, api_keys, tickets))
}

/// What the API tells of the daemon.
pub(super) fn info(config: &Config, owners: Owners) -> info::Access {
    info::Access {
        started_ms: clock::now_ms(),
        webhooks_per_owner: config.limits.webhooks_per_owner,
        requests_per_minute: config.limits.requests_per_minute,
        body_bytes_max: config.limits.body_bytes_max,
        owners,
    }
}

fn keys(config: &Config, jwt: &Jwt, metrics: &Metrics) -> Result<jwks::Source, Error> {
    Ok(match &jwt.keys {
        JwtKeys::Hs256(secret) => jwks::Source::Secret(secret.expose().as_bytes().into()),
        JwtKeys::PublicKeyFile(file) => jwks::Source::PublicKeyFile(file.clone()),
        JwtKeys::JwksFile(file) => jwks::Source::JwksFile(file.clone()),
        JwtKeys::JwksUrl(uri) => {
            let client = parts::client(config, usize::MAX);
            let fetcher = Fetcher::new(uri.clone(), jwks::JWKS_BYTES_MAX, client, &metrics.client())?;
            jwks::Source::JwksUrl(Arc::new(Fetched(fetcher)))
        }
    })
}

/// A set of keys at a URL.
struct Fetched(Fetcher);

impl jwks::Fetch for Fetched {
    fn fetch(&self) -> BoxFuture<'_, Result<Bytes, Box<dyn std::error::Error + Send + Sync>>> {
        Box::pin(async move { Ok(self.0.fetch().await?) })
    }
}

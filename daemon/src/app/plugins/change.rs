//! Changes of the plugins that run, one at a time: they, reloads, and changes of webhooks are all made by the daemon's loop.

use std::sync::Arc;

use tracing::{info, warn};

use super::{Arrival, Catalogue, all_subscriptions, unavailable, uses, version};
use crate::api::plugins::Refused;
use crate::app::reloading::Reloading;
use crate::domain::{SubscriptionId, Target};
use crate::plugin::{Chain, Wasm};
use crate::telemetry;

/// A change of a plugin.
pub(in crate::app) enum Change {
    /// A version takes the place of the one that runs.
    Run(Arrival),
    /// The version that runs is put on record; it was made of those bytes.
    Record(Box<str>, Wasm),
    /// A version runs beside it, without effect.
    Shadow(Arrival),
    /// None does any more.
    EndShadow(Box<str>),
    /// The plugin is forgotten.
    Remove(Box<str>),
}

impl Reloading {
    /// Makes a change. It is durable and in effect when it returns.
    pub(in crate::app) async fn change_plugin(&mut self, change: Change) -> Result<(), Refused> {
        match change {
            Change::Run(arrival) => self.run_version(arrival).await,
            Change::Record(name, wasm) => {
                let catalogue = self.catalogue.clone();
                blocking(move || catalogue.record(&name, wasm).map_err(unavailable)).await
            }
            Change::Shadow(arrival) => {
                let (webhooks, streams) = (self.subscriptions.chains(), self.hub.definitions());
                let catalogue = self.catalogue.clone();
                blocking(move || {
                    let streams = streams.iter().filter_map(|named| named.process.chain());
                    catalogue.begin_shadow(&arrival, webhooks.iter().map(|chain| &**chain).chain(streams))
                })
                .await
            }
            Change::EndShadow(name) => {
                let catalogue = self.catalogue.clone();
                blocking(move || catalogue.end_shadow(&name)).await
            }
            Change::Remove(name) => {
                let (catalogue, registry, config) =
                    (self.catalogue.clone(), self.registry.clone(), self.config.load_full());
                blocking(move || {
                    let of_api = registry.defined(&config).map_err(unavailable)?;
                    let all = all_subscriptions(&config, &of_api).into_iter();
                    let users = all.filter(|subscription| uses(subscription, &name));
                    catalogue.remove(&name, users.map(|subscription| subscription.id.clone()).collect())
                })
                .await
            }
        }
    }

    async fn run_version(&mut self, arrival: Arrival) -> Result<(), Refused> {
        let (catalogue, registry, config) = (self.catalogue.clone(), self.registry.clone(), self.config.load_full());
        let chains = blocking(move || {
            let of_api = registry.defined(&config).map_err(unavailable)?;
            let all = all_subscriptions(&config, &of_api);
            let chains = catalogue.vet(&arrival.plugin, &all).map_err(Refused::Unfit)?;
            let is_used = all.iter().any(|subscription| uses(subscription, arrival.plugin.name()));
            catalogue.adopt(&arrival, is_used).map_err(unavailable)?;
            let chains = chains.into_iter();
            let chains =
                chains.map(|(s, chain)| (s.id.clone(), !matches!(s.target, Target::Webhook(_)), Arc::new(chain)));
            Ok(chains.collect::<Vec<_>>())
        });
        let mut idle = Vec::new();
        for (id, is_stream, chain) in chains.await? {
            if is_stream {
                self.hub.replace_plugins(&id, chain);
            } else if !self.subscriptions.replace_plugins(&id, chain) {
                idle.push(id);
            }
        }
        if !idle.is_empty() {
            self.wake_up(idle).await;
        }
        Ok(())
    }

    /// Starts webhooks that could not run and now can.
    async fn wake_up(&mut self, idle: Vec<SubscriptionId>) {
        let (registry, host, config) = (self.registry.clone(), self.catalogue.host.clone(), self.config.load_full());
        let ready = blocking(move || {
            let mut of_api = registry.defined(&config).map_err(unavailable)?;
            of_api.retain(|(id, _)| idle.contains(id));
            Ok(registry.prepare(&host, of_api).specs)
        });
        let specs = match ready.await {
            Ok(specs) => specs,
            Err(reason) => return warn!(?reason, "webhooks that could run again are left until the next reload"),
        };
        let ids: Vec<_> = specs.iter().map(|(id, _)| id.clone()).collect();
        match self.update(specs, Vec::new()).await {
            Ok(()) => info!(subscriptions = ?ids, "webhooks run again with the plugin's new version"),
            Err(error) => {
                let error = telemetry::chain(&error);
                warn!(error, "webhooks that could run again are left until the next reload");
            }
        }
    }
}

impl Catalogue {
    /// Has a version run beside the current one in those chains, and in all that are made from now on.
    fn begin_shadow<'a>(&self, arrival: &Arrival, chains: impl Iterator<Item = &'a Chain>) -> Result<(), Refused> {
        let name = arrival.plugin.name();
        let mut record = self.entry(name).and_then(|entry| entry.record).ok_or(Refused::Unknown)?;
        record.add(version(&arrival.plugin, arrival.origin));
        record.shadow = Some(arrival.plugin.digest().into());
        let wasm = arrival.wasm.as_ref().map(|wasm| wasm.bytes());
        self.store.put_plugin(name, &record, wasm).map_err(unavailable)?;
        let trial = self.host.begin_trial(Arc::clone(&arrival.plugin));
        for chain in chains {
            self.host.attach(chain, &trial).map_err(unavailable)?;
        }
        self.entries.lock().entry(name.into()).or_default().record = Some(record);
        info!(plugin = name, digest = arrival.plugin.digest(), "shadow mode begins");
        Ok(())
    }

    fn end_shadow(&self, name: &str) -> Result<(), Refused> {
        let mut record = self.entry(name).ok_or(Refused::Unknown)?.record.ok_or(Refused::NoVersion)?;
        record.shadow.take().ok_or(Refused::NoVersion)?;
        self.store.put_plugin(name, &record, None).map_err(unavailable)?;
        self.host.end_trial(name);
        self.entries.lock().entry(name.into()).or_default().record = Some(record);
        info!(plugin = name, "shadow mode ends");
        Ok(())
    }

    fn remove(&self, name: &str, users: Vec<SubscriptionId>) -> Result<(), Refused> {
        self.entry(name).ok_or(Refused::Unknown)?;
        if !users.is_empty() {
            return Err(Refused::InUse(users));
        }
        if self.host.read(name).is_ok() {
            return Err(Refused::OfFile);
        }
        self.store.remove_plugin(name).map_err(unavailable)?;
        self.host.end_trial(name);
        self.host.loosen(name);
        self.entries.lock().remove(name);
        info!(plugin = name, "plugin removed");
        Ok(())
    }
}

/// Works away from the tasks that serve requests and deliver.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(unavailable)?
}

//! Puts a configuration that was read again into effect, beside everything else that runs.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::registry::{Ask, Kept, Registry};
use super::reload::Watch;
use super::{dead_letters, parts};
use crate::config::{self, Config};
use crate::deliver::Secrets;
use crate::domain::SubscriptionId;
use crate::ingest::Nats;
use crate::pipeline::Spec;
use crate::pipeline::subscriptions::{self, Subscriptions};
use crate::plugin::Host;
use crate::stream::Hub;
use crate::telemetry::chain;

/// How long to wait before a change that could not be put into effect is tried again: NATS may be away.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// What a reload changes.
pub(super) struct Reloading {
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) host: Host,
    pub(super) secrets: Secrets,
    pub(super) hub: Hub,
    pub(super) subscriptions: Subscriptions,
    pub(super) nats: Nats,
    /// The webhooks that are made over the API.
    pub(super) registry: Registry,
}

impl Reloading {
    /// Reloads when there is a reason to, and carries out what is asked over the API, until `stop`.
    pub(super) async fn run(mut self, mut watch: Watch, mut asked: mpsc::Receiver<Ask>, stop: CancellationToken) {
        let mut again = false;
        loop {
            let loaded = tokio::select! {
                () = stop.cancelled() => return,
                loaded = watch.next() => Some(loaded),
                Some(ask) = asked.recv() => {
                    self.carry_out(ask).await;
                    continue;
                }
                () = tokio::time::sleep(RETRY_DELAY), if again => watch.load(),
            };
            let Some(loaded) = loaded else { continue };
            tokio::select! {
                () = stop.cancelled() => return,
                done = self.reload(loaded) => again = !done,
            }
        }
    }

    /// Puts a configuration into effect, as far as that goes without a restart. A broken one changes nothing. False when it
    /// is to be tried again.
    async fn reload(&mut self, loaded: Result<Config, config::Error>) -> bool {
        let new = match loaded {
            Ok(new) => new,
            Err(error) => return refuse(&error),
        };
        let old = self.config.load_full();
        for section in config::restart_needed(&old, &new) {
            warn!(
                section,
                "this section has changed and is read only at start, restart the daemon to put it into effect"
            );
        }
        let (compiler, secrets, checked) = (self.host.clone(), self.secrets.clone(), new.clone());
        let prepared = tokio::task::spawn_blocking(move || parts::prepare(&compiler, &secrets, &checked)).await;
        let prepared = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return refuse(&error),
            Err(panic) => {
                error!(%panic, "the configuration was not reloaded");
                return true;
            }
        };
        // What the API's webhooks take from the file's defaults changes with them.
        let new = Arc::new(new);
        self.config.store(Arc::clone(&new));
        if let Err(error) = self.put_into_effect(prepared, &old).await {
            self.config.store(old);
            if !error.is_passing() {
                error!(error = %chain(&error), "the changed configuration is refused, the running one stays");
                return true;
            }
            warn!(error = %chain(&error), "the configuration was not reloaded, trying again");
            return false;
        }
        info!(subscriptions = new.subscriptions.len(), "configuration reloaded");
        true
    }

    async fn put_into_effect(&mut self, prepared: parts::Prepared, old: &Config) -> Result<(), subscriptions::Error> {
        let registry = self.registry.clone();
        let of_api = tokio::task::spawn_blocking(move || registry.prepare_all()).await;
        let gone = old.subscriptions.iter().map(|subscription| &subscription.id);
        let gone = gone.filter(|id| !prepared.webhooks.iter().any(|(other, _)| other == *id)).cloned().collect();
        let mut specs = prepared.webhooks;
        specs.extend(of_api.unwrap_or_else(|_| Ok(Kept::default()))?.specs);
        self.update(specs, gone).await?;
        self.hub.update(prepared.named);
        Ok(())
    }

    /// Brings the running set up to date, when the dead letters of all that are new can be published as the daemon's start
    /// wants it.
    async fn update(
        &mut self,
        specs: Vec<(SubscriptionId, Spec)>,
        gone: Vec<SubscriptionId>,
    ) -> Result<(), subscriptions::Error> {
        let config = self.config.load_full();
        dead_letters::check(&config, &self.nats, &specs).await?;
        self.subscriptions.update(specs, gone).await
    }

    /// Carries out a change of the webhooks that are made over the API.
    async fn carry_out(&mut self, ask: Ask) {
        let result = self.update(ask.specs, ask.gone).await;
        // Whoever asked may have gone: the change is in effect all the same.
        let _ = ask.done.send(result);
    }
}

fn refuse(error: &config::Error) -> bool {
    for problem in &error.problems {
        error!(%problem, "the changed configuration is refused, the running one stays");
    }
    true
}

//! Puts a configuration that was read again into effect, beside everything else that runs.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::manager::Manager;
use super::plugins::Catalogue;
use super::registry::{Ask, Registry, of_file};
use super::reload::Watch;
use super::{dead_letters, plugins};
use crate::config::{self, Config};
use crate::deliver::Secrets;
use crate::domain::SubscriptionId;
use crate::ingest::Nats;
use crate::pipeline::Spec;
use crate::pipeline::subscriptions::{self, Subscriptions};
use crate::store::{AuditChange, AuditRecord, Store};
use crate::stream::Hub;
use crate::telemetry::{chain, clock};

/// How long to wait before a change that could not be put into effect is tried again: NATS may be away.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Who the audit log says that made a change of the configuration file, and from where.
const FILE: &str = "file";
/// The code of a configuration that is not taken.
const REFUSED: &str = "configuration_refused";

/// What a reload changes.
pub(super) struct Reloading {
    pub(super) config: Arc<ArcSwap<Config>>,
    /// The plugins.
    pub(super) catalogue: Catalogue,
    pub(super) secrets: Secrets,
    pub(super) hub: Hub,
    pub(super) subscriptions: Subscriptions,
    pub(super) nats: Nats,
    /// The webhooks that are made over the API.
    pub(super) registry: Registry,
    /// The path of the configuration file.
    pub(super) file: String,
    /// Where each reload goes on record.
    pub(super) audit: Store,
    /// Who is told of each reload.
    pub(super) manager: Manager,
}

impl Reloading {
    /// Reloads when there is a reason to, and carries out what is asked over the API, until `stop`.
    pub(super) async fn run(mut self, mut watch: Watch, mut asked: mpsc::Receiver<Ask>, stop: CancellationToken) {
        let mut again = false;
        loop {
            let (loaded, is_news) = tokio::select! {
                () = stop.cancelled() => return,
                loaded = watch.next() => (loaded, true),
                Some(ask) = asked.recv() => {
                    self.carry_out(ask).await;
                    continue;
                }
                () = tokio::time::sleep(RETRY_DELAY), if again => match watch.load() {
                    Some(loaded) => (loaded, false),
                    None => continue,
                },
            };
            if is_news {
                self.manager.reloading();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                done = self.reload(loaded) => again = !done,
            }
            if is_news {
                self.manager.reloaded();
            }
        }
    }

    /// Puts a configuration into effect, as far as that goes without a restart. A broken one changes nothing. False when it
    /// is to be tried again.
    async fn reload(&mut self, loaded: Result<Config, config::Error>) -> bool {
        let new = match loaded {
            Ok(new) => new,
            Err(error) => return self.refuse(&error).await,
        };
        let old = self.config.load_full();
        for section in config::restart_needed(&old, &new) {
            warn!(
                section,
                "this section has changed and is read only at start, restart the daemon to put it into effect"
            );
        }
        let (catalogue, registry) = (self.catalogue.clone(), self.registry.clone());
        let (secrets, checked) = (self.secrets.clone(), new.clone());
        let prepare = move || catalogue.prepare(&registry, &secrets, &checked);
        let prepared = match tokio::task::spawn_blocking(prepare).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(plugins::Error::Config(error))) => return self.refuse(&error).await,
            Ok(Err(plugins::Error::Store(error))) => {
                warn!(error = %chain(&error), "the configuration was not reloaded, trying again");
                return false;
            }
            Err(panic) => {
                error!(%panic, "the configuration was not reloaded");
                return true;
            }
        };
        // What the API's webhooks take from the file's defaults changes with them.
        let new = Arc::new(new.settled());
        self.config.store(Arc::clone(&new));
        if let Err(error) = self.put_into_effect(prepared, &old).await {
            self.config.store(Arc::clone(&old));
            if !error.is_passing() {
                error!(error = %chain(&error), "the changed configuration is refused, the running one stays");
                self.note(Some(REFUSED), Vec::new()).await;
                return true;
            }
            warn!(error = %chain(&error), "the configuration was not reloaded, trying again");
            return false;
        }
        self.registry.owners.replace_of_file(of_file(&new));
        self.registry.event_types.replace_of_file(&new.event_types);
        info!(subscriptions = new.subscriptions.len(), "configuration reloaded");
        self.note(None, config::changed(&old, &new)).await;
        true
    }

    /// Tells why a configuration changes nothing. It is not to be tried again.
    async fn refuse(&self, error: &config::Error) -> bool {
        for problem in &error.problems {
            error!(%problem, "the changed configuration is refused, the running one stays");
        }
        self.note(Some(REFUSED), Vec::new()).await;
        true
    }

    /// Puts into the audit log that the configuration was read again.
    async fn note(&self, refused: Option<&str>, changed: Vec<String>) {
        let change = |field: String| AuditChange { field: field.into(), before: None, after: None };
        let record = AuditRecord {
            at_ms: clock::now_ms(),
            principal: FILE.into(),
            owner: None,
            action: "configuration.reload".into(),
            target: self.file.as_str().into(),
            // As the API would answer it.
            status: if refused.is_some() { 400 } else { 200 },
            from: FILE.into(),
            code: refused.map(Into::into),
            changes: changed.into_iter().map(change).collect(),
        };
        let audit = self.audit.clone();
        match tokio::task::spawn_blocking(move || audit.add_audit(&record)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(error = %chain(&error), "a reload is not in the audit log"),
            Err(error) => error!(%error, "a reload is not in the audit log"),
        }
    }

    async fn put_into_effect(&mut self, prepared: plugins::Prepared, old: &Config) -> Result<(), subscriptions::Error> {
        let plugins::Prepared { of_file, of_api, arrivals } = prepared;
        let gone = old.subscriptions.iter().map(|subscription| &subscription.id);
        let gone = gone.filter(|id| !of_file.webhooks.iter().any(|(other, _)| other == *id)).cloned().collect();
        let mut specs = of_file.webhooks;
        specs.extend(of_api.specs);
        self.update(specs, gone).await?;
        self.hub.update(of_file.named);
        let catalogue = self.catalogue.clone();
        // A panic was told of.
        drop(tokio::task::spawn_blocking(move || catalogue.adopt_all(&arrivals)).await);
        Ok(())
    }

    /// Brings the running set up to date, when the dead letters of all that are new can be published as the daemon's start
    /// wants it.
    pub(super) async fn update(
        &mut self,
        specs: Vec<(SubscriptionId, Spec)>,
        gone: Vec<SubscriptionId>,
    ) -> Result<(), subscriptions::Error> {
        let config = self.config.load_full();
        dead_letters::check(&config, &self.nats, &specs).await?;
        self.subscriptions.update(specs, gone).await
    }

    /// Carries out what was asked for over the API.
    async fn carry_out(&mut self, ask: Ask) {
        // Whoever asked may have gone: the change is in effect all the same.
        match ask {
            Ask::Webhooks { specs, gone, done } => drop(done.send(self.update(specs, gone).await)),
            Ask::Plugin { change, done } => drop(done.send(self.change_plugin(change).await)),
        }
    }
}

//! Plugins as the API changes them, and what is done with a version until it has its place.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{Arrival, Catalogue, Change, unavailable};
use crate::api::plugins::{Listed, Place, Plugins, Refused, Rehearsal, Role, Stage, Version};
use crate::api::trace::Subscriptions;
use crate::app::Running;
use crate::app::registry::{Ask, Stopping};
use crate::domain::{OnPluginError, PluginLimits, PluginRef, SubscriptionId};
use crate::plugin::{Chain, Error, Plugin, Wasm};
use crate::store::PluginOrigin;
use crate::telemetry;

/// The plugins, for the API and for the plugin directory. Cloning shares them.
#[derive(Clone)]
pub(in crate::app) struct Serve {
    pub(in crate::app) catalogue: Catalogue,
    /// Held during a change of webhooks or plugins: a webhook that is prepared runs with the plugins of that moment.
    pub(in crate::app) changing: Arc<Mutex<()>>,
    pub(in crate::app) asks: mpsc::Sender<Ask>,
    pub(in crate::app) running: Arc<Running>,
    /// Held while one is compiled: what takes all of a core, and hundreds of megabytes for a large one.
    pub(in crate::app) compiling: Arc<Mutex<()>>,
    /// Changes under way, whose askers may have gone.
    pub(in crate::app) jobs: TaskTracker,
}

/// Where a version comes from.
pub(super) enum Source {
    Sent(Wasm, PluginOrigin),
    Kept(Box<str>),
}

impl Serve {
    /// Brings a version into its place.
    pub(super) async fn bring(&self, name: &str, source: Source, place: Place) -> Result<(), Refused> {
        let (digest, origin): (Box<str>, _) = match &source {
            Source::Sent(wasm, origin) => (wasm.digest().into(), *origin),
            Source::Kept(digest) => (digest.clone(), PluginOrigin::Upload),
        };
        self.catalogue.begin(name, &digest, origin)?;
        let brought = self.compile_and_place(name, source, place, (&digest, origin)).await;
        match &brought {
            Err(Refused::Broken(error)) => self.catalogue.refuse(name, &digest, origin, &telemetry::chain(error)),
            Err(Refused::Unfit(unfit)) => self.catalogue.refuse(name, &digest, origin, &super::told(unfit)),
            Ok(()) | Err(_) => self.catalogue.note(name, &digest, origin, None),
        }
        self.catalogue.forget_empty(name);
        brought
    }

    async fn compile_and_place(
        &self,
        name: &str,
        source: Source,
        place: Place,
        (digest, origin): (&str, PluginOrigin),
    ) -> Result<(), Refused> {
        let (catalogue, of) = (self.catalogue.clone(), Box::<str>::from(name));
        let arrival = on_a_thread(move || match source {
            Source::Sent(wasm, origin) => {
                let plugin = catalogue.host.compile(&of, &wasm).map_err(Refused::Broken)?;
                Ok(Arrival { plugin, wasm: Some(Arc::new(wasm)), origin })
            }
            Source::Kept(digest) => {
                let plugin = catalogue.kept(&of, &digest)?;
                Ok(Arrival { plugin, wasm: None, origin: PluginOrigin::Upload })
            }
        });
        let arrival = {
            let _compiling = self.compiling.lock().await;
            arrival.await?
        };
        self.catalogue.note(name, digest, origin, Some(Stage::Checking));
        self.ask(match place {
            Place::Current => Change::Run(arrival),
            Place::Shadow => Change::Shadow(arrival),
        })
        .await
    }

    pub(super) async fn ask(&self, change: Change) -> Result<(), Refused> {
        let _changing = self.changing.lock().await;
        let (done, answer) = oneshot::channel();
        self.asks.send(Ask::Plugin { change, done }).await.map_err(|_| unavailable(Stopping))?;
        answer.await.map_err(|_| unavailable(Stopping))?
    }

    /// Has versions run in shadow mode again that did when the daemon before this one ended.
    pub(super) async fn resume_shadows(&self) {
        for listed in self.catalogue.listed() {
            let Some(digest) = listed.record.and_then(|record| record.shadow) else { continue };
            if let Err(refused) = self.bring(&listed.name, Source::Kept(digest), Place::Shadow).await {
                warn!(plugin = %listed.name, reason = ?refused, "shadow mode does not go on");
            }
        }
    }

    /// Who uses each plugin, and where it is set aside.
    fn used_by(&self, plugin: &str) -> Vec<(SubscriptionId, Option<u32>)> {
        let mut users = Vec::new();
        let mut look = |id: &SubscriptionId, chain: &Chain| {
            if chain.plugins().any(|(_, name, _)| name == plugin) {
                let quarantined = chain.quarantined().find(|(name, _)| *name == plugin);
                users.push((id.clone(), quarantined.map(|(_, faults)| faults)));
            }
        };
        self.running.subscribed().iter().for_each(|subscribed| look(subscribed.lane.id(), &subscribed.chain));
        for named in self.running.named() {
            if let Some(chain) = named.process.chain() {
                look(&named.subscription.id, chain);
            }
        }
        users.sort();
        users
    }

    fn with_users(&self, listed: Listed) -> Listed {
        Listed { used_by: self.used_by(&listed.name), ..listed }
    }

    /// Goes on when the asker has gone.
    fn job<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Refused>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Refused>> {
        let job = self.jobs.spawn(work);
        async move { job.await.map_err(unavailable)? }.boxed()
    }
}

impl Plugins for Serve {
    fn all(&self) -> Vec<Listed> {
        self.catalogue.listed().into_iter().map(|listed| self.with_users(listed)).collect()
    }

    fn one(&self, name: &str) -> Option<Listed> {
        let entry = self.catalogue.entry(name);
        if entry.is_none() && !self.catalogue.host.has_file(name) {
            return None;
        }
        Some(self.with_users(self.catalogue.shown(name.into(), entry.unwrap_or_default())))
    }

    fn look_at(&self, name: &str) -> BoxFuture<'static, Result<(), Refused>> {
        let (serve, name) = (self.clone(), Box::<str>::from(name));
        self.job(async move {
            let entry = serve.catalogue.entry(&name).unwrap_or_default();
            let (catalogue, of) = (serve.catalogue.clone(), name.clone());
            let wasm = on_a_thread(move || catalogue.host.read(&of).map_err(Refused::Broken)).await?;
            let refused = entry.candidate.is_some_and(|candidate| *candidate.digest == *wasm.digest());
            if refused || entry.record.is_some() || entry.running.is_some() {
                return Ok(());
            }
            serve.bring(&name, Source::Sent(wasm, PluginOrigin::File), Place::Current).await
        })
    }

    fn place(&self, name: &str, version: Version, place: Place) -> BoxFuture<'static, Result<(), Refused>> {
        let (serve, name) = (self.clone(), Box::<str>::from(name));
        self.job(async move {
            let record = serve.catalogue.entry(&name).and_then(|entry| entry.record);
            let source = match (version, record) {
                (Version::Sent(bytes), record) => {
                    let wasm = Wasm::new(bytes.into());
                    let runs = record.is_some_and(|record| *record.current == *wasm.digest());
                    if runs && place == Place::Current {
                        return Ok(());
                    }
                    Source::Sent(wasm, PluginOrigin::Upload)
                }
                (_, None) => return Err(Refused::Unknown),
                (Version::Kept(digest), _) => Source::Kept(digest),
                (Version::Previous, Some(record)) => {
                    Source::Kept(record.previous().ok_or(Refused::NoVersion)?.digest.clone())
                }
                (Version::Shadow, Some(record)) => Source::Kept(record.shadow.ok_or(Refused::NoVersion)?),
            };
            serve.bring(&name, source, place).await
        })
    }

    fn end_shadow(&self, name: &str) -> BoxFuture<'static, Result<(), Refused>> {
        let (serve, name) = (self.clone(), Box::<str>::from(name));
        self.job(async move { serve.ask(Change::EndShadow(name)).await })
    }

    fn remove(&self, name: &str) -> BoxFuture<'static, Result<(), Refused>> {
        let (serve, name) = (self.clone(), Box::<str>::from(name));
        self.job(async move { serve.ask(Change::Remove(name)).await })
    }

    fn rehearse(&self, wanted: Rehearsal) -> BoxFuture<'static, Result<(Arc<Plugin>, Chain), Refused>> {
        let catalogue = self.catalogue.clone();
        on_a_thread(move || catalogue.rehearse(&wanted)).boxed()
    }
}

impl Catalogue {
    /// Says that a version is on its way.
    ///
    /// # Errors
    /// When another one is.
    fn begin(&self, name: &str, digest: &str, origin: PluginOrigin) -> Result<(), Refused> {
        let candidate = self.entry(name).and_then(|entry| entry.candidate);
        if candidate.is_some_and(|candidate| !matches!(candidate.stage, Stage::Refused(_))) {
            return Err(Refused::Busy);
        }
        self.note(name, digest, origin, Some(Stage::Compiling));
        Ok(())
    }

    /// A name of which nothing is known is none.
    fn forget_empty(&self, name: &str) {
        let mut entries = self.entries.lock();
        let is_empty =
            |entry: &super::Entry| entry.running.is_none() && entry.record.is_none() && entry.candidate.is_none();
        if entries.get(name).is_some_and(is_empty) {
            entries.remove(name);
        }
    }

    fn rehearse(&self, wanted: &Rehearsal) -> Result<(Arc<Plugin>, Chain), Refused> {
        let current = self.entry(&wanted.name).and_then(|entry| entry.record).map(|record| record.current);
        let plugin = match wanted.digest.as_ref().or(current.as_ref()) {
            Some(digest) => self.kept(&wanted.name, digest)?,
            None => self.host.load(&wanted.name).map_err(|error| match error {
                Error::Unknown { .. } | Error::Name { .. } => Refused::Unknown,
                error => Refused::Broken(error),
            })?,
        };
        let limits = PluginLimits::default();
        let used = [PluginRef { plugin: wanted.name.clone(), config: wanted.config.clone(), limits }];
        let role = wanted.role.unwrap_or(if plugin.is_transform() { Role::Transform } else { Role::Filter });
        let (filters, transforms) = match role {
            Role::Filter => (&used[..], &[][..]),
            Role::Transform => (&[][..], &used[..]),
        };
        let id = SubscriptionId::parse("dry-run").expect("it is a subscription's id");
        let host = self.host.with(vec![Arc::clone(&plugin)]).heard_by(wanted.heard.clone());
        let chain = host.chain(&id, filters, transforms, OnPluginError::DeadLetter).map_err(Refused::Broken)?;
        Ok((plugin, chain))
    }
}

/// Works on a thread of its own and not of the pool, which a stop waits for: what a stop cuts short is begun again.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let (done, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name("plugin-work".into()).spawn(move || drop(done.send(work())));
    thread.map_err(unavailable)?;
    answer.await.map_err(unavailable)?
}

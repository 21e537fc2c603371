//! The plugins of the daemon: which version of each runs, and how another one takes its place.
//!
//! A plugin's first version is what its file in the plugin directory holds, or an upload. From then on the version that runs
//! is the one on record: a file that changes, an upload and a return to an older version are all *candidates*. A candidate is
//! compiled away from everything else, then configured for every subscription that uses the plugin; only when none of them is
//! worse off than before does it take its place, durable first and then in all of them at once. Events under way end on the
//! version that they began with.
//!
//! - [`change`]: what the daemon's loop does, one change at a time.
//! - [`directory`]: changed files become candidates.
//! - [`serve`]: the same for the API.

mod change;
mod directory;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, info, warn};

pub(super) use self::change::Change;
use self::directory::Found;
pub(super) use self::directory::watch;
pub(super) use self::serve::Serve;

use super::parts;
use super::registry::{Defined, Kept, Registry};
use crate::api::plugins::{Candidate, Listed, Refused, Stage, Unfit, described};
use crate::config::{self, Config};
use crate::deliver::Secrets;
use crate::domain::{Subscription, SubscriptionId};
use crate::plugin::{Chain, Host, Plugin, Wasm};
use crate::store::{self, PluginOrigin, PluginRecord, PluginVersion, Store};
use crate::telemetry::{self, clock};

/// The plugins. Cloning shares them.
#[derive(Clone)]
pub(super) struct Catalogue {
    host: Host,
    store: Store,
    entries: Arc<Mutex<BTreeMap<Box<str>, Entry>>>,
    /// Told when a plugin runs that is not on record yet.
    unrecorded: Arc<Notify>,
}

/// What is known of a plugin.
#[derive(Clone, Default)]
struct Entry {
    /// The version that runs, when somebody uses it.
    running: Option<Arc<Plugin>>,
    /// What the store has of it.
    record: Option<PluginRecord>,
    /// The version that is to take its place, or was refused.
    candidate: Option<Candidate>,
}

/// A version that may take a plugin's place.
#[derive(Clone)]
pub(super) struct Arrival {
    plugin: Arc<Plugin>,
    /// What it was made of; `None` when the store has it.
    wasm: Option<Arc<Wasm>>,
    origin: PluginOrigin,
}

/// All subscriptions, ready to run, and the plugins that changed with them.
pub(super) struct Prepared {
    pub(super) of_file: parts::Prepared,
    pub(super) of_api: Kept,
    /// To be [adopted](Catalogue::adopt_all) when the subscriptions are in effect.
    pub(super) arrivals: Vec<Arrival>,
}

/// Why subscriptions cannot be made ready to run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Does that subscription use the plugin?
fn uses(subscription: &Subscription, plugin: &str) -> bool {
    subscription.filters.iter().chain(&subscription.transforms).any(|used| *used.plugin == *plugin)
}

/// The plugins that those subscriptions use.
fn names(all: &[&Subscription]) -> BTreeSet<Box<str>> {
    all.iter().flat_map(|s| s.filters.iter().chain(&s.transforms)).map(|used| used.plugin.clone()).collect()
}

/// The subscriptions of the configuration, and those that were made over the API and fit it.
fn all_subscriptions<'a>(config: &'a Config, of_api: &'a [Defined]) -> Vec<&'a Subscription> {
    config.subscriptions.iter().chain(of_api.iter().filter_map(|(_, defined)| defined.as_ref().ok())).collect()
}

impl Catalogue {
    /// What the store knows of plugins. None is loaded yet.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn open(host: Host, store: Store) -> Result<Self, store::Error> {
        let entry = |(name, record)| (name, Entry { record: Some(record), ..Entry::default() });
        let entries = store.plugins()?.into_iter().map(entry).collect();
        Ok(Self { host, store, entries: Arc::new(Mutex::new(entries)), unrecorded: Arc::default() })
    }

    /// Makes all subscriptions ready to run, with what the files of their plugins hold now. A plugin whose new file does not
    /// do stays as it was. Blocks: it may compile plugins.
    ///
    /// # Errors
    /// With the place in the configuration of every plugin that cannot be used as it says.
    pub(super) fn prepare(&self, registry: &Registry, secrets: &Secrets, config: &Config) -> Result<Prepared, Error> {
        let of_api = registry.defined(config)?;
        let all = all_subscriptions(config, &of_api);
        let names = names(&all);
        self.load(&names);
        let mut arrivals = self.changed(&names);
        arrivals.retain(|arrival| match self.vet(&arrival.plugin, &all) {
            Ok(_) => true,
            Err(unfit) => {
                self.refuse(arrival.plugin.name(), arrival.plugin.digest(), arrival.origin, &told(&unfit));
                false
            }
        });
        let host = self.host.with(arrivals.iter().map(|arrival| Arc::clone(&arrival.plugin)).collect());
        let of_file = parts::prepare(&host, secrets, config)?;
        let of_api = registry.prepare(&host, of_api);
        self.settle(&names);
        Ok(Prepared { of_file, of_api, arrivals })
    }

    /// The host, when the plugins of a subscription are those that run. Blocks: it may load them.
    pub(super) fn host_for(&self, subscription: &Subscription) -> &Host {
        let names = names(&[subscription]);
        self.load(&names);
        self.settle(&names);
        &self.host
    }

    /// First versions run from now on, also when their files change before they are on record.
    fn settle(&self, names: &BTreeSet<Box<str>>) {
        for name in names {
            if self.entry(name).is_some_and(|entry| entry.running.is_some()) {
                continue;
            }
            if let Ok(plugin) = self.host.load(name) {
                self.host.fix(Arc::clone(&plugin));
                self.entries.lock().entry(name.clone()).or_default().running = Some(plugin);
                self.unrecorded.notify_one();
            }
        }
    }

    /// Loads the versions on record of plugins that are not loaded. One that cannot be loaded any more gives way to its file.
    fn load(&self, names: &BTreeSet<Box<str>>) {
        for name in names {
            let current = match self.entries.lock().get(name) {
                Some(Entry { running: None, record: Some(record), .. }) => record.current.clone(),
                _ => continue,
            };
            match self.kept(name, &current) {
                Ok(plugin) => {
                    self.host.fix(Arc::clone(&plugin));
                    self.entries.lock().entry(name.clone()).or_default().running = Some(plugin);
                }
                Err(Refused::Broken(error)) => {
                    let error = telemetry::chain(&error);
                    error!(plugin = %name, digest = %current, error, "the version on record cannot run, taking the file");
                }
                Err(refused) => error!(plugin = %name, digest = %current, reason = ?refused, "cannot read a plugin"),
            }
        }
    }

    /// What the files of plugins hold, where that is not what was last taken from them.
    fn changed(&self, names: &BTreeSet<Box<str>>) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for name in names {
            // A file that is gone changes nothing: the store has what runs.
            let Found::New(wasm) = self.find(name, true) else { continue };
            match self.host.compile(name, &wasm) {
                Ok(plugin) => {
                    arrivals.push(Arrival { plugin, wasm: Some(Arc::new(wasm)), origin: PluginOrigin::File });
                }
                Err(error) => self.refuse(name, wasm.digest(), PluginOrigin::File, &telemetry::chain(&error)),
            }
        }
        arrivals
    }

    /// Configures a candidate for every subscription that uses the plugin. The chains are those with the candidate in them;
    /// what could not run before and cannot now is left out.
    ///
    /// # Errors
    /// With the subscriptions that would be worse off.
    fn vet<'a>(
        &self,
        candidate: &Arc<Plugin>,
        all: &[&'a Subscription],
    ) -> Result<Vec<(&'a Subscription, Chain)>, Unfit> {
        let host = self.host.with(vec![Arc::clone(candidate)]);
        let chain = |host: &Host, s: &Subscription| host.chain(&s.id, &s.filters, &s.transforms, s.on_plugin_error);
        let (mut chains, mut unfit) = (Vec::new(), Vec::new());
        for subscription in all.iter().copied().filter(|subscription| uses(subscription, candidate.name())) {
            match chain(&host, subscription) {
                Ok(made) => chains.push((subscription, made)),
                Err(error) if chain(&self.host, subscription).is_ok() => {
                    unfit.push((subscription.id.clone(), telemetry::chain(&error).into()));
                }
                Err(_) => {}
            }
        }
        if unfit.is_empty() { Ok(chains) } else { Err(unfit) }
    }

    /// [Adopts](Self::adopt) all of them. Blocks.
    pub(super) fn adopt_all(&self, arrivals: &[Arrival]) {
        for arrival in arrivals {
            if let Err(error) = self.adopt(arrival, true) {
                let error = telemetry::chain(&error);
                warn!(plugin = arrival.plugin.name(), error, "a plugin's new version is not on record yet");
            }
        }
    }

    /// Makes a version the one that runs: on record, then for all who load it from now on. One that nobody uses takes no
    /// memory. Blocks.
    ///
    /// # Errors
    /// When the store does not take it: then nothing has changed.
    fn adopt(&self, arrival: &Arrival, is_used: bool) -> Result<(), store::Error> {
        let Arrival { plugin, wasm, origin } = arrival;
        let name = plugin.name();
        let mut record = self.entry(name).and_then(|entry| entry.record).unwrap_or_else(|| PluginRecord {
            current: plugin.digest().into(),
            file: None,
            shadow: None,
            versions: Vec::new(),
        });
        record.add(version(plugin, *origin));
        record.run(plugin.digest(), clock::now_ms());
        if *origin == PluginOrigin::File {
            record.file = Some(plugin.digest().into());
        } else if record.file.is_none() {
            // What lay there before the upload is no new version after it.
            record.file = self.host.digest(name).ok();
        }
        if record.shadow.take_if(|shadow| **shadow == *plugin.digest()).is_some() {
            self.host.end_trial(name);
        }
        self.store.put_plugin(name, &record, wasm.as_ref().map(|wasm| wasm.bytes()))?;
        match is_used {
            true => self.host.fix(Arc::clone(plugin)),
            false => self.host.loosen(name),
        }
        let mut entries = self.entries.lock();
        let entry = entries.entry(name.into()).or_default();
        entry.record = Some(record);
        entry.running = is_used.then(|| Arc::clone(plugin));
        entry.candidate.take_if(|candidate| *candidate.digest == *plugin.digest());
        info!(plugin = name, version = %plugin.description().version, digest = plugin.digest(), "plugin in place");
        Ok(())
    }

    /// Puts the version that runs on record, of which `wasm` is what it was made of. Blocks.
    ///
    /// # Errors
    /// When the store does not take it.
    fn record(&self, name: &str, wasm: Wasm) -> Result<(), store::Error> {
        let running = self.entry(name).and_then(|entry| entry.running);
        let Some(plugin) = running.filter(|plugin| plugin.digest() == wasm.digest()) else { return Ok(()) };
        self.adopt(&Arrival { plugin, wasm: Some(Arc::new(wasm)), origin: PluginOrigin::File }, true)
    }

    /// A version that is kept, compiled. Blocks.
    ///
    /// # Errors
    /// When it is not kept, or cannot be run any more.
    fn kept(&self, name: &str, digest: &str) -> Result<Arc<Plugin>, Refused> {
        let entry = self.entry(name).or_else(|| self.host.has_file(name).then(Entry::default));
        let entry = entry.ok_or(Refused::Unknown)?;
        if let Some(running) = entry.running.filter(|running| running.digest() == digest) {
            return Ok(running);
        }
        let version = entry.record.as_ref().and_then(|record| record.version(digest)).ok_or(Refused::NoVersion)?;
        if let Some(plugin) = self.host.compiled(name, digest, version.bytes) {
            return plugin.map_err(Refused::Broken);
        }
        let wasm = self.store.plugin_wasm(digest).map_err(unavailable)?;
        self.host.compile(name, &Wasm::new(wasm)).map_err(Refused::Broken)
    }

    /// Says that a version was refused, and why.
    fn refuse(&self, name: &str, digest: &str, origin: PluginOrigin, reason: &str) {
        error!(plugin = name, digest, reason, "a version of a plugin is refused, the one before stays");
        self.note(name, digest, origin, Some(Stage::Refused(reason.into())));
    }

    /// Says how far a version is that is on its way; without a stage it is there.
    fn note(&self, name: &str, digest: &str, origin: PluginOrigin, stage: Option<Stage>) {
        let since_ms = clock::now_ms();
        let candidate = stage.map(|stage| Candidate { digest: digest.into(), origin, since_ms, stage });
        self.entries.lock().entry(name.into()).or_default().candidate = candidate;
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        self.entries.lock().get(name).cloned()
    }

    /// All plugins, without who uses them; also files that nobody has used or asked for.
    fn listed(&self) -> Vec<Listed> {
        let mut all = self.entries.lock().clone();
        for name in self.host.names() {
            all.entry(name.into()).or_default();
        }
        all.into_iter().map(|(name, entry)| self.shown(name, entry)).collect()
    }

    fn shown(&self, name: Box<str>, entry: Entry) -> Listed {
        let Entry { running, record, candidate } = entry;
        let trial = self.host.trial(&name);
        let current = record.as_ref().and_then(|record| record.version(&record.current));
        let about = match (running, current) {
            (Some(running), _) => described(&running),
            (None, Some(version)) => serde_json::from_str(&version.about).unwrap_or_default(),
            (None, None) => serde_json::Map::new(),
        };
        Listed { name, about, record, candidate, trial, used_by: Vec::new() }
    }
}

fn version(plugin: &Plugin, origin: PluginOrigin) -> PluginVersion {
    PluginVersion {
        digest: plugin.digest().into(),
        bytes: plugin.file_bytes(),
        version: plugin.description().version.clone(),
        about: serde_json::Value::Object(described(plugin)).to_string().into(),
        origin,
        added_ms: clock::now_ms(),
        ran_ms: None,
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Refused {
    Refused::Unavailable(error.into())
}

fn told(unfit: &[(SubscriptionId, Box<str>)]) -> String {
    unfit.iter().map(|(id, reason)| format!("{id}: {reason}")).collect::<Vec<_>>().join("; ")
}

//! The host: one engine, the plugins of one directory, and chains made of them.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use super::cache::{self, Cache};
use super::chain::Chain;
use super::contract::{self, Linked};
use super::description::{ConfigCheck, Description};
use super::engine::{self, below};
use super::error::Error;
use super::fault::FaultKind;
use super::instance::Instance;
use super::slots::Slots;
use super::stamp::Stamp;
use super::state::{Heard, LogGate, State};
use super::ticker::Ticker;
use super::trial::{Attached, Trial};
use super::turns::Turns;
use super::usage::{Accepted, Usage};
use super::{Config, Limits, is_name};
use crate::domain::{OnPluginError, PluginRef, SubscriptionId};
use crate::telemetry::chain;

/// The plugins of one directory and the engine that runs them. Cloning it is cheap.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
    /// Plugins that take the place of those of the same name, for who has this handle.
    instead: Vec<Arc<Plugin>>,
    /// Where the plugins' log lines go instead of the log.
    heard: Option<Heard>,
}

/// The bytes of a WebAssembly file, and their digest.
pub struct Wasm {
    bytes: Vec<u8>,
    digest: Box<str>,
}

/// A plugin, compiled and linked, whose description is known.
pub struct Plugin {
    name: Box<str>,
    digest: Box<str>,
    file_bytes: u64,
    description: Description,
    config: ConfigCheck,
    linked: Linked,
}

/// Numbers on the host, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Instances that exist now.
    pub instances: u64,
    /// Plugins compiled since the start.
    pub compiled: u64,
    /// Plugins loaded from the cache since the start.
    pub cache_loaded: u64,
    /// Broken files found in the cache since the start.
    pub cache_discarded: u64,
    /// Log lines of plugins that were dropped since the start.
    pub log_lines_dropped: u64,
}

/// What all plugins and their instances share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    /// What a plugin may cost, where its use has no limits of its own.
    pub(super) limits: Arc<Limits>,
    pub(super) ticker: Ticker,
    pub(super) slots: Slots,
    pub(super) turns: Arc<Turns>,
    pub(super) accepted: Accepted,
    dir: PathBuf,
    linker: Linker<State>,
    cache: Cache,
    log_lines_dropped: Arc<AtomicU64>,
    plugins: Mutex<HashMap<Box<str>, Slot>>,
    /// Candidates in shadow mode, by the name of the plugin whose place they may take.
    trials: Mutex<HashMap<Box<str>, Arc<Trial>>>,
}

/// The place of one plugin, with a lock of its own: one that compiles for long does not keep the others waiting.
type Slot = Arc<Mutex<Option<Loaded>>>;

/// A plugin and the file that it was loaded from.
struct Loaded {
    stamp: Option<Stamp>,
    plugin: Arc<Plugin>,
    /// It stays, whatever its file holds.
    fixed: bool,
}

impl Wasm {
    /// Those bytes, with their SHA-256.
    pub fn new(bytes: Vec<u8>) -> Self {
        let digest = hex::encode(Sha256::digest(&bytes)).into();
        Self { bytes, digest }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their SHA-256, in hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl Host {
    /// A host without any plugin loaded yet. It starts the ticker's thread, which ends with the last handle and the last
    /// chain.
    ///
    /// # Errors
    /// When a limit makes no sense, or the engine or the thread does not start.
    pub fn new(config: Config) -> Result<Self, Error> {
        let Config { dir, cache_dir, limits } = config;
        limits.check()?;
        let engine = engine::engine(&limits)?;
        let linker = engine::linker(&engine)?;
        let ticking = engine.clone();
        let ticker = Ticker::start(move || ticking.increment_epoch()).map_err(Error::Thread)?;
        let shared = Shared {
            ticker,
            slots: Slots::new(limits.instances_max),
            turns: Arc::new(Turns::new()),
            accepted: Accepted::default(),
            cache: Cache::new(cache_dir, &engine),
            engine,
            limits: Arc::new(limits),
            dir,
            linker,
            log_lines_dropped: Arc::default(),
            plugins: Mutex::default(),
            trials: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), instead: Vec::new(), heard: None })
    }

    /// A handle on the same host, for which those plugins take the place of the ones of the same name.
    pub fn with(&self, instead: Vec<Arc<Plugin>>) -> Self {
        Self { instead, ..self.clone() }
    }

    /// A handle on the same host, for which the log lines of the chains that it makes go there, and not to the log.
    pub fn heard_by(&self, heard: Heard) -> Self {
        Self { heard: Some(heard), ..self.clone() }
    }

    /// The plugin directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Is there a file of that name in the directory?
    pub fn has_file(&self, name: &str) -> bool {
        self.path(name).is_ok_and(|path| path.is_file())
    }

    /// The file of that name in the directory.
    ///
    /// # Errors
    /// When the text is no name, or the file cannot be read or is too large.
    pub fn read(&self, name: &str) -> Result<Wasm, Error> {
        let path = self.path(name)?;
        Ok(Wasm::new(read(name, &path, self.shared.limits.file_bytes_max)?))
    }

    /// The SHA-256 of the file of that name in the directory, in hexadecimal digits, without having all of it in memory.
    ///
    /// # Errors
    /// When the text is no name, or the file cannot be read.
    pub fn digest(&self, name: &str) -> Result<Box<str>, Error> {
        let path = self.path(name)?;
        let digest = cache::digest_of(&path).map_err(|source| unreadable(name, &path, source))?;
        Ok(digest.into())
    }

    /// A plugin of that name made of those bytes; [`Host::load`] does not know it. It blocks: it compiles, unless the result
    /// is in the cache.
    ///
    /// # Errors
    /// When it is not a plugin that this host can run.
    pub fn compile(&self, name: &str, wasm: &Wasm) -> Result<Arc<Plugin>, Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.into() });
        }
        let bytes_max = self.shared.limits.file_bytes_max;
        if wasm.bytes.len() as u64 > bytes_max {
            return Err(Error::TooLarge { plugin: name.into(), bytes_max });
        }
        Ok(Arc::new(Plugin::load(&self.shared, name, wasm.digest.clone(), &wasm.bytes)?))
    }

    /// The plugin of that name made of WebAssembly of that digest and size, when it was compiled before: its WebAssembly need
    /// not be read then. Blocks.
    pub fn compiled(&self, name: &str, digest: &str, file_bytes: u64) -> Option<Result<Arc<Plugin>, Error>> {
        let component = self.shared.cache.kept(&self.shared.engine, digest)?;
        Some(Plugin::linked_to(&self.shared, name, digest.into(), file_bytes, &component).map(Arc::new))
    }

    /// Makes that plugin the one of its name, whatever its file holds.
    pub fn fix(&self, plugin: Arc<Plugin>) {
        let slot = Arc::clone(self.shared.plugins.lock().entry(plugin.name.clone()).or_default());
        *slot.lock() = Some(Loaded { stamp: None, plugin, fixed: true });
    }

    /// Undoes [`Host::fix`]: the plugin of that name is again what its file holds.
    pub fn loosen(&self, name: &str) {
        self.shared.plugins.lock().remove(name);
    }

    /// Has a candidate run beside the plugin of its name, on the same events and without effect: in the chains that are made
    /// from now on, and in those that it is [attached](Host::attach) to.
    pub fn begin_trial(&self, candidate: Arc<Plugin>) -> Arc<Trial> {
        let name = candidate.name.clone();
        let trial = Arc::new(Trial::new(candidate));
        if let Some(before) = self.shared.trials.lock().insert(name, Arc::clone(&trial)) {
            before.end();
        }
        trial
    }

    /// Ends the trial of a candidate for that plugin's place.
    pub fn end_trial(&self, name: &str) {
        if let Some(trial) = self.shared.trials.lock().remove(name) {
            trial.end();
        }
    }

    /// The trial of a candidate for that plugin's place.
    pub fn trial(&self, name: &str) -> Option<Arc<Trial>> {
        self.shared.trials.lock().get(name).cloned()
    }

    /// Has a candidate run in a chain that was made before its trial. Where it cannot, the trial says so. Blocks.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn attach(&self, chain: &Chain, trial: &Arc<Trial>) -> Result<(), Error> {
        block_on(async {
            for (role, usage) in chain.uses().filter(|(_, usage)| usage.name() == trial.candidate().name()) {
                self.try_out(trial, role, usage).await;
            }
        })
    }

    async fn try_out(&self, trial: &Arc<Trial>, role: Role, usage: &Usage) {
        let (shared, candidate) = (&self.shared, Arc::clone(trial.candidate()));
        let subscription = usage.subscription();
        let prepared = match role.check(&candidate) {
            Ok(()) => {
                let log = shared.log_gate(&format!("{} (shadow)", candidate.name), subscription.as_str(), None);
                Usage::prepare(shared, candidate, usage.setting(), subscription, log).await
            }
            Err(error) => Err(error),
        };
        match prepared {
            Ok(candidate) => usage.try_out(Attached::new(Arc::clone(trial), role, candidate)),
            Err(error) => trial.unfit(subscription, chain(&error).into()),
        }
    }

    /// The plugin of that name. It blocks: it reads the file, and compiles it unless it is in the cache. A plugin that is
    /// loaded already is returned as it is while its file is the same.
    ///
    /// # Errors
    /// When there is no such plugin, or the file is not a plugin that this host can run.
    pub fn load(&self, name: &str) -> Result<Arc<Plugin>, Error> {
        if let Some(plugin) = self.instead.iter().find(|plugin| *plugin.name == *name) {
            return Ok(Arc::clone(plugin));
        }
        let path = self.path(name)?;
        let slot = Arc::clone(self.shared.plugins.lock().entry(name.into()).or_default());
        let mut slot = slot.lock();
        if let Some(loaded) = slot.as_ref().filter(|loaded| loaded.fixed) {
            return Ok(Arc::clone(&loaded.plugin));
        }
        let stamp = Stamp::of(&path).map_err(|source| unreadable(name, &path, source))?;
        if let Some(loaded) = &*slot
            && stamp.is_some()
            && loaded.stamp == stamp
        {
            return Ok(Arc::clone(&loaded.plugin));
        }
        let wasm = self.read(name)?;
        if let Some(loaded) = &mut *slot
            && loaded.plugin.digest == wasm.digest
        {
            loaded.stamp = stamp;
            return Ok(Arc::clone(&loaded.plugin));
        }
        let plugin = self.compile(name, &wasm)?;
        *slot = Some(Loaded { stamp, plugin: Arc::clone(&plugin), fixed: false });
        Ok(plugin)
    }

    fn path(&self, name: &str) -> Result<PathBuf, Error> {
        match is_name(name) {
            true => Ok(self.shared.dir.join(format!("{name}.wasm"))),
            false => Err(Error::Name { name: name.into() }),
        }
    }

    /// The names of all plugins in the directory, in order, whether they can be loaded or not.
    pub fn names(&self) -> Vec<String> {
        let entries = match fs::read_dir(&self.shared.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(dir = %self.shared.dir.display(), %error, "cannot list the plugin directory");
                return Vec::new();
            }
        };
        let name = |entry: fs::DirEntry| {
            let name = entry.file_name();
            name.to_str()?.strip_suffix(".wasm").filter(|name| is_name(name)).map(str::to_owned)
        };
        let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
        names.sort();
        names
    }

    /// The plugins of one subscription, loaded, with their configurations checked and a first instance of each
    /// configured. It blocks, like [`Host::load`].
    ///
    /// # Errors
    /// When a plugin cannot be loaded, has not the role that it is used in, or refuses its configuration.
    pub fn chain(
        &self,
        subscription: &SubscriptionId,
        filters: &[PluginRef],
        transforms: &[PluginRef],
        on_error: OnPluginError,
    ) -> Result<Chain, Error> {
        let filters = self.loaded(filters, Role::Filter)?;
        let transforms = self.loaded(transforms, Role::Transform)?;
        if filters.is_empty() && transforms.is_empty() {
            return Ok(Chain::new(Vec::new(), Vec::new(), on_error));
        }
        block_on(async {
            let filters = self.prepared(filters, Role::Filter, subscription).await?;
            let transforms = self.prepared(transforms, Role::Transform, subscription).await?;
            Ok(Chain::new(filters, transforms, on_error))
        })?
    }

    /// Numbers on the host.
    pub fn stats(&self) -> Stats {
        let (compiled, cache_loaded, cache_discarded) = self.shared.cache.counts();
        Stats {
            instances: self.shared.slots.in_use() as u64,
            compiled,
            cache_loaded,
            cache_discarded,
            log_lines_dropped: self.shared.log_lines_dropped.load(Ordering::Relaxed),
        }
    }

    fn loaded<'a>(&self, refs: &'a [PluginRef], role: Role) -> Result<Vec<(Arc<Plugin>, &'a PluginRef)>, Error> {
        let load = |used: &'a PluginRef| {
            let plugin = self.load(&used.plugin)?;
            role.check(&plugin)?;
            Ok((plugin, used))
        };
        refs.iter().map(load).collect()
    }

    async fn prepared(
        &self,
        plugins: Vec<(Arc<Plugin>, &PluginRef)>,
        role: Role,
        subscription: &SubscriptionId,
    ) -> Result<Vec<Arc<Usage>>, Error> {
        let mut uses = Vec::with_capacity(plugins.len());
        for (plugin, used) in plugins {
            let log = self.shared.log_gate(plugin.name(), subscription.as_str(), self.heard.clone());
            let usage = Usage::prepare(&self.shared, plugin, used, subscription, log).await?;
            // Who looks at what one event becomes is no part of the trial.
            if let Some(trial) = self.trial(usage.name()).filter(|_| self.heard.is_none()) {
                self.try_out(&trial, role, &usage).await;
            }
            uses.push(usage);
        }
        Ok(uses)
    }
}

impl Plugin {
    /// Its name: that of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SHA-256 of its file, in hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The size of its file, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The version of the contract `sluiced:plugin` that it was made for.
    pub fn contract_version(&self) -> &'static str {
        contract::KNOWN
    }

    /// The world of the contract that it fits.
    pub fn world(&self) -> &'static str {
        match (self.is_filter(), self.is_transform()) {
            (true, true) => "filter-transform-plugin",
            (true, false) => "filter-plugin",
            // What has neither role is not loaded.
            (false, _) => "transform-plugin",
        }
    }

    /// The interfaces that it imports: of the contract and of WASI, nothing else.
    pub fn imports(&self) -> impl Iterator<Item = &str> {
        self.linked.imports.iter().map(|name| &**name)
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Can it be used as a filter?
    pub fn is_filter(&self) -> bool {
        self.linked.filter.is_some()
    }

    /// Can it be used as a transform?
    pub fn is_transform(&self) -> bool {
        self.linked.transform.is_some()
    }

    /// Checks a configuration, a JSON text, against the plugin's schema. The plugin itself is not asked.
    ///
    /// # Errors
    /// When it is not JSON or does not fit.
    pub fn check_config(&self, config: &str) -> Result<(), Error> {
        self.config.check(&self.name, config)
    }

    pub(super) fn linked(&self) -> &Linked {
        &self.linked
    }

    fn load(shared: &Shared, name: &str, digest: Box<str>, wasm: &[u8]) -> Result<Self, Error> {
        // The compiler would say both too, in words for those who know the format.
        if !wasm.starts_with(b"\0asm") {
            return Err(Error::NotWasm { plugin: name.into() });
        }
        if wasm.get(4..8) == Some(b"\x01\0\0\0") {
            return Err(Error::CoreModule { plugin: name.into() });
        }
        let component = shared
            .cache
            .component(&shared.engine, &digest, wasm)
            .map_err(|source| Error::Compile { plugin: name.into(), source: below(source) })?;
        Self::linked_to(shared, name, digest, wasm.len() as u64, &component)
    }

    fn linked_to(
        shared: &Shared,
        name: &str,
        digest: Box<str>,
        file_bytes: u64,
        component: &Component,
    ) -> Result<Self, Error> {
        let linked = contract::link(name, &shared.engine, &shared.linker, component)?;
        let described = block_on(async {
            let permit = shared.slots.acquire(shared.ticker.begun()).await;
            let log = Arc::new(shared.log_gate(name, "", None));
            Instance::new(shared, &linked, &shared.limits, log, permit).await?.describe(shared).await
        })?;
        let description = described.map_err(|kind: FaultKind| Error::Describe(kind.of(name)))?;
        let config = ConfigCheck::new(name, &description.config_schema)?;
        Ok(Self { name: name.into(), digest, file_bytes, description, config, linked })
    }
}

/// What a plugin is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Filter,
    Transform,
}

impl Role {
    fn check(self, plugin: &Plugin) -> Result<(), Error> {
        let plugin_name = || plugin.name.clone();
        match self {
            Self::Filter if !plugin.is_filter() => Err(Error::NotFilter { plugin: plugin_name() }),
            Self::Transform if !plugin.is_transform() => Err(Error::NotTransform { plugin: plugin_name() }),
            Self::Filter | Self::Transform => Ok(()),
        }
    }
}

impl Shared {
    pub(super) fn log_gate(&self, plugin: &str, subscription: &str, heard: Option<Heard>) -> LogGate {
        LogGate::new(plugin, subscription, &self.limits, Arc::clone(&self.log_lines_dropped), heard)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// The file's content, as long as it is not larger than it may be.
fn read(plugin: &str, path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let mut wasm = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(bytes_max.saturating_add(1)).read_to_end(&mut wasm))
        .map_err(|source| unreadable(plugin, path, source))?;
    if wasm.len() as u64 > bytes_max {
        return Err(Error::TooLarge { plugin: plugin.into(), bytes_max });
    }
    Ok(wasm)
}

fn unreadable(plugin: &str, path: &Path, source: io::Error) -> Error {
    let (plugin, path) = (plugin.into(), path.to_owned());
    match source.kind() {
        io::ErrorKind::NotFound => Error::Unknown { plugin, path },
        _ => Error::Read { plugin, path, source },
    }
}

/// Runs a future to its end on a thread of its own: the caller may be inside another runtime, in which a runtime can
/// neither be started nor waited for.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
            Ok(runtime.block_on(future))
        };
        let thread =
            thread::Builder::new().name("plugin-load".into()).spawn_scoped(scope, run).map_err(Error::Thread)?;
        match thread.join() {
            Ok(result) => result.map_err(Error::Thread),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

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
use wasmtime::component::Linker;

use super::cache::Cache;
use super::chain::Chain;
use super::contract::{self, Linked};
use super::description::{ConfigCheck, Description};
use super::engine::{self, below};
use super::error::Error;
use super::fault::FaultKind;
use super::instance::Instance;
use super::slots::Slots;
use super::stamp::Stamp;
use super::state::{LogGate, State};
use super::ticker::Ticker;
use super::turns::Turns;
use super::usage::Usage;
use super::{Config, Limits, is_name};
use crate::domain::{OnPluginError, PluginRef, SubscriptionId};

/// The plugins of one directory and the engine that runs them. Cloning it is cheap.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
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
    dir: PathBuf,
    linker: Linker<State>,
    cache: Cache,
    log_lines_dropped: Arc<AtomicU64>,
    plugins: Mutex<HashMap<Box<str>, Slot>>,
}

/// The place of one plugin, with a lock of its own: one that compiles for long does not keep the others waiting.
type Slot = Arc<Mutex<Option<Loaded>>>;

/// A plugin and the file that it was loaded from.
struct Loaded {
    stamp: Option<Stamp>,
    plugin: Arc<Plugin>,
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
            cache: Cache::new(cache_dir, &engine),
            engine,
            limits: Arc::new(limits),
            dir,
            linker,
            log_lines_dropped: Arc::default(),
            plugins: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The plugin of that name. It blocks: it reads the file, and compiles it unless it is in the cache. A plugin that is
    /// loaded already is returned as it is while its file is the same.
    ///
    /// # Errors
    /// When there is no such plugin, or the file is not a plugin that this host can run.
    pub fn load(&self, name: &str) -> Result<Arc<Plugin>, Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.into() });
        }
        let path = self.shared.dir.join(format!("{name}.wasm"));
        let stamp = Stamp::of(&path).map_err(|source| unreadable(name, &path, source))?;
        let slot = Arc::clone(self.shared.plugins.lock().entry(name.into()).or_default());
        let mut slot = slot.lock();
        if let Some(loaded) = &*slot
            && stamp.is_some()
            && loaded.stamp == stamp
        {
            return Ok(Arc::clone(&loaded.plugin));
        }
        let wasm = read(name, &path, self.shared.limits.file_bytes_max)?;
        let digest = hex::encode(Sha256::digest(&wasm));
        if let Some(loaded) = &mut *slot
            && *loaded.plugin.digest == *digest
        {
            loaded.stamp = stamp;
            return Ok(Arc::clone(&loaded.plugin));
        }
        let plugin = Arc::new(Plugin::load(&self.shared, name, digest.into(), &wasm)?);
        *slot = Some(Loaded { stamp, plugin: Arc::clone(&plugin) });
        Ok(plugin)
    }

    /// The names of all plugins in the directory, in order, whether they can be loaded or not.
    pub fn names(&self) -> Vec<String> {
        let entries = match fs::read_dir(&self.shared.dir) {
            Ok(entries) => entries,
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
        let filters = self.loaded(filters, |plugin| {
            if plugin.is_filter() { Ok(()) } else { Err(Error::NotFilter { plugin: plugin.name.clone() }) }
        })?;
        let transforms = self.loaded(transforms, |plugin| {
            if plugin.is_transform() { Ok(()) } else { Err(Error::NotTransform { plugin: plugin.name.clone() }) }
        })?;
        if filters.is_empty() && transforms.is_empty() {
            return Ok(Chain::new(Vec::new(), Vec::new(), on_error));
        }
        block_on(async {
            let filters = self.prepared(filters, subscription).await?;
            let transforms = self.prepared(transforms, subscription).await?;
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

    fn loaded<'a>(
        &self,
        refs: &'a [PluginRef],
        check: impl Fn(&Plugin) -> Result<(), Error>,
    ) -> Result<Vec<(Arc<Plugin>, &'a PluginRef)>, Error> {
        let load = |used: &'a PluginRef| {
            let plugin = self.load(&used.plugin)?;
            check(&plugin)?;
            Ok((plugin, used))
        };
        refs.iter().map(load).collect()
    }

    async fn prepared(
        &self,
        plugins: Vec<(Arc<Plugin>, &PluginRef)>,
        subscription: &SubscriptionId,
    ) -> Result<Vec<Arc<Usage>>, Error> {
        let mut uses = Vec::with_capacity(plugins.len());
        for (plugin, used) in plugins {
            uses.push(Usage::prepare(&self.shared, plugin, used, subscription).await?);
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
        let linked = contract::link(name, &shared.engine, &shared.linker, &component)?;
        let described = block_on(async {
            let permit = shared.slots.acquire(shared.ticker.begun()).await;
            let log = Arc::new(shared.log_gate(name, ""));
            Instance::new(shared, &linked, &shared.limits, log, permit).await?.describe(shared).await
        })?;
        let description = described.map_err(|kind: FaultKind| Error::Describe(kind.of(name)))?;
        let config = ConfigCheck::new(name, &description.config_schema)?;
        Ok(Self { name: name.into(), digest, file_bytes: wasm.len() as u64, description, config, linked })
    }
}

impl Shared {
    pub(super) fn log_gate(&self, plugin: &str, subscription: &str) -> LogGate {
        LogGate::new(plugin, subscription, &self.limits, Arc::clone(&self.log_lines_dropped))
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

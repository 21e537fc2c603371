//! One plugin on a host of its own, wherever its file lies.

use std::fs::DirBuilder;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use sluiced_sdk::Verdict;
use sluiced_sdk::test::{Fixture, Outcome, Role};

use super::records;
use crate::app;
use crate::cli::check::is_private;
use crate::cli::environment;
use crate::cli::passing::PassingDir;
use crate::config::{self, Overrides};
use crate::domain::{OnPluginError, PluginLimits, PluginRef, SubscriptionId};
use crate::plugin::{Chain, Config, Error, Fault, FaultKind, Host, Limits, NAME_BYTES_MAX, Passed, Plugin};

/// The variable that names the folder for what can be made again: compiled plugins, tool chains.
const CACHE_DIR: &str = "SLUICED_CACHE_DIR";
/// The instances that a lab's host may have: one runs, one is made, one is given up.
const INSTANCES_MAX: u32 = 4;

/// Under which limits a plugin is run.
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// A daemon's configuration: its limits instead of the default ones.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show the plugin's log lines of this level and above: error, warn, info or debug.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: tracing::Level,
}

impl LimitArgs {
    /// The daemon's configuration, where one is named.
    pub(super) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The limits; and starts the log.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub(super) fn limits(&self) -> anyhow::Result<Limits> {
        crate::telemetry::log::init(crate::telemetry::log::Format::Text, self.log);
        let limits = match &self.config {
            Some(file) => app::plugin_limits(&config::load(Some(file), environment(), Overrides::default())?),
            None => Limits::default(),
        };
        // Every case is to show what the plugin does with it, whatever it did before.
        Ok(Limits { instances_max: INSTANCES_MAX, quarantine_faults: 0, ..limits })
    }
}

/// A host whose directory holds one plugin.
pub(super) struct Lab {
    host: Host,
    plugin: Arc<Plugin>,
    _dir: PassingDir,
}

/// What a fixture made of the plugin.
pub(super) enum Prepared {
    /// It took the configuration.
    Ready(Chain),
    /// It refuses the configuration, which may be what the fixture expects.
    Refused {
        /// In these words.
        message: String,
        /// They are the schema's, not the plugin's own.
        by_schema: bool,
    },
}

impl Lab {
    /// Loads the plugin of that file. It may compile for a while the first time.
    ///
    /// # Errors
    /// When there is no such file, or it is not a plugin that a daemon would run.
    pub(super) fn open(file: &Path, limits: Limits) -> anyhow::Result<Self> {
        let whole = file.canonicalize().with_context(|| format!("cannot find {}", file.display()))?;
        if !whole.is_file() {
            bail!("{} is not a file: name the plugin's component, a .wasm file", file.display());
        }
        let (dir, name) = (PassingDir::make("plugin")?, name_of(file));
        symlink(&whole, dir.path().join(format!("{name}.wasm")))?;
        let cache_dir = cache_dir("compiled")?;
        if takes_long(&whole, &cache_dir)? {
            eprintln!("compiling {}, once: a component of this size can take most of a minute", file.display());
        }
        let host = Host::new(Config { dir: dir.path().to_owned(), cache_dir, limits })?;
        let plugin = host.load(&name)?;
        Ok(Self { host, plugin, _dir: dir })
    }

    /// The plugin.
    pub(super) fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// The plugin with a fixture's configuration, in its role.
    ///
    /// # Errors
    /// When the plugin has not that role, or fails while it is configured.
    pub(super) fn prepare(&self, fixture: &Fixture) -> anyhow::Result<Prepared> {
        match self.chain(fixture.role, &fixture.config) {
            Ok(chain) => Ok(Prepared::Ready(chain)),
            Err(Error::Refused { message, .. }) => Ok(Prepared::Refused { message: message.into(), by_schema: false }),
            Err(error @ (Error::Config { .. } | Error::ConfigText { .. })) => {
                Ok(Prepared::Refused { message: error.to_string(), by_schema: true })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The plugin with that configuration, a JSON text, in that role.
    ///
    /// # Errors
    /// As [`Host::chain`].
    pub(super) fn chain(&self, role: Role, config: &str) -> Result<Chain, Error> {
        let (plugin, limits) = (self.plugin.name().into(), PluginLimits::default());
        let used = [PluginRef { plugin, config: config.into(), limits }];
        let (filters, transforms) = match role {
            Role::Filter => (&used[..], &[][..]),
            Role::Transform => (&[][..], &used[..]),
        };
        let id = SubscriptionId::parse("plugin-test").expect("it is a subscription's id");
        self.host.chain(&id, filters, transforms, OnPluginError::DeadLetter)
    }
}

/// What a plugin in that role made of an event, in a fixture's terms.
///
/// # Errors
/// The fault, when the plugin did not end in an orderly way.
pub(super) fn outcome(role: Role, passed: Passed) -> Result<Outcome, Fault> {
    Ok(match (role, passed) {
        (_, Passed::Faulted { fault: Fault { kind: FaultKind::Reported { message }, .. }, .. }) => {
            Outcome::Error(message.into())
        }
        (_, Passed::Faulted { fault, .. }) => return Err(fault),
        (Role::Filter, Passed::Kept(_)) => Outcome::Verdict(Verdict::Keep),
        (Role::Filter, Passed::Dropped { reason, .. }) => Outcome::Verdict(Verdict::Drop(reason)),
        (Role::Transform, Passed::Kept(outputs)) => {
            Outcome::Outputs(outputs.into_iter().map(records::output).collect())
        }
        (Role::Transform, Passed::Dropped { .. }) => Outcome::Outputs(Vec::new()),
    })
}

/// A folder below that of this user for what can be made again, made when it is not there.
///
/// # Errors
/// When none can be found or made, or others may write to it: what lies there is run.
pub(super) fn cache_dir(part: &str) -> anyhow::Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = named(CACHE_DIR)
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("sluiced")))
        .or_else(|| Some(named("HOME")?.join(".cache/sluiced")))
        .with_context(|| format!("no folder to keep compiled plugins in: set {CACHE_DIR}"))?;
    let dir = std::path::absolute(root)?.join(part);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}: set {CACHE_DIR} to another folder", dir.display()))?;
    if !is_private(&dir) {
        bail!("{} must be this user's own, with mode 0700, for what lies there is run: set {CACHE_DIR}", dir.display());
    }
    Ok(dir)
}

/// A plugin name made of a file's: what no name may have becomes `-`.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' { c } else { '-' };
    let name: String = stem.chars().map(plain).collect();
    let name = name.trim_start_matches(['-', '_']);
    let name = &name[..name.len().min(NAME_BYTES_MAX)];
    if name.is_empty() { "plugin".to_owned() } else { name.to_owned() }
}

/// Will it have to be compiled, and take long? Then somebody waits and should know why.
fn takes_long(file: &Path, cache_dir: &Path) -> anyhow::Result<bool> {
    use sha2::Digest as _;
    const LARGE_BYTES: u64 = 4 << 20;

    let open = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut wasm = Vec::new();
    // Not all of a file that the host will refuse for its size.
    open.take(Limits::default().file_bytes_max).read_to_end(&mut wasm)?;
    let digest = hex::encode(sha2::Sha256::digest(&wasm));
    let compiled = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&digest);
    Ok(wasm.len() as u64 > LARGE_BYTES && !std::fs::read_dir(cache_dir)?.flatten().any(compiled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_any_file() {
        for (file, name) in [("a/At Least.wasm", "at-least"), ("_x.y.wasm", "x-y"), ("ä", "plugin"), ("", "plugin")] {
            assert_eq!(name_of(Path::new(file)), name, "{file}");
            assert!(crate::plugin::is_name(name));
        }
    }
}

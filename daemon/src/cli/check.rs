//! `sluiced check`: is this configuration fit to run?

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::run::into_cli_error;
use super::{ConfigArgs, write_out};
use crate::app;
use crate::config::Config;

/// Loads and checks the configuration, the plugins and TLS files that it names included, and says what is in it.
///
/// # Errors
/// With every problem found, or when standard output is closed.
pub fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let uses_plugins = |config: &Config| {
        config
            .subscriptions
            .iter()
            .any(|subscription| !(subscription.filters.is_empty() && subscription.transforms.is_empty()))
    };
    app::check_endpoints(&config).map_err(into_cli_error)?;
    if uses_plugins(&config) {
        check_plugins(&config)?;
    }
    let (streams, subscriptions) = (config.streams.len(), config.subscriptions.len());
    let file = args.config.display();
    write_out(&format!("{file}: ok, streams: {streams}, subscriptions: {subscriptions}\n"))
}

/// Checks the plugins with the daemon's cache of compiled ones, where there is one that is safe to use, or else with one
/// that is gone afterwards: a check needs no data directory, and makes none.
fn check_plugins(config: &Config) -> anyhow::Result<()> {
    let kept = app::plugin_cache_dir(config);
    if is_private(&kept) {
        return app::check_plugins(config, kept).map_err(into_cli_error);
    }
    let passing = PassingDir::make().context("cannot make a temporary directory to compile plugins in")?;
    app::check_plugins(config, passing.0.clone()).map_err(into_cli_error)
}

/// Is it a directory that only this user can write to? What lies in the cache is run as machine code.
fn is_private(dir: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == own && meta.mode() & 0o077 == 0)
}

/// A directory of this user's own, removed when it is dropped.
struct PassingDir(PathBuf);

impl PassingDir {
    /// Makes it under a name that nobody can foresee; one that exists already is an error, never used.
    fn make() -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("sluiced-check-{:032x}", rand::random::<u128>()));
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for PassingDir {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the system's temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

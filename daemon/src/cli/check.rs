//! `sluiced check`: is this configuration fit to run?

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::passing::PassingDir;
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
    let passing = PassingDir::make("check").context("cannot make a temporary directory to compile plugins in")?;
    app::check_plugins(config, passing.path().to_owned()).map_err(into_cli_error)
}

/// Is it a directory that only this user can write to? What lies in the cache is run as machine code.
pub(super) fn is_private(dir: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == own && meta.mode() & 0o077 == 0)
}

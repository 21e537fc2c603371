//! `sluiced backup`, `restore` and `compact`: copies of the store, and its file written anew.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::remote::{Ask, Remote, plain};
use super::{ConfigArgs, write_out};
use crate::app::store_config;
use crate::config::Config;
use crate::store::{Error, Store};

/// How long a running daemon may take: it answers when the whole store is on the disk a second time.
const BACKUP_TIME_MAX: Duration = Duration::from_secs(3_600);

/// Where to, and of which store.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A new directory; with --url the name of one below the running daemon's `store.backup_dir`.
    dir: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask the daemon that runs there, such as http://127.0.0.1:8080, with SLUICED_API_KEY or else the configuration's admin key.
    /// Without it no daemon may be running.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// For https: the certificate authorities (PEM) to trust in the place of the system's.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
}

/// From where, and to which store.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup's directory.
    dir: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Makes a backup.
///
/// # Errors
/// When the store cannot be read, or the backup not be written.
pub fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    if let Some(url) = &args.url {
        let name = args.dir.to_str().context("a backup's name is text")?;
        let ask = Ask::post("/backup").body(json!({ "name": name })).within(BACKUP_TIME_MAX);
        return Remote::at(url, args.ca.as_deref(), &args.config)
            .ask(&ask, |made| told(plain(made["dir"].as_str().unwrap_or(name)), [&made["entries"], &made["bodies"]]));
    }
    let store = match open(&args.config.load()?) {
        Err(error) if matches!(error.downcast_ref(), Some(Error::Locked { .. })) => {
            return Err(error.context("a daemon runs on this store: ask it with --url"));
        }
        opened => opened?,
    };
    let made = store.backup(&args.dir)?;
    write_out(&told(args.dir.display(), [made.entries, made.bodies]))
}

/// What was made, and what is not in it.
fn told(dir: impl Display, [entries, bodies]: [impl Display; 2]) -> String {
    format!("{dir}: {entries} entries, {bodies} bodies; the master key is not in it\n")
}

/// Makes a store of a backup.
///
/// # Errors
/// When there is a store already, or the backup is not whole.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let made = Store::restore(&args.dir, &store_config(&config))?;
    let dir = config.data_dir.display();
    write_out(&format!(
        "{dir}: {} entries and {} bodies are restored; the master key belongs to them, see [secrets]\n",
        made.entries, made.bodies
    ))
}

/// Writes the store's file anew, without the space that is not used.
///
/// # Errors
/// When the store cannot be opened, or the new file not be written.
pub fn compact(args: &ConfigArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let settings = store_config(&config);
    anyhow::ensure!(settings.dir.exists(), "there is no store in {}", config.data_dir.display());
    let done = Store::compact(&settings)?;
    write_out(&format!(
        "{} bytes before, {} bytes after, {} entries\n",
        done.bytes_before, done.bytes_after, done.entries
    ))
}

fn open(config: &Config) -> anyhow::Result<Store> {
    let settings = store_config(config);
    anyhow::ensure!(settings.dir.exists(), "there is no store in {}", config.data_dir.display());
    Ok(Store::open(settings)?)
}

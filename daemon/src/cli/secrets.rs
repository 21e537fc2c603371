//! `sluiced secrets`: the master key that the store's secrets are sealed under.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{ConfigArgs, write_out};
use crate::app::{self, master_key_of, read_master_key, write_master_key};
use crate::store::{Keyring, MasterKey, Rekeyed, Store};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum SecretsCommand {
    /// Make a new master key, for `secrets.master_key` or a file of its own.
    Key,
    /// Seal all secrets in the store anew under another master key, while no daemon runs. Cut short, it is repeated.
    Rekey(RekeyArgs),
    /// Drop all secrets in the store, for when the master key is lost: the daemon makes new ones at its next start.
    Forget(ForgetArgs),
}

/// Which store, and the key that it is to have.
#[derive(Debug, Args)]
pub struct RekeyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The file of the new master key; made when it does not exist.
    #[arg(long, value_name = "FILE")]
    new_master_key_file: PathBuf,
}

/// Which store.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Yes, drop them: receivers then need the new secrets.
    #[arg(long)]
    yes: bool,
}

/// Carries out a command.
///
/// # Errors
/// When the configuration, a key file or the store cannot be used.
pub fn run(command: &SecretsCommand) -> anyhow::Result<()> {
    match command {
        SecretsCommand::Key => write_out(&format!("{}\n", MasterKey::generate().text())),
        SecretsCommand::Rekey(args) => rekey(args),
        SecretsCommand::Forget(args) => forget(args),
    }
}

fn rekey(args: &RekeyArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let old = master_key_of(&config)?.context("there is no master key yet: the daemon makes one on its first run")?;
    let store = open(&config)?;
    let file = &args.new_master_key_file;
    if !file.exists() {
        write_master_key(file, &MasterKey::generate())?;
    }
    let new = read_master_key(file)?;
    anyhow::ensure!(new != old, "{} holds the key that the store is under now", file.display());
    let said = match store.rekey(&Keyring::new(&old), &Keyring::new(&new))? {
        Rekeyed::Records(records) => format!("{records} records are sealed under the new master key"),
        Rekeyed::Before => "the store was under the new master key already".to_owned(),
    };
    let file = file.display();
    write_out(&format!("{said}\nset secrets.master_key_file = \"{file}\" before the daemon starts again\n"))
}

fn forget(args: &ForgetArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    anyhow::ensure!(
        args.yes,
        "this drops the signing secrets of all subscriptions for good; with --yes it is done, and receivers then need the \
         new ones"
    );
    let records = open(&config)?.forget_sealed()?;
    write_out(&format!("{records} records are dropped, the daemon makes new secrets when it starts\n"))
}

/// Opens the store that no daemon works on: its lock says so.
fn open(config: &crate::config::Config) -> anyhow::Result<Store> {
    let settings = app::store_config(config);
    anyhow::ensure!(settings.dir.exists(), "there is no store in {}", config.data_dir.display());
    Ok(Store::open(settings)?)
}

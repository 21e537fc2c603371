//! `sluiced man`: manual pages, one for the program and one for each command.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use super::Cli;

/// Where to.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory, which is made when it is not there: /usr/local/share/man/man1 is where `man` looks.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes `sluiced.1`, `sluiced-run.1` and so on, for everything that `--help` names.
///
/// # Errors
/// When a page cannot be written.
pub fn run(args: &ManArgs) -> anyhow::Result<()> {
    let dir = args.dir.display();
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make the directory {dir}"))?;
    let program = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(program, &args.dir).with_context(|| format!("cannot write manual pages to {dir}"))
}

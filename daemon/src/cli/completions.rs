//! `sluiced completions`: what a shell completes the command line with.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, write_out};

/// Which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh.
    shell: Shell,
}

/// Prints it.
///
/// # Errors
/// When it cannot be written.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sluiced", &mut script);
    write_out(&String::from_utf8(script)?)
}

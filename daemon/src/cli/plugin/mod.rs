//! `sluiced plugin`: the author's side of plugins, one file a subcommand.
//!
//! What runs a plugin here is the daemon's own host with the daemon's limits, so that what passes here passes there.

mod bench;
mod build;
mod diff;
mod dry_run;
mod inspect;
mod lab;
mod new;
mod project;
mod records;
mod table;
mod test;
mod tools;

use clap::Subcommand;

/// What an author does with a plugin.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Make a project that builds and passes its tests as it stands: an example to change.
    New(new::NewArgs),
    /// Build a project's component with its language's tool chain.
    Build(build::BuildArgs),
    /// Run a plugin's event fixtures in the daemon's own engine, under its limits.
    Test(test::TestArgs),
    /// Say what a plugin is: its roles, what it imports, its configuration's schema.
    Inspect(inspect::InspectArgs),
    /// Measure a plugin on its fixtures: microseconds of CPU an event, warm and fresh, and memory.
    Bench(bench::BenchArgs),
}

/// Carries out a subcommand.
///
/// # Errors
/// With what is missing or wrong, and how to put it right.
pub fn run(command: &PluginCommand) -> anyhow::Result<()> {
    match command {
        PluginCommand::New(args) => new::run(args),
        PluginCommand::Build(args) => build::run(args),
        PluginCommand::Test(args) => test::run(args),
        PluginCommand::Inspect(args) => inspect::run(args),
        PluginCommand::Bench(args) => bench::run(args),
    }
}

//! Build, set-up and test commands of the workspace: `cargo xtask COMMAND`.
//!
//! Each command gets the tools that it needs and says so, then runs its steps one after the other and stops at the
//! first that fails.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

mod bench;
mod book;
mod build;
mod check;
mod dev;
mod package;
mod reproduce;
mod sbom;
mod steps;
mod test;
mod tools;
mod workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, set-up and test commands of sluiced", disable_help_subcommand = true)]
enum Command {
    /// See it work: a NATS server, demo subscriptions, a receiver and sample events on this machine
    Dev {
        /// Passed on to `sluiced dev`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything that a change must pass; with FILTERs only the build and the tests whose names contain one of them
    Test {
        /// Parts of test names
        filters: Vec<String>,
    },
    /// The checks without the tests: fmt, clippy, cargo-deny, doc
    Check,
    /// Build the web console, the daemon and the standard plugins
    Build {
        /// Optimised, into `target/release/`
        #[arg(long)]
        release: bool,
    },
    /// Build the Debian package, with the console compiled in: `<target>/debian/sluiced_VERSION_ARCH.deb`
    Package {
        /// `release`, or `dev` for a package that is only tried
        #[arg(long, default_value = "release")]
        profile: package::Profile,
        /// The package's version; by default that of the workspace, with `-1`
        #[arg(long)]
        version: Option<String>,
        /// Where to, a file or a folder
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Build the Debian package of the last commit twice, from nothing, in two places: is it the same?
    Reproduce,
    /// Make the guides a book, for a browser
    Book,
    /// Measure, in release builds, on a real NATS server
    Bench {
        /// Passed on to `sluiced-bench`: a case and its options, or `report`; or `parked`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Dev { args } => dev::run(&args),
        Command::Test { filters } => test::run(&filters),
        Command::Check => check::run(),
        Command::Build { release } => build::run(release),
        Command::Package { profile, version, out } => package::run(profile, version.as_deref(), out.as_deref()),
        Command::Reproduce => reproduce::run(),
        Command::Book => book::run(),
        Command::Bench { args } => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

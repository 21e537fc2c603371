//! `cargo xtask check`: what a change must pass before its tests are worth running.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use crate::steps::{say, step, succeeds_within};
use crate::workspace::{cargo, root};
use crate::{book, tools};

/// Past this the advisory database is taken to be out of reach.
const ADVISORY_FETCH_TIME_MAX: Duration = Duration::from_secs(60);

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    let deny = tools::cargo_deny()?;
    step("fmt", cargo().args(["fmt", "--all", "--check"]))?;
    step("clippy", cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    // Two versions of one crate are a warning of the configuration; here they would drown the rest.
    let quiet = ["check", "--hide-inclusion-graph", "--allow", "duplicate"];
    step("deny", cargo_deny(&deny).args(quiet).args(["licenses", "bans", "sources"]))?;
    advisories(&deny)?;
    // The whole workspace each time: with other packages selected, cargo would choose other features and compile the
    // dependencies again.
    step("doc", cargo().args(["doc", "--no-deps", "--quiet", "--workspace"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    book::run()
}

/// The advisory database lies on a host that not every machine reaches: where it does not, that is said.
fn advisories(deny: &Path) -> Result<()> {
    let mut fetch = cargo_deny(deny);
    fetch.args(["fetch", "db"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !succeeds_within(ADVISORY_FETCH_TIME_MAX, &mut fetch)? {
        say("advisories: NOT checked, their database cannot be reached from here");
        return Ok(());
    }
    step("advisories", cargo_deny(deny).args(["check", "--hide-inclusion-graph", "advisories"]))
}

fn cargo_deny(deny: &Path) -> Command {
    let mut command = Command::new(deny);
    command.current_dir(root());
    command
}

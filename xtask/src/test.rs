//! `cargo xtask test`: the checks, then every test on real parts.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::steps::{last_step, say, step};
use crate::workspace::{binary, cargo, root};
use crate::{build, check, package, tools};

/// The module of the tests that install the package.
const PACKAGE_TESTS: &str = "package::";

/// Runs the checks and all tests, or with `filters` only the tests whose names contain one of them.
pub(crate) fn run(filters: &[String]) -> Result<()> {
    tools::wasm_target()?;
    let nats_server = tools::nats_server()?;
    tools::schemathesis()?;
    tools::listeners()?;
    tools::clients()?;
    tools::nginx()?;
    // Before the checks: they compile the daemon, and the console with it.
    build::console(build::Missing::Fails)?;
    let nextest = tools::nextest();
    if filters.is_empty() {
        check::run()?;
    } else {
        say("checks: left out, because tests are named");
    }
    build::plugins()?;
    build::test_plugins()?;
    // The daemon's own binary is among these; the test runner alone would not build it, as its package has no
    // integration tests of its own.
    step("build tests", cargo().args(["build", "--workspace", "--all-targets"]))?;
    build::other_plugins(&binary("sluiced", false), build::Missing::Fails)?;
    let about_package = |filter: &String| filter.contains(PACKAGE_TESTS) || PACKAGE_TESTS.contains(filter.as_str());
    let packed = if filters.is_empty() || filters.iter().any(about_package) { package::for_tests()? } else { true };
    if filters.is_empty() {
        // Before the others, so that the closing lines are those of the whole run.
        step("doc tests", cargo().args(["test", "--doc", "--quiet", "--workspace"]))?;
        instructions(&nats_server)?;
    }
    let mut test = cargo();
    if nextest {
        test.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(filters);
    } else {
        test.args(["test", "--workspace", "--all-targets", "--no-fail-fast", "--"]).args(filters);
    }
    if !packed {
        if nextest {
            test.arg("--");
        }
        test.args(["--skip", PACKAGE_TESTS]);
    }
    last_step("tests", test.env("SLUICED_NATS_SERVER", nats_server))
}

/// The one figure of the benchmarks that no other work on the machine changes.
fn instructions(nats_server: &Path) -> Result<()> {
    if !tools::valgrind()? {
        say("instructions: NOT counted, valgrind cannot be had here");
        return Ok(());
    }
    let mut bench = Command::new(binary("sluiced-bench", false));
    bench.current_dir(root()).args(["instructions", "--check"]);
    step("instructions", bench.env("SLUICED_NATS_SERVER", nats_server).env("SLUICED_BIN", binary("sluiced", false)))
}

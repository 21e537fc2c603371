//! `cargo xtask bench`: release builds, then the benchmark program on a real NATS server. The case `parked` needs none: it
//! measures the daemon's store by itself. The case `plugins` needs those of the tests and the one in JavaScript besides,
//! and so does `report`, which runs every case and writes docs/performance.md. The case `api` fills a store with a benchmark of
//! the daemon's.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::steps::{last_step, step};
use crate::workspace::{binary, cargo, root};
use crate::{build, tools};

/// Runs `sluiced-bench` with `args`: a case and its options, or all cases.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(("parked", options)) = args.split_first().map(|(case, options)| (case.as_str(), options)) {
        let store = ["bench", "--package", "sluiced", "--package", "sluiced-tests", "--bench", "parked", "--"];
        return last_step("bench parked", cargo().args(store).args(options));
    }
    let nats_server = tools::nats_server()?;
    tools::wasm_target()?;
    let has_case = |case: &str| args == ["report"] || args.iter().any(|arg| arg == case);
    if has_case("console") {
        // Before the daemon, which is compiled with it.
        build::console(build::Missing::Fails)?;
        tools::chromium()?;
    }
    // Both in one build: each alone would have other features of the dependencies, and compile them once more.
    let both = ["build", "--release", "--bins", "--package", "sluiced", "--package", "sluiced-tests"];
    step("build daemon and bench", cargo().args(both))?;
    build::plugins()?;
    if has_case("api") {
        let filler =
            ["bench", "--no-run", "--package", "sluiced", "--package", "sluiced-tests", "--bench", "deliveries"];
        step("build filler", cargo().args(filler))?;
    }
    match args.first().map(String::as_str) {
        Some("plugins") => {
            build::other_plugins(&binary("sluiced", true), build::Missing::Fails)?;
            build::test_plugins()?;
        }
        // One of many cases: it fails by itself where a part of it is missing.
        Some("report") => {
            build::other_plugins(&binary("sluiced", true), build::Missing::LeftOut)?;
            build::test_plugins()?;
        }
        // Beside the daemon where it is to be had; the case says so where it is not.
        Some("sse") => drop(tools::nchan()?),
        Some("instructions") => ensure!(tools::valgrind()?, "`instructions` needs valgrind: install it"),
        _ => {}
    }
    let mut bench = Command::new(binary("sluiced-bench", true));
    bench.current_dir(root()).args(args);
    bench.env("SLUICED_NATS_SERVER", nats_server).env("SLUICED_BIN", binary("sluiced", true));
    last_step("bench", &mut bench)
}

//! `cargo xtask dev`: get what is missing, build, and show the daemon at work.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, bail};

use crate::steps::line_of;
use crate::workspace::{binary, plugin_dir};
use crate::{build, tools};

/// Becomes `sluiced dev`, so that signals from the terminal reach it directly.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let nats_server = tools::nats_server()?;
    build::console(build::Missing::LeftOut)?;
    build::rust(false)?;
    let mut dev = Command::new(binary("sluiced", false));
    dev.arg("dev").args(args).env("SLUICED_NATS_SERVER", nats_server).env("SLUICED_PLUGINS__DIR", plugin_dir());
    let error = dev.exec();
    bail!("cannot start {}: {error}", line_of(&dev))
}

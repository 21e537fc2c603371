//! `sluiced config-reference`: every key of the configuration, as docs/configuration.md has them.

use super::write_out;
use crate::config;

/// Prints it.
///
/// # Errors
/// When it cannot be written.
pub fn run() -> anyhow::Result<()> {
    write_out(&config::reference())
}

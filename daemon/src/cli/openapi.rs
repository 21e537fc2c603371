//! `sluiced openapi`: the description of the API, without a daemon.

use super::write_out;
use crate::api;

/// Prints it.
///
/// # Errors
/// When it cannot be written.
pub fn run() -> anyhow::Result<()> {
    write_out(&format!("{:#}\n", api::document()))
}

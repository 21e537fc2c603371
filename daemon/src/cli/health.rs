//! `sluiced health`: is a running daemon ready? For people, and for what looks after containers.

use clap::Args;

use super::remote::{Ask, Remote};

/// Whom to ask.
#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Asks for `/readyz`, which needs no key.
///
/// # Errors
/// When the daemon cannot be asked, or is not ready; the error names what it waits for.
pub fn run(args: &HealthArgs) -> anyhow::Result<()> {
    args.remote.ask(&Ask::get("/readyz").beside_the_api(), |_| "ready\n".to_owned())
}

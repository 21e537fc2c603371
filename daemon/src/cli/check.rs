//! `sluiced check`: is this configuration fit to run?

use super::{ConfigArgs, write_out};

/// Loads and checks the configuration and says what is in it.
///
/// # Errors
/// With every problem found, or when standard output is closed.
pub fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let (streams, subscriptions) = (config.streams.len(), config.subscriptions.len());
    let file = args.config.display();
    write_out(&format!("{file}: ok, streams: {streams}, subscriptions: {subscriptions}\n"))
}

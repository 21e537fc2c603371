//! `sluiced run`: the daemon, until a signal ends it.

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ConfigArgs, EXIT_FAILURE};
use crate::app::{App, Ended, Reloader};
use crate::config::{self, Config, LogFormat};
use crate::telemetry::log;

/// Runs the daemon.
///
/// # Errors
/// When it cannot be started.
pub fn run(args: ConfigArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    start_log(&config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals = stop_on_signals(stop.clone())?;
        let file = args.config.clone();
        let reloader = Reloader { file, load: Box::new(move || args.load()) };
        let daemon = async {
            let app = tokio::select! {
                app = App::build(config) => app?,
                () = stop.cancelled() => return Ok(Ended::Stopped),
            };
            Box::pin(app.run(Some(reloader), stop.clone())).await
        };
        tokio::select! {
            result = daemon => result.map_err(into_cli_error),
            () = signals => unreachable!("the signals' task ends the process or nothing"),
        }
    })?;
    drop(runtime);
    match ended {
        Ended::Stopped => Ok(()),
        Ended::StreamReplaced => begin_again(),
        // Whoever looks after the process is to start it again.
        Ended::ApiBroken => bail!("the api has ended by itself, which is a fault of the daemon: its log says more"),
    }
}

/// The same program with the same arguments in the place of this one: the process stays, and what it starts with is what
/// is durable. It returns only when that cannot be done.
fn begin_again() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;

    let program = std::env::current_exe()?;
    let mut command = std::process::Command::new(program);
    Err(command.args(std::env::args_os().skip(1)).exec()).context("cannot start again")
}

/// Starts logging as the configuration says.
pub(super) fn start_log(config: &Config) {
    let format = match config.log.format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    log::init(format, config.log.level);
}

/// A configuration that only the plugins refuse is a wrong configuration too.
pub(super) fn into_cli_error(error: crate::app::Error) -> anyhow::Error {
    match error {
        crate::app::Error::Config(error) => anyhow::Error::new::<config::Error>(error),
        other => anyhow::Error::new(other),
    }
}

/// The first SIGTERM or SIGINT asks for a clean stop, the second ends the process at once.
pub(super) fn stop_on_signals(stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                info!("a signal asks for a clean stop");
                stop.cancel();
            }
        }
        warn!("a second signal, leaving at once");
        leave();
    })
}

#[expect(clippy::disallowed_methods, reason = "a second signal means: end now, whatever is under way")]
fn leave() -> ! {
    std::process::exit(i32::from(EXIT_FAILURE))
}

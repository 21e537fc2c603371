//! Puts a configuration that was read again into effect, beside everything else that runs.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::parts;
use super::reload::Watch;
use crate::config::{self, Config};
use crate::deliver::Secrets;
use crate::pipeline::subscriptions::Subscriptions;
use crate::plugin::Host;
use crate::stream::Hub;
use crate::telemetry::chain;

/// How long to wait before a change that could not be put into effect is tried again: NATS may be away.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// What a reload changes.
pub(super) struct Reloading {
    pub(super) config: Config,
    pub(super) host: Host,
    pub(super) secrets: Secrets,
    pub(super) hub: Hub,
    pub(super) subscriptions: Subscriptions,
}

impl Reloading {
    /// Reloads when there is a reason to, until `stop`.
    pub(super) async fn run(mut self, mut watch: Watch, stop: CancellationToken) {
        let mut again = false;
        loop {
            let loaded = tokio::select! {
                () = stop.cancelled() => return,
                loaded = watch.next() => Some(loaded),
                () = tokio::time::sleep(RETRY_DELAY), if again => watch.load(),
            };
            let Some(loaded) = loaded else { continue };
            tokio::select! {
                () = stop.cancelled() => return,
                done = self.reload(loaded) => again = !done,
            }
        }
    }

    /// Puts a configuration into effect, as far as that goes without a restart. A broken one changes nothing. False when it
    /// is to be tried again.
    async fn reload(&mut self, loaded: Result<Config, config::Error>) -> bool {
        let new = match loaded {
            Ok(new) => new,
            Err(error) => return refuse(&error),
        };
        for section in config::restart_needed(&self.config, &new) {
            warn!(
                section,
                "this section has changed and is read only at start, restart the daemon to put it into effect"
            );
        }
        let (compiler, secrets, checked) = (self.host.clone(), self.secrets.clone(), new.clone());
        let prepared = tokio::task::spawn_blocking(move || parts::prepare(&compiler, &secrets, &checked)).await;
        let prepared = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return refuse(&error),
            Err(panic) => {
                error!(%panic, "the configuration was not reloaded");
                return true;
            }
        };
        if let Err(error) = self.subscriptions.update(prepared.webhooks).await {
            warn!(error = %chain(&error), "the configuration was not reloaded, trying again");
            return false;
        }
        self.hub.update(prepared.named);
        info!(subscriptions = new.subscriptions.len(), "configuration reloaded");
        self.config = new;
        true
    }
}

fn refuse(error: &config::Error) -> bool {
    for problem in &error.problems {
        error!(%problem, "the changed configuration is refused, the running one stays");
    }
    true
}

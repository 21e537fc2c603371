//! The plugin directory: a file that changes is a candidate, when it is left alone for a moment. What nobody has used or asked
//! for is not loaded.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::serve::{Serve, Source};
use super::{Catalogue, Change};
use crate::api::plugins::{Place, Refused};
use crate::app::reload;
use crate::plugin::Wasm;
use crate::store::PluginOrigin;

/// How long the directory must be left alone before it is looked at: files are written in several steps.
const SETTLE: Duration = Duration::from_millis(300);
/// How long to wait before a file is looked at again whose plugin was being changed, or could not be put on record; and
/// before the directory is looked for again that was not there.
const AGAIN: Duration = Duration::from_secs(5);

/// Brings shadow mode back, takes in what the directory holds, and then what changes in it, until `stop`.
pub(in crate::app) async fn watch(serve: Serve, stop: CancellationToken) {
    let dir = serve.catalogue.host.dir().to_owned();
    let changed = Arc::new(Notify::new());
    let begin = || reload::watch(&dir, |_| true, Arc::clone(&changed));
    let mut watching = begin();
    match &watching {
        Err(_) if !dir.exists() => {
            info!(dir = %dir.display(), "there is no plugin directory, it is watched once there is");
        }
        Err(error) => {
            warn!(dir = %dir.display(), %error, "the plugin directory is not watched, a reload takes in what changes there");
        }
        Ok(_) => {}
    }
    let work = async {
        serve.resume_shadows().await;
        loop {
            let again = !take_in(&serve).await;
            tokio::select! {
                () = changed.notified() => tokio::time::sleep(SETTLE).await,
                () = serve.catalogue.unrecorded.notified() => {}
                () = tokio::time::sleep(AGAIN), if again => {}
                watched = retried(begin), if watching.is_err() => watching = Ok(watched),
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// What can be done at last.
async fn retried<T, E>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Ok(done) = attempt() {
            return done;
        }
    }
}

/// What a file is to its plugin.
pub(super) enum Found {
    /// What was taken from it already, was refused, or is wanted by nobody.
    Known,
    /// What runs and is not on record yet.
    Unrecorded(Wasm),
    /// A new version, or a new plugin.
    New(Wasm),
}

/// Takes in all files; false when some are to be looked at again.
async fn take_in(serve: &Serve) -> bool {
    let catalogue = serve.catalogue.clone();
    let Ok(names) = tokio::task::spawn_blocking(move || catalogue.host.names()).await else { return true };
    let mut done = true;
    for name in names {
        let (catalogue, of) = (serve.catalogue.clone(), name.clone());
        let Ok(found) = tokio::task::spawn_blocking(move || catalogue.find(&of, false)).await else { return true };
        let wasm = match found {
            Found::Known => continue,
            Found::New(wasm) => wasm,
            Found::Unrecorded(wasm) => {
                if let Err(refused) = serve.ask(Change::Record(name.as_str().into(), wasm)).await {
                    warn!(plugin = name, reason = ?refused, "a plugin is not on record yet");
                    done = false;
                }
                continue;
            }
        };
        match serve.bring(&name, Source::Sent(wasm, PluginOrigin::File), Place::Current).await {
            Ok(()) => debug!(plugin = name, "taken in from its file"),
            // It was told of already.
            Err(Refused::Broken(_) | Refused::Unfit(_)) => {}
            Err(refused) => {
                debug!(plugin = name, reason = ?refused, "looking at its file again in a while");
                done = false;
            }
        }
    }
    done
}

impl Catalogue {
    /// What the file of that name holds; a version that was refused is new `again` where it may fit now. Blocks.
    pub(super) fn find(&self, name: &str, again: bool) -> Found {
        let entry = self.entry(name).unwrap_or_default();
        if entry.record.is_none() && entry.running.is_none() {
            // Nobody uses it or has asked for it.
            return Found::Known;
        }
        let refused = entry.candidate.filter(|_| !again).map(|candidate| candidate.digest);
        let taken = entry.record.as_ref().and_then(|record| record.file.as_deref());
        let is_known = |digest: &str| refused.as_deref() == Some(digest) || taken == Some(digest);
        // Most are: it is read into memory only when it is not.
        if self.host.digest(name).is_ok_and(|digest| is_known(&digest)) {
            return Found::Known;
        }
        let Ok(wasm) = self.host.read(name) else { return Found::Known };
        match (&entry.record, &entry.running) {
            _ if is_known(wasm.digest()) => Found::Known,
            (None, Some(running)) if running.digest() == wasm.digest() => Found::Unrecorded(wasm),
            _ => Found::New(wasm),
        }
    }
}

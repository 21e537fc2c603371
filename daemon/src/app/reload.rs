//! When the configuration is read again: on SIGHUP, and when its file changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Error;
use crate::config::{self, Config};

/// How long a file must be left alone before it is read: editors write in several steps.
const SETTLE: Duration = Duration::from_millis(200);

/// Where the configuration comes from, to be read again.
pub struct Reloader {
    /// The file that is watched.
    pub file: PathBuf,
    /// Reads it, with the layers over it.
    pub load: Box<dyn Fn() -> Result<Config, config::Error> + Send>,
}

/// Waits for the next reason to read the configuration again.
pub(super) struct Watch {
    reloader: Option<Reloader>,
    hangup: tokio::signal::unix::Signal,
    changed: Arc<Notify>,
    /// When a file that has changed is to be read, unless it changes again.
    settles_at: Option<Instant>,
    /// Watches as long as it lives.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    pub(super) fn new(reloader: Option<Reloader>) -> Result<Self, Error> {
        let changed = Arc::new(Notify::new());
        let watcher = reloader.as_ref().map(|r| watch_file(&r.file, Arc::clone(&changed))).transpose();
        let hangup = signal(SignalKind::hangup()).map_err(Error::Signal)?;
        Ok(Self { reloader, hangup, changed, settles_at: None, _watcher: watcher.map_err(Error::Watch)? })
    }

    /// The configuration, when there is a reason to read it again. Pends for ever when there is nothing to read. Dropping the
    /// future loses no reason.
    pub(super) async fn next(&mut self) -> Result<Config, config::Error> {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {}
                () = self.changed.notified() => {
                    self.settles_at = Some(Instant::now() + SETTLE);
                    continue;
                }
                () = sleep_until(self.settles_at.unwrap_or_else(Instant::now)), if self.settles_at.is_some() => {}
            }
            self.settles_at = None;
            if let Some(loaded) = self.load() {
                return loaded;
            }
        }
    }

    /// The file that is read.
    pub(super) fn file(&self) -> Option<&Path> {
        self.reloader.as_ref().map(|reloader| reloader.file.as_path())
    }

    /// The configuration as it is written now, when there is something to read.
    pub(super) fn load(&self) -> Option<Result<Config, config::Error>> {
        self.reloader.as_ref().map(|reloader| (reloader.load)())
    }
}

/// Watches the file's folder, because editors replace the file rather than write into it.
fn watch_file(file: &Path, changed: Arc<Notify>) -> Result<notify::RecommendedWatcher, notify::Error> {
    let file = std::path::absolute(file).map_err(notify::Error::io)?;
    let name = file.file_name().map(ToOwned::to_owned);
    let folder = file.parent().map_or_else(|| PathBuf::from("/"), ToOwned::to_owned);
    watch(&folder, move |path| path.file_name() == name.as_deref(), changed)
}

/// Tells of changes of those files of a folder, as long as what it returns lives.
///
/// # Errors
/// When the folder cannot be watched.
pub(super) fn watch(
    folder: &Path,
    is_wanted: impl Fn(&Path) -> bool + Send + 'static,
    changed: Arc<Notify>,
) -> Result<notify::RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
        let wanted = |event: &notify::Event| event.paths.iter().any(|path| is_wanted(path));
        if event.is_ok_and(|event| !event.kind.is_access() && wanted(&event)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

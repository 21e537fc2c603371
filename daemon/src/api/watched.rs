//! Files that are read again when they change: keys of tokens, the listener's certificate.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How often files are looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// When a file was changed last, and its length in bytes; `None` when that cannot be told.
type Stamp = Option<(SystemTime, u64)>;

/// Some files, as they were when they were last looked at.
pub(super) struct Watched {
    files: Vec<(PathBuf, Stamp)>,
    looked: Instant,
}

impl Watched {
    /// The files as they are now. Make it before they are read: what changes in between is then noticed.
    pub(super) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamped = files.into_iter().map(|file| {
            let stamp = stamp(&file);
            (file, stamp)
        });
        Self { files: stamped.collect(), looked: Instant::now() }
    }

    /// Has one of them changed since it was last looked at? They are looked at once a second, however often this is asked.
    pub(super) fn have_changed(&mut self) -> bool {
        if self.looked.elapsed() < LOOK_INTERVAL {
            return false;
        }
        self.looked = Instant::now();
        let mut changed = false;
        for (file, before) in &mut self.files {
            let now = stamp(file);
            changed |= now != *before;
            *before = now;
        }
        changed
    }
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

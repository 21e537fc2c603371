//! A cheap sign that a file is still the same, so that it need not be read and digested again.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::telemetry::clock;

/// How old a change must be, in seconds, for its stamp to be trusted: within the clock's grain a second change could
/// bear the same time.
const SETTLED_S: u64 = 2;

/// What the file system says of a file: device, inode, length, and time of the last change in seconds and nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, u64, i64, i64);

impl Stamp {
    /// The stamp of that file, or `None` when it changed too recently to be sure of.
    ///
    /// # Errors
    /// When the file cannot be found or looked at.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        let file = std::fs::metadata(path)?;
        let changed_s = u64::try_from(file.ctime()).unwrap_or(0);
        let settled = changed_s + SETTLED_S < clock::now_ms() / 1_000;
        Ok(settled.then(|| Self(file.dev(), file.ino(), file.len(), file.ctime(), file.ctime_nsec())))
    }
}

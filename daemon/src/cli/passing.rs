//! A directory for a while: removed with the value that stands for it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A directory of this user's own, removed when it is dropped.
#[derive(Debug)]
pub(super) struct PassingDir(PathBuf);

impl PassingDir {
    /// Makes it under a name that nobody can foresee; one that exists already is an error, never used.
    pub(super) fn make(purpose: &str) -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("sluiced-{purpose}-{:032x}", rand::random::<u128>()));
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PassingDir {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the system's temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! A mark of how far the store had confirmed its groups, beside the database: a database that is found behind it has lost
//! something that was durable.
//!
//! A file that was cut off at its end, a damaged part of it, or an older copy put in its place look to sled like a write that
//! a crash interrupted: it goes on with the older state. The mark is written after each group's sync, without a sync of its
//! own, so that it is never ahead of what is durable: who finds the database behind it knows that it is not as it was left.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The file's name in the store's directory.
pub(super) const FILE: &str = "mark";

/// The mark of an open store.
pub(super) struct Mark {
    file: File,
    /// The last confirmed flush that the file names; 0 without one.
    pub(super) flush: u64,
}

impl Mark {
    /// Opens the mark, or makes one.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).mode(0o600).open(dir.join(FILE))?;
        let mut bytes = [0; 16];
        // Too short is new; a half that does not fit the other is a torn write and says nothing.
        let read = file.read_at(&mut bytes, 0)?;
        let number = u128::from_be_bytes(bytes);
        let (flush, check) = ((number >> 64) as u64, number as u64);
        Ok(Self { file, flush: if read == 16 && flush == !check { flush } else { 0 } })
    }

    /// Names a flush that is durable. That it cannot be written is no harm: the mark is then behind.
    pub(super) fn put(&self, flush: u64) {
        let number = (u128::from(flush) << 64) | u128::from(!flush);
        if let Err(error) = self.file.write_all_at(&number.to_be_bytes(), 0) {
            tracing::debug!(%error, "cannot write the store's mark");
        }
    }
}

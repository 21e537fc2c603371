//! Files for large bodies and for plugins: sled would spill them to files that it never syncs.
//!
//! A file is written, synced and given its name before the record that points to it is written, and removed after the
//! record is durably gone. So a crash can leave a file without a record, which the next start sweeps away, but never a
//! record without its file.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::codec::{self, BodyRef};
use super::{Error, keys};
use crate::domain::DeliveryId;

/// Bodies above this many bytes have files of their own.
pub const INLINE_BODY_BYTES_MAX: usize = 64 << 10;

/// The directory of body files.
pub(super) struct Bodies {
    dir: PathBuf,
    kept: Mutex<Kept>,
}

/// Files that would be gone if no backup were under way.
#[derive(Default)]
struct Kept {
    /// How many backups are under way.
    backups: usize,
    names: HashSet<String>,
}

impl Bodies {
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, kept: Mutex::default() })
    }

    /// Writes and syncs a body, unless its file is there already; true when the directory is to be synced.
    pub(super) fn write(&self, delivery: &DeliveryId, file: &BodyRef, body: &[u8]) -> io::Result<bool> {
        self.write_file(&codec::body_file_name(delivery, file), body)
    }

    /// Writes and syncs a file whose name holds the digest of its content, unless it is there already; true when the
    /// directory is to be synced.
    pub(super) fn write_file(&self, name: &str, body: &[u8]) -> io::Result<bool> {
        self.kept.lock().names.remove(name);
        let path = self.dir.join(name);
        // The name is given only to a complete, synced file.
        if fs::metadata(&path).is_ok_and(|data| data.len() == body.len() as u64) {
            return Ok(false);
        }
        let new = self.dir.join(format!("{name}.new"));
        let written = || {
            let mut options = OpenOptions::new();
            let mut out = options.create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            out.write_all(body)?;
            out.sync_all()?;
            fs::rename(&new, &path)
        };
        if let Err(error) = written() {
            drop(fs::remove_file(&new));
            return Err(error);
        }
        Ok(true)
    }

    /// Makes the names of new files durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Reads a body and checks that it is the right one.
    pub(super) fn read(&self, delivery: &DeliveryId, file: &BodyRef) -> Result<Bytes, Error> {
        let name = codec::body_file_name(delivery, file);
        let body = self.read_file(&name)?;
        if describe(&body) == *file {
            Ok(body.into())
        } else {
            Err(Error::Body { file: name, source: io::ErrorKind::InvalidData.into() })
        }
    }

    /// Reads a file. Whether it is the right one is for the caller to check.
    pub(super) fn read_file(&self, name: &str) -> Result<Vec<u8>, Error> {
        fs::read(self.dir.join(name)).map_err(|source| Error::Body { file: name.to_owned(), source })
    }

    /// Removes a file that no record points to any more. A file that stays is swept away at the next start.
    /// While a backup is made it stays until that is done.
    pub(super) fn remove(&self, name: &str) {
        {
            let mut kept = self.kept.lock();
            if kept.backups > 0 {
                kept.names.insert(name.to_owned());
                return;
            }
        }
        if let Err(error) = fs::remove_file(self.dir.join(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = name, %error, "cannot remove a stored body");
        }
    }

    /// From now on no file is removed.
    pub(super) fn keep_all(&self) {
        self.kept.lock().backups += 1;
    }

    /// Ends one [`Bodies::keep_all`]; after the last one the files that nothing points to any more are removed. To be called
    /// under the writer's lock: nothing else may write one of them again at this moment.
    pub(super) fn remove_again(&self) {
        let names = {
            let mut kept = self.kept.lock();
            kept.backups -= 1;
            if kept.backups > 0 { HashSet::new() } else { std::mem::take(&mut kept.names) }
        };
        names.iter().for_each(|name| self.remove(name));
    }

    /// The complete files.
    pub(super) fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none() {
                files.push(path);
            }
        }
        Ok(files)
    }

    /// Removes every file that no record points to. `also` are files that other records than those of deliveries name.
    pub(super) fn sweep(&self, state: &sled::Tree, also: &HashSet<String>) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir).map_err(Error::Read)? {
            let name = entry.map_err(Error::Read)?.file_name().to_string_lossy().into_owned();
            if !also.contains(&name) && !wanted(state, &name)? {
                self.remove(&name);
            }
        }
        Ok(())
    }
}

/// Does the record of the delivery in the name point to the file of that name?
fn wanted(state: &sled::Tree, name: &str) -> Result<bool, Error> {
    let mut id = [0; 16];
    let Some(digits) = name.get(..32) else { return Ok(false) };
    if hex::decode_to_slice(digits, &mut id).is_err() {
        return Ok(false);
    }
    let delivery = DeliveryId::from_bytes(id);
    let Some(record) = state.get(keys::by_id(&delivery)).map_err(Error::read)? else { return Ok(false) };
    let file = codec::read_whereabouts(&record)?.file;
    Ok(file.is_some_and(|file| codec::body_file_name(&delivery, &file) == name))
}

/// What a record says of a body in a file.
pub(super) fn describe(body: &[u8]) -> BodyRef {
    let hash: [u8; 32] = Sha256::digest(body).into();
    let mut digest = [0; 8];
    digest.copy_from_slice(&hash[..8]);
    BodyRef { length: body.len() as u64, digest }
}

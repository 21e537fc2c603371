//! A copy of the store at one point in the sequence of its groups, taken while it is worked on.
//!
//! # Why the copy is consistent
//! The copy is a list of changes that, carried out in order on an empty store, gives the store as it was at one point. It
//! is written under the writer's lock, but in steps between which the writer goes on:
//!
//! 1. The state tree is copied in the order of its keys, a page a step, each page up to a *mark*. What a group changes at or
//!    before the mark is added to the list by the group itself, when it is written; what it changes behind the mark will be
//!    found there by a later step. So after each step the list gives exactly the store's keys up to the mark, as they are.
//! 2. When the mark is past the last key, the list gives the whole tree, and each further group keeps it so.
//! 3. The log only grows at its end. It is copied flush by flush; the step that finds nothing more, under the lock, is the
//!    point: the list is closed there, with all groups up to it and none after it.
//! 4. Bodies in files never change under their name. While a backup is made none is removed, so those that the list speaks
//!    of are there to be copied after the point. What came after it is copied too, and swept away when the copy is opened.
//!
//! # The directory
//! `data` (the list), `bodies/`, and `manifest`, which is written last and names the length and SHA-256 of `data`. The last
//! line of the manifest is its own SHA-256. A directory without a manifest is no backup.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::MutexGuard;
use sha2::{Digest as _, Sha256};

use super::batch::Batch;
use super::engine::{Engine, FORMAT};
use super::manifest::{Manifest, VERSION};
use super::{Error, Ledger, Store};
use crate::telemetry::clock::now_ms;

/// A step of a backup ends after this many entries,
const STEP_ENTRIES_MAX: usize = 512;
/// or this many bytes, whatever comes first: for so long a group may wait.
const STEP_BYTES_MAX: usize = 1 << 20;

/// What a line of the list is: its first byte. Keys and values follow, each with its length (32 bits, little-endian).
pub(super) mod frame {
    /// Sets a key of the state tree.
    pub(in crate::store) const SET: u8 = b'S';
    /// Removes a key of the state tree.
    pub(in crate::store) const REMOVE: u8 = b'R';
    /// The log entries that follow are of the partition of that name.
    pub(in crate::store) const PARTITION: u8 = b'P';
    /// A log entry.
    pub(in crate::store) const LOG: u8 = b'L';
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// The last flush in it: all that was confirmed up to then.
    pub flush: u64,
    /// Entries of the state and of the log.
    pub entries: u64,
    /// The bytes of the list.
    pub data_bytes: u64,
    /// Bodies in files.
    pub bodies: u64,
}

/// The list that is written, while it is.
pub(super) struct Capture {
    out: BufWriter<File>,
    digest: Sha256,
    bytes: u64,
    entries: u64,
    /// Keys of the state tree up to this one are in the list.
    mark: Option<Vec<u8>>,
    /// The first failure to write: the backup fails with it, the store does not.
    failed: Option<io::Error>,
}

impl Capture {
    pub(super) fn new(file: File) -> Self {
        let out = BufWriter::with_capacity(STEP_BYTES_MAX, file);
        Self { out, digest: Sha256::new(), bytes: 0, entries: 0, mark: None, failed: None }
    }

    /// Adds what a group changed at or before the mark.
    pub(super) fn follow(&mut self, batch: &Batch) {
        for (key, value) in batch.changes() {
            if self.mark.as_deref().is_some_and(|mark| **key <= *mark) {
                match value {
                    Some(value) => self.frame(frame::SET, &[key, value]),
                    None => self.frame(frame::REMOVE, &[key]),
                }
            }
        }
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) {
        self.entries += 1;
        self.put(&[kind]);
        for part in parts {
            self.put(&(part.len() as u32).to_le_bytes());
            self.put(part);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.failed = self.out.write_all(bytes).err();
    }
}

impl Store {
    /// Copies the store, as it is at one point while this runs, into a directory that is new or empty: bodies, checksums
    /// and all, durable when it returns. Groups go on being written meanwhile. The master key is not part of it. Blocks.
    ///
    /// # Errors
    /// When another backup is under way, the directory cannot be written, or the store cannot be read.
    pub fn backup(&self, dir: &Path) -> Result<Backup, Error> {
        let failed = |source| Error::Backup { dir: dir.into(), source };
        let data = prepare(dir).map_err(failed)?;
        let engine = self.engine()?;
        let copying = Copying::begin(self, Arc::clone(&engine), data)?;
        let mut cursor = LogCursor::default();
        copying.log(&mut cursor, |_| ())?;
        copying.state()?;
        let (flush, capture) = copying.log(&mut cursor, |ledger| (ledger.next_flush - 1, copying.close()))?;
        let capture = capture.ok_or_else(|| self.unavailable())?;
        let bodies = copy_bodies(&engine, dir).map_err(failed)?;
        drop(copying);
        let manifest = capture.finish(flush, bodies).map_err(failed)?;
        manifest.write(dir).map_err(failed)?;
        let Manifest { flush, entries, data_bytes, bodies, .. } = manifest;
        Ok(Backup { flush, entries, data_bytes, bodies })
    }
}

/// Where a copy of the log stands.
#[derive(Default, Clone)]
struct LogCursor {
    /// The first flush of the partition that was copied last, and its last entry.
    partition: Option<u64>,
    flush: Option<u64>,
}

/// A backup under way: until it is dropped, groups add to the list and no body is removed.
struct Copying<'a> {
    store: &'a Store,
    engine: Arc<Engine>,
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        let _ledger = self.store.inner.ledger.lock();
        self.close();
        self.engine.bodies.remove_again();
    }
}

impl<'a> Copying<'a> {
    fn begin(store: &'a Store, engine: Arc<Engine>, data: File) -> Result<Self, Error> {
        let ledger = store.inner.ledger.lock();
        let mut capture = engine.capture.lock();
        if capture.is_some() {
            return Err(Error::BackupBusy);
        }
        *capture = Some(Capture::new(data));
        engine.bodies.keep_all();
        drop((capture, ledger));
        Ok(Self { store, engine })
    }

    /// The writer's lock, when the database is still the one that this copy began with.
    fn lock(&self) -> Result<MutexGuard<'_, Ledger>, Error> {
        let ledger = self.store.inner.ledger.lock();
        if Arc::ptr_eq(&self.store.engine()?, &self.engine) { Ok(ledger) } else { Err(self.store.unavailable()) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Capture) -> Result<T, Error>) -> Result<T, Error> {
        let mut capture = self.engine.capture.lock();
        let capture = capture.as_mut().ok_or_else(|| self.store.unavailable())?;
        work(capture)
    }

    /// Copies the state tree, step by step.
    fn state(&self) -> Result<(), Error> {
        loop {
            let ledger = self.lock()?;
            let more = self.with(|capture| {
                let from = match &capture.mark {
                    None => Bound::Unbounded,
                    Some(mark) => Bound::Excluded(mark.clone()),
                };
                let (mut entries, mut bytes) = (0, 0);
                for pair in self.engine.state.range((from, Bound::Unbounded)) {
                    let (key, value) = pair.map_err(Error::read)?;
                    capture.frame(frame::SET, &[&key, &value]);
                    entries += 1;
                    bytes += key.len() + value.len();
                    capture.mark = Some(key.to_vec());
                    if entries >= STEP_ENTRIES_MAX || bytes >= STEP_BYTES_MAX {
                        return Ok(true);
                    }
                }
                // Past the last key: from now on every change is one before the mark.
                capture.mark = Some(vec![0xff; 512]);
                Ok(false)
            });
            MutexGuard::unlock_fair(ledger);
            if !more? {
                return Ok(());
            }
        }
    }

    /// Copies the log from a place on, step by step, to its end; in the very step that finds the end, and under the same
    /// lock, `at_end` is called.
    fn log<T>(&self, cursor: &mut LogCursor, at_end: impl Fn(&Ledger) -> T) -> Result<T, Error> {
        loop {
            let ledger = self.lock()?;
            let more = self.with(|capture| self.log_step(cursor, capture))?;
            let end = (!more).then(|| at_end(&ledger));
            MutexGuard::unlock_fair(ledger);
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    fn log_step(&self, cursor: &mut LogCursor, capture: &mut Capture) -> Result<bool, Error> {
        let (mut entries, mut bytes) = (0, 0);
        for partition in self.engine.partitions() {
            let first = partition.first_flush;
            if cursor.partition.is_some_and(|at| first < at) {
                continue;
            }
            if cursor.partition != Some(first) {
                capture.frame(frame::PARTITION, &[super::keys::partition(first, partition.opened_ms).as_bytes()]);
                *cursor = LogCursor { partition: Some(first), flush: None };
            }
            let from = cursor.flush.map_or(Bound::Unbounded, |flush| Bound::Excluded(flush.to_be_bytes()));
            for pair in partition.tree.range((from, Bound::Unbounded)) {
                let (key, value) = match pair {
                    Ok(pair) => pair,
                    // Dropped for its age while it was read.
                    Err(sled::Error::CollectionNotFound(_)) => break,
                    Err(error) => return Err(Error::read(error)),
                };
                capture.frame(frame::LOG, &[&key, &value]);
                cursor.flush = Some(super::recover::flush_of(&key)?);
                entries += 1;
                bytes += value.len();
                if entries >= STEP_ENTRIES_MAX || bytes >= STEP_BYTES_MAX {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The list, to which no group adds any more.
    fn close(&self) -> Option<Capture> {
        self.engine.capture.lock().take()
    }
}

impl Capture {
    /// Makes the list durable, and says what is in it.
    fn finish(self, flush: u64, bodies: u64) -> io::Result<Manifest> {
        let Self { out, digest, bytes, entries, failed, .. } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(Manifest {
            version: VERSION,
            format: FORMAT,
            taken_ms: now_ms(),
            flush,
            entries,
            data_bytes: bytes,
            data_sha256: digest.finalize().into(),
            bodies,
        })
    }
}

/// Makes the directory, where it is not there, and the list's file in it.
fn prepare(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    }
    DirBuilder::new().mode(0o700).create(dir.join("bodies"))?;
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(dir.join("data"))
}

/// Copies and syncs every body; how many there are.
fn copy_bodies(engine: &Engine, dir: &Path) -> io::Result<u64> {
    let (mut bodies, to) = (0, dir.join("bodies"));
    for body in engine.bodies.files()? {
        let name: PathBuf = body.file_name().map(Into::into).unwrap_or_default();
        let copy = to.join(name);
        fs::copy(&body, &copy)?;
        File::open(copy)?.sync_all()?;
        bodies += 1;
    }
    File::open(to)?.sync_all()?;
    Ok(bodies)
}

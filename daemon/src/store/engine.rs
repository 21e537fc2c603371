//! sled, opened with care: the lock, torn snapshots, damage, the format's version; and writing so that it is durable.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sled::transaction::{TransactionError, Transactional};
use tokio::time::Instant;

use super::backup::Capture;
use super::batch::Batch;
use super::bodies::Bodies;
use super::mark::Mark;
use super::partition::{self, Partition, entry_bytes};
use super::{Config, Error, codec, compact, keys, migrate, plugins};
use crate::failpoint::{self, Place};

/// The format that this version writes, and the newest that it reads.
///
/// Format 2 has records of version 2 besides those of version 1, and indexes of the dead letters. The number keeps a daemon
/// that knows only format 1 from opening a store that it would find unreadable.
pub(super) const FORMAT: u32 = 2;

/// sled's segments: values above a quarter of this would be spilled to files that sled never syncs.
const SEGMENT_BYTES: usize = 16 << 20;
/// sled's own flush: kept on, because its garbage collection runs with it.
const BACKGROUND_FLUSH_MS: u64 = 150;
/// How long to wait between two tries for a lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// The store's directory, locked for this process.
pub(super) struct Directory {
    dir: PathBuf,
    fresh: bool,
    /// Held for as long as the store lives: dropping it lets go of the lock.
    _lock: File,
}

impl Directory {
    /// Makes the directory where needed, locks it, and checks what its format file says.
    pub(super) fn prepare(config: &Config) -> Result<Self, Error> {
        let dir = config.dir.clone();
        let failed = |source| Error::Directory { dir: dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let lock = lock(&dir, config.lock_wait)?;
        compact::settle(&dir).map_err(failed)?;
        let fresh = match read_format(&dir).map_err(failed)? {
            Some(found) if found > FORMAT => return Err(Error::Newer { dir, found, supported: FORMAT }),
            Some(_) if !has_data(&dir) => return Err(Error::Emptied { dir }),
            Some(_) => false,
            None => true,
        };
        Ok(Self { dir, fresh, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }
}

fn lock(dir: &Path, wait: Duration) -> Result<File, Error> {
    let failed = |source| Error::Directory { dir: dir.into(), source };
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    let deadline = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { dir: dir.into() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}

/// The format file is written last when a store is made: where it stands, the data must be there too.
fn read_format(dir: &Path) -> io::Result<Option<u32>> {
    match fs::read_to_string(dir.join("format")) {
        Ok(text) => match text.trim().parse() {
            Ok(format) => Ok(Some(format)),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_format(dir: &Path) -> io::Result<()> {
    let (path, new) = (dir.join("format"), dir.join("format.new"));
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT}")?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(dir)?.sync_all()
}

fn has_data(dir: &Path) -> bool {
    fs::metadata(dir.join("sled/db")).is_ok_and(|data| data.len() > 0)
}

/// The open database.
pub(super) struct Engine {
    db: sled::Db,
    /// Everything but the log.
    pub(super) state: sled::Tree,
    /// The log's partitions, oldest first.
    partitions: RwLock<Vec<Partition>>,
    pub(super) bodies: Bodies,
    /// The list of a backup under way: every write adds to it.
    pub(super) capture: Mutex<Option<Capture>>,
    /// How far groups were confirmed.
    pub(super) mark: Mark,
    /// sled's file, to sync what sled only hands to the kernel.
    file: File,
    dir: PathBuf,
}

impl Engine {
    /// Opens the database, makes it where the directory is fresh, and brings an older format up to date.
    pub(super) fn open(directory: &Directory, config: &Config) -> Result<Self, Error> {
        let dir = directory.path().to_path_buf();
        let failed = |source| Error::Open { dir: dir.clone(), source };
        failpoint::reach(Place::Opening).map_err(failed)?;
        let db = open_db(&dir, config)?;
        let state = db.open_tree("state").map_err(|e| failed(e.into()))?;
        let mut partitions = Vec::new();
        for name in db.tree_names() {
            if let Some((first_flush, opened_ms)) = keys::parse_partition(&name) {
                let open = |name: &[u8]| db.open_tree(name).map_err(|e| failed(e.into()));
                let index = open(keys::index(first_flush, opened_ms).as_bytes())?;
                partitions.push(Partition::found(first_flush, opened_ms, open(&name)?, index));
            }
        }
        // An index whose partition was dropped just before a crash.
        for name in db.tree_names() {
            let of = keys::parse_index(&name);
            if of.is_some_and(|(first_flush, _)| partitions.iter().all(|p| p.first_flush != first_flush)) {
                db.drop_tree(name).map_err(|e| failed(e.into()))?;
            }
        }
        partitions.sort_by_key(|p| p.first_flush);
        let file = OpenOptions::new().read(true).write(true).open(dir.join("sled/db")).map_err(failed)?;
        let bodies = Bodies::open(dir.join("bodies")).map_err(failed)?;
        let mark = Mark::open(&dir).map_err(failed)?;
        let (partitions, capture) = (RwLock::new(partitions), Mutex::new(None));
        let engine = Self { db, state, partitions, bodies, capture, mark, file, dir: dir.clone() };
        engine.settle_format(directory)?;
        engine.bodies.sweep(&engine.state, &plugins::files(&engine)?)?;
        Ok(engine)
    }

    /// Checks the format's version inside the data, or writes it when the store is new.
    fn settle_format(&self, directory: &Directory) -> Result<(), Error> {
        let dir = &self.dir;
        let stored = self.state.get(keys::META_FORMAT).map_err(Error::read)?;
        let Some(stored) = stored else {
            if !directory.fresh || !self.state.is_empty() || !self.partitions.read().is_empty() {
                return Err(Error::Emptied { dir: dir.clone() });
            }
            self.state.insert(keys::META_FORMAT, codec::write_number(u64::from(FORMAT))).map_err(Error::write)?;
            self.sync()?;
            let made = || {
                File::open(dir.join("sled/conf"))?.sync_all()?;
                self.file.sync_all()?;
                File::open(dir.join("sled"))?.sync_all()?;
                write_format(dir)
            };
            return made().map_err(|source| Error::Directory { dir: dir.clone(), source });
        };
        let found = u32::try_from(codec::read_number("format", &stored)?).unwrap_or(u32::MAX);
        if found > FORMAT {
            return Err(Error::Newer { dir: dir.clone(), found, supported: FORMAT });
        }
        if found < FORMAT {
            tracing::info!(from = found, to = FORMAT, "bringing the store's format up to date");
            migrate::from_1_to_2(self)?;
            failpoint::reach(Place::Migrating).map_err(Error::Write)?;
            self.state.insert(keys::META_FORMAT, codec::write_number(u64::from(FORMAT))).map_err(Error::write)?;
            self.sync()?;
        }
        // The file follows the data: after a crash between the two it is behind, and is written at the next start.
        let failed = |source| Error::Directory { dir: dir.clone(), source };
        if read_format(dir).map_err(failed)? != Some(FORMAT) {
            failpoint::reach(Place::Migrating).map_err(failed)?;
            write_format(dir).map_err(failed)?;
        }
        Ok(())
    }

    /// Writes to the state tree and the log as one: after a crash both are there or neither is.
    ///
    /// sled seals a batch, and a transaction over several trees, with a manifest that recovery asks for before it
    /// applies any of it; a single insert is atomic by itself and needs none.
    pub(super) fn write(&self, state: Option<&Batch>, log: Option<(&Partition, u64, Vec<u8>)>) -> Result<(), Error> {
        failpoint::reach(Place::BeforeWrite).map_err(Error::Write)?;
        let grown = log.as_ref().map(|(partition, _, value)| (*partition, value.len()));
        match (state, log) {
            (None, None) => Ok(()),
            (Some(state), None) => self.state.apply_batch(state.to_sled()).map_err(Error::write),
            (None, Some((partition, flush, value))) => {
                partition.tree.insert(flush.to_be_bytes(), value).map(drop).map_err(Error::write)
            }
            (Some(state), Some((partition, flush, value))) => {
                let (state, value) = (state.to_sled(), sled::IVec::from(value));
                let written = (&self.state, &partition.tree).transaction(|(s, l)| {
                    s.apply_batch(&state)?;
                    l.insert(&flush.to_be_bytes(), value.clone())?;
                    Ok(())
                });
                written.map_err(|error: TransactionError<()>| match error {
                    TransactionError::Storage(error) => Error::write(error),
                    TransactionError::Abort(()) => Error::Write(io::Error::other("the transaction was given up")),
                })
            }
        }?;
        if let Some((partition, value_bytes)) = grown {
            partition.grew(entry_bytes(value_bytes));
        }
        if let (Some(state), Some(capture)) = (state, &mut *self.capture.lock()) {
            capture.follow(state);
        }
        Ok(())
    }

    /// Makes everything written so far durable. sled's `flush` hands the bytes to the device with `sync_file_range`,
    /// which neither waits for the device's cache nor writes the file's new length; `fdatasync` does both.
    pub(super) fn sync(&self) -> Result<(), Error> {
        failpoint::reach(Place::BeforeFlush).map_err(Error::Write)?;
        self.db.flush().map_err(Error::write)?;
        failpoint::reach(Place::BeforeSync).map_err(Error::Write)?;
        self.file.sync_data().map_err(Error::Write)
    }

    /// The log's partitions, oldest first.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.partitions.read().clone()
    }

    /// The error of a database that ends before what was confirmed.
    pub(super) fn behind(&self, found: u64) -> Error {
        Error::Behind { dir: self.dir.clone(), found, confirmed: self.mark.flush }
    }

    /// The database, to be copied as a whole.
    pub(super) fn db(&self) -> &sled::Db {
        &self.db
    }

    /// The tree of a partition by its name, for a store that is filled.
    pub(super) fn open_partition(&self, name: &[u8]) -> Result<sled::Tree, Error> {
        self.db.open_tree(name).map_err(Error::write)
    }

    /// The partition for a flush at that time: the newest, or a new one when that has had its time or its bytes. The
    /// second is true when it is new.
    pub(super) fn partition(&self, flush: u64, now_ms: u64, config: &Config) -> Result<(Partition, bool), Error> {
        if let Some(newest) = self.partitions.read().last()
            && !partition::is_full(newest, now_ms, config)
        {
            return Ok((newest.clone(), false));
        }
        let tree = self.db.open_tree(keys::partition(flush, now_ms)).map_err(Error::write)?;
        let index = self.db.open_tree(keys::index(flush, now_ms)).map_err(Error::write)?;
        failpoint::reach(Place::PartitionBegun).map_err(Error::Write)?;
        let begun = Partition::begun(flush, now_ms, tree, index);
        self.partitions.write().push(begun.clone());
        Ok((begun, true))
    }

    /// Drops a partition with all its entries.
    pub(super) fn drop_partition(&self, old: &Partition) -> Result<(), Error> {
        self.partitions.write().retain(|partition| partition.first_flush != old.first_flush);
        failpoint::reach(Place::Expiring).map_err(Error::Write)?;
        self.db.drop_tree(old.name()).map_err(Error::write)?;
        self.db.drop_tree(old.index_name()).map(drop).map_err(Error::write)
    }

    /// The bytes that the store's files take.
    pub(super) fn size_on_disk(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for folder in [self.dir.join("sled"), self.dir.join("sled/blobs"), self.dir.join("bodies")] {
            for entry in fs::read_dir(folder)? {
                match entry?.metadata() {
                    Ok(data) if data.is_file() => bytes += data.len(),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(bytes)
    }
}

/// Opens sled. A crash can leave a torn snapshot, which sled takes for corruption although snapshots are only a shortcut
/// over its log; so torn ones are removed, and damaged ones moved aside once.
fn open_db(dir: &Path, config: &Config) -> Result<sled::Db, Error> {
    let data = dir.join("sled");
    let failed = |source| Error::Open { dir: dir.into(), source };
    let deadline = Instant::now() + config.lock_wait;
    let mut moved = false;
    loop {
        for torn in snapshots(&data, |name| name.ends_with(".generating")).map_err(failed)? {
            fs::remove_file(torn).map_err(failed)?;
        }
        // sled panics on some kinds of damage: that is corruption too.
        match catch_unwind(AssertUnwindSafe(|| open_db_at(&data, config))) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Corruption { .. } | sled::Error::ReportableBug(_))) | Err(_) => {
                if moved {
                    return Err(Error::Corrupt { dir: dir.into() });
                }
                tracing::warn!(dir = %dir.display(), "store seems damaged, trying again without its snapshots");
                for snapshot in snapshots(&data, |_| true).map_err(failed)? {
                    let name = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    fs::rename(&snapshot, data.join(format!("aside.{name}"))).map_err(failed)?;
                }
                moved = true;
            }
            // sled's own lock: after a failed write the old database of this process may be a moment from letting go.
            Ok(Err(sled::Error::Io(error))) if is_lock(&error) && Instant::now() < deadline => {
                std::thread::sleep(LOCK_RETRY);
            }
            Ok(Err(error)) => return Err(failed(error.into())),
        }
    }
}

/// Opens or makes a database in that directory.
pub(super) fn open_db_at(data: &Path, config: &Config) -> Result<sled::Db, sled::Error> {
    let options = sled::Config::new()
        .path(data)
        .cache_capacity(config.cache_bytes)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(BACKGROUND_FLUSH_MS));
    options.open()
}

/// sled's refusal for a held lock carries no code of the system, its other errors of this kind do.
fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none()
}

fn snapshots(data: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && wanted(name)) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

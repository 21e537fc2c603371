//! The database written anew: sled uses freed space again, but its file never becomes smaller.
//!
//! All entries are copied into `sled.new`, which is synced and compared; then `sled` becomes `sled.old`, `sled.new` becomes
//! `sled`, and `sled.old` is removed. A crash leaves one of these, and the next opening settles it ([`settle`]): without
//! `sled` the old one takes its place again; beside a `sled` the other two are of no use. At every instant one complete
//! database is there under a name that is known.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::engine::{Directory, Engine, open_db_at};
use super::{Config, Error, Store};

/// So many entries are copied in one batch.
const BATCH_ENTRIES_MAX: usize = 1_024;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// The bytes of the store's files before.
    pub bytes_before: u64,
    /// The bytes of the store's files after.
    pub bytes_after: u64,
    /// The entries copied.
    pub entries: u64,
}

impl Store {
    /// Writes the database anew, without the space that is not used. For a store that no daemon works on: its lock says so.
    /// Blocks, and needs the room of the data for a second time.
    ///
    /// # Errors
    /// When the store cannot be opened or the new database not be written; the old one is then as it was.
    pub fn compact(config: &Config) -> Result<Compaction, Error> {
        let directory = Directory::prepare(config)?;
        let dir = directory.path();
        let failed = |source| Error::Directory { dir: dir.into(), source };
        let engine = Engine::open(&directory, config)?;
        let bytes_before = engine.size_on_disk().map_err(failed)?;
        let new = dir.join("sled.new");
        remove(&new).map_err(failed)?;
        let copy = open_db_at(&new, config).map_err(|e| Error::Open { dir: new.clone(), source: e.into() })?;
        let entries = copy_trees(engine.db(), &copy)?;
        copy.flush().map_err(Error::write)?;
        if digest(engine.db())? != digest(&copy)? {
            return Err(Error::Write(io::Error::other("the copy is not the same as what was copied")));
        }
        // Both are closed before they change names.
        drop((copy, engine));
        for name in ["db", "conf"] {
            File::open(new.join(name)).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        let swap = || {
            File::open(&new)?.sync_all()?;
            fs::rename(dir.join("sled"), dir.join("sled.old"))?;
            fs::rename(&new, dir.join("sled"))?;
            File::open(dir)?.sync_all()?;
            remove(&dir.join("sled.old"))
        };
        swap().map_err(failed)?;
        let bytes_after = Engine::open(&directory, config)?.size_on_disk().map_err(failed)?;
        Ok(Compaction { bytes_before, bytes_after, entries })
    }
}

/// Settles what a compaction left that was cut short. To be called with the directory's lock, before the database is opened.
pub(super) fn settle(dir: &Path) -> io::Result<()> {
    let (now, old, new) = (dir.join("sled"), dir.join("sled.old"), dir.join("sled.new"));
    if !now.exists() && old.exists() {
        fs::rename(&old, &now)?;
        File::open(dir)?.sync_all()?;
    }
    if now.exists() {
        remove(&old)?;
        remove(&new)?;
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies every tree; how many entries there are.
fn copy_trees(from: &sled::Db, to: &sled::Db) -> Result<u64, Error> {
    let mut entries = 0;
    for name in from.tree_names() {
        let source = from.open_tree(&name).map_err(Error::read)?;
        let target = to.open_tree(&name).map_err(Error::write)?;
        let (mut batch, mut waiting) = (sled::Batch::default(), 0);
        for pair in &source {
            let (key, value) = pair.map_err(Error::read)?;
            batch.insert(key, value);
            waiting += 1;
            if waiting == BATCH_ENTRIES_MAX {
                target.apply_batch(std::mem::take(&mut batch)).map_err(Error::write)?;
                entries += waiting as u64;
                waiting = 0;
            }
        }
        target.apply_batch(batch).map_err(Error::write)?;
        entries += waiting as u64;
    }
    Ok(entries)
}

/// A checksum over all trees, by their names in order.
fn digest(db: &sled::Db) -> Result<[u8; 32], Error> {
    let mut names = db.tree_names();
    names.sort_unstable();
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    for name in names {
        add(&name);
        for pair in &db.open_tree(&name).map_err(Error::read)? {
            let (key, value) = pair.map_err(Error::read)?;
            add(&key);
            add(&value);
        }
    }
    Ok(digest.finalize().into())
}

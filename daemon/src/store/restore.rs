//! A store from a backup, and a store made anew from itself: both are written beside the place where they will stand, and
//! put there by renaming when they are whole.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::backup::frame;
use super::engine::{Directory, Engine, FORMAT};
use super::manifest::Manifest;
use super::{Backup, Config, Error, Store, bodies, codec, keys, plugins};
use crate::domain::DeliveryId;

/// So many entries are written in one batch.
const BATCH_ENTRIES_MAX: usize = 1_024;
/// The longest key or value that a list may hold, in bytes: more than any that the store writes.
const PART_BYTES_MAX: usize = 256 << 20;

impl Store {
    /// Makes a store of a backup, in the directory of `config`, where none may be yet. The backup is checked as a whole
    /// before anything stands there. Blocks.
    ///
    /// # Errors
    /// When a store is there already, the backup is not whole or of a newer version, or the store cannot be written.
    pub fn restore(from: &Path, config: &Config) -> Result<Backup, Error> {
        let broken = |reason: String| Error::NoBackup { dir: from.into(), reason: reason.into() };
        let manifest = Manifest::read(from).map_err(broken)?;
        if manifest.format > FORMAT {
            return Err(Error::Newer { dir: from.into(), found: manifest.format, supported: FORMAT });
        }
        let failed = |source| Error::Directory { dir: config.dir.clone(), source };
        if fs::read_dir(&config.dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::Occupied { dir: config.dir.clone() });
        }
        let mut beside = config.dir.clone().into_os_string();
        beside.push(".restoring");
        let beside = Config { dir: beside.into(), ..config.clone() };
        // Of a restore that was cut short.
        remove(&beside.dir).map_err(failed)?;
        let filled = fill(from, &manifest, &beside);
        if let Err(error) = filled {
            drop(remove(&beside.dir));
            return Err(error);
        }
        // Opened and closed once more, as the daemon will: what cannot be opened is no store.
        drop(Self::open(beside.clone())?);
        if config.dir.exists() {
            fs::remove_dir(&config.dir).map_err(failed)?;
        }
        fs::rename(&beside.dir, &config.dir).map_err(failed)?;
        sync_above(&config.dir).map_err(failed)?;
        let Manifest { flush, entries, data_bytes, bodies, .. } = manifest;
        Ok(Backup { flush, entries, data_bytes, bodies })
    }
}

/// Carries out the list of a backup on a new store, and copies the bodies.
fn fill(from: &Path, manifest: &Manifest, config: &Config) -> Result<(), Error> {
    let broken = |reason: &str| Error::NoBackup { dir: from.into(), reason: reason.into() };
    let failed = |source| Error::Directory { dir: config.dir.clone(), source };
    let directory = Directory::prepare(config)?;
    let engine = Engine::open(&directory, config)?;
    let mut list = List::open(from).map_err(|error| broken(&format!("its list cannot be read: {error}")))?;
    let mut writer = Filling { engine: &engine, state: sled::Batch::default(), log: None, waiting: 0 };
    loop {
        let frame = list.next().map_err(|error| broken(&format!("its list is cut short or damaged: {error}")))?;
        let Some(frame) = frame else { break };
        if !writer.add(&frame)? {
            return Err(broken("its list has a line that this version does not know"));
        }
    }
    writer.write()?;
    let (entries, bytes, sha256) = (list.entries, list.bytes, <[u8; 32]>::from(list.digest.finalize()));
    if (entries, bytes, sha256) != (manifest.entries, manifest.data_bytes, manifest.data_sha256) {
        return Err(broken("its list is not the one of its manifest"));
    }
    engine.sync()?;
    let mut copied = 0;
    for entry in fs::read_dir(from.join("bodies")).map_err(|error| broken(&format!("its bodies: {error}")))? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let body = fs::read(&path).map_err(|error| broken(&format!("the body {name}: {error}")))?;
        if plugins::is_of(&name, &body) {
            engine.bodies.write_file(&name, &body).map_err(failed)?;
            copied += 1;
            continue;
        }
        let mut id = [0; 16];
        let delivery = name.get(..32).filter(|digits| hex::decode_to_slice(digits, &mut id).is_ok());
        let delivery = delivery.map(|_| DeliveryId::from_bytes(id));
        let described = bodies::describe(&body);
        let Some(delivery) = delivery.filter(|id| codec::body_file_name(id, &described) == name) else {
            return Err(broken(&format!("the body {name} is damaged")));
        };
        engine.bodies.write(&delivery, &described, &body).map_err(failed)?;
        copied += 1;
    }
    engine.bodies.sync().map_err(failed)?;
    if copied == manifest.bodies { Ok(()) } else { Err(broken("bodies are missing")) }
}

/// One line of a backup's list.
struct Frame {
    kind: u8,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// The list of a backup, read from its beginning.
struct List {
    file: BufReader<File>,
    digest: Sha256,
    bytes: u64,
    entries: u64,
}

impl List {
    fn open(from: &Path) -> io::Result<Self> {
        let file = BufReader::with_capacity(1 << 20, File::open(from.join("data"))?);
        Ok(Self { file, digest: Sha256::new(), bytes: 0, entries: 0 })
    }

    fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut kind = [0];
        if self.file.read(&mut kind)? == 0 {
            return Ok(None);
        }
        self.seen(&kind);
        self.entries += 1;
        let key = self.part()?;
        let value = if matches!(kind[0], frame::SET | frame::LOG) { self.part()? } else { Vec::new() };
        Ok(Some(Frame { kind: kind[0], key, value }))
    }

    fn part(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        self.seen(&length);
        let length = u32::from_le_bytes(length) as usize;
        if length > PART_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Not allocated before it is read: a damaged length costs nothing.
        let mut part = Vec::new();
        if self.file.by_ref().take(length as u64).read_to_end(&mut part)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seen(&part);
        Ok(part)
    }

    fn seen(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// A new store that is filled.
struct Filling<'a> {
    engine: &'a Engine,
    state: sled::Batch,
    log: Option<(sled::Tree, sled::Batch)>,
    waiting: usize,
}

impl Filling<'_> {
    /// Carries out a line; false when its kind is not known.
    fn add(&mut self, frame: &Frame) -> Result<bool, Error> {
        match (frame.kind, &mut self.log) {
            (frame::SET, _) => self.state.insert(frame.key.as_slice(), frame.value.as_slice()),
            (frame::REMOVE, _) => self.state.remove(frame.key.as_slice()),
            (frame::PARTITION, _) => {
                self.write()?;
                if keys::parse_partition(&frame.key).is_none() {
                    return Ok(false);
                }
                self.log = Some((self.engine.open_partition(&frame.key)?, sled::Batch::default()));
            }
            (frame::LOG, Some((_, batch))) => batch.insert(frame.key.as_slice(), frame.value.as_slice()),
            _ => return Ok(false),
        }
        self.waiting += 1;
        if self.waiting >= BATCH_ENTRIES_MAX {
            self.write()?;
        }
        Ok(true)
    }

    fn write(&mut self) -> Result<(), Error> {
        self.engine.state.apply_batch(std::mem::take(&mut self.state)).map_err(Error::write)?;
        if let Some((tree, batch)) = &mut self.log {
            tree.apply_batch(std::mem::take(batch)).map_err(Error::write)?;
        }
        self.waiting = 0;
        Ok(())
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_above(dir: &Path) -> io::Result<()> {
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

//! Plugins: which version of each runs, which ran before it, and the WebAssembly of all that are kept.
//!
//! | key | value |
//! |---|---|
//! | `W` name | the versions of a plugin |
//!
//! The WebAssembly lies in files beside the bodies, named by its SHA-256, so that a backup has it. A file is written and
//! synced before the record that names it, and goes when no record names it any more.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

use super::engine::Engine;
use super::keys::{self, kind};
use super::wire::{Reader, Writer};
use super::{Error, Store};

/// The versions of one plugin that are kept; beyond them the ones that ran longest ago go.
const PLUGIN_VERSIONS_MAX: usize = 10;

/// What the name of a version's file begins with.
pub(super) const FILE_PREFIX: &str = "plugin-";

/// The version of the layout.
const VERSION: u8 = 1;

/// What is kept of a plugin. Versions are told apart by the SHA-256 of their WebAssembly, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRecord {
    /// The version that runs: one of `versions`.
    pub current: Box<str>,
    /// What its file in the plugin directory held when it was last taken over: only a file that holds something else is a
    /// new version.
    pub file: Option<Box<str>>,
    /// The version that runs beside the current one, without effect.
    pub shadow: Option<Box<str>>,
    /// All that are kept, the one added last first.
    pub versions: Vec<PluginVersion>,
}

/// One version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginVersion {
    /// The SHA-256 of its WebAssembly, in hexadecimal digits.
    pub digest: Box<str>,
    /// The size of its WebAssembly, in bytes.
    pub bytes: u64,
    /// The version that it gives itself.
    pub version: Box<str>,
    /// What else it says of itself: a JSON object, so that one that nobody uses need not be loaded to be looked at.
    pub about: Box<str>,
    /// Where it came from.
    pub origin: PluginOrigin,
    /// When it was added, in milliseconds since the Unix epoch.
    pub added_ms: u64,
    /// When it began to run the last time, in milliseconds since the Unix epoch; `None` when it never did.
    pub ran_ms: Option<u64>,
}

/// Where a version came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginOrigin {
    /// The plugin directory.
    File,
    /// The API.
    Upload,
}

impl PluginRecord {
    /// The version of that digest.
    pub fn version(&self, digest: &str) -> Option<&PluginVersion> {
        self.versions.iter().find(|version| *version.digest == *digest)
    }

    /// Adds a version unless it is there, and lets go of those that are too many.
    pub fn add(&mut self, version: PluginVersion) {
        if self.version(&version.digest).is_none() {
            self.versions.insert(0, version);
        }
        while self.versions.len() > PLUGIN_VERSIONS_MAX {
            let (current, shadow) = (&self.current, &self.shadow);
            let spare = |v: &PluginVersion| v.digest != *current && shadow.as_ref() != Some(&v.digest);
            let used = |v: &PluginVersion| v.ran_ms.unwrap_or(v.added_ms);
            let oldest =
                self.versions.iter().enumerate().skip(1).filter(|(_, v)| spare(v)).min_by_key(|(_, v)| used(v));
            let Some((at, _)) = oldest else { return };
            self.versions.remove(at);
        }
    }

    /// Has a version that is kept run from now on.
    pub fn run(&mut self, digest: &str, now_ms: u64) {
        if let Some(version) = self.versions.iter_mut().find(|version| *version.digest == *digest) {
            version.ran_ms = Some(now_ms);
            self.current.clone_from(&version.digest);
        }
    }

    /// The version that ran last before the current one.
    pub fn previous(&self) -> Option<&PluginVersion> {
        let others = self.versions.iter().filter(|version| version.digest != self.current && version.ran_ms.is_some());
        others.max_by_key(|version| version.ran_ms)
    }

    fn write(&self) -> Vec<u8> {
        let mut w = Writer::record(VERSION, 80 + self.versions.len() * 100);
        w.text(&self.current);
        w.option(self.file.as_deref(), Writer::text);
        w.option(self.shadow.as_deref(), Writer::text);
        w.number(self.versions.len() as u64);
        for version in &self.versions {
            w.text(&version.digest);
            w.number(version.bytes);
            w.text(&version.version);
            w.text(&version.about);
            w.0.push(match version.origin {
                PluginOrigin::File => 0,
                PluginOrigin::Upload => 1,
            });
            w.number(version.added_ms);
            w.option(version.ran_ms, Writer::number);
        }
        w.0
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (_, mut r) = Reader::record(bytes, VERSION)?;
        let (current, file, shadow) = (r.text()?.into(), option(&mut r)?, option(&mut r)?);
        let count = r.number()?;
        let mut versions = Vec::new();
        for _ in 0..count {
            versions.push(PluginVersion {
                digest: r.text()?.into(),
                bytes: r.number()?,
                version: r.text()?.into(),
                about: r.text()?.into(),
                origin: match r.byte()? {
                    0 => PluginOrigin::File,
                    1 => PluginOrigin::Upload,
                    _ => return None,
                },
                added_ms: r.number()?,
                ran_ms: match r.byte()? {
                    0 => None,
                    _ => Some(r.number()?),
                },
            });
        }
        r.is_empty().then_some(Self { current, file, shadow, versions })
    }
}

fn option(r: &mut Reader<'_>) -> Option<Option<Box<str>>> {
    Some(match r.byte()? {
        0 => None,
        _ => Some(r.text()?.into()),
    })
}

impl Store {
    /// Records a plugin, with the WebAssembly of a version that may be new; durable when it returns. What no record names
    /// any more is removed. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_plugin(&self, name: &str, record: &PluginRecord, wasm: Option<&[u8]>) -> Result<(), Error> {
        let file = wasm.map(|wasm| (file_name(&hex::encode(Sha256::digest(wasm))), wasm));
        let write = |engine: &Engine| match &file {
            Some((file, wasm)) => engine.bodies.write_file(file, wasm).map_err(Error::Write),
            None => Ok(false),
        };
        // Before the lock: it may be long, and nobody waits for it. Under the lock it is found to be there.
        let engine = self.engine()?;
        if write(&engine)? {
            engine.bodies.sync().map_err(Error::Write)?;
        }
        drop(engine);
        let mut unnamed = Vec::new();
        self.write_directly(|engine, _, batch| {
            if write(engine)? {
                engine.bodies.sync().map_err(Error::Write)?;
            }
            unnamed = unnamed_without(engine, name, Some(record))?;
            batch.insert(key(name), record.write());
            Ok(())
        })?;
        self.remove_files(&unnamed)
    }

    /// Forgets a plugin and its versions; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_plugin(&self, name: &str) -> Result<(), Error> {
        let mut unnamed = Vec::new();
        self.write_directly(|engine, _, batch| {
            unnamed = unnamed_without(engine, name, None)?;
            batch.remove(key(name));
            Ok(())
        })?;
        self.remove_files(&unnamed)
    }

    /// All plugins, in the order of their names.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn plugins(&self) -> Result<Vec<(Box<str>, PluginRecord)>, Error> {
        records(&*self.engine()?)
    }

    /// The WebAssembly of a version. Blocks.
    ///
    /// # Errors
    /// When it is not there, or not whole.
    pub fn plugin_wasm(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let file = file_name(digest);
        let wasm = self.engine()?.bodies.read_file(&file)?;
        match is_of(&file, &wasm) {
            true => Ok(wasm),
            false => Err(Error::Body { file, source: std::io::ErrorKind::InvalidData.into() }),
        }
    }

    fn remove_files(&self, files: &[String]) -> Result<(), Error> {
        let engine = self.engine()?;
        files.iter().for_each(|file| engine.bodies.remove(file));
        Ok(())
    }
}

/// Is that the WebAssembly of the version in the file's name?
pub(super) fn is_of(file: &str, wasm: &[u8]) -> bool {
    file.strip_prefix(FILE_PREFIX) == Some(&hex::encode(Sha256::digest(wasm)))
}

/// The files that records name.
pub(super) fn files(engine: &Engine) -> Result<HashSet<String>, Error> {
    Ok(records(engine)?.iter().flat_map(|(_, record)| named(record)).collect())
}

/// The files that no record names any more when that plugin has that record, or none.
fn unnamed_without(engine: &Engine, name: &str, record: Option<&PluginRecord>) -> Result<Vec<String>, Error> {
    let all = records(engine)?;
    let before = all.iter().filter(|(other, _)| **other == *name).flat_map(|(_, record)| named(record));
    let others = all.iter().filter(|(other, _)| **other != *name).flat_map(|(_, record)| named(record));
    let still: HashSet<String> = others.chain(record.into_iter().flat_map(named)).collect();
    Ok(before.filter(|file| !still.contains(file)).collect())
}

fn named(record: &PluginRecord) -> impl Iterator<Item = String> {
    record.versions.iter().map(|version| file_name(&version.digest))
}

fn records(engine: &Engine) -> Result<Vec<(Box<str>, PluginRecord)>, Error> {
    let read = |(key, value): (sled::IVec, sled::IVec)| {
        let name = std::str::from_utf8(&key[1..]).ok()?;
        Some((name.into(), PluginRecord::read(&value)?))
    };
    let all = engine.state.scan_prefix([kind::PLUGIN]);
    all.map(|pair| read(pair.map_err(Error::read)?).ok_or(Error::Record { what: "plugin" })).collect()
}

fn key(name: &str) -> Vec<u8> {
    keys::of_text(kind::PLUGIN, name)
}

fn file_name(digest: &str) -> String {
    format!("{FILE_PREFIX}{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(digest: &str, added_ms: u64, ran_ms: Option<u64>) -> PluginVersion {
        let origin = PluginOrigin::Upload;
        PluginVersion {
            digest: digest.into(),
            bytes: 300,
            version: "1.2".into(),
            about: "{}".into(),
            origin,
            added_ms,
            ran_ms,
        }
    }

    #[test]
    fn version_1_has_these_bytes() {
        let versions = vec![version("aa", 5, Some(6)), version("bb", 4, None)];
        let record = PluginRecord { current: "aa".into(), file: None, shadow: Some("bb".into()), versions };
        let bytes = record.write();
        let expected = "01026161000102626202026161ac0203312e32027b7d01050106026262ac0203312e32027b7d010400";
        assert_eq!(hex::encode(&bytes), expected);
        assert_eq!(PluginRecord::read(&bytes), Some(record));
        assert_eq!(PluginRecord::read(&bytes[..9]), None);
    }

    #[test]
    fn the_version_before_is_the_one_that_ran_last_and_too_many_are_let_go_of() {
        let mut record =
            PluginRecord { current: "a".into(), file: None, shadow: None, versions: vec![version("a", 1, Some(1))] };
        assert_eq!(record.previous(), None);
        record.add(version("b", 2, None));
        record.run("b", 3);
        assert_eq!((&*record.current, record.previous().map(|v| &*v.digest)), ("b", Some("a")));
        record.run("a", 4);
        assert_eq!((&*record.current, record.previous().map(|v| &*v.digest)), ("a", Some("b")));
        record.shadow = Some("b".into());
        for n in 0..20 {
            record.add(version(&format!("n{n}"), 10 + n, None));
        }
        assert_eq!(record.versions.len(), PLUGIN_VERSIONS_MAX);
        assert!(record.version("a").is_some() && record.version("b").is_some() && record.version("n19").is_some());
        assert!(record.version("n0").is_none());
    }
}

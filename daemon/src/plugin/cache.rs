//! Compiled plugins, kept on disk.
//!
//! A compiled plugin is machine code that is run as it stands. The directory is therefore the daemon's own (mode 0700),
//! a file is named by the digest of the WebAssembly it was made of and by the engine that made it, and a second file
//! beside it holds the digest of the machine code, so that a torn or rotten file is found and made anew.

#![expect(unsafe_code, reason = "loading machine code compiled earlier is unsafe by nature; this is the only place")]

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// The compiled plugins that are kept; beyond them the oldest go.
const CACHE_FILES_MAX: usize = 128;
/// The bytes of compiled plugins that are kept; beyond them the oldest go.
const CACHE_BYTES_MAX: u64 = 2 << 30;
/// How much a compilation stands back for the daemon's other threads where processors are scarce, as nice(1) counts.
const COMPILE_NICENESS: i32 = 10;

/// The cache, in one directory and for one engine.
pub(super) struct Cache {
    dir: PathBuf,
    engine_hash: String,
    compiled: AtomicU64,
    loaded: AtomicU64,
    discarded: AtomicU64,
}

impl Cache {
    /// A cache in that directory, which is made when it is first written to.
    pub(super) fn new(dir: PathBuf, engine: &Engine) -> Self {
        let mut hasher = DigestHasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine_hash = hex::encode(&hasher.0.finalize()[..8]);
        Self { dir, engine_hash, compiled: 0.into(), loaded: 0.into(), discarded: 0.into() }
    }

    /// The component of that WebAssembly, from the cache or compiled now. `digest` is the SHA-256 of `wasm`, in
    /// hexadecimal digits.
    ///
    /// # Errors
    /// When `wasm` is not a valid component. What is wrong with the cache is logged, and no error.
    pub(super) fn component(&self, engine: &Engine, digest: &str, wasm: &[u8]) -> wasmtime::Result<Component> {
        if let Some(component) = self.kept(engine, digest) {
            return Ok(component);
        }
        let path = self.path(digest);
        let code = precompile(engine, wasm)?;
        self.compiled.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.store(&path, &code) {
            tracing::warn!(path = %path.display(), %error, "cannot keep a compiled plugin, it will be compiled again");
        }
        // SAFETY: these bytes were made by `precompile_component` of this very engine, a few lines above.
        unsafe { Component::deserialize(engine, &code) }
    }

    /// The component of the WebAssembly with that digest, when it is in the cache.
    pub(super) fn kept(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let component = self.load(engine, &self.path(digest))?;
        self.loaded.fetch_add(1, Ordering::Relaxed);
        Some(component)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}-{}.cwasm", self.engine_hash))
    }

    /// Plugins compiled, loaded from the cache, and found broken there.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.compiled), read(&self.loaded), read(&self.discarded))
    }

    fn load(&self, engine: &Engine, path: &Path) -> Option<Component> {
        let loaded = match is_whole(path) {
            Ok(true) => {
                // SAFETY: the file lies in a directory that only this daemon's user can write to; it was written by
                // `store` from what `precompile_component` of an engine with the same hash gave, its digest has just
                // been verified, and files there are replaced by rename, never written in place, so that the mapping
                // stays as it is. wasmtime checks its own version and the engine's settings besides.
                unsafe { Component::deserialize_file(engine, path) }.map_err(super::engine::below)
            }
            Ok(false) => Err("its digest is wrong".into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.into()),
        };
        match loaded {
            Ok(component) => Some(component),
            Err(error) => {
                self.discarded.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(path = %path.display(), error, "a compiled plugin is broken, compiling it again");
                None
            }
        }
    }

    fn store(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))?;
        self.prune(code.len() as u64)?;
        // The digest first: between the two renames, an older file of that name counts as broken, not as whole.
        replace(&digest_path(path), hex::encode(Sha256::digest(code)).as_bytes())?;
        replace(path, code)
    }

    /// Makes room for one more file, of that many bytes.
    fn prune(&self, mut bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "cwasm") {
                let data = entry.metadata()?;
                files.push((data.modified()?, data.len(), entry.path()));
            }
        }
        files.sort();
        for (kept, (_, length, path)) in (1..).zip(files.iter().rev()) {
            bytes += length;
            if kept < CACHE_FILES_MAX && bytes <= CACHE_BYTES_MAX {
                continue;
            }
            fs::remove_file(path)?;
            // It may be missing, and without its code it does no harm.
            let _ = fs::remove_file(digest_path(path));
        }
        Ok(())
    }
}

/// Compiles on a thread that gives way to the others: deliveries go on meanwhile. The compiler's own threads, which the first
/// compilation starts, are as patient as the one that starts them.
fn precompile(engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Vec<u8>> {
    std::thread::scope(|scope| {
        let compile = || {
            // Where it is not allowed, compiling is as urgent as the rest.
            let _ = rustix::process::nice(COMPILE_NICENESS);
            engine.precompile_component(wasm)
        };
        let thread = std::thread::Builder::new().name("plugin-compile".into()).spawn_scoped(scope, compile)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn digest_path(path: &Path) -> PathBuf {
    path.with_extension("cwasm.sha256")
}

/// The SHA-256 of a file's content, in hexadecimal digits.
pub(super) fn digest_of(path: &Path) -> io::Result<String> {
    let mut hash = HashWriter(Sha256::new());
    io::copy(&mut fs::File::open(path)?, &mut hash)?;
    Ok(hex::encode(hash.0.finalize()))
}

/// Is the file's digest the one beside it? Also `false` when there is none beside it.
fn is_whole(path: &Path) -> io::Result<bool> {
    let digest = digest_of(path)?;
    match fs::read(digest_path(path)) {
        Ok(expected) => Ok(digest.as_bytes() == expected),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a file beside its place, and moves it there when it is complete and on disk.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}-{}.tmp", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed)));
    // A killed process with the same id may have left one of that name.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

struct HashWriter(Sha256);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A [`Hasher`] whose result is the same in every build of the daemon, unlike the standard library's.
struct DigestHasher(Sha256);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not used: the digest itself is taken.
    fn finish(&self) -> u64 {
        0
    }
}

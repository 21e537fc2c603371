//! Where the master key comes from: the configuration, a file, or one that the daemon makes on its first run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::{Config, MasterKeySource};
use crate::store::{Keyring, MasterKey, MasterKeyError, Store};

use super::Error;

/// The name of the key file in the data directory.
const FILE: &str = "master.key";
/// The permissions that others than the owner and the group have.
const OTHERS: u32 = 0o007;

/// Why a master key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyFileError {
    /// It cannot be read.
    #[error("cannot read the master key file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the master key file {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everybody on the machine may read it.
    #[error("the master key file {} is open to everybody on this machine: chmod 600 it", file.display())]
    Open {
        /// The file.
        file: PathBuf,
    },
    /// It holds no key.
    #[error("the master key file {} holds no master key", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: MasterKeyError,
    },
    /// The store has secrets, and the key that the daemon made for them is gone.
    #[error(
        "the store has secrets, and {} is not there: put it back, or say in [secrets] where the master key is; if it is \
         lost for good, `sluiced secrets forget` drops the secrets, and the daemon makes new ones",
        file.display()
    )]
    Gone {
        /// The file.
        file: PathBuf,
    },
}

/// The keyring that the configuration names; made on the first run where it names none.
pub(super) fn keyring(config: &Config, store: &Store) -> Result<Keyring, Error> {
    let file = config.data_dir.join(FILE);
    let key = match master_key_of(config)? {
        Some(key) => key,
        None if store.knows_master_key()? => return Err(MasterKeyFileError::Gone { file }.into()),
        None => {
            let key = MasterKey::generate();
            write_master_key(&file, &key)?;
            let file = file.display();
            warn!(%file, "made a master key for secrets, move it away from the data and keep a copy: see secrets.master_key_file");
            key
        }
    };
    Ok(Keyring::new(&key))
}

/// The master key that the configuration names; `None` where it names none, and none was made yet.
///
/// # Errors
/// When the file cannot be read, is open to others, or holds no key.
pub fn master_key_of(config: &Config) -> Result<Option<MasterKey>, MasterKeyFileError> {
    match &config.secrets {
        MasterKeySource::Given(text) => {
            Ok(Some(MasterKey::parse(text.expose()).expect("the configuration was checked")))
        }
        MasterKeySource::File(file) => read_master_key(file).map(Some),
        MasterKeySource::DataDir => {
            let file = config.data_dir.join(FILE);
            match read_master_key(&file) {
                Err(MasterKeyFileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
                read => read.map(Some),
            }
        }
    }
}

/// Reads a master key file: the key's text, with white space around it or not.
///
/// # Errors
/// When it cannot be read, everybody may read it, or it holds no key.
pub fn read_master_key(file: &Path) -> Result<MasterKey, MasterKeyFileError> {
    let failed = |source| MasterKeyFileError::Read { file: file.into(), source };
    if fs::metadata(file).map_err(failed)?.mode() & OTHERS != 0 {
        return Err(MasterKeyFileError::Open { file: file.into() });
    }
    let text = fs::read_to_string(file).map_err(failed)?;
    MasterKey::parse(&text).map_err(|source| MasterKeyFileError::Content { file: file.into(), source })
}

/// Writes a master key to a new file that only its owner may read. It is there as a whole, durably, or not at all.
///
/// # Errors
/// When it cannot be written, or is there already.
pub fn write_master_key(file: &Path, key: &MasterKey) -> Result<(), MasterKeyFileError> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let write = || {
        let mut out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        writeln!(out, "{}", key.text())?;
        out.sync_all()?;
        // A link and not a rename: it never replaces a key.
        let linked = fs::hard_link(&new, file);
        fs::remove_file(&new)?;
        linked?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(|source| MasterKeyFileError::Write { file: file.into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_key_file_is_for_its_owner_and_is_never_replaced() {
        let dir = TempDir::new().expect("tempdir");
        let (file, key) = (dir.path().join("key"), MasterKey::generate());
        write_master_key(&file, &key).expect("written");
        assert_eq!(fs::metadata(&file).expect("metadata").mode() & 0o777, 0o600);
        assert!(read_master_key(&file).expect("readable") == key);
        assert!(matches!(write_master_key(&file, &MasterKey::generate()), Err(MasterKeyFileError::Write { .. })));
        assert!(read_master_key(&file).expect("still readable") == key);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing is left beside it");
        for (mode, usable) in [(0o640, true), (0o644, false), (0o602, false), (0o400, true)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("changed");
            assert_eq!(read_master_key(&file).is_ok(), usable, "{mode:o}");
        }
    }

    #[test]
    fn an_error_does_not_show_what_the_file_holds() {
        let dir = TempDir::new().expect("tempdir");
        let file = dir.path().join("key");
        fs::write(&file, "hush").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
        let error = crate::telemetry::chain(&read_master_key(&file).expect_err("no key"));
        assert!(!error.contains("hush") && error.contains("sluiced secrets key"), "{error}");
        assert!(matches!(read_master_key(&dir.path().join("none")), Err(MasterKeyFileError::Read { .. })));
    }
}

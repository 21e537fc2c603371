//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

use crate::domain::SubscriptionId;

/// An operation of the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file of the store's own in it could not be made, read or written.
    #[error("cannot prepare the store's directory {dir}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process works on the directory.
    #[error("the store in {dir} is in use by another process: stop that process, or give this one its own data_dir")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The data are damaged, also without the snapshots.
    #[error(
        "the store in {dir} is damaged: restore the directory from a backup, or move it away to start empty (JetStream \
         then sends again what was not acked, but parked deliveries and dead letters are lost)"
    )]
    Corrupt {
        /// The directory.
        dir: PathBuf,
    },
    /// The data end before what had been confirmed.
    #[error(
        "the store in {dir} ends with group {found}, although {confirmed} had been confirmed: its file was cut, damaged or \
         replaced by an older one; restore a backup, or remove the file `mark` in it to go on without what is missing"
    )]
    Behind {
        /// The directory.
        dir: PathBuf,
        /// The last group found.
        found: u64,
        /// The last group that had been confirmed.
        confirmed: u64,
    },
    /// The directory says that it holds a store, but its data are gone.
    #[error(
        "the store in {dir} should hold data and is empty: restore the directory from a backup, or move it away to start \
         empty"
    )]
    Emptied {
        /// The directory.
        dir: PathBuf,
    },
    /// The store was written by a newer version of the daemon.
    #[error(
        "the store in {dir} has format {found}, newer than {supported}, the newest that this version reads: run the newer \
         version, or give this one its own data_dir"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// The database could not be opened.
    #[error("cannot open the store in {dir}")]
    Open {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something could not be read.
    #[error("cannot read from the store")]
    Read(#[source] io::Error),
    /// Something could not be written or flushed: nothing of its group is certain to be durable.
    #[error("cannot write to the store")]
    Write(#[source] io::Error),
    /// The file of a large body could not be read or is not what was written.
    #[error("cannot read the stored body {file}")]
    Body {
        /// The file's name in the store's `bodies` directory.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// A record cannot be understood.
    #[error("the store has a {what} record that cannot be read")]
    Record {
        /// The kind of record.
        what: &'static str,
    },
    /// After a failed write the store is closed until it can be opened again.
    #[error("the store is not available since a write failed: {reason}")]
    Unavailable {
        /// The failure that closed it.
        reason: Box<str>,
    },
    /// The secrets in the store are sealed under another master key.
    #[error(
        "the master key does not open the secrets in the store: give the one that they were sealed under (a backup of \
         master.key, secrets.master_key or secrets.master_key_file); if it is lost for good, `sluiced secrets forget` \
         drops the secrets, and the daemon makes new ones"
    )]
    WrongKey,
    /// A change of the master key was begun and not finished.
    #[error(
        "a change of the master key was cut short: run `sluiced secrets rekey` again with the same old and new key files"
    )]
    Rekeying,
    /// A sealed record does not open although the master key is right.
    #[error(
        "the sealed secrets of subscription {subscription} are damaged: restore the store from a backup, or run `sluiced \
         secrets forget` to drop all secrets, and the daemon makes new ones"
    )]
    Sealed {
        /// Whose they are.
        subscription: SubscriptionId,
    },
    /// A backup could not be written.
    #[error("cannot write a backup to {dir}")]
    Backup {
        /// The backup's directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another backup is under way.
    #[error("a backup of this store is under way: wait for its end")]
    BackupBusy,
    /// A directory is no backup, or a damaged one.
    #[error("{dir} is not a whole backup ({reason}): take another one, nothing was changed")]
    NoBackup {
        /// The backup's directory.
        dir: PathBuf,
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A restore would overwrite something.
    #[error("there is a store in {dir}: move it away before a backup is restored to its place")]
    Occupied {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The recorder's queue is full: the change was refused.
    #[error("too many changes wait for the store")]
    QueueFull,
    /// The recorder's thread could not be started.
    #[error("cannot start the store's writer thread")]
    Thread(#[source] io::Error),
}

impl Error {
    /// An error of sled as one of reading.
    pub(super) fn read(error: sled::Error) -> Self {
        Self::Read(error.into())
    }

    /// An error of sled as one of writing.
    pub(super) fn write(error: sled::Error) -> Self {
        Self::Write(error.into())
    }
}

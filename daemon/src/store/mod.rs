//! The store: what must not be forgotten, in an embedded sled database that only this module knows.
//!
//! [`Store`] opens the directory and answers reads; [`Recorder`] is the one writer: it gathers [`Change`]s into groups,
//! makes each group durable in one atomic write and one flush, and only then hands the changes' tokens back.
//!
//! # The directory
//! `lock` (held while a process works here), `format` (the format's version), `sled/` (the database), `bodies/` (bodies
//! above [`INLINE_BODY_BYTES_MAX`] and versions of plugins, each in a file of its own), `mark` (the last flush that was confirmed).
//!
//! # The keys
//! Everything but the log lies in one tree, `state`. A subscription stands in a key as its id with the length before it
//! (`sub`): no table of interned numbers has to be kept true, and no subscription's keys begin with another's. Times and
//! sequences in keys are big-endian, so that keys order as they do.
//!
//! | key | value |
//! |---|---|
//! | `P` sub, due time, delivery id | parked delivery, with its body and its attempts |
//! | `D` sub, time of death, delivery id | dead letter, with its body and its attempts |
//! | `I` delivery id | where the delivery lies (one of the two above), and its body's file |
//! | `A` time of death, delivery id | a dead letter's subscription, class, status and bytes |
//! | `F` sub, class, status, time of death, delivery id | nothing: dead letters by reason |
//! | `U` time of death, delivery id | nothing: dead letters that are still to be published |
//! | `C` sub | how many are parked, how many dead, the bytes of these |
//! | `H` sub, stream | position of a held subscription |
//! | `R` sub | registration |
//! | `E` event type | its description, where it was made over the API |
//! | `J` job id | a replay or redrive, how far it is, and what came of it |
//! | `K` stream | ack floor |
//! | `S` stream | identity of the stream |
//! | `V` stream | up to which flush the log speaks of an older stream of that name |
//! | `W` plugin | the plugin's versions |
//! | `X` sub, purpose | a sealed record: signing secrets, definition (see [`Keyring`]) |
//! | `B` `k` id, `B` `u` id | an API key, which is not the key itself; when it was used last |
//! | `Y` number | one change in the audit log |
//! | `M` word | the store's own: `format`, `probe`, `keycheck`, `rekey` |
//!
//! What is asked for and where it is found: what is due, and a subscription's parked deliveries in due order: `P`. Its
//! dead letters by time: `D`; by class or status: `F`. All dead letters by time, for listings and retention: `A`. A delivery
//! by its id: `I`. An event's deliveries: their ids are a function of subscription and place, so `I` again. What became of
//! an event: the log, in which running maxima and spans lead to the flushes that have it. No listing reads more than a
//! page's worth, or says that it stopped early and where to go on.
//!
//! The log lies in trees of its own, `log-<first flush>-<opened>` (both in hexadecimal), each for a span of time or of bytes; its
//! keys are flush numbers, and one value holds all that its flush recorded. Retention drops whole trees, by age and by size.
//! Beside each lies an index of it, `index-<first flush>-<opened>`, that tells which flushes have entries of a subscription
//! and which has a delivery; it is made of blocks of flushes after these are durable, and made again where it is missing.
//! Flush numbers and not times order the log, so that a clock set back does no harm.
//!
//! # When writing fails
//! sled keeps the first I/O error for ever: after it every write fails until the database is opened anew. So a failed
//! write closes the database, and the recorder opens it again, at once and then with growing pauses; recovery finds
//! what was durable. A full disk, a quota, a passing device error thus heal without a restart. A file system that was
//! remounted read-only heals when it is writable again. Until then reads and changes fail with [`Error::Unavailable`].
//! One thing no program can heal: after a failed `fdatasync` the kernel may show, until the next power cut, pages that
//! the device never took.

mod api_keys;
mod audit;
mod backup;
mod batch;
mod bodies;
mod codec;
mod compact;
mod config;
mod definitions;
mod engine;
mod error;
mod event_types;
mod group;
mod index;
mod jobs;
mod keyring;
mod keys;
mod letters;
mod live;
mod log;
mod manifest;
mod mark;
mod migrate;
mod outcomes;
mod partition;
mod plugins;
mod read;
mod recorder;
mod records;
mod recover;
mod restore;
mod retention;
mod search;
mod secrets;
mod unpublished;
mod wire;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub use api_keys::{API_KEYS_MAX, ApiKey};
pub use audit::{AUDIT_RECORDS_MAX, AuditChange, AuditPage, AuditRecord};
pub use backup::Backup;
pub use bodies::INLINE_BODY_BYTES_MAX;
pub use codec::Counts;
pub use compact::Compaction;
pub use config::Config;
pub use definitions::{Answer, Definition};
pub use error::Error;
pub use event_types::EventTypeRecord;
pub use jobs::{JobCounts, JobRecord, JobTask, Mark, RedriveTask, ReplayTask};
pub use keyring::{Keyring, MASTER_KEY_BYTES, MasterKey, MasterKeyError, Opened, Purpose};
pub use letters::{DEAD_PAGE_SEARCH_MAX, DeadFilter, DeadPage, RESEND_MAX, Resent};
pub use live::{FILE_BYTES_MIN, FILE_RATIO_MAX, Size};
pub use outcomes::{
    Hastened, LogFilter, PAGE_BLOCKS_MAX, PAGE_FLUSHES_MAX, PARKED_SEARCH_MAX, ParkedPage, Whereabouts,
};
pub use plugins::{PluginOrigin, PluginRecord, PluginVersion};
pub use read::{DELIVERIES_PAGE_MAX, PARKED_PAGE_MAX};
pub use recorder::Recorder;
pub use records::{
    Attempt, Change, Content, DeadKey, DeadLetter, DeliveryPage, Detail, Disabled, Disposition, GAPS_MAX, GapCause,
    GapRecord, HISTORY_ATTEMPTS_MAX, HISTORY_RESPONSE_BYTES_MAX, LastFailure, LogEntry, LogKey, Parked, ParkedKey,
    PositionRecord, Recorded, Recovered, Registering, Registration, StreamBinding, add_attempt, add_gap,
};
pub use retention::{EXPIRE_LETTERS_MAX, Expired};
pub use search::{EventLog, SEARCH_FLUSHES_MAX, STRETCH_FLUSHES_MAX};
pub use secrets::{Origin, PREVIOUS_SECRETS_MAX, PreviousSecret, Rekeyed, SigningSecrets};
pub use unpublished::{UNPUBLISHED_MAX, Unpublished};

use crate::domain::{Position, StreamName, SubscriptionId};
use crate::telemetry::clock::now_ms;
use batch::Batch;
use engine::{Directory, Engine};
use group::Group;
use keys::kind;
use log::Running;

/// A handle to the store. Cloning is cheap. All methods block on the disk or on page faults: reads of what is in memory
/// take some microseconds, [`Store::open`] seconds.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    directory: Directory,
    engine: RwLock<State>,
    /// Held while anything is written: one writer at a time.
    ledger: Mutex<Ledger>,
    counts: Mutex<CountBook>,
    /// Why the last write failed, until one works.
    failed: Mutex<Option<Box<str>>>,
}

/// The database, when it is open.
enum State {
    Open(Arc<Engine>),
    Closed(Box<str>),
}

/// What the writer knows between two groups.
struct Ledger {
    next_flush: u64,
    running: Running,
    /// Dead letters are to be published: each is marked as long as it is not.
    publish_dead: bool,
    counts: HashMap<SubscriptionId, Counts>,
    /// A closed database that some reader still holds: it must be gone before the next one can be opened.
    retired: Option<Arc<Engine>>,
}

impl Ledger {
    fn counts(&self, subscription: &SubscriptionId) -> Counts {
        self.counts.get(subscription).copied().unwrap_or_default()
    }

    /// What the database says.
    fn load(engine: &Engine, config: &Config) -> Result<Self, Error> {
        let (next_flush, running) = recover::last_flush(engine)?;
        if engine.mark.flush >= next_flush {
            return Err(engine.behind(next_flush - 1));
        }
        let mut counts = HashMap::new();
        for pair in engine.state.scan_prefix([kind::COUNTS]) {
            let (key, value) = pair.map_err(Error::read)?;
            let (subscription, _) = keys::parse_subscription(&key).ok_or(Error::Record { what: "count" })?;
            counts.insert(subscription, codec::read_counts(&value)?);
        }
        Ok(Self { next_flush, running, publish_dead: config.publish_dead_letters, counts, retired: None })
    }
}

/// The counts as readers see them: those of the last durable group.
#[derive(Default)]
struct CountBook {
    total: Counts,
    by_subscription: HashMap<SubscriptionId, Counts>,
}

impl CountBook {
    fn put(&mut self, subscription: &SubscriptionId, counts: Counts) {
        let before = if counts == Counts::default() {
            self.by_subscription.remove(subscription)
        } else {
            self.by_subscription.insert(subscription.clone(), counts)
        };
        let before = before.unwrap_or_default();
        self.total.parked = self.total.parked + counts.parked - before.parked;
        self.total.dead = self.total.dead + counts.dead - before.dead;
        self.total.dead_bytes = self.total.dead_bytes + counts.dead_bytes - before.dead_bytes;
    }

    fn of(counts: &HashMap<SubscriptionId, Counts>) -> Self {
        let mut book = Self::default();
        for (subscription, counts) in counts {
            book.put(subscription, *counts);
        }
        book
    }
}

/// How long to wait at a time for a reader to let go of a closed database.
const RETIRE_RETRY: Duration = Duration::from_millis(5);

impl Store {
    /// Opens the store, or makes it where the directory is new. Blocks: milliseconds for a small store, seconds for a
    /// large one or while another process holds the lock.
    ///
    /// # Errors
    /// When the directory cannot be used, is locked, damaged, emptied, or of a newer format; each says what to do.
    pub fn open(config: Config) -> Result<Self, Error> {
        let directory = Directory::prepare(&config)?;
        let engine = Engine::open(&directory, &config)?;
        let ledger = Ledger::load(&engine, &config)?;
        let counts = CountBook::of(&ledger.counts);
        let inner = Inner {
            config,
            directory,
            engine: RwLock::new(State::Open(Arc::new(engine))),
            ledger: Mutex::new(ledger),
            counts: Mutex::new(counts),
            failed: Mutex::new(None),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Records or replaces what is known of a subscription; durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_registration(&self, subscription: &SubscriptionId, registration: &Registration) -> Result<(), Error> {
        self.put_registrations(&[(subscription.clone(), registration.clone())])
    }

    /// Records or replaces what is known of several subscriptions, all or none; durable when it returns.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_registrations(&self, registrations: &[(SubscriptionId, Registration)]) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            for (subscription, registration) in registrations {
                let key = keys::of_subscription(kind::REGISTRATION, subscription);
                batch.insert(key, codec::write_registration(registration));
            }
            Ok(())
        })
    }

    /// Records what is known of subscriptions together with the positions where their readers begin, in one write for all;
    /// durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn register(&self, all: &[Registering]) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            for Registering { subscription, registration, begins } in all {
                let key = keys::of_subscription(kind::REGISTRATION, subscription);
                batch.insert(key, codec::write_registration(registration));
                for position in begins {
                    let record = PositionRecord::beginning(position.clone());
                    batch.insert(keys::held(subscription, &position.stream), codec::write_position(&record));
                }
            }
            Ok(())
        })
    }

    /// Forgets a subscription's registration and positions; durable when it returns. What it has parked, its dead
    /// letters and its log stay.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_registration(&self, subscription: &SubscriptionId) -> Result<(), Error> {
        self.write_directly(|engine, _, batch| {
            batch.remove(keys::of_subscription(kind::REGISTRATION, subscription));
            for key in engine.state.scan_prefix(keys::of_subscription(kind::HELD, subscription)).keys() {
                batch.remove(key.map_err(Error::read)?);
            }
            Ok(())
        })
    }

    /// Tells the store which stream bears a name: `identity` is what changes when a stream is deleted and made anew (its
    /// time of creation). To be called for each stream before [`Store::recover`]: sequences start again in a new stream,
    /// and without this the old one's records would pass for the new one's. When the stream is another one, its
    /// checkpoint is removed, the log's entries of it no longer count, and every subscription that had begun in the old one
    /// is held at the beginning of the new one, with a gap on record. All of that is one write, durable when it returns.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn bind_stream(&self, stream: &StreamName, identity: u64) -> Result<StreamBinding, Error> {
        let key = keys::of_stream(kind::STREAM, stream);
        let known = match self.engine()?.state.get(&key).map_err(Error::read)? {
            Some(record) => Some(codec::read_number("stream", &record)?),
            None => None,
        };
        if known == Some(identity) {
            return Ok(StreamBinding::Known);
        }
        self.write_directly(|engine, ledger, batch| {
            batch.insert(key, codec::write_number(identity));
            if known.is_some() {
                forget_stream(engine, ledger, stream, batch)?;
            }
            Ok(())
        })?;
        Ok(if known.is_some() { StreamBinding::Replaced } else { StreamBinding::New })
    }

    /// Drops the log's partitions that are past their retention, or too much; tells how many. The recorder does this by
    /// itself when a partition begins.
    ///
    /// # Errors
    /// When a partition cannot be looked into or dropped.
    pub fn expire(&self) -> Result<Expired, Error> {
        partition::expire(&*self.engine()?, now_ms(), &self.inner.config)
    }

    /// About how many bytes the log of finished deliveries has.
    ///
    /// # Errors
    /// When it cannot be looked into.
    pub fn log_bytes(&self) -> Result<u64, Error> {
        partition::log_bytes(&*self.engine()?)
    }

    /// Makes a group of changes durable, all or none. On an error nothing is certain: what is durable then is found out
    /// when the database is opened again.
    pub(in crate::store) fn commit(&self, changes: &[Change]) -> Result<bool, Error> {
        if changes.iter().all(|change| matches!(change, Change::Barrier)) {
            return self.engine().map(|_| false);
        }
        let mut ledger = self.inner.ledger.lock();
        self.commit_with(&mut ledger, changes)
    }

    /// The same, by one who has the lock already.
    fn commit_with(&self, ledger: &mut Ledger, changes: &[Change]) -> Result<bool, Error> {
        let engine = self.engine()?;
        let result = Group::build(&engine, ledger, changes).and_then(|group| group.write(now_ms(), &self.inner.config));
        let written = self.settle(engine, ledger, result)?;
        let mut book = self.inner.counts.lock();
        for (subscription, counts) in written.counts {
            book.put(&subscription, counts);
            if counts == Counts::default() {
                ledger.counts.remove(&subscription);
            } else {
                ledger.counts.insert(subscription, counts);
            }
        }
        if let Some(running) = written.running {
            if let Ok(engine) = self.engine() {
                engine.mark.put(ledger.next_flush);
            }
            ledger.running = running;
            ledger.next_flush += 1;
        }
        Ok(written.partition_begun)
    }

    /// Writes a few keys outside of any group and makes them durable.
    fn write_directly(
        &self,
        fill: impl FnOnce(&Engine, &mut Ledger, &mut Batch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Asked first without the lock: while the database is being opened again, which can take seconds, this fails at
        // once instead of waiting.
        drop(self.engine()?);
        let mut ledger = self.inner.ledger.lock();
        let engine = self.engine()?;
        let mut batch = Batch::default();
        fill(&engine, &mut ledger, &mut batch)?;
        let result = engine.write(Some(&batch), None).and_then(|()| engine.sync());
        self.settle(engine, &mut ledger, result)
    }

    /// Draws the consequence of a write: a failed one closes the database, since sled never writes again after it.
    fn settle<T>(&self, engine: Arc<Engine>, ledger: &mut Ledger, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            Ok(done) => {
                self.inner.failed.lock().take();
                Ok(done)
            }
            Err(error) => {
                let reason: Box<str> = describe(&error).into();
                tracing::error!(error = %reason, "store cannot write, closing it until it can be opened again");
                *self.inner.failed.lock() = Some(reason.clone());
                *self.inner.engine.write() = State::Closed(reason);
                ledger.retired = Some(engine);
                Err(error)
            }
        }
    }

    /// After a failed write: opens the database again and tries a write. No-op while all is well.
    pub(in crate::store) fn revive(&self) -> Result<(), Error> {
        if self.inner.failed.lock().is_none() {
            return Ok(());
        }
        {
            let mut ledger = self.inner.ledger.lock();
            self.retire(&mut ledger)?;
            if matches!(*self.inner.engine.read(), State::Closed(_)) {
                let engine = Engine::open(&self.inner.directory, &self.inner.config)?;
                *ledger = Ledger::load(&engine, &self.inner.config)?;
                *self.inner.counts.lock() = CountBook::of(&ledger.counts);
                *self.inner.engine.write() = State::Open(Arc::new(engine));
            }
        }
        self.write_directly(|_, _, batch| {
            batch.insert(keys::META_PROBE, codec::write_number(now_ms()));
            Ok(())
        })?;
        tracing::warn!("store can write again");
        Ok(())
    }

    /// Waits until the closed database is gone: sled's lock is held until the last reader has let go of it.
    fn retire(&self, ledger: &mut Ledger) -> Result<(), Error> {
        let Some(mut engine) = ledger.retired.take() else { return Ok(()) };
        let deadline = Instant::now() + self.inner.config.lock_wait;
        loop {
            match Arc::try_unwrap(engine) {
                Ok(engine) => {
                    // sled syncs when it is dropped, and panics where that fails.
                    if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
                        tracing::warn!("closing the failed database panicked");
                    }
                    return Ok(());
                }
                Err(shared) if Instant::now() < deadline => {
                    engine = shared;
                    std::thread::sleep(RETIRE_RETRY);
                }
                Err(shared) => {
                    ledger.retired = Some(shared);
                    return Err(self.unavailable());
                }
            }
        }
    }

    /// The database, when it is open.
    fn engine(&self) -> Result<Arc<Engine>, Error> {
        match &*self.inner.engine.read() {
            State::Open(engine) => Ok(Arc::clone(engine)),
            State::Closed(reason) => Err(Error::Unavailable { reason: reason.clone() }),
        }
    }

    /// The error of a change that was given up because one before it failed.
    pub(in crate::store) fn unavailable(&self) -> Error {
        let reason = self.inner.failed.lock().clone();
        Error::Unavailable { reason: reason.unwrap_or_else(|| "a write before it failed".into()) }
    }

    pub(in crate::store) fn config(&self) -> &Config {
        &self.inner.config
    }
}

/// Takes out what the store knows of a stream that is no more. Whoever had begun in it begins with its successor.
fn forget_stream(engine: &Engine, ledger: &mut Ledger, stream: &StreamName, batch: &mut Batch) -> Result<(), Error> {
    batch.insert(keys::of_stream(kind::VOID, stream), codec::write_number(ledger.next_flush.saturating_sub(1)));
    let checkpoint = keys::of_stream(kind::CHECKPOINT, stream);
    let acked = match engine.state.get(&checkpoint).map_err(Error::read)? {
        Some(record) => codec::read_number("checkpoint", &record)?,
        None => 0,
    };
    batch.remove(checkpoint);
    let mut held = HashMap::new();
    for (subscription, position) in recover::positions(engine)? {
        if position.position.stream == *stream {
            batch.remove(keys::held(&subscription, stream));
            held.insert(subscription, position.position.sequence);
        }
    }
    let position = Position { stream: stream.clone(), sequence: 1 };
    let beginning = codec::write_position(&PositionRecord::beginning(position));
    for (subscription, mut registration) in read::registrations(engine)? {
        let Some((_, after)) = registration.starts_after.iter_mut().find(|(s, _)| s == stream) else { continue };
        let from = held.get(&subscription).copied().unwrap_or_else(|| acked.max(*after) + 1);
        *after = 0;
        let (available, cause, events) = (1, GapCause::Replaced, 0);
        registration.add_gap(GapRecord { stream: stream.clone(), from, available, at_ms: now_ms(), cause, events });
        let key = keys::of_subscription(kind::REGISTRATION, &subscription);
        batch.insert(key, codec::write_registration(&registration));
        batch.insert(keys::held(&subscription, stream), beginning.clone());
    }
    // Safe before the write is durable: maxima only ever stop a search early, and the void mark written with this stops
    // it earlier still. Should the write fail, the ledger is loaded anew.
    ledger.running.remove(stream);
    Ok(())
}

/// An error with all that lies under it, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;

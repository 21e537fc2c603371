//! From a group of changes to one atomic write.
//!
//! Why this keeps the promises: a group is all changes in the order in which they were submitted, from the first that is
//! not yet durable; it is written as one atomic batch over the state tree and the log, and the next group is begun only
//! when this one is flushed. So what is durable is always the effect of a beginning of the submissions: a record is
//! durable before, or together with, every position, checkpoint or removal submitted after it, and a parked body
//! together with the log entry that calls its event recorded. When a group fails, the recorder fails all that was
//! queued behind it, since that may build on it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::batch::Batch;
use super::bodies::{self, INLINE_BODY_BYTES_MAX};
use super::codec::{self, BodyRef, Counts, Traits, Whereabouts};
use super::engine::Engine;
use super::jobs::{self, Mark};
use super::keys::{self, kind};
use super::log::{Builder, Running};
use super::records::{Change, Content, LogEntry, Registration};
use super::{Config, Error, Ledger};
use crate::domain::{DeliveryId, JobId, SubscriptionId};
use crate::failpoint::{self, Place};
use crate::telemetry::clock::now_ms;

/// A group in the making.
pub(super) struct Group<'a> {
    engine: &'a Engine,
    ledger: &'a Ledger,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    counts: HashMap<SubscriptionId, Counts>,
    log: Builder<'a>,
    logged: Vec<&'a LogEntry>,
    /// Files that no record points to once this group is durable.
    stale_files: HashSet<String>,
    /// New files whose names are not yet durable.
    unsynced_files: bool,
    /// Dead letters are to be published.
    mark_unpublished: bool,
}

/// A group that is written and synced, for the ledger.
pub(super) struct Written {
    /// The new counts of the subscriptions concerned.
    pub(super) counts: HashMap<SubscriptionId, Counts>,
    /// The new running maxima, when the log was written.
    pub(super) running: Option<Running>,
    /// Whether a new log partition was begun.
    pub(super) partition_begun: bool,
}

impl<'a> Group<'a> {
    /// Works out what the changes do to the store. Large bodies are written and synced here, before any record that
    /// points to them.
    pub(super) fn build(engine: &'a Engine, ledger: &'a Ledger, changes: &'a [Change]) -> Result<Self, Error> {
        let mut group = Self {
            engine,
            ledger,
            writes: BTreeMap::new(),
            counts: HashMap::new(),
            log: Builder::default(),
            logged: Vec::new(),
            stale_files: HashSet::new(),
            unsynced_files: false,
            mark_unpublished: ledger.publish_dead,
        };
        for change in changes {
            group.add(change)?;
        }
        if group.unsynced_files {
            engine.bodies.sync().map_err(Error::Write)?;
            failpoint::reach(Place::BodyWritten).map_err(Error::Write)?;
        }
        Ok(group)
    }

    fn add(&mut self, change: &'a Change) -> Result<(), Error> {
        match change {
            Change::Finished(log) => self.log(log),
            Change::Park { parked, log } => {
                self.log(log);
                self.park(parked)?;
            }
            Change::Resend(parked) => {
                // Only what is a dead letter now: one that was resent before, and may have arrived since, stays as it is.
                if self.place(&parked.delivery)?.is_some_and(|place| place.dead) {
                    self.park(parked)?;
                }
            }
            Change::Hasten(parked) => {
                if self.place(&parked.delivery)?.is_some_and(|place| !place.dead) {
                    self.park(parked)?;
                }
            }
            Change::FinishParked { delivery, log } => {
                self.log(log);
                self.leave(delivery)?;
            }
            Change::Remove(delivery) => self.leave(delivery)?,
            Change::Published { delivery, failed_ms } => {
                self.writes.insert(keys::anywhere(kind::UNPUBLISHED, *failed_ms, delivery), None);
            }
            Change::Dead { letter, log } => {
                self.log(log);
                self.bury(letter)?;
            }
            Change::Hold { subscription, position } => {
                let key = keys::held(subscription, &position.position.stream);
                self.writes.insert(key, Some(codec::write_position(position)));
            }
            Change::Unhold { subscription, stream } => {
                self.writes.insert(keys::held(subscription, stream), None);
            }
            Change::Checkpoint { stream, ack_floor } => {
                let key = keys::of_stream(kind::CHECKPOINT, stream);
                self.writes.insert(key, Some(codec::write_number(*ack_floor)));
            }
            Change::Disable { subscription, disabled } => {
                self.amend(subscription, |r| r.disabled = Some(disabled.clone()))?;
            }
            Change::Enable { subscription } => self.amend(subscription, |r| {
                r.disabled = None;
                r.failing_since_ms = None;
            })?,
            Change::Failing { subscription, since_ms } => {
                self.amend(subscription, |r| r.failing_since_ms = *since_ms)?;
            }
            Change::Gap { subscription, gap } => self.amend(subscription, |r| r.add_gap(gap.clone()))?,
            Change::Replayed { outcome, job, mark } => {
                self.add(outcome)?;
                self.mark(*job, *mark)?;
            }
            Change::Job(job) => {
                let key = jobs::key(job.id);
                let record = jobs::follow(self.read(&key)?.as_deref(), job);
                self.writes.insert(key, Some(record));
            }
            Change::ForgetJob(id) => drop(self.writes.insert(jobs::key(*id), None)),
            Change::Barrier => {}
        }
        Ok(())
    }

    /// Marks in a job's record what came of a delivery. A record that is gone or damaged is passed over: no job goes on there.
    fn mark(&mut self, job: JobId, mark: Mark) -> Result<(), Error> {
        let key = jobs::key(job);
        match self.read(&key)?.map(|record| jobs::marked(job, &record, mark)) {
            Some(Ok(Some(record))) => drop(self.writes.insert(key, Some(record))),
            Some(Err(error)) => tracing::error!(%job, %error, "store has a damaged job, it goes on without a mark"),
            Some(Ok(None)) | None => {}
        }
        Ok(())
    }

    fn log(&mut self, entry: &'a LogEntry) {
        self.log.push(entry);
        self.logged.push(entry);
    }

    fn park(&mut self, parked: &super::Parked) -> Result<(), Error> {
        self.leave(&parked.delivery)?;
        let file = self.keep_body(&parked.delivery, &parked.content)?;
        let subscription = parked.subscription.clone();
        let place = Whereabouts { dead: false, subscription, at_ms: parked.due_ms, file, traits: None };
        self.enter(&parked.delivery, &place, codec::write_parked(parked, file));
        Ok(())
    }

    /// Keeps a dead letter, with its places in the indexes by time and by reason.
    fn bury(&mut self, letter: &super::DeadLetter) -> Result<(), Error> {
        self.leave(&letter.delivery)?;
        let file = self.keep_body(&letter.delivery, &letter.content)?;
        let record = codec::write_dead(letter, file);
        let place = dead_place(letter, file, record.len());
        for (key, value) in dead_indexes(&place, &letter.delivery) {
            self.writes.insert(key, Some(value));
        }
        if self.mark_unpublished {
            let key = keys::anywhere(kind::UNPUBLISHED, letter.failed_ms, &letter.delivery);
            self.writes.insert(key, Some(Vec::new()));
        }
        self.enter(&letter.delivery, &place, record);
        Ok(())
    }

    /// Puts a delivery in its place, under its timed key and in the index by id.
    fn enter(&mut self, delivery: &DeliveryId, place: &Whereabouts, record: Vec<u8>) {
        if let Some(file) = &place.file {
            self.stale_files.remove(&codec::body_file_name(delivery, file));
        }
        self.writes.insert(timed_key(place, delivery), Some(record));
        self.writes.insert(keys::by_id(delivery), Some(codec::write_whereabouts(place)));
        let counts = self.counts_of(&place.subscription);
        *(if place.dead { &mut counts.dead } else { &mut counts.parked }) += 1;
        counts.dead_bytes += place.traits.as_ref().map_or(0, |traits| traits.bytes);
    }

    /// Where a delivery lies after the changes so far.
    fn place(&self, delivery: &DeliveryId) -> Result<Option<Whereabouts>, Error> {
        let Some(record) = self.read(&keys::by_id(delivery))? else { return Ok(None) };
        match codec::read_whereabouts(&record) {
            Ok(place) => Ok(Some(place)),
            Err(error) => {
                tracing::error!(%delivery, %error, "store has a damaged index record, taken as absent");
                Ok(None)
            }
        }
    }

    /// Takes out whatever the delivery has in the store. Nothing is no error: a change whose group failed may have
    /// become durable all the same, and comes again.
    fn leave(&mut self, delivery: &DeliveryId) -> Result<(), Error> {
        let key = keys::by_id(delivery);
        if self.read(&key)?.is_none() {
            return Ok(());
        }
        let place = self.place(delivery)?;
        self.writes.insert(key, None);
        let Some(place) = place else { return Ok(()) };
        self.writes.insert(timed_key(&place, delivery), None);
        if place.dead {
            for (key, _) in dead_indexes(&place, delivery) {
                self.writes.insert(key, None);
            }
            self.writes.insert(keys::anywhere(kind::UNPUBLISHED, place.at_ms, delivery), None);
        }
        if let Some(file) = &place.file {
            self.stale_files.insert(codec::body_file_name(delivery, file));
        }
        let counts = self.counts_of(&place.subscription);
        let count = if place.dead { &mut counts.dead } else { &mut counts.parked };
        *count = count.saturating_sub(1);
        let bytes = place.traits.as_ref().map_or(0, |traits| traits.bytes);
        counts.dead_bytes = counts.dead_bytes.saturating_sub(bytes);
        Ok(())
    }

    fn keep_body(&mut self, delivery: &DeliveryId, content: &Content) -> Result<Option<BodyRef>, Error> {
        if content.body.len() <= INLINE_BODY_BYTES_MAX {
            return Ok(None);
        }
        let file = bodies::describe(&content.body);
        self.unsynced_files |= self.engine.bodies.write(delivery, &file, &content.body).map_err(Error::Write)?;
        Ok(Some(file))
    }

    fn amend(&mut self, subscription: &SubscriptionId, amend: impl FnOnce(&mut Registration)) -> Result<(), Error> {
        let key = keys::of_subscription(kind::REGISTRATION, subscription);
        let known = self.read(&key)?.and_then(|record| match codec::read_registration(&record) {
            Ok(registration) => Some(registration),
            Err(error) => {
                tracing::error!(%subscription, %error, "store has a damaged registration, taken as absent");
                None
            }
        });
        let mut registration = known.unwrap_or_else(|| Registration { first_seen_ms: now_ms(), ..Default::default() });
        amend(&mut registration);
        registration.updated_ms = now_ms();
        self.writes.insert(key, Some(codec::write_registration(&registration)));
        Ok(())
    }

    /// A value as it stands after the changes so far.
    fn read(&self, key: &[u8]) -> Result<Option<sled::IVec>, Error> {
        match self.writes.get(key) {
            Some(written) => Ok(written.as_deref().map(Into::into)),
            None => self.engine.state.get(key).map_err(Error::read),
        }
    }

    fn counts_of(&mut self, subscription: &SubscriptionId) -> &mut Counts {
        let ledger = self.ledger;
        self.counts.entry(subscription.clone()).or_insert_with(|| ledger.counts(subscription))
    }

    /// Writes the group and makes it durable; then removes the files that nothing points to any more.
    pub(super) fn write(mut self, now_ms: u64, config: &Config) -> Result<Written, Error> {
        for (subscription, counts) in &self.counts {
            let key = keys::of_subscription(kind::COUNTS, subscription);
            let value = (*counts != Counts::default()).then(|| codec::write_counts(*counts));
            self.writes.insert(key, value);
        }
        let state = (!self.writes.is_empty()).then(|| {
            let mut batch = Batch::default();
            for (key, value) in std::mem::take(&mut self.writes) {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            batch
        });
        let mut written = Written { counts: self.counts, running: None, partition_begun: false };
        if self.log.is_empty() {
            self.engine.write(state.as_ref(), None)?;
        } else {
            let running = Builder::running_after(self.logged.into_iter(), &self.ledger.running);
            let value = self.log.finish(&running);
            let (partition, begun) = self.engine.partition(self.ledger.next_flush, now_ms, config)?;
            self.engine.write(state.as_ref(), Some((&partition, self.ledger.next_flush, value)))?;
            written.running = Some(running);
            written.partition_begun = begun;
        }
        self.engine.sync()?;
        failpoint::pass(Place::Flushed);
        for name in &self.stale_files {
            self.engine.bodies.remove(name);
        }
        Ok(written)
    }
}

/// Where a dead letter lies, whose record has so many bytes.
pub(super) fn dead_place(letter: &super::DeadLetter, file: Option<BodyRef>, record_bytes: usize) -> Whereabouts {
    let bytes = record_bytes as u64 + file.map_or(0, |file| file.length);
    let traits = Traits { class: letter.failure.class.clone(), status: letter.failure.status, bytes };
    let subscription = letter.subscription.clone();
    Whereabouts { dead: true, subscription, at_ms: letter.failed_ms, file, traits: Some(traits) }
}

/// What the indexes by time and by reason have of a dead letter.
pub(super) fn dead_indexes(place: &Whereabouts, delivery: &DeliveryId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Some(traits) = &place.traits else { return Vec::new() };
    let mut by_reason = keys::of_reason(&place.subscription, &traits.class, traits.status);
    by_reason.extend_from_slice(&place.at_ms.to_be_bytes());
    by_reason.extend_from_slice(delivery.bytes());
    let by_time = keys::anywhere(kind::DEAD_BY_TIME, place.at_ms, delivery);
    vec![(by_time, codec::write_dead_index(&place.subscription, traits)), (by_reason, Vec::new())]
}

fn timed_key(place: &Whereabouts, delivery: &DeliveryId) -> Vec<u8> {
    let kind = if place.dead { kind::DEAD } else { kind::PARKED };
    keys::timed(kind, &place.subscription, place.at_ms, delivery)
}

//! The log's partitions: a tree for each span of time or of bytes. Retention drops whole ones, the oldest first.
//!
//! # How the bytes of a partition are known
//! One that was begun by this process counts what is written to it. One that was found when the store was opened is
//! estimated the first time that somebody asks: its flushes are numbered almost without a gap, and a sample of them, evenly
//! spread, tells how many bytes one has. From then on what is written to it is added.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::engine::Engine;
use super::keys::{self, kind};
use super::log::Group;
use super::recover::{HELD_FLUSHES, flush_of};
use super::retention::{Expired, millis};
use super::{Config, Error, codec};

/// A partition that has so much of the bytes that the log may have is followed by another: one part in so many.
const BYTES_SHARE: u64 = 8;
/// How many flushes are looked at for an estimate.
const SAMPLE_FLUSHES: u64 = 32;
/// For how long what JetStream may send again, or a reader bring again, is not dropped for its size.
const NEEDED_TIME: Duration = Duration::from_secs(3_600);

/// One log partition.
#[derive(Clone)]
pub(super) struct Partition {
    pub(super) first_flush: u64,
    pub(super) opened_ms: u64,
    pub(super) tree: sled::Tree,
    /// Which of its flushes have what.
    pub(super) index: sled::Tree,
    /// About how many bytes its keys and values have, when that is known.
    bytes: Arc<Mutex<Option<u64>>>,
}

impl Partition {
    /// One that was there when the store was opened.
    pub(super) fn found(first_flush: u64, opened_ms: u64, tree: sled::Tree, index: sled::Tree) -> Self {
        Self { first_flush, opened_ms, tree, index, bytes: Arc::default() }
    }

    /// One that is begun.
    pub(super) fn begun(first_flush: u64, opened_ms: u64, tree: sled::Tree, index: sled::Tree) -> Self {
        Self { bytes: Arc::new(Mutex::new(Some(0))), ..Self::found(first_flush, opened_ms, tree, index) }
    }

    pub(super) fn name(&self) -> String {
        keys::partition(self.first_flush, self.opened_ms)
    }

    pub(super) fn index_name(&self) -> String {
        keys::index(self.first_flush, self.opened_ms)
    }

    /// Something was written to it.
    pub(super) fn grew(&self, bytes: u64) {
        if let Some(known) = &mut *self.bytes.lock() {
            *known += bytes;
        }
    }

    /// About how many bytes it has; it may have to look.
    pub(super) fn bytes(&self) -> Result<u64, Error> {
        let mut bytes = self.bytes.lock();
        let known = match *bytes {
            Some(known) => known,
            None => self.estimate()?,
        };
        *bytes = Some(known);
        Ok(known)
    }

    fn estimate(&self) -> Result<u64, Error> {
        let Some((last, value)) = self.last()? else { return Ok(0) };
        let flushes = last - self.first_flush.min(last) + 1;
        let (mut seen, mut bytes) = (1, entry_bytes(value.len()));
        for sample in 0..SAMPLE_FLUSHES {
            let flush = self.first_flush + (flushes - 1) * sample / SAMPLE_FLUSHES;
            if let Some(value) = self.tree.get(flush.to_be_bytes()).map_err(Error::read)? {
                seen += 1;
                bytes += entry_bytes(value.len());
            }
        }
        Ok(flushes.saturating_mul(bytes) / seen)
    }

    /// Its last flush; `None` when it is empty, or was dropped while it was looked at.
    fn last(&self) -> Result<Option<(u64, sled::IVec)>, Error> {
        match self.tree.last() {
            Ok(Some((key, value))) => Ok(Some((flush_of(&key)?, value))),
            Ok(None) | Err(sled::Error::CollectionNotFound(_)) => Ok(None),
            Err(error) => Err(Error::read(error)),
        }
    }
}

/// What a flush's entry takes.
pub(super) fn entry_bytes(value_bytes: usize) -> u64 {
    (size_of::<u64>() + value_bytes) as u64
}

/// Is it time for the next partition?
pub(super) fn is_full(newest: &Partition, now_ms: u64, config: &Config) -> bool {
    // One that was found is not looked into here: a group waits.
    let bytes = newest.bytes.lock().unwrap_or_default();
    now_ms.abs_diff(newest.opened_ms) >= millis(config.log_partition) || bytes >= config.log_bytes_max / BYTES_SHARE
}

/// About how many bytes the log has.
pub(super) fn log_bytes(engine: &Engine) -> Result<u64, Error> {
    engine.partitions().iter().map(Partition::bytes).sum()
}

/// Drops, the oldest first, each partition whose newest entry is past its retention, and those that are too much. All of
/// a partition's entries are older than its successor, so the newest always stays.
pub(super) fn expire(engine: &Engine, now_ms: u64, config: &Config) -> Result<Expired, Error> {
    let mut expired = Expired::default();
    loop {
        let partitions = engine.partitions();
        let [oldest, next, ..] = &partitions[..] else { return Ok(expired) };
        let too_old = next.opened_ms.saturating_add(millis(config.log_retention)) < now_ms;
        let too_much = || -> Result<bool, Error> {
            Ok(log_bytes(engine)? > config.log_bytes_max && !is_needed(engine, &partitions, now_ms)?)
        };
        match too_old {
            true => expired.by_age += 1,
            false if too_much()? => expired.by_size += 1,
            false => return Ok(expired),
        }
        engine.drop_partition(oldest)?;
    }
}

/// May the oldest partition be needed to recognise what comes again: from JetStream above an ack floor, or from the reader of
/// a held subscription? An hour after its last entry it is not: nothing waits so long for its ack, and a position has
/// long followed its records.
fn is_needed(engine: &Engine, partitions: &[Partition], now_ms: u64) -> Result<bool, Error> {
    let [oldest, next, ..] = partitions else { return Ok(true) };
    let newest = partitions.last().unwrap_or(next);
    if next.opened_ms.saturating_add(millis(NEEDED_TIME)) < now_ms {
        return Ok(false);
    }
    let Some((last, value)) = oldest.last()? else { return Ok(false) };
    let held = engine.state.scan_prefix([kind::HELD]).next().is_some();
    let newest_flush = newest.last()?.map_or(newest.first_flush, |(flush, _)| flush);
    if held && last + HELD_FLUSHES > newest_flush {
        return Ok(true);
    }
    for (stream, highest) in Group::read(&value)?.running {
        let floor = engine.state.get(keys::of_stream(kind::CHECKPOINT, &stream)).map_err(Error::read)?;
        let floor = floor.map(|record| codec::read_number("number", &record)).transpose()?;
        if floor.is_none_or(|floor| highest > floor) {
            return Ok(true);
        }
    }
    Ok(false)
}

//! What the log has of one event: found without reading all of it.
//!
//! A stream's running maximum never falls from flush to flush, so the first flush whose maximum reaches the event's
//! sequence is found by halving; no earlier one can have it. From there on the search goes forward, and looks into a flush
//! only when its span holds the sequence. A delivery that failed says in its entry when it is due again, so the search
//! leaps to that time. Each such stretch, and all of them together, are bounded: an event that a subscription took up long
//! after it was published, and that never failed, may lie beyond them.

use super::engine::Engine;
use super::log::Group;
use super::partition::Partition;
use super::records::{Disposition, LogEntry};
use super::{Error, Store, recover};
use crate::domain::{Position, SubscriptionId};

/// How many flushes one stretch of the search reads.
pub const STRETCH_FLUSHES_MAX: usize = 20_000;
/// How many flushes the whole search reads.
pub const SEARCH_FLUSHES_MAX: usize = 60_000;

/// What the log has of one event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventLog {
    /// Its entries, of all subscriptions, oldest first.
    pub entries: Vec<LogEntry>,
    /// How many flushes were read.
    pub flushes: usize,
    /// Whether the search came to the log's end without leaving anything out.
    pub complete: bool,
}

impl Store {
    /// What the log has of the event at that place. It reads at most [`SEARCH_FLUSHES_MAX`] flushes, some tenths of a
    /// second: not for the data plane.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn event_log(&self, position: &Position) -> Result<EventLog, Error> {
        let engine = self.engine()?;
        let partitions = engine.partitions();
        let mut log = EventLog::default();
        let Some(mut from) = first_flush(&engine, &partitions, position)? else {
            return Ok(EventLog { complete: true, ..log });
        };
        let mut whole = true;
        loop {
            let stretch = STRETCH_FLUSHES_MAX.min(SEARCH_FLUSHES_MAX - log.flushes);
            let read = read_on(&partitions, from, stretch, position, &mut log)?;
            let Some((last, last_ms)) = read else {
                log.complete = whole;
                return Ok(log);
            };
            // Where the next attempts are to be found: not before they are due.
            let Some(due_ms) = next_due(&log.entries, last_ms) else { return Ok(log) };
            if log.flushes >= SEARCH_FLUSHES_MAX {
                return Ok(log);
            }
            let Some(at) = flush_at(&partitions, last + 1, due_ms)? else { return Ok(log) };
            whole &= at <= last + 1;
            from = at;
        }
    }
}

/// The first flush that can have an entry of the event; `None` when there is none.
fn first_flush(engine: &Engine, partitions: &[Partition], position: &Position) -> Result<Option<u64>, Error> {
    let void = recover::void(engine, &position.stream)?;
    let reaches = |group: &Group<'_>| {
        let max = group.running.iter().find(|(stream, _)| *stream == position.stream).map(|(_, max)| *max);
        max.is_some_and(|max| max >= position.sequence)
    };
    first_that(partitions, void.map_or(0, |void| void + 1), reaches)
}

/// The first flush, at `from` or after it, of that time or later.
pub(super) fn flush_at(partitions: &[Partition], from: u64, at_ms: u64) -> Result<Option<u64>, Error> {
    first_that(partitions, from, |group| group.base_ms >= at_ms)
}

/// The first flush at `from` or after it for which `holds`, by halving: for whichever it holds, it holds for all later
/// ones. (For times only as far as nobody set the clock back.)
fn first_that(partitions: &[Partition], from: u64, holds: impl Fn(&Group<'_>) -> bool) -> Result<Option<u64>, Error> {
    let Some(newest) = partitions.last() else { return Ok(None) };
    let last = match newest.tree.last().map_err(Error::read)? {
        Some((key, _)) => recover::flush_of(&key)?,
        None => newest.first_flush,
    };
    let (mut low, mut high) = (from, last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // A flush number may be missing: the next flush that exists stands for it.
        let Some((flush, value)) = at_or_after(partitions, middle)? else {
            high = middle;
            continue;
        };
        if flush > last || holds(&Group::read(&value)?) {
            high = middle;
        } else {
            low = flush + 1;
        }
    }
    Ok(at_or_after(partitions, low)?.map(|(flush, _)| flush))
}

fn at_or_after(partitions: &[Partition], flush: u64) -> Result<Option<(u64, sled::IVec)>, Error> {
    let begin = partitions.partition_point(|partition| partition.first_flush <= flush).saturating_sub(1);
    for partition in partitions.get(begin..).unwrap_or_default() {
        match partition.tree.range(flush.to_be_bytes()..).next() {
            None | Some(Err(sled::Error::CollectionNotFound(_))) => {}
            Some(pair) => {
                let (key, value) = pair.map_err(Error::read)?;
                return Ok(Some((recover::flush_of(&key)?, value)));
            }
        }
    }
    Ok(None)
}

/// Reads at most `flushes_max` flushes from `from` on. Returns the last one read and its time; `None` when there is none
/// after it.
fn read_on(
    partitions: &[Partition],
    from: u64,
    flushes_max: usize,
    position: &Position,
    log: &mut EventLog,
) -> Result<Option<(u64, u64)>, Error> {
    let begin = partitions.partition_point(|partition| partition.first_flush <= from).saturating_sub(1);
    let mut read = 0;
    for partition in partitions.get(begin..).unwrap_or_default() {
        for pair in partition.tree.range(from.to_be_bytes()..) {
            let (key, value) = match pair {
                Ok(pair) => pair,
                // The partition was dropped for its age while it was read.
                Err(sled::Error::CollectionNotFound(_)) => break,
                Err(error) => return Err(Error::read(error)),
            };
            let mut group = Group::read(&value)?;
            let base_ms = group.base_ms;
            read_group(&mut group, position, &mut log.entries)?;
            log.flushes += 1;
            read += 1;
            if read >= flushes_max {
                return Ok(Some((recover::flush_of(&key)?, base_ms)));
            }
        }
    }
    Ok(None)
}

fn read_group(group: &mut Group<'_>, position: &Position, entries: &mut Vec<LogEntry>) -> Result<(), Error> {
    let Some(stream) = group.running.iter().position(|(name, _)| *name == position.stream) else { return Ok(()) };
    let within = group.spans[stream].is_some_and(|(low, high)| (low..=high).contains(&position.sequence));
    if !within {
        return Ok(());
    }
    while let Some(mut section) = group.section()? {
        if section.stream != stream {
            continue;
        }
        let subscription = SubscriptionId::parse(section.subscription).map_err(|_| Error::Record { what: "log" })?;
        while let Some(entry) = section.entry(&subscription, &position.stream)? {
            if entry.position.sequence == position.sequence {
                entries.push(entry);
            }
        }
    }
    Ok(())
}

/// When the next attempt is due of a delivery whose last entry says that it waits, after that time.
fn next_due(entries: &[LogEntry], after_ms: u64) -> Option<u64> {
    let waits = |at: usize, entry: &LogEntry| {
        let later = |other: &LogEntry| other.subscription == entry.subscription && other.part == entry.part;
        entry.disposition == Disposition::Parked && !entries[at + 1..].iter().any(later)
    };
    let waiting = entries.iter().enumerate().filter(|(at, entry)| waits(*at, entry));
    waiting.filter_map(|(_, entry)| entry.detail.as_ref()?.due_ms).filter(|due| *due > after_ms).min()
}

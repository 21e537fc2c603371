//! Listings of deliveries: what the log has, of some subscriptions or of all, what is parked, and what was given up.
//!
//! A page of some subscriptions' log goes by the index, and looks into no flush that has nothing of theirs. The end of the
//! log, which is not indexed yet, is read flush by flush. What a page may read is bounded; one that stopped early says where
//! to go on.

use std::cmp::Reverse;
use std::ops::Bound;
use std::ops::ControlFlow::{self, Break, Continue};

use super::index::{self, Hash};
use super::keys::{self, kind};
use super::letters::{self, DeadFilter, DeadPage};
use super::log::Group;
use super::partition::Partition;
use super::read::{DELIVERIES_PAGE_MAX, find};
use super::records::{Change, DeadKey, DeliveryPage, Disposition, LogEntry, LogKey, Parked, ParkedKey};
use super::recover::flush_of;
use super::{Error, Store, codec, search};
use crate::domain::{DeliveryId, SubscriptionId};

/// How many flushes a page of the log may read: it bounds the time that a page takes to some tens of milliseconds.
pub const PAGE_FLUSHES_MAX: usize = 4_000;
/// How many blocks of the log's index a page may look at, each of up to 256 flushes.
pub const PAGE_BLOCKS_MAX: usize = 16_000;
/// How many parked deliveries a page may look at.
pub const PARKED_SEARCH_MAX: usize = 2_000;
/// How many flushes that are not indexed yet the search for a delivery reads.
const FIND_FLUSHES_MAX: usize = 4_000;
/// By how much the entries of a flush may be out of order in time.
const DISORDER_MS: u64 = 60_000;

/// Which entries of the log are wanted; the default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Only those of these subscriptions.
    pub subscriptions: Option<Vec<SubscriptionId>>,
    /// Only those that ended so.
    pub disposition: Option<Disposition>,
    /// Only those of this time or later, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Only those before this time, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
}

impl LogFilter {
    fn takes(&self, entry: &LogEntry) -> bool {
        self.disposition.is_none_or(|wanted| entry.disposition == wanted)
            && self.since_ms.is_none_or(|since| entry.at_ms >= since)
            && self.until_ms.is_none_or(|until| entry.at_ms < until)
    }
}

/// A page of parked deliveries, without their bodies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParkedPage {
    /// They, by subscription and within one in the order in which they are due.
    pub deliveries: Vec<Parked>,
    /// Where to go on; `None` when there is no more. A page may be short, even empty, and still have a next one.
    pub next: Option<ParkedKey>,
}

/// Where a delivery lies that is not at its end, or was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is parked.
    Parked {
        /// When it is due, in milliseconds since the Unix epoch.
        due_ms: u64,
    },
    /// It is a dead letter.
    Dead {
        /// When it was given up, in milliseconds since the Unix epoch.
        failed_ms: u64,
    },
}

/// What became of the wish to try a parked delivery at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hastened {
    /// It is due.
    Due,
    /// There is no such delivery parked.
    Unknown,
}

impl Store {
    /// A page of the log, newest first, before that key; at most `limit` (and [`DELIVERIES_PAGE_MAX`]) entries. It reads at
    /// most [`PAGE_FLUSHES_MAX`] flushes: not for the data plane.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn log_page(&self, filter: &LogFilter, before: Option<LogKey>, limit: usize) -> Result<DeliveryPage, Error> {
        let partitions = self.engine()?.partitions();
        let mut before = before.unwrap_or(LogKey { flush: u64::MAX, index: 0 });
        if let Some(until) = filter.until_ms
            && let Some(flush) = search::flush_at(&partitions, 0, until.saturating_add(DISORDER_MS))?
        {
            before = before.min(LogKey { flush, index: 0 });
        }
        let mut walk = Walk::new(filter, before, limit);
        for partition in partitions.iter().rev() {
            if partition.first_flush <= before.flush && walk.partition(partition)?.is_break() {
                break;
            }
        }
        Ok(walk.page)
    }

    /// The newest entry that the log has of a delivery.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn logged(&self, delivery: &DeliveryId) -> Result<Option<LogEntry>, Error> {
        let mut read = 0;
        for partition in self.engine()?.partitions().iter().rev() {
            let from = index::covered(&partition.index)?.map_or(0, |covered| covered + 1);
            for pair in partition.tree.range(from.to_be_bytes()..).rev() {
                let Some((_, value)) = index::there(pair)? else { break };
                if let Some(entry) = last_of(&value, delivery)? {
                    return Ok(Some(entry));
                }
                read += 1;
                if read >= FIND_FLUSHES_MAX {
                    break;
                }
            }
            for flush in index::of_delivery(&partition.index, delivery) {
                let value = index::there(partition.tree.get(flush?.to_be_bytes()))?.flatten();
                if let Some(value) = value
                    && let Some(entry) = last_of(&value, delivery)?
                {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// Where a delivery lies, when it is parked or a dead letter.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn whereabouts(&self, delivery: &DeliveryId) -> Result<Option<Whereabouts>, Error> {
        let Some(record) = self.engine()?.state.get(keys::by_id(delivery)).map_err(Error::read)? else {
            return Ok(None);
        };
        let place = codec::read_whereabouts(&record)?;
        Ok(Some(match place.dead {
            true => Whereabouts::Dead { failed_ms: place.at_ms },
            false => Whereabouts::Parked { due_ms: place.at_ms },
        }))
    }

    /// A page of the parked deliveries of these subscriptions, or of all, that `takes` holds for, after that key; at most
    /// `limit` (and [`DELIVERIES_PAGE_MAX`]). It looks at no more than [`PARKED_SEARCH_MAX`] of them.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn parked_list(
        &self,
        subscriptions: Option<&[SubscriptionId]>,
        takes: impl Fn(&Parked) -> bool,
        after: Option<&ParkedKey>,
        limit: usize,
    ) -> Result<ParkedPage, Error> {
        let engine = self.engine()?;
        let limit = limit.clamp(1, DELIVERIES_PAGE_MAX);
        let after = after.map(|key| keys::timed(kind::PARKED, &key.subscription, key.due_ms, &key.delivery));
        let mut prefixes: Vec<Vec<u8>> = match subscriptions {
            None => vec![vec![kind::PARKED]],
            Some(all) => all.iter().map(|id| keys::of_subscription(kind::PARKED, id)).collect(),
        };
        prefixes.sort_unstable();
        let (mut page, mut searched) = (ParkedPage::default(), 0);
        for prefix in prefixes {
            let end = [&prefix[..], &[0xff; 25]].concat();
            let from = match &after {
                Some(after) if *after >= end => continue,
                Some(after) if *after >= prefix => Bound::Excluded(after.clone()),
                _ => Bound::Included(prefix),
            };
            for pair in engine.state.range((from, Bound::Excluded(end))) {
                let (key, value) = pair.map_err(Error::read)?;
                let (due_ms, delivery) = keys::parse_timed(&key).ok_or(PARKED)?;
                let (subscription, _) = keys::parse_subscription(&key).ok_or(PARKED)?;
                let (parked, body) = codec::read_parked(subscription, due_ms, delivery, &value)?;
                drop(body);
                searched += 1;
                let at = parked.key();
                if takes(&parked) {
                    page.deliveries.push(parked);
                }
                if page.deliveries.len() >= limit || searched >= PARKED_SEARCH_MAX {
                    page.next = Some(at);
                    return Ok(page);
                }
            }
        }
        Ok(page)
    }

    /// A page of the dead letters of these subscriptions, newest first, before that place; at most `limit` (and
    /// [`DELIVERIES_PAGE_MAX`]).
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn dead_letters_among(
        &self,
        subscriptions: &[SubscriptionId],
        filter: &DeadFilter,
        before: Option<(u64, DeliveryId)>,
        limit: usize,
    ) -> Result<DeadPage, Error> {
        let engine = self.engine()?;
        let limit = limit.clamp(1, DELIVERIES_PAGE_MAX);
        let mut keys: Vec<DeadKey> = Vec::new();
        for subscription in subscriptions {
            let before =
                before.map(|(failed_ms, delivery)| DeadKey { subscription: subscription.clone(), failed_ms, delivery });
            keys.extend(letters::keys_of(&engine, subscription, filter, before.as_ref(), limit)?);
        }
        keys.sort_unstable_by_key(|key| Reverse((key.failed_ms, key.delivery)));
        keys.truncate(limit);
        let next = keys.last().filter(|_| keys.len() == limit).cloned();
        letters::page(&engine, keys, next)
    }

    /// Makes a parked delivery of a subscription due now. Durable when it returns.
    ///
    /// # Errors
    /// When it cannot be read or written: then it is due when it was for certain.
    pub fn hasten(&self, subscription: &SubscriptionId, delivery: &DeliveryId, now_ms: u64) -> Result<Hastened, Error> {
        let mut ledger = self.inner.ledger.lock();
        let engine = self.engine()?;
        let there = find(&engine, false, delivery)?.is_some_and(|(of, ..)| of == *subscription);
        drop(engine);
        let Some(parked) = self.parked(delivery)?.filter(|_| there) else { return Ok(Hastened::Unknown) };
        if parked.due_ms > now_ms {
            let parked = Box::new(Parked { due_ms: now_ms, ..parked });
            self.commit_with(&mut ledger, &[Change::Hasten(parked)])?;
        }
        Ok(Hastened::Due)
    }
}

const PARKED: Error = Error::Record { what: "parked delivery" };

/// A delivery's last entry of a flush.
fn last_of(value: &[u8], delivery: &DeliveryId) -> Result<Option<LogEntry>, Error> {
    let mut group = Group::read(value)?;
    let mut found = None;
    while let Some(mut section) = group.section()? {
        let subscription = SubscriptionId::parse(section.subscription).map_err(|_| Error::Record { what: "log" })?;
        let stream = group.running[section.stream].0.clone();
        while let Some(entry) = section.entry(&subscription, &stream)? {
            if entry.delivery() == *delivery {
                found = Some(entry);
            }
        }
    }
    Ok(found)
}

/// How many of a section's entries a [`LogKey`] tells apart: its index is the section's number and the entry's.
const SECTION: u32 = 1 << 16;

/// A page in the making.
struct Walk<'a> {
    filter: &'a LogFilter,
    wanted: Option<Vec<Hash>>,
    before: LogKey,
    limit: usize,
    flushes: usize,
    blocks: usize,
    page: DeliveryPage,
}

impl<'a> Walk<'a> {
    fn new(filter: &'a LogFilter, before: LogKey, limit: usize) -> Self {
        let wanted = filter.subscriptions.as_ref();
        let wanted = wanted.map(|all| all.iter().map(|id| index::hash(id.as_str())).collect());
        let limit = limit.clamp(1, DELIVERIES_PAGE_MAX);
        Self { filter, wanted, before, limit, flushes: 0, blocks: 0, page: DeliveryPage::default() }
    }

    fn partition(&mut self, partition: &Partition) -> Result<ControlFlow<()>, Error> {
        let wanted = self.wanted.take();
        let covered = match &wanted {
            Some(_) => index::covered(&partition.index)?,
            None => None,
        };
        let upto = self.before.flush;
        let from = covered.map_or(0, |covered| covered + 1);
        if from <= upto {
            for pair in partition.tree.range(from.to_be_bytes()..=upto.to_be_bytes()).rev() {
                // It was dropped for its age while it was read: what is before it is gone too.
                let Some((key, value)) = index::there(pair)? else { return Ok(Break(())) };
                if self.flush(flush_of(&key)?, &value)?.is_break() {
                    return Ok(Break(()));
                }
            }
        }
        if let (Some(hashes), Some(_)) = (&wanted, covered) {
            for block in index::of_subscriptions(&partition.index, upto, hashes) {
                let block = block?;
                for flush in block.flushes.into_iter().filter(|flush| *flush <= upto) {
                    let Some(value) = index::there(partition.tree.get(flush.to_be_bytes()))?.flatten() else {
                        continue;
                    };
                    if self.flush(flush, &value)?.is_break() {
                        return Ok(Break(()));
                    }
                }
                self.blocks += 1;
                if self.blocks >= PAGE_BLOCKS_MAX {
                    self.page.next = Some(LogKey { flush: block.first, index: 0 });
                    return Ok(Break(()));
                }
            }
        }
        self.wanted = wanted;
        Ok(Continue(()))
    }

    /// Takes what is wanted of a flush, newest first.
    fn flush(&mut self, flush: u64, value: &[u8]) -> Result<ControlFlow<()>, Error> {
        let mut group = Group::read(value)?;
        if self.filter.since_ms.is_some_and(|since| group.base_ms.saturating_add(DISORDER_MS) < since) {
            return Ok(Break(()));
        }
        let (mut found, mut number) = (Vec::new(), 0);
        while let Some(mut section) = group.section()? {
            let own = self.filter.subscriptions.as_ref();
            if own.is_none_or(|own| own.iter().any(|id| id.as_str() == section.subscription)) {
                let id = SubscriptionId::parse(section.subscription).map_err(|_| Error::Record { what: "log" })?;
                let stream = group.running[section.stream].0.clone();
                let mut index = number * SECTION;
                while let Some(entry) = section.entry(&id, &stream)? {
                    let at = LogKey { flush, index };
                    if at < self.before && self.filter.takes(&entry) {
                        found.push((at, entry));
                    }
                    index += 1;
                }
            }
            number += 1;
        }
        while let Some((at, entry)) = found.pop() {
            self.page.entries.push((at, entry));
            if self.page.entries.len() >= self.limit {
                self.page.next = Some(at);
                return Ok(Break(()));
            }
        }
        self.flushes += 1;
        if self.flushes >= PAGE_FLUSHES_MAX {
            self.page.next = Some(LogKey { flush, index: 0 });
            return Ok(Break(()));
        }
        Ok(Continue(()))
    }
}

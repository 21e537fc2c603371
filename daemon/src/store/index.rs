//! An index of the log: which flushes have entries of a subscription, and which has a delivery.
//!
//! It is made behind the writer, by a thread of its own, of blocks of flushes that are durable and change no more; where no
//! block is yet, the log itself is read. So it costs the hot path nothing, and what a crash takes of it is made again. It
//! lies in a tree beside each partition, and goes with it.
//!
//! ```text
//! S ‖ last flush of the block → version ‖ last - first ‖ (hash of a subscription ‖ count ‖ (last - flush)*)*
//! D ‖ last flush of the block → (first four bytes of a delivery's id ‖ last - flush)*, in order
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use sha2::{Digest as _, Sha256};

use super::log::Group;
use super::partition::Partition;
use super::recover::flush_of;
use super::wire::{Reader, Writer};
use super::{Error, Store};
use crate::domain::{DeliveryId, SubscriptionId};

/// How many flush numbers a block spans at most: the distance to its last one is a byte.
pub(super) const BLOCK_FLUSHES: u64 = 256;
/// A block ends when it has so many entries.
const BLOCK_ENTRIES_MAX: usize = 8_192;
/// The version of the layout.
const VERSION: u8 = 1;
/// What the keys begin with.
const SUBSCRIPTIONS: u8 = b'S';
const DELIVERIES: u8 = b'D';
/// How many bytes an entry of the index by delivery has.
const ENTRY_BYTES: usize = 5;

const DAMAGED: Error = Error::Record { what: "log index" };

/// A subscription as the index names it.
pub(super) type Hash = [u8; 8];

/// The hash of a subscription's id. Two that share one cost a reading of the log in vain, and nothing else.
pub(super) fn hash(subscription: &str) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(&Sha256::digest(subscription)[..8]);
    hash
}

fn fingerprint(delivery: &DeliveryId) -> [u8; 4] {
    let [a, b, c, d, ..] = *delivery.bytes();
    [a, b, c, d]
}

fn key(kind: u8, last: u64) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&last.to_be_bytes());
    key
}

fn last_of(key: &[u8]) -> Result<u64, Error> {
    key.get(1..).ok_or(DAMAGED).and_then(flush_of)
}

/// A tree that was dropped with its partition while it was read has no more.
pub(super) fn there<T>(pair: sled::Result<T>) -> Result<Option<T>, Error> {
    match pair {
        Ok(pair) => Ok(Some(pair)),
        Err(sled::Error::CollectionNotFound(_)) => Ok(None),
        Err(error) => Err(Error::read(error)),
    }
}

/// A block in the making.
#[derive(Default)]
struct Block {
    span: Option<(u64, u64)>,
    entries: usize,
    subscriptions: BTreeMap<Hash, Vec<u64>>,
    deliveries: Vec<([u8; 4], u64)>,
}

impl Block {
    /// Is there no room for that flush?
    fn is_full(&self, flush: u64) -> bool {
        self.entries >= BLOCK_ENTRIES_MAX || self.span.is_some_and(|(first, _)| flush - first >= BLOCK_FLUSHES)
    }

    fn add(&mut self, flush: u64, value: &[u8]) -> Result<(), Error> {
        let mut group = Group::read(value)?;
        while let Some(mut section) = group.section()? {
            let flushes = self.subscriptions.entry(hash(section.subscription)).or_default();
            if flushes.last() != Some(&flush) {
                flushes.push(flush);
            }
            let subscription = SubscriptionId::parse(section.subscription).map_err(|_| DAMAGED)?;
            let stream = group.running[section.stream].0.clone();
            while let Some(entry) = section.entry(&subscription, &stream)? {
                self.deliveries.push((fingerprint(&entry.delivery()), flush));
                self.entries += 1;
            }
        }
        self.span = Some((self.span.map_or(flush, |(first, _)| first), flush));
        Ok(())
    }

    /// Its two entries in the index; `None` when nothing was added.
    fn batch(mut self) -> Option<sled::Batch> {
        let (first, last) = self.span?;
        // The span is less than a block's, so that every distance is a byte.
        let distance = |flush: u64| (last - flush) as u8;
        let mut by_subscription = Writer::record(VERSION, 16 + self.subscriptions.len() * 16);
        by_subscription.number(last - first);
        for (hash, flushes) in &self.subscriptions {
            by_subscription.0.extend_from_slice(hash);
            by_subscription.number(flushes.len() as u64);
            by_subscription.0.extend(flushes.iter().map(|flush| distance(*flush)));
        }
        self.deliveries.sort_unstable();
        self.deliveries.dedup();
        let mut by_delivery = Vec::with_capacity(self.deliveries.len() * ENTRY_BYTES);
        for (fingerprint, flush) in &self.deliveries {
            by_delivery.extend_from_slice(fingerprint);
            by_delivery.push(distance(*flush));
        }
        let mut batch = sled::Batch::default();
        batch.insert(&key(SUBSCRIPTIONS, last)[..], by_subscription.0);
        batch.insert(&key(DELIVERIES, last)[..], by_delivery);
        Some(batch)
    }
}

/// Adds the next block of a partition, of flushes before `until`. False when there is none: the newest partition's last
/// flushes wait until they are a block.
fn add_block(partition: &Partition, until: u64, is_newest: bool) -> Result<bool, Error> {
    let from = covered(&partition.index)?.map_or(partition.first_flush, |last| last + 1);
    let (mut block, mut is_whole) = (Block::default(), !is_newest);
    for pair in partition.tree.range(from.to_be_bytes()..until.max(from).to_be_bytes()) {
        let Some((at, value)) = there(pair)? else { return Ok(false) };
        let flush = flush_of(&at)?;
        if block.is_full(flush) {
            is_whole = true;
            break;
        }
        block.add(flush, &value)?;
    }
    match block.batch().filter(|_| is_whole) {
        Some(batch) => partition.index.apply_batch(batch).map(|()| true).map_err(Error::write),
        None => Ok(false),
    }
}

/// The last flush of a partition that a block covers; all before it are covered too.
pub(super) fn covered(index: &sled::Tree) -> Result<Option<u64>, Error> {
    let mut blocks = index.range(key(SUBSCRIPTIONS, 0)..=key(SUBSCRIPTIONS, u64::MAX));
    let Some(last) = blocks.next_back() else { return Ok(None) };
    there(last)?.map(|(key, _)| last_of(&key)).transpose()
}

/// A block's flushes that have entries of any of the subscriptions.
pub(super) struct Flushes {
    /// The block's first flush.
    pub(super) first: u64,
    /// They, newest first.
    pub(super) flushes: Vec<u64>,
}

/// The blocks of a partition that have flushes up to `upto`, newest first, each with the flushes in which any of the
/// subscriptions has entries.
pub(super) fn of_subscriptions<'a>(
    index: &sled::Tree,
    upto: u64,
    wanted: &'a [Hash],
) -> impl Iterator<Item = Result<Flushes, Error>> + use<'a> {
    let at = key(SUBSCRIPTIONS, upto);
    // The block that holds it ends there or later.
    let holding = index.range(at..=key(SUBSCRIPTIONS, u64::MAX)).next();
    let before = index.range((Bound::Included(key(SUBSCRIPTIONS, 0)), Bound::Excluded(at))).rev();
    holding.into_iter().chain(before).filter_map(move |pair| match there(pair) {
        Ok(pair) => pair.map(|(key, value)| read_flushes(&key, &value, wanted)),
        Err(error) => Some(Err(error)),
    })
}

fn read_flushes(key: &[u8], value: &[u8], wanted: &[Hash]) -> Result<Flushes, Error> {
    let last = last_of(key)?;
    let read = || {
        let (_, mut r) = Reader::record(value, VERSION)?;
        let first = last.checked_sub(r.number()?)?;
        let mut flushes = Vec::new();
        while !r.is_empty() {
            let hash = r.take(8)?;
            let distances = r.bytes()?;
            if wanted.iter().any(|wanted| wanted == hash) {
                for distance in distances {
                    flushes.push(last.checked_sub(u64::from(*distance))?);
                }
            }
        }
        flushes.sort_unstable_by(|a, b| b.cmp(a));
        flushes.dedup();
        Some(Flushes { first, flushes })
    };
    read().ok_or(DAMAGED)
}

/// The flushes of a partition that may have the delivery, newest first.
pub(super) fn of_delivery(
    index: &sled::Tree,
    delivery: &DeliveryId,
) -> impl Iterator<Item = Result<u64, Error>> + use<> {
    let wanted = fingerprint(delivery);
    let blocks = index.range(key(DELIVERIES, 0)..=key(DELIVERIES, u64::MAX)).rev();
    blocks.flat_map(move |pair| match there(pair) {
        Ok(None) => Vec::new(),
        Ok(Some((key, value))) => match last_of(&key) {
            Ok(last) => with_fingerprint(&value, wanted, last).map(Ok).collect(),
            Err(error) => vec![Err(error)],
        },
        Err(error) => vec![Err(error)],
    })
}

/// The flushes that a block of deliveries has for a fingerprint, newest first.
fn with_fingerprint(value: &[u8], wanted: [u8; 4], last: u64) -> impl Iterator<Item = u64> {
    let (entries, _) = value.as_chunks::<ENTRY_BYTES>();
    let begin = entries.partition_point(|entry| entry[..4] < wanted[..]);
    let same = entries[begin..].iter().take_while(move |entry| entry[..4] == wanted[..]);
    // In order of distance within a fingerprint: as they were sorted by flush, distances fall.
    let mut flushes: Vec<u64> = same.map(|entry| last.saturating_sub(u64::from(entry[4]))).collect();
    flushes.sort_unstable_by(|a, b| b.cmp(a));
    flushes.into_iter()
}

impl Store {
    /// Brings the index of the log up to what is durable, until `stop` says so; how many blocks were added. The recorder
    /// does this by itself.
    ///
    /// # Errors
    /// When the log cannot be read, or the index not be written.
    pub fn index_log(&self, stop: impl Fn() -> bool) -> Result<usize, Error> {
        let mut added = 0;
        let all: Vec<u64> = self.engine()?.partitions().iter().map(|partition| partition.first_flush).collect();
        for first_flush in all {
            while !stop() {
                // Asked anew for each block: nobody who opens the store again is to wait for this one.
                let until = self.inner.ledger.lock().next_flush;
                let partitions = self.engine()?.partitions();
                let newest = partitions.last().map(|newest| newest.first_flush);
                let own = partitions.iter().find(|partition| partition.first_flush == first_flush);
                match own {
                    Some(own) if add_block(own, until, newest == Some(first_flush))? => added += 1,
                    _ => break,
                }
            }
        }
        Ok(added)
    }
}

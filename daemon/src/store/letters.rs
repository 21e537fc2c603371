//! Dead letters: finding them, sending them again, removing them.

use std::collections::BinaryHeap;
use std::ops::Bound;

use super::codec::{self, Traits};
use super::engine::Engine;
use super::keys::{self, kind};
use super::read::{DELIVERIES_PAGE_MAX, PAGE_BODY_BYTES_MAX, fill, find};
use super::records::{Change, DeadKey, DeadLetter};
use super::{Error, Store};
use crate::domain::{DeliveryId, SubscriptionId};
use crate::telemetry::clock::now_ms;

/// How many entries of the index a page over all subscriptions may look at.
pub const DEAD_PAGE_SEARCH_MAX: usize = 10_000;
/// The most dead letters that are resent or removed in one write.
pub const RESEND_MAX: usize = 256;

/// Which dead letters are wanted; the default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Only those whose last failure is of this class.
    pub class: Option<Box<str>>,
    /// Only those whose receiver last answered with this status.
    pub status: Option<u16>,
    /// Only those given up at this time or later, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Only those given up before this time, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
}

impl DeadFilter {
    fn takes(&self, failed_ms: u64, traits: &Traits) -> bool {
        self.class.as_ref().is_none_or(|class| *class == traits.class)
            && self.status.is_none_or(|status| traits.status == Some(status))
            && self.since_ms.is_none_or(|since| failed_ms >= since)
            && self.until_ms.is_none_or(|until| failed_ms < until)
    }
}

/// A page of dead letters, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadPage {
    /// The dead letters.
    pub letters: Vec<DeadLetter>,
    /// Where to go on; `None` when there is no more. A page may be short, even empty, and still have a next one: the
    /// bytes of a page, and the search behind it, are bounded.
    pub next: Option<DeadKey>,
}

/// What became of the wish to send a dead letter again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resent {
    /// It is parked, and due.
    Parked,
    /// It is parked already: an earlier wish is under way, or it was never given up.
    UnderWay,
    /// There is no such delivery in the store.
    Unknown,
}

impl Store {
    /// A dead letter, by its delivery's id.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn dead_letter(&self, delivery: &DeliveryId) -> Result<Option<DeadLetter>, Error> {
        let engine = self.engine()?;
        let Some((subscription, failed_ms, _)) = find(&engine, true, delivery)? else { return Ok(None) };
        load(&engine, &DeadKey { subscription, failed_ms, delivery: *delivery })
    }

    /// A page of a subscription's dead letters, newest first, before that key; at most `limit` (and
    /// [`DELIVERIES_PAGE_MAX`]) of them.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn dead_letters(
        &self,
        subscription: &SubscriptionId,
        filter: &DeadFilter,
        before: Option<&DeadKey>,
        limit: usize,
    ) -> Result<DeadPage, Error> {
        let engine = self.engine()?;
        let limit = limit.clamp(1, DELIVERIES_PAGE_MAX);
        let keys = keys_of(&engine, subscription, filter, before, limit)?;
        let next = keys.last().filter(|_| keys.len() == limit).cloned();
        page(&engine, keys, next)
    }

    /// Where a subscription's dead letters lie, newest first, before that key; at most `limit` (and [`RESEND_MAX`]) of
    /// them. Without bodies it is cheap: for work on many.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn dead_letter_keys(
        &self,
        subscription: &SubscriptionId,
        filter: &DeadFilter,
        before: Option<&DeadKey>,
        limit: usize,
    ) -> Result<Vec<DeadKey>, Error> {
        keys_of(&*self.engine()?, subscription, filter, before, limit.clamp(1, RESEND_MAX))
    }

    /// A page of all subscriptions' dead letters, newest first, before that key; at most `limit` (and
    /// [`DELIVERIES_PAGE_MAX`]) of them. It looks at no more than [`DEAD_PAGE_SEARCH_MAX`] of them.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn dead_letters_of_all(
        &self,
        filter: &DeadFilter,
        before: Option<(u64, DeliveryId)>,
        limit: usize,
    ) -> Result<DeadPage, Error> {
        let engine = self.engine()?;
        let limit = limit.clamp(1, DELIVERIES_PAGE_MAX);
        let from = by_time(filter.since_ms.unwrap_or(0));
        let mut to = filter.until_ms.map_or_else(|| vec![kind::DEAD_BY_TIME + 1], by_time);
        if let Some((failed_ms, delivery)) = before {
            to = to.min(keys::anywhere(kind::DEAD_BY_TIME, failed_ms, &delivery));
        }
        if from >= to {
            return Ok(DeadPage::default());
        }
        let (mut keys, mut next) = (Vec::new(), None);
        for (searched, pair) in engine.state.range(from..to).rev().enumerate() {
            let (key, value) = pair.map_err(Error::read)?;
            let (failed_ms, delivery) = keys::parse_timed(&key).ok_or(DAMAGED)?;
            let (subscription, traits) = codec::read_dead_index(&value)?;
            let at = DeadKey { subscription, failed_ms, delivery };
            if filter.takes(failed_ms, &traits) {
                keys.push(at.clone());
            }
            if keys.len() >= limit || searched + 1 >= DEAD_PAGE_SEARCH_MAX {
                next = Some(at);
                break;
            }
        }
        page(&engine, keys, next)
    }

    /// Parks dead letters of a subscription to be sent again at once, all in one write; at most [`RESEND_MAX`]. Durable
    /// when it returns. One that is under way already is not sent once more: the answer says so, in the order asked.
    ///
    /// # Errors
    /// When something cannot be read or written: then none is resent for certain.
    pub fn resend(&self, subscription: &SubscriptionId, deliveries: &[DeliveryId]) -> Result<Vec<Resent>, Error> {
        let mut ledger = self.inner.ledger.lock();
        let engine = self.engine()?;
        let (mut answers, mut changes) = (Vec::new(), Vec::new());
        for delivery in &deliveries[..deliveries.len().min(RESEND_MAX)] {
            answers.push(match place_of(&engine, subscription, delivery)? {
                None => Resent::Unknown,
                Some((false, _)) => Resent::UnderWay,
                Some((true, key)) => match load(&engine, &key)? {
                    None => Resent::Unknown,
                    Some(letter) => {
                        changes.push(Change::Resend(Box::new(letter.resent(now_ms()))));
                        Resent::Parked
                    }
                },
            });
        }
        drop(engine);
        if !changes.is_empty() {
            self.commit_with(&mut ledger, &changes)?;
        }
        Ok(answers)
    }

    /// Removes dead letters, all in one write; at most [`RESEND_MAX`]. Returns how many there were. What is parked stays.
    ///
    /// # Errors
    /// When something cannot be read or written: then none is removed for certain.
    pub fn remove_dead_letters(
        &self,
        subscription: &SubscriptionId,
        deliveries: &[DeliveryId],
    ) -> Result<usize, Error> {
        let mut ledger = self.inner.ledger.lock();
        let engine = self.engine()?;
        let mut changes = Vec::new();
        for delivery in &deliveries[..deliveries.len().min(RESEND_MAX)] {
            if let Some((true, _)) = place_of(&engine, subscription, delivery)? {
                changes.push(Change::Remove(*delivery));
            }
        }
        drop(engine);
        if !changes.is_empty() {
            self.commit_with(&mut ledger, &changes)?;
        }
        Ok(changes.len())
    }

    /// Removes what a subscription that is no more has parked, and its dead letters, all in one write; at most
    /// [`RESEND_MAX`] of them: when it has removed so many, there may be more. Durable when it returns.
    ///
    /// # Errors
    /// When something cannot be read or written: then none is removed for certain.
    pub fn forget_deliveries(&self, subscription: &SubscriptionId) -> Result<usize, Error> {
        let mut ledger = self.inner.ledger.lock();
        let engine = self.engine()?;
        let mut changes = Vec::new();
        for (dead, kind) in [(false, kind::PARKED), (true, kind::DEAD)] {
            for key in engine.state.scan_prefix(keys::of_subscription(kind, subscription)).keys() {
                let (at_ms, delivery) = keys::parse_timed(&key.map_err(Error::read)?).ok_or(DAMAGED)?;
                if changes.len() == RESEND_MAX {
                    break;
                }
                // What the index does not lead to is damage: it would be found for ever.
                match find(&engine, dead, &delivery) {
                    Ok(Some((_, found_ms, _))) if found_ms == at_ms => changes.push(Change::Remove(delivery)),
                    Ok(_) | Err(Error::Record { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        drop(engine);
        if !changes.is_empty() {
            self.commit_with(&mut ledger, &changes)?;
        }
        Ok(changes.len())
    }
}

const DAMAGED: Error = Error::Record { what: "dead letter index" };

fn by_time(at_ms: u64) -> Vec<u8> {
    let mut key = vec![kind::DEAD_BY_TIME];
    key.extend_from_slice(&at_ms.to_be_bytes());
    key
}

/// Whether a delivery of that subscription is a dead letter, and where it lies.
fn place_of(
    engine: &Engine,
    subscription: &SubscriptionId,
    delivery: &DeliveryId,
) -> Result<Option<(bool, DeadKey)>, Error> {
    let Some(record) = engine.state.get(keys::by_id(delivery)).map_err(Error::read)? else { return Ok(None) };
    let place = codec::read_whereabouts(&record)?;
    if place.subscription != *subscription {
        return Ok(None);
    }
    let key = DeadKey { subscription: place.subscription, failed_ms: place.at_ms, delivery: *delivery };
    Ok(Some((place.dead, key)))
}

/// A dead letter with its body; `None` when it has gone in the meantime.
pub(super) fn load(engine: &Engine, at: &DeadKey) -> Result<Option<DeadLetter>, Error> {
    let key = keys::timed(kind::DEAD, &at.subscription, at.failed_ms, &at.delivery);
    let Some(record) = engine.state.get(&key).map_err(Error::read)? else { return Ok(None) };
    let (mut letter, body) = codec::read_dead(at.subscription.clone(), at.failed_ms, at.delivery, &record)?;
    Ok(fill(engine, &key, &at.delivery, body, &mut letter.content.body)?.then_some(letter))
}

/// The dead letters of those keys, as many as a page may have bytes. `next` is where to go on after the last key.
pub(super) fn page(engine: &Engine, keys: Vec<DeadKey>, next: Option<DeadKey>) -> Result<DeadPage, Error> {
    let (mut letters, mut bytes) = (Vec::with_capacity(keys.len()), 0);
    let count = keys.len();
    for (index, key) in keys.into_iter().enumerate() {
        let Some(letter) = load(engine, &key)? else { continue };
        bytes += letter.content.body.len();
        letters.push(letter);
        if bytes >= PAGE_BODY_BYTES_MAX && index + 1 < count {
            return Ok(DeadPage { letters, next: Some(key) });
        }
    }
    Ok(DeadPage { letters, next })
}

/// The keys of a subscription's dead letters, newest first.
pub(super) fn keys_of(
    engine: &Engine,
    subscription: &SubscriptionId,
    filter: &DeadFilter,
    before: Option<&DeadKey>,
    limit: usize,
) -> Result<Vec<DeadKey>, Error> {
    let prefixes = match filter {
        DeadFilter { class: None, status: None, .. } => vec![keys::of_subscription(kind::DEAD, subscription)],
        DeadFilter { class: Some(class), status: Some(status), .. } => {
            vec![keys::of_reason(subscription, class, Some(*status))]
        }
        _ => reasons(engine, subscription, filter)?,
    };
    // One range for each reason, each newest first: the newest of all their heads is the next one.
    let mut ranges: Vec<_> =
        prefixes.iter().filter_map(|prefix| newest_first(engine, prefix, filter, before)).collect();
    let mut heads = BinaryHeap::new();
    for (index, range) in ranges.iter_mut().enumerate() {
        if let Some(key) = range.next() {
            heads.push((keys::parse_timed(&key.map_err(Error::read)?).ok_or(DAMAGED)?, index));
        }
    }
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(((failed_ms, delivery), index)) = heads.pop()
    {
        found.push(DeadKey { subscription: subscription.clone(), failed_ms, delivery });
        if let Some(key) = ranges[index].next() {
            heads.push((keys::parse_timed(&key.map_err(Error::read)?).ok_or(DAMAGED)?, index));
        }
    }
    Ok(found)
}

/// The keys that begin with a prefix, within the filter's times and before a key, newest first.
fn newest_first(
    engine: &Engine,
    prefix: &[u8],
    filter: &DeadFilter,
    before: Option<&DeadKey>,
) -> Option<impl Iterator<Item = sled::Result<sled::IVec>> + use<>> {
    let at = |time: u64| [prefix, &time.to_be_bytes()].concat();
    let from = at(filter.since_ms.unwrap_or(0));
    let mut to = at(filter.until_ms.unwrap_or(u64::MAX));
    if let Some(key) = before {
        to = to.min([&at(key.failed_ms)[..], key.delivery.bytes()].concat());
    }
    // A range whose end lies before its beginning would panic.
    (from < to).then(|| engine.state.range((Bound::Included(from), Bound::Excluded(to))).keys().rev())
}

/// What a subscription's dead letters of each wanted reason begin with: one seek for each reason that it has.
fn reasons(engine: &Engine, subscription: &SubscriptionId, filter: &DeadFilter) -> Result<Vec<Vec<u8>>, Error> {
    let whole = match &filter.class {
        Some(class) => keys::of_class(subscription, class),
        None => keys::of_subscription(kind::DEAD_BY_REASON, subscription),
    };
    let (mut found, mut from) = (Vec::new(), whole.clone());
    while let Some(key) = engine.state.range(from..).keys().next() {
        let key = key.map_err(Error::read)?;
        if !key.starts_with(&whole) {
            break;
        }
        let (reason, status) = keys::parse_reason(&key).ok_or(DAMAGED)?;
        if filter.status.is_none_or(|wanted| status == Some(wanted)) {
            found.push(reason.to_vec());
        }
        // No time begins with nine such bytes: the next key is of the next reason.
        from = [reason, &[0xff; 9]].concat();
    }
    Ok(found)
}

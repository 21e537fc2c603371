//! The store's reads.

use std::ops::Bound;

use super::codec::{self, Counts, StoredBody};
use super::engine::Engine;
use super::keys::{self, kind};
use super::outcomes::LogFilter;
use super::records::{DeliveryPage, LogKey, Parked, ParkedKey, Recovered, Registration};
use super::{Error, Store, recover};
use crate::domain::{DeliveryId, StreamName, SubscriptionId};

/// The most deliveries or dead letters of one page of the API.
pub const DELIVERIES_PAGE_MAX: usize = 100;
/// The most parked deliveries of one page.
pub const PARKED_PAGE_MAX: usize = 256;
/// A page of parked deliveries or dead letters ends when it has this many bytes of bodies.
pub(super) const PAGE_BODY_BYTES_MAX: usize = 4 << 20;

impl Store {
    /// What is known of a subscription.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn registration(&self, subscription: &SubscriptionId) -> Result<Option<Registration>, Error> {
        let key = keys::of_subscription(kind::REGISTRATION, subscription);
        let record = self.engine()?.state.get(key).map_err(Error::read)?;
        record.map(|record| codec::read_registration(&record)).transpose()
    }

    /// What is known of every subscription.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn registrations(&self) -> Result<Vec<(SubscriptionId, Registration)>, Error> {
        registrations(&*self.engine()?)
    }

    /// A stream's ack floor as it was last recorded.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn checkpoint(&self, stream: &StreamName) -> Result<Option<u64>, Error> {
        let record = self.engine()?.state.get(keys::of_stream(kind::CHECKPOINT, stream)).map_err(Error::read)?;
        record.map(|record| codec::read_number("checkpoint", &record)).transpose()
    }

    /// What is on record for each subscription in the streams named: its position where it is held, and all above the
    /// stream's floor. The log is read backwards from its end, no further than the floors make needful.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn recover(&self, floors: &[(StreamName, u64)]) -> Result<Vec<Recovered>, Error> {
        let (recovered, flushes) = recover::recover(&*self.engine()?, floors)?;
        tracing::debug!(flushes, places = recovered.len(), "read the log's tail");
        Ok(recovered)
    }

    /// A page of a subscription's parked deliveries that are due by that time, in due order, after that key; at most
    /// `limit` (and [`PARKED_PAGE_MAX`]) of them. What is not due costs nothing.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn parked_page(
        &self,
        subscription: &SubscriptionId,
        after: Option<&ParkedKey>,
        due_until_ms: u64,
        limit: usize,
    ) -> Result<Vec<(ParkedKey, Parked)>, Error> {
        let engine = self.engine()?;
        let from = match after {
            Some(key) => Bound::Excluded(keys::timed(kind::PARKED, subscription, key.due_ms, &key.delivery)),
            None => Bound::Included(keys::of_subscription(kind::PARKED, subscription)),
        };
        let to = Bound::Excluded(keys::from_time(kind::PARKED, subscription, due_until_ms.saturating_add(1)));
        if let Some(key) = after
            && key.due_ms > due_until_ms
        {
            return Ok(Vec::new());
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        for pair in engine.state.range((from, to)) {
            if page.len() >= limit.min(PARKED_PAGE_MAX) || bytes >= PAGE_BODY_BYTES_MAX {
                break;
            }
            let (key, value) = pair.map_err(Error::read)?;
            let (due_ms, delivery) = keys::parse_timed(&key).ok_or(Error::Record { what: "parked delivery" })?;
            let (mut parked, body) = codec::read_parked(subscription.clone(), due_ms, delivery, &value)?;
            if !fill(&engine, &key, &delivery, body, &mut parked.content.body)? {
                continue;
            }
            bytes += parked.content.body.len();
            page.push((parked.key(), parked));
        }
        Ok(page)
    }

    /// When a subscription's next parked delivery is due, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next_due_ms(&self, subscription: &SubscriptionId) -> Result<Option<u64>, Error> {
        next_due_ms(&*self.engine()?, subscription)
    }

    /// Every subscription that has parked deliveries, and when its next one is due: one seek for each.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn subscriptions_with_parked(&self) -> Result<Vec<(SubscriptionId, u64)>, Error> {
        let engine = self.engine()?;
        let mut with: Vec<SubscriptionId> = {
            let book = self.inner.counts.lock();
            book.by_subscription.iter().filter(|(_, c)| c.parked > 0).map(|(s, _)| s.clone()).collect()
        };
        with.sort_unstable();
        let mut due = Vec::with_capacity(with.len());
        for subscription in with {
            if let Some(next) = next_due_ms(&engine, &subscription)? {
                due.push((subscription, next));
            }
        }
        Ok(due)
    }

    /// A delivery that is parked, by its id.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn parked(&self, delivery: &DeliveryId) -> Result<Option<Parked>, Error> {
        let engine = self.engine()?;
        let Some((subscription, due_ms, key)) = find(&engine, false, delivery)? else { return Ok(None) };
        let Some(record) = engine.state.get(&key).map_err(Error::read)? else { return Ok(None) };
        let (mut parked, body) = codec::read_parked(subscription, due_ms, *delivery, &record)?;
        Ok(fill(&engine, &key, delivery, body, &mut parked.content.body)?.then_some(parked))
    }

    /// A page of a subscription's log, newest first, before that key; at most `limit` (and [`DELIVERIES_PAGE_MAX`])
    /// entries. It may take tens of milliseconds: not for the data plane.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn deliveries(
        &self,
        subscription: &SubscriptionId,
        before: Option<LogKey>,
        limit: usize,
    ) -> Result<DeliveryPage, Error> {
        let filter = LogFilter { subscriptions: Some(vec![subscription.clone()]), ..LogFilter::default() };
        self.log_page(&filter, before, limit)
    }

    /// How many parked deliveries and dead letters there are.
    pub fn totals(&self) -> Counts {
        self.inner.counts.lock().total
    }

    /// How many parked deliveries and dead letters a subscription has.
    pub fn counts(&self, subscription: &SubscriptionId) -> Counts {
        self.inner.counts.lock().by_subscription.get(subscription).copied().unwrap_or_default()
    }

    /// The bytes that the store takes on disk.
    ///
    /// # Errors
    /// When its files cannot be listed.
    pub fn size_on_disk(&self) -> Result<u64, Error> {
        self.engine()?.size_on_disk().map_err(Error::Read)
    }

    /// Does writing work? It costs nothing: it says how the last write went, and while writing fails the recorder tries
    /// again by itself.
    ///
    /// # Errors
    /// When the last write failed.
    pub fn writable(&self) -> Result<(), Error> {
        match &*self.inner.failed.lock() {
            None => Ok(()),
            Some(reason) => Err(Error::Unavailable { reason: reason.clone() }),
        }
    }
}

fn next_due_ms(engine: &Engine, subscription: &SubscriptionId) -> Result<Option<u64>, Error> {
    let prefix = keys::of_subscription(kind::PARKED, subscription);
    let Some(first) = engine.state.scan_prefix(prefix).keys().next() else { return Ok(None) };
    let (due_ms, _) =
        keys::parse_timed(&first.map_err(Error::read)?).ok_or(Error::Record { what: "parked delivery" })?;
    Ok(Some(due_ms))
}

/// Where a delivery lies, when it is parked or a dead letter as asked.
pub(super) fn find(
    engine: &Engine,
    dead: bool,
    delivery: &DeliveryId,
) -> Result<Option<(SubscriptionId, u64, Vec<u8>)>, Error> {
    let Some(record) = engine.state.get(keys::by_id(delivery)).map_err(Error::read)? else { return Ok(None) };
    let place = codec::read_whereabouts(&record)?;
    if place.dead != dead {
        return Ok(None);
    }
    let kind = if dead { kind::DEAD } else { kind::PARKED };
    let key = keys::timed(kind, &place.subscription, place.at_ms, delivery);
    Ok(Some((place.subscription, place.at_ms, key)))
}

/// Puts a record's body in its place; false when the record was removed, and the body's file with it, in the meantime.
pub(super) fn fill(
    engine: &Engine,
    key: &[u8],
    delivery: &DeliveryId,
    stored: StoredBody,
    body: &mut bytes::Bytes,
) -> Result<bool, Error> {
    match stored {
        StoredBody::Inline(bytes) => *body = bytes,
        StoredBody::File(file) => match engine.bodies.read(delivery, &file) {
            Ok(bytes) => *body = bytes,
            Err(_) if !engine.state.contains_key(key).map_err(Error::read)? => return Ok(false),
            Err(error) => return Err(error),
        },
    }
    Ok(true)
}

/// What is known of every subscription.
pub(super) fn registrations(engine: &Engine) -> Result<Vec<(SubscriptionId, Registration)>, Error> {
    let mut all = Vec::new();
    for pair in engine.state.scan_prefix([kind::REGISTRATION]) {
        let (key, value) = pair.map_err(Error::read)?;
        let (subscription, _) = keys::parse_subscription(&key).ok_or(Error::Record { what: "registration" })?;
        all.push((subscription, codec::read_registration(&value)?));
    }
    Ok(all)
}

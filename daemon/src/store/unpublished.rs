//! Dead letters that are still to be published.

use std::ops::Bound;

use super::keys::{self, kind};
use super::letters::load;
use super::read::find;
use super::records::{Change, DeadKey, DeadLetter};
use super::{Error, Store};
use crate::domain::DeliveryId;

/// The most dead letters that are read at a time to be published.
pub const UNPUBLISHED_MAX: usize = 16;

/// A dead letter that is still to be published.
#[derive(Debug)]
pub struct Unpublished {
    /// When it was given up, in milliseconds since the Unix epoch.
    pub failed_ms: u64,
    /// The delivery.
    pub delivery: DeliveryId,
    /// The dead letter; `None` when it is one no more.
    pub letter: Result<Option<DeadLetter>, Error>,
}

impl Store {
    /// The oldest dead letters after that one which are still to be published, oldest first; at most
    /// [`UNPUBLISHED_MAX`].
    ///
    /// # Errors
    /// When the index cannot be read. A letter that cannot be read has its own error.
    pub fn unpublished(&self, after: Option<(u64, DeliveryId)>) -> Result<Vec<Unpublished>, Error> {
        let engine = self.engine()?;
        let from = match after {
            Some((failed_ms, delivery)) => Bound::Excluded(keys::anywhere(kind::UNPUBLISHED, failed_ms, &delivery)),
            None => Bound::Included(vec![kind::UNPUBLISHED]),
        };
        let marks = engine.state.range((from, Bound::Excluded(vec![kind::UNPUBLISHED + 1])));
        let read = |key: sled::Result<sled::IVec>| -> Result<Unpublished, Error> {
            let key = key.map_err(Error::read)?;
            let (failed_ms, delivery) = keys::parse_timed(&key).ok_or(Error::Record { what: "publication mark" })?;
            let place = find(&engine, true, &delivery);
            let letter = place.and_then(|place| match place {
                Some((subscription, at_ms, _)) if at_ms == failed_ms => {
                    load(&engine, &DeadKey { subscription, failed_ms, delivery })
                }
                _ => Ok(None),
            });
            Ok(Unpublished { failed_ms, delivery, letter })
        };
        marks.keys().take(UNPUBLISHED_MAX).map(read).collect()
    }

    /// Records that dead letters were published, or never will be: each by its time of death and its delivery. Durable
    /// when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_published(&self, letters: &[(u64, DeliveryId)]) -> Result<(), Error> {
        let change = |&(failed_ms, delivery): &(u64, DeliveryId)| Change::Published { delivery, failed_ms };
        let changes: Vec<_> = letters.iter().map(change).collect();
        if changes.is_empty() { Ok(()) } else { self.commit(&changes).map(drop) }
    }
}

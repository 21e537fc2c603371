//! Bringing a store of an older format up to date.
//!
//! Each step may be cut off at any instant and done again: it writes only what does not depend on how far it came before,
//! and the format's number, which tells that it is done, is written last.

use std::collections::HashMap;

use super::Error;
use super::batch::Batch;
use super::codec::{self, BodyRef, StoredBody};
use super::engine::Engine;
use super::group::{dead_indexes, dead_place};
use super::keys::{self, kind};
use crate::domain::SubscriptionId;
use crate::failpoint::{self, Place};

/// How many dead letters are brought up to date in one write.
const STEP_LETTERS_MAX: usize = 500;

/// Format 1 to 2: dead letters get their places in the indexes by time and by reason, and are counted in bytes. All other
/// records are read as they are, and written anew when they change.
pub(super) fn from_1_to_2(engine: &Engine) -> Result<(), Error> {
    let mut bytes: HashMap<SubscriptionId, u64> = HashMap::new();
    let (mut batch, mut waiting, mut letters) = (Batch::default(), 0, 0u64);
    for pair in engine.state.scan_prefix([kind::DEAD]) {
        let (key, record) = pair.map_err(Error::read)?;
        let damaged = || Error::Record { what: "dead letter" };
        let (subscription, _) = keys::parse_subscription(&key).ok_or_else(damaged)?;
        let (failed_ms, delivery) = keys::parse_timed(&key).ok_or_else(damaged)?;
        let (letter, body) = codec::read_dead(subscription.clone(), failed_ms, delivery, &record)?;
        let file: Option<BodyRef> = match body {
            StoredBody::Inline(_) => None,
            StoredBody::File(file) => Some(file),
        };
        let place = dead_place(&letter, file, record.len());
        *bytes.entry(subscription).or_default() += place.traits.as_ref().map_or(0, |traits| traits.bytes);
        batch.insert(keys::by_id(&delivery), codec::write_whereabouts(&place));
        for (key, value) in dead_indexes(&place, &delivery) {
            batch.insert(key, value);
        }
        letters += 1;
        waiting += 1;
        if waiting >= STEP_LETTERS_MAX {
            step(engine, &std::mem::take(&mut batch))?;
            waiting = 0;
        }
    }
    for (subscription, dead_bytes) in bytes {
        let key = keys::of_subscription(kind::COUNTS, &subscription);
        let counts = match engine.state.get(&key).map_err(Error::read)? {
            Some(record) => codec::read_counts(&record)?,
            None => codec::Counts::default(),
        };
        batch.insert(key, codec::write_counts(codec::Counts { dead_bytes, ..counts }));
    }
    step(engine, &batch)?;
    tracing::info!(dead_letters = letters, "brought the store's dead letters up to date");
    Ok(())
}

fn step(engine: &Engine, batch: &Batch) -> Result<(), Error> {
    failpoint::reach(Place::Migrating).map_err(Error::Write)?;
    engine.write(Some(batch), None)
}

//! Retention of dead letters: those that are too old, and the oldest while all together take too much.

use std::time::Duration;

use super::codec;
use super::keys::{self, kind};
use super::read::find;
use super::records::Change;
use super::{Error, Store};
use crate::telemetry::clock::now_ms;

/// The most dead letters that one step of the retention removes.
pub const EXPIRE_LETTERS_MAX: usize = 256;

/// How many dead letters, or partitions of the log, one step of the retention has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// They were older than [`Config::dead_letter_retention`](super::Config::dead_letter_retention), or
    /// [`Config::log_retention`](super::Config::log_retention).
    pub by_age: usize,
    /// They were the oldest, and all together took more than
    /// [`Config::dead_letter_bytes_max`](super::Config::dead_letter_bytes_max), or
    /// [`Config::log_bytes_max`](super::Config::log_bytes_max).
    pub by_size: usize,
}

impl Expired {
    /// All of them.
    pub fn total(&self) -> usize {
        self.by_age + self.by_size
    }
}

impl Store {
    /// Removes the oldest dead letters that are past their retention, all in one write; at most [`EXPIRE_LETTERS_MAX`]:
    /// when it has removed so many, there may be more. Durable when it returns. A dead letter that was not yet published
    /// goes as well: the bound holds.
    ///
    /// # Errors
    /// When something cannot be read or written: then none is removed for certain.
    pub fn expire_dead_letters(&self) -> Result<Expired, Error> {
        self.expire_dead_letters_at(now_ms())
    }

    pub(super) fn expire_dead_letters_at(&self, now_ms: u64) -> Result<Expired, Error> {
        let mut ledger = self.inner.ledger.lock();
        let engine = self.engine()?;
        let config = &self.inner.config;
        let oldest_ms = now_ms.saturating_sub(millis(config.dead_letter_retention));
        let mut bytes = self.totals().dead_bytes;
        let (mut expired, mut changes) = (Expired::default(), Vec::new());
        for pair in engine.state.scan_prefix([kind::DEAD_BY_TIME]) {
            let (key, value) = pair.map_err(Error::read)?;
            let (failed_ms, delivery) = keys::parse_timed(&key).ok_or(Error::Record { what: "dead letter index" })?;
            let (too_old, too_much) = (failed_ms < oldest_ms, bytes > config.dead_letter_bytes_max);
            if changes.len() == EXPIRE_LETTERS_MAX || !(too_old || too_much) {
                break;
            }
            // An entry whose letter lies elsewhere, or nowhere, is damage: removing it would not take the entry away, and
            // the same one would be found for ever.
            match find(&engine, true, &delivery) {
                Ok(Some((_, at_ms, _))) if at_ms == failed_ms => {}
                Ok(_) | Err(Error::Record { .. }) => continue,
                Err(error) => return Err(error),
            }
            let (_, traits) = codec::read_dead_index(&value)?;
            bytes = bytes.saturating_sub(traits.bytes);
            *(if too_old { &mut expired.by_age } else { &mut expired.by_size }) += 1;
            changes.push(Change::Remove(delivery));
        }
        drop(engine);
        if !changes.is_empty() {
            self.commit_with(&mut ledger, &changes)?;
        }
        Ok(expired)
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

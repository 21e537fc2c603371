//! How much of the store's file is data: an estimate from samples, cheap enough to be asked for every minute.
//!
//! sled uses freed space again and never gives it back, and scattered retry times keep segments half full: five times the
//! data is usual. Far more than that is a reason to write the file anew.

use super::codec::Counts;
use super::engine::Engine;
use super::keys::{self, kind};
use super::{Error, Store, partition};
use crate::domain::SubscriptionId;

/// A file of at least this many times its data is worth a remark,
pub const FILE_RATIO_MAX: u64 = 8;
/// when it has this many bytes.
pub const FILE_BYTES_MIN: u64 = 512 << 20;
/// From how many subscriptions records are looked at,
const SAMPLE_SUBSCRIPTIONS: usize = 64;
/// and how many of each.
const SAMPLE_RECORDS: usize = 8;
/// Smaller kinds of records are counted, up to this many of each.
const COUNTED_RECORDS_MAX: usize = 65_536;
/// About what the index by delivery takes for each that is parked or dead, in bytes.
const INDEX_BYTES: u64 = 80;

/// The store's file and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The bytes of the store's files.
    pub file_bytes: u64,
    /// About how many bytes of keys and values there are.
    pub live_bytes: u64,
}

impl Size {
    /// Is the file so much larger than its data that it should be written anew?
    pub fn is_bloated(&self) -> bool {
        self.file_bytes >= FILE_BYTES_MIN && self.file_bytes / FILE_RATIO_MAX >= self.live_bytes.max(1)
    }
}

impl Store {
    /// The bytes of the files, and about how many of them are data. It reads some hundred records: milliseconds, not for
    /// the data plane. Blocks.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn size(&self) -> Result<Size, Error> {
        let engine = self.engine()?;
        let by_subscription: Vec<(SubscriptionId, Counts)> = {
            let book = self.inner.counts.lock();
            book.by_subscription.iter().map(|(id, counts)| (id.clone(), *counts)).collect()
        };
        let mut live_bytes = partition::log_bytes(&engine)?;
        live_bytes += timed_bytes(&engine, kind::PARKED, &by_subscription, |counts| counts.parked)?;
        live_bytes += timed_bytes(&engine, kind::DEAD, &by_subscription, |counts| counts.dead)?;
        for kind in b'A'..=b'Z' {
            if ![kind::PARKED, kind::DEAD, kind::BY_ID].contains(&kind) {
                for pair in engine.state.scan_prefix([kind]).take(COUNTED_RECORDS_MAX) {
                    let (key, value) = pair.map_err(Error::read)?;
                    live_bytes += (key.len() + value.len()) as u64;
                }
            }
        }
        Ok(Size { file_bytes: engine.size_on_disk().map_err(Error::Read)?, live_bytes })
    }
}

/// What parked deliveries or dead letters take: how many there are, times what those looked at take.
fn timed_bytes(
    engine: &Engine,
    kind: u8,
    by_subscription: &[(SubscriptionId, Counts)],
    count: impl Fn(&Counts) -> u64,
) -> Result<u64, Error> {
    let with: Vec<_> = by_subscription.iter().filter(|(_, counts)| count(counts) > 0).collect();
    let records: u64 = with.iter().map(|(_, counts)| count(counts)).sum();
    let (mut seen, mut bytes) = (0, 0);
    for (id, _) in with.iter().step_by(with.len().div_ceil(SAMPLE_SUBSCRIPTIONS).max(1)) {
        for pair in engine.state.scan_prefix(keys::of_subscription(kind, id)).take(SAMPLE_RECORDS) {
            let (key, value) = pair.map_err(Error::read)?;
            seen += 1;
            bytes += (key.len() + value.len()) as u64;
        }
    }
    Ok(records * (bytes / seen.max(1) + INDEX_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_file_with_little_in_it_is_bloated() {
        let size = |file_bytes, live_bytes| Size { file_bytes, live_bytes };
        assert!(size(FILE_BYTES_MIN, FILE_BYTES_MIN / 8).is_bloated());
        assert!(size(FILE_BYTES_MIN, 0).is_bloated());
        assert!(!size(FILE_BYTES_MIN, FILE_BYTES_MIN / 8 + 1).is_bloated());
        assert!(!size(FILE_BYTES_MIN - 1, 0).is_bloated(), "a small file is never worth it");
    }
}

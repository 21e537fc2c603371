//! What listings ask for alike: how many, of which time, and where to go on.

use super::Problem;
use crate::domain::DeliveryId;
use crate::store::{DeadKey, LogKey};
use crate::telemetry::clock;

/// The most entries of a page.
pub(super) const PAGE_MAX: usize = 100;
/// The entries of a page when nothing is said.
const PAGE_DEFAULT: usize = 50;

/// How many entries a page is to have.
///
/// # Errors
/// When it is not from 1 to [`PAGE_MAX`].
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(PAGE_DEFAULT);
    let wrong = || Problem::invalid("limit", format!("`limit` must be from 1 to {PAGE_MAX}"));
    (1..=PAGE_MAX).contains(&limit).then_some(limit).ok_or_else(wrong)
}

/// A stretch of time in milliseconds since the Unix epoch: from the first on, and before the second.
///
/// # Errors
/// When one is not a time, or they are the wrong way round.
pub(super) fn times(from: Option<&str>, to: Option<&str>) -> Result<(Option<u64>, Option<u64>), Problem> {
    let time = |name: &str, text: &str| {
        let wrong = || {
            Problem::invalid(name, format!("`{name}` is a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z"))
        };
        clock::parse_rfc3339(text).ok_or_else(wrong)
    };
    let from = from.map(|text| time("from", text)).transpose()?;
    let to = to.map(|text| time("to", text)).transpose()?;
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(Problem::invalid("to", "`to` lies before `from`"));
    }
    Ok((from, to))
}

/// A place in the log, as a text.
pub(super) fn log_place(key: &LogKey) -> String {
    format!("{}-{}", key.flush, key.index)
}

/// The place in the log that a text names.
pub(super) fn log_key(text: &str) -> Option<LogKey> {
    let (flush, index) = text.split_once('-')?;
    Some(LogKey { flush: flush.parse().ok()?, index: index.parse().ok()? })
}

/// A place among dead letters, of one subscription or many, as a text.
pub(super) fn dead_place(key: &DeadKey) -> String {
    format!("{}-{}", key.failed_ms, key.delivery)
}

/// The place among dead letters that a text names: when one failed, and its delivery.
pub(super) fn dead_key(text: &str) -> Option<(u64, DeliveryId)> {
    let (failed_ms, delivery) = text.split_once('-')?;
    Some((failed_ms.parse().ok()?, DeliveryId::parse(delivery).ok()?))
}

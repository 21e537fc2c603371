//! What listings ask for alike: how many, and of which time.

use super::Problem;
use super::subscriptions::{PAGE_DEFAULT, PAGE_MAX};
use crate::telemetry::clock;

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

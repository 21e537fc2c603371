//! A webhook's pace: how many attempts a time.

use super::places::KeyPath;
use super::raw;
use super::report::Report;
use super::valid::bounds;
use crate::domain::RateLimit;

/// Checks a complete rate limit, given in full or in part by the table at `at`. A rate of 0 is no limit: `Some(None)`.
pub(super) fn rate_limit(at: &KeyPath, raw: &raw::RateLimit, report: &mut Report<'_>) -> Option<Option<RateLimit>> {
    let rate = report.int::<u32>(&at.key("rate"), raw.rate, &bounds::RATE_TOKENS);
    let per = report.duration(&at.key("per"), &raw.per, &bounds::RATE_SPAN);
    let burst = match raw.burst {
        // As many as come in one span, so that whoever has been quiet may send a span's worth at once.
        None => rate,
        Some(burst) => report.int::<u32>(&at.key("burst"), burst, &(1..=*bounds::RATE_TOKENS.end())),
    };
    let (rate, per, burst) = (rate?, per?, burst?);
    if rate == 0 {
        return Some(None);
    }
    report.check(at, RateLimit::new(rate, per, burst)).map(Some)
}

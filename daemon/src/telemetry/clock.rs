//! The one place where real time is read.

use std::time::SystemTime;
use std::time::{Duration, UNIX_EPOCH};

use crate::failpoint;

/// Milliseconds since the Unix epoch. Before the epoch (a badly set clock) it is 0.
#[expect(clippy::disallowed_methods, reason = "this is the module that reads real time")]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add_signed(failpoint::clock_offset_ms())
}

/// A time in milliseconds since the Unix epoch, as RFC 3339 writes it, in UTC.
pub fn rfc3339(at_ms: u64) -> String {
    // Beyond the year 9999 the format has no words: the last moment that it can say stands for all of them.
    const LAST_MS: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST_MS))).to_string()
}

/// The time that a text in the form of RFC 3339 names, in UTC (`Z`), in milliseconds since the Unix epoch.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

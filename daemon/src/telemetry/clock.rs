//! The one place where real time is read.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch. Before the epoch (a badly set clock) it is 0.
#[expect(clippy::disallowed_methods, reason = "this is the module that reads real time")]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

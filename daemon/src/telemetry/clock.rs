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

/// Microseconds of the system's monotonic clock (`CLOCK_MONOTONIC`), which other processes read too.
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000).unwrap_or(0)
}

/// A time as RFC 3339 writes it, with `Z` or an offset such as `+02:00`, in milliseconds since the Unix epoch; what is
/// finer than a millisecond is cut off, and what lies before the epoch is the epoch: nothing is as old. `None` when the text is
/// none.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let text = text.to_ascii_uppercase();
    let (time, offset_ms) = match text.strip_suffix('Z') {
        Some(time) => (time, 0),
        None => {
            let (time, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
            (time, offset_ms(offset)?)
        }
    };
    if time.contains('Z') {
        return None;
    }
    let before_epoch = time.get(..4).is_some_and(|year| year < "1970" && year.bytes().all(|b| b.is_ascii_digit()));
    if before_epoch {
        // The calendar repeats after 400 years: it is looked at whether there is such a day.
        let year: u32 = time[..4].parse().ok()?;
        humantime::parse_rfc3339(&format!("{:04}{}Z", year + 2_000, &time[4..])).ok()?;
        return Some(0);
    }
    let at = humantime::parse_rfc3339(&format!("{time}Z")).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(at.as_millis()).ok()?.checked_sub(offset_ms).map(|ms| u64::try_from(ms).unwrap_or(0))
}

/// `+hh:mm` or `-hh:mm` in milliseconds.
fn offset_ms(offset: &str) -> Option<i64> {
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |digits: &str, max: i64| -> Option<i64> {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|n| plain && *n <= max)
    };
    let ms = (number(hours, 23)? * 60 + number(minutes, 59)?) * 60_000;
    match offset.as_bytes()[0] {
        b'+' => Some(ms),
        b'-' => Some(-ms),
        _ => None,
    }
}

/// A time in milliseconds since the Unix epoch, as RFC 3339 writes it, in UTC.
pub fn rfc3339(at_ms: u64) -> String {
    // Beyond the year 9999 the format has no words: the last moment that it can say stands for all of them.
    const LAST_MS: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST_MS))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_offsets() {
        let at = 1_795_332_645_678;
        assert_eq!(rfc3339(at), "2026-11-22T07:30:45.678Z");
        let same = ["2026-11-22T07:30:45.678Z", "2026-11-22t07:30:45.678999z", "2026-11-22T09:30:45.678+02:00"];
        for text in same {
            assert_eq!(parse_rfc3339(text), Some(at), "{text}");
        }
        assert_eq!(parse_rfc3339("2026-11-22T02:00:00-05:30"), parse_rfc3339("2026-11-22T07:30:00Z"));
        for text in ["0000-02-29T00:00:00Z", "1969-12-31T23:59:59Z", "1970-01-01T00:00:00+01:00"] {
            assert_eq!(parse_rfc3339(text), Some(0), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let bad = [
            "",
            "Z",
            "now",
            "2026-11-22",
            "2026-11-22T07:30:45",
            "2026-11-22T07:30:45+0200",
            "2026-11-22T07:30:45+24:00",
            "2026-13-22T07:30:45Z",
            "2026-11-22T07:30:45ZZ",
            "2026-11-22T07:30:45Z+02:00",
            "2026-11-22T07:30:45\u{e9}02:00",
            "2026-11-22T07:30:45*02:00",
            "1900-02-29T00:00:00Z",
            "19\u{e9}0-01-01T00:00:00Z",
        ];
        for text in bad {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }
}

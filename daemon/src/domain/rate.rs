//! How fast a webhook may be sent to: a token bucket as a pure value, with the time as its only input.

use std::time::Duration;

/// The most tokens that a limit may give in one span, or hold at once.
pub const TOKENS_MAX: u32 = 1_000_000;
/// The longest span of a limit.
pub const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest span of a limit.
pub const SPAN_MIN: Duration = Duration::from_millis(10);

/// Why a limit was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No token at all, or more than the limit.
    #[error("rate must be from 1 to {TOKENS_MAX}")]
    Rate,
    /// No token can ever be held, or more than the limit.
    #[error("burst must be from 1 to {TOKENS_MAX}")]
    Burst,
    /// A span that is too short or too long.
    #[error("per must be from 10 ms to 1 day")]
    Span,
}

/// At most `rate` attempts in each span, and at most `burst` of them at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    rate: u32,
    per: Duration,
    burst: u32,
}

impl RateLimit {
    /// `rate` tokens come in each span `per`, evenly; `burst` of them are kept while nobody takes any.
    ///
    /// # Errors
    /// When a value is out of its bounds.
    pub fn new(rate: u32, per: Duration, burst: u32) -> Result<Self, Error> {
        if rate == 0 || rate > TOKENS_MAX {
            return Err(Error::Rate);
        }
        if burst == 0 || burst > TOKENS_MAX {
            return Err(Error::Burst);
        }
        if !(SPAN_MIN..=SPAN_MAX).contains(&per) {
            return Err(Error::Span);
        }
        Ok(Self { rate, per, burst })
    }

    /// How many tokens come in a span.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// The span.
    pub fn per(&self) -> Duration {
        self.per
    }

    /// The most tokens that are kept.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// The time between two tokens, rounded up to the nanosecond: never more than `rate` in a span.
    fn interval(&self) -> Duration {
        let nanos = self.per.as_nanos().div_ceil(u128::from(self.rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The tokens of one limit. Times are counted from any beginning, the same for all calls, and may not run backwards by
/// more than a token's worth of harm: an earlier time than before only finds fewer tokens.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    limit: RateLimit,
    /// When the bucket will be full again. All that is to be known: each token taken moves it on by one interval.
    full_at: Duration,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, full_at: Duration::ZERO }
    }

    /// The limit.
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes a token; false when there is none.
    pub fn take(&mut self, now: Duration) -> bool {
        let there = self.next_at() <= now;
        if there {
            self.full_at = self.full_at.max(now).saturating_add(self.limit.interval());
        }
        there
    }

    /// From when on there is a token: a time that is past when there is one now.
    pub fn next_at(&self) -> Duration {
        self.full_at.saturating_sub(self.limit.interval().saturating_mul(self.limit.burst - 1))
    }

    /// Another limit from now on: what was taken under the old one still counts, as far as the new one could hold it.
    pub fn change(&mut self, limit: RateLimit, now: Duration) {
        let missing = self.full_at.saturating_sub(now);
        self.limit = limit;
        self.full_at = now.saturating_add(missing.min(limit.interval().saturating_mul(limit.burst)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(rate: u32, per_ms: u64, burst: u32) -> RateLimit {
        RateLimit::new(rate, Duration::from_millis(per_ms), burst).expect("valid")
    }

    #[test]
    fn a_burst_goes_at_once_and_then_one_at_a_time() {
        let mut bucket = TokenBucket::new(limit(10, 1_000, 3));
        let at = Duration::from_millis;
        assert!(bucket.take(at(5_000)) && bucket.take(at(5_000)) && bucket.take(at(5_000)));
        assert!(!bucket.take(at(5_000)));
        assert_eq!(bucket.next_at(), at(5_100));
        assert!(!bucket.take(at(5_099)) && bucket.take(at(5_100)) && !bucket.take(at(5_199)));
        assert!(bucket.take(at(9_000)) && bucket.take(at(9_000)) && bucket.take(at(9_000)) && !bucket.take(at(9_000)));
    }

    #[test]
    fn another_limit_neither_forgives_what_was_taken_nor_makes_wait_for_ever() {
        let at = Duration::from_millis;
        let mut bucket = TokenBucket::new(limit(1, 60_000, 2));
        assert!(bucket.take(at(0)) && bucket.take(at(0)));
        bucket.change(limit(10, 1_000, 2), at(0));
        assert!(!bucket.take(at(0)), "the burst was taken");
        assert_eq!(bucket.next_at(), at(100));
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let second = Duration::from_secs(1);
        assert_eq!(RateLimit::new(0, second, 1), Err(Error::Rate));
        assert_eq!(RateLimit::new(1, second, 0), Err(Error::Burst));
        assert_eq!(RateLimit::new(1, Duration::ZERO, 1), Err(Error::Span));
        assert_eq!(RateLimit::new(TOKENS_MAX + 1, second, 1), Err(Error::Rate));
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_its_share_and_whoever_waits_gets_a_token(
            rate in 1u32..2_000, per_ms in 10u64..100_000, burst in 1u32..50,
            waits_us in proptest::collection::vec(0u64..200_000, 1..200),
        ) {
            let limit = limit(rate, per_ms, burst);
            let mut bucket = TokenBucket::new(limit);
            let mut now = Duration::from_secs(1);
            let mut taken: Vec<Duration> = Vec::new();
            for wait in waits_us {
                now += Duration::from_micros(wait);
                let promised = bucket.next_at() <= now;
                prop_assert_eq!(bucket.take(now), promised);
                if promised {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let span = (*to - *from).as_nanos();
                    let most = u128::from(burst) + span * u128::from(rate) / limit.per.as_nanos();
                    prop_assert!((last - first + 1) as u128 <= most, "{} within {span} ns", last - first + 1);
                }
            }
        }

        #[test]
        fn a_steady_taker_gets_the_whole_rate(rate in 1u32..1_000, per_ms in 10u64..10_000, burst in 1u32..50) {
            let mut bucket = TokenBucket::new(limit(rate, per_ms, burst));
            let mut now = Duration::ZERO;
            for _ in 0..rate + burst {
                now = now.max(bucket.next_at());
                prop_assert!(bucket.take(now));
            }
            // All of one span, save the rounding of each interval.
            prop_assert!(now <= Duration::from_millis(per_ms) + Duration::from_micros(1), "{now:?}");
        }
    }
}

//! When to try again: a pure value, with the attempt's number and a random draw as its only inputs.

use std::time::Duration;

/// The most attempts a policy may ask for.
pub const ATTEMPTS_MAX: u32 = 100;
/// The longest wait between two attempts.
pub const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The wait between attempts that are made for ever under a policy of a single attempt.
pub const LAST_DELAY_DEFAULT: Duration = Duration::from_secs(60);

/// Why a policy was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// No attempt at all, or more than the limit.
    #[error("max_attempts must be from 1 to {ATTEMPTS_MAX}")]
    Attempts,
    /// The factor is not a number of 1 or more.
    #[error("factor must be 1 or more, and at most 100")]
    Factor,
    /// The jitter is not a part of one.
    #[error("jitter must be from 0 to 1")]
    Jitter,
    /// A wait of zero, or beyond the limit.
    #[error("a delay must be longer than 0 and at most 30 days")]
    Delay,
    /// `max` is shorter than `base`.
    #[error("max must not be shorter than base")]
    Bounds,
}

#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Exponential { base: Duration, factor: f64, max: Duration },
    Schedule(Vec<Duration>),
}

/// How often a delivery is attempted, and how long to wait in between.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    attempts_max: u32,
    jitter: f64,
    shape: Shape,
}

impl Default for RetryPolicy {
    /// 8 attempts over about a day: after 5 s, 30 s, 3 min, 18 min, 1.8 h, 10.8 h, 12 h, each ± 20 %.
    fn default() -> Self {
        Self {
            attempts_max: 8,
            jitter: 0.2,
            shape: Shape::Exponential {
                base: Duration::from_secs(5),
                factor: 6.0,
                max: Duration::from_secs(12 * 3600),
            },
        }
    }
}

fn check_delay(delay: Duration) -> Result<(), Error> {
    if delay.is_zero() || delay > DELAY_MAX { Err(Error::Delay) } else { Ok(()) }
}

impl RetryPolicy {
    /// `attempts_max` attempts in all; before attempt n + 1 a wait of `base · factorⁿ⁻¹`, at most `max`, each made up to
    /// `jitter` (a part of one) longer or shorter.
    ///
    /// # Errors
    /// When a value is out of its bounds.
    pub fn exponential(
        attempts_max: u32,
        base: Duration,
        factor: f64,
        max: Duration,
        jitter: f64,
    ) -> Result<Self, Error> {
        if attempts_max == 0 || attempts_max > ATTEMPTS_MAX {
            return Err(Error::Attempts);
        }
        if !(1.0..=100.0).contains(&factor) {
            return Err(Error::Factor);
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(Error::Jitter);
        }
        check_delay(base)?;
        check_delay(max)?;
        if max < base {
            return Err(Error::Bounds);
        }
        Ok(Self { attempts_max, jitter, shape: Shape::Exponential { base, factor, max } })
    }

    /// One attempt at once, then one after each of `delays`.
    ///
    /// # Errors
    /// When a delay is out of its bounds, there are too many, or the jitter is not a part of one.
    pub fn schedule(delays: Vec<Duration>, jitter: f64) -> Result<Self, Error> {
        let attempts_max = u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1);
        if attempts_max > ATTEMPTS_MAX {
            return Err(Error::Attempts);
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(Error::Jitter);
        }
        for delay in &delays {
            check_delay(*delay)?;
        }
        Ok(Self { attempts_max, jitter, shape: Shape::Schedule(delays) })
    }

    /// How many attempts there are in all.
    pub fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    /// How long to wait after `attempts` failed attempts, or `None` when they are exhausted. `draw` is a random number
    /// from 0 up to 1.
    pub fn delay(&self, attempts: u32, draw: f64) -> Option<Duration> {
        if attempts == 0 || attempts >= self.attempts_max {
            return None;
        }
        let plain = match &self.shape {
            Shape::Exponential { base, factor, max } => {
                let exponent = i32::try_from(attempts - 1).unwrap_or(i32::MAX);
                let seconds = base.as_secs_f64() * factor.powi(exponent);
                seconds.min(max.as_secs_f64())
            }
            Shape::Schedule(delays) => delays[attempts as usize - 1].as_secs_f64(),
        };
        let jittered = plain * (1.0 + self.jitter * (2.0 * draw - 1.0));
        Some(Duration::from_secs_f64(jittered.max(0.001)))
    }

    /// How long to wait after `attempts` failed attempts when it is never given up: once the policy is exhausted, its last
    /// wait again and again, or [`LAST_DELAY_DEFAULT`] where it has none.
    pub fn endless_delay(&self, attempts: u32, draw: f64) -> Duration {
        let within = attempts.min(self.attempts_max.saturating_sub(1));
        self.delay(within, draw).unwrap_or(LAST_DELAY_DEFAULT)
    }

    /// The longest that a delivery can wait in all, before its last attempt.
    pub fn horizon(&self) -> Duration {
        (1..self.attempts_max).filter_map(|n| self.delay(n, 1.0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_spreads_eight_attempts_over_a_day() {
        let policy = RetryPolicy::default();
        let waits: Vec<u64> = (1..8).map(|n| policy.delay(n, 0.5).expect("a wait").as_secs()).collect();
        assert_eq!(waits, [5, 30, 180, 1080, 6480, 38_880, 43_200]);
        assert_eq!(policy.delay(8, 0.5), None);
    }

    #[test]
    fn a_schedule_is_followed_to_the_letter() {
        let policy =
            RetryPolicy::schedule(vec![Duration::from_secs(30), Duration::from_secs(300)], 0.0).expect("valid");
        assert_eq!(policy.attempts_max(), 3);
        assert_eq!(policy.delay(1, 0.9), Some(Duration::from_secs(30)));
        assert_eq!(policy.delay(2, 0.1), Some(Duration::from_secs(300)));
        assert_eq!(policy.delay(3, 0.1), None);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let second = Duration::from_secs(1);
        let build = |n, base, factor, max, jitter| RetryPolicy::exponential(n, base, factor, max, jitter);
        assert_eq!(build(0, second, 2.0, second, 0.0), Err(Error::Attempts));
        assert_eq!(build(3, Duration::ZERO, 2.0, second, 0.0), Err(Error::Delay));
        assert_eq!(build(3, second, 0.5, second, 0.0), Err(Error::Factor));
        assert_eq!(build(3, second, f64::NAN, second, 0.0), Err(Error::Factor));
        assert_eq!(build(3, second, 2.0, second, 1.5), Err(Error::Jitter));
        assert_eq!(build(3, second * 2, 2.0, second, 0.0), Err(Error::Bounds));
    }

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            attempts in 1u32..=ATTEMPTS_MAX, base_ms in 1u64..100_000, factor in 1.0f64..100.0, more_ms in 0u64..1_000_000,
            jitter in 0.0f64..=1.0, n in 0u32..200, draw in 0.0f64..1.0,
        ) {
            let base = Duration::from_millis(base_ms);
            let max = base + Duration::from_millis(more_ms);
            let policy = RetryPolicy::exponential(attempts, base, factor, max, jitter).expect("valid");
            match policy.delay(n, draw) {
                None => prop_assert!(n == 0 || n >= attempts),
                Some(delay) => {
                    prop_assert!(n < attempts);
                    prop_assert!(delay.as_secs_f64() <= max.as_secs_f64() * (1.0 + jitter) + 1e-6);
                    prop_assert!(delay >= Duration::from_millis(1));
                }
            }
        }

        #[test]
        fn without_jitter_delays_never_shrink(n in 1u32..20) {
            let policy = RetryPolicy::exponential(30, Duration::from_secs(1), 2.0, Duration::from_secs(60), 0.0).expect("valid");
            prop_assert!(policy.delay(n, 0.3) <= policy.delay(n + 1, 0.7));
        }
    }
}

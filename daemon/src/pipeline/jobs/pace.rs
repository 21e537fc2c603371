//! How fast a job goes: so many deliveries a second, and no more than a tenth of a second's worth at once.

use std::time::Duration;

use tokio::time::Instant;

/// A job's credit of deliveries. What an event makes of it is known only afterwards: a filtered one costs nothing, one
/// with several parts as many, so that the credit may fall below zero.
pub(super) struct Pace {
    per_second: f64,
    burst: f64,
    credit: f64,
    at: Instant,
    /// How many deliveries had been begun when that was last looked at.
    begun: u64,
}

impl Pace {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        let burst = (per_second / 10.0).max(1.0);
        Self { per_second, burst, credit: burst, at: now, begun: 0 }
    }

    /// How many more may be brought, when so many deliveries have been begun in all and so many events wait to be taken.
    pub(super) fn free(&mut self, begun: u64, waiting: usize, now: Instant) -> usize {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        let spent = begun.saturating_sub(self.begun) as f64;
        self.credit = (self.credit + earned).min(self.burst) - spent;
        self.at = now;
        self.begun = begun;
        (self.credit - waiting as f64).floor().max(0.0) as usize
    }

    /// When one more may be brought, if no more are begun until then.
    pub(super) fn next_at(&self, waiting: usize) -> Instant {
        let missing = (1.0 + waiting as f64 - self.credit).max(0.0);
        // A millisecond more: timers have no finer grain, and one that rings early would ring again and again.
        self.at + Duration::from_secs_f64(missing / self.per_second) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_gives_as_many_a_second_and_counts_what_came_of_them() {
        let start = Instant::now();
        let mut pace = Pace::new(50, start);
        assert_eq!(pace.free(0, 0, start), 5, "a tenth of a second's worth at first");
        assert_eq!(pace.free(0, 5, start), 0, "they wait");
        assert_eq!(pace.free(0, 0, start), 5, "all were filtered, and cost nothing");
        assert_eq!(pace.free(9, 0, start), 0, "they had nine parts");
        let next = pace.next_at(0);
        assert!(pace.free(9, 0, next - Duration::from_millis(20)) == 0 && pace.free(9, 0, next) == 1);
        let mut begun = 9;
        let mut now = start;
        for _ in 0..1_000 {
            now += Duration::from_millis(10);
            begun += pace.free(begun, 0, now) as u64;
        }
        assert!((500..=510).contains(&begun), "{begun} in ten seconds");
        assert_eq!(pace.free(begun, 0, now + Duration::from_secs(3_600)), 5, "nothing is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_gives_one_at_a_time() {
        let start = Instant::now();
        let mut pace = Pace::new(1, start);
        assert_eq!(pace.free(0, 0, start), 1);
        assert_eq!(pace.free(1, 0, start), 0);
        assert_eq!(pace.free(1, 0, start + Duration::from_millis(1_001)), 1);
    }
}

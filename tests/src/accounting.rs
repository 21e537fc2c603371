//! The books of one subscription: received + resent = delivered + filtered + failed + parked.

use crate::metrics::Metrics;

/// What became of the events that matched a subscription, since the daemon's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accounting {
    /// Events that matched.
    pub received: u64,
    /// Delivered: a receiver answered 2xx.
    pub delivered: u64,
    /// Kept back by a filter, or dropped by policy.
    pub filtered: u64,
    /// Failed for good: on record with a dead letter.
    pub failed: u64,
    /// Waiting in the store for the next attempt.
    pub parked: u64,
    /// Dead letters that were sent again: each is in one of the other columns twice, as it failed and as it ended then.
    pub resent: u64,
}

impl Accounting {
    /// Reads the books of `subscription`; all 0 when it has seen nothing.
    pub fn of(metrics: &Metrics, subscription: &str) -> Self {
        let name = ("subscription", subscription);
        let events = |metric| whole(metrics.sum(metric, &[name]));
        let deliveries = |outcome| whole(metrics.sum("sluiced_deliveries_total", &[name, ("outcome", outcome)]));
        Self {
            received: events("sluiced_events_received_total"),
            delivered: deliveries("delivered"),
            filtered: events("sluiced_events_filtered_total") + events("sluiced_events_dropped_total"),
            failed: deliveries("failed"),
            parked: events("sluiced_parked"),
            resent: events("sluiced_deliveries_resent_total"),
        }
    }

    /// Whether every received event, and every dead letter that was sent again, is in exactly one of the other columns.
    pub fn balances(&self) -> bool {
        self.received + self.resent == self.delivered + self.filtered + self.failed + self.parked
    }
}

/// Counts of a test are far below 2^53.
fn whole(value: f64) -> u64 {
    value as u64
}

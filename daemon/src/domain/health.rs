//! When an endpoint counts as failing, how it is probed, and when it is given up.

use std::time::Duration;

/// When an endpoint is left alone, and how it is probed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerPolicy {
    /// Which part of the attempts within the window must fail: above 0, at most 1.
    pub failure_ratio: f64,
    /// How many attempts the window must hold before its ratio counts; so many failures in a row count by themselves,
    /// however long they take.
    pub attempts_min: u32,
    /// How far back attempts count.
    pub window: Duration,
    /// How long to wait before the first probe; the wait doubles with each probe that fails.
    pub probe_delay: Duration,
    /// The longest wait between two probes.
    pub probe_delay_max: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failure_ratio: 0.5,
            attempts_min: 10,
            window: Duration::from_secs(30),
            probe_delay: Duration::from_secs(5),
            probe_delay_max: Duration::from_secs(60),
        }
    }
}

/// When an endpoint is left alone, and when its subscription is disabled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HealthPolicy {
    /// When it is left alone.
    pub breaker: BreakerPolicy,
    /// After how long of nothing but failures its subscription is disabled; `None` is never.
    pub disable_after: Option<Duration>,
}

/// The time of nothing but failures after which a subscription is disabled, when nothing is said.
pub const DISABLE_AFTER: Duration = Duration::from_secs(5 * 24 * 3600);

impl Default for HealthPolicy {
    fn default() -> Self {
        Self { breaker: BreakerPolicy::default(), disable_after: Some(DISABLE_AFTER) }
    }
}

//! The circuit breaker of an endpoint: after too many failures in a row nothing is sent but one probe at a time, ever more
//! rarely, until one succeeds. Pure: time comes in as a value.

use std::time::Duration;

use tokio::time::Instant;

/// When an endpoint counts as failing, and how it is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How many failures in a row open the breaker.
    pub failures_max: u32,
    /// How long to wait before the first probe; the wait doubles with each probe that fails.
    pub probe_delay: Duration,
    /// The longest wait between two probes.
    pub probe_delay_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { failures_max: 10, probe_delay: Duration::from_secs(5), probe_delay_max: Duration::from_secs(60) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// Nothing may be sent before that time; then one probe.
    Open {
        until: Instant,
        delay: Duration,
    },
}

/// What the breaker allows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// As many attempts as the lane takes.
    All,
    /// One attempt at a time: a probe.
    One,
    /// None before that time.
    None {
        /// When a probe is due.
        until: Instant,
    },
}

/// One endpoint's breaker.
#[derive(Debug)]
pub struct Breaker {
    config: Config,
    failures: u32,
    state: State,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: Config) -> Self {
        Self { config, failures: 0, state: State::Closed }
    }

    /// Is it open: is the endpoint failing or asking to be left alone?
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// What may be sent now.
    pub fn permit(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed => Permit::All,
            State::Open { until, .. } if until <= now => Permit::One,
            State::Open { until, .. } => Permit::None { until },
        }
    }

    /// The receiver took something. True when this closes an open breaker.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        std::mem::replace(&mut self.state, State::Closed) != State::Closed
    }

    /// An attempt could not be carried out by our own fault: it says nothing of the receiver, and an open breaker waits as
    /// long again.
    pub fn not_tried(&mut self, now: Instant) {
        if let State::Open { until, delay } = self.state {
            self.state = State::Open { until: until.max(now + delay), delay };
        }
    }

    /// An attempt failed by the receiver's fault, and perhaps the receiver asked to be left alone for a while. True when
    /// this opens a closed breaker.
    pub fn failed(&mut self, now: Instant, retry_after: Option<Duration>) -> bool {
        self.failures = self.failures.saturating_add(1);
        let asked = retry_after.unwrap_or_default();
        match self.state {
            State::Closed if self.failures < self.config.failures_max && retry_after.is_none() => false,
            State::Closed => {
                let delay = self.config.probe_delay;
                let wait = if self.failures < self.config.failures_max { asked } else { delay.max(asked) };
                self.state = State::Open { until: now + wait, delay };
                true
            }
            // Attempts that were under way when the breaker opened are no probes.
            State::Open { until, delay } if until > now => {
                self.state = State::Open { until: until.max(now + asked), delay };
                false
            }
            State::Open { delay, .. } => {
                let delay = (delay * 2).min(self.config.probe_delay_max);
                self.state = State::Open { until: now + delay.max(asked), delay };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let config = Config { failures_max: 3, probe_delay: SECOND, probe_delay_max: SECOND * 3 };
        (Breaker::new(config), Instant::now())
    }

    #[test]
    fn opens_after_failures_in_a_row_and_probes_ever_more_rarely() {
        let (mut breaker, now) = breaker();
        assert!(!breaker.failed(now, None));
        assert!(!breaker.failed(now, None));
        assert!(!breaker.succeeded());
        assert!(!breaker.failed(now, None) && !breaker.failed(now, None));
        assert!(breaker.failed(now, None), "the third in a row opens it");
        assert_eq!(breaker.permit(now), Permit::None { until: now + SECOND });
        assert!(!breaker.failed(now, None), "one that was under way changes nothing");
        assert_eq!(breaker.permit(now + SECOND), Permit::One);
        breaker.failed(now + SECOND, None);
        assert_eq!(breaker.permit(now + SECOND), Permit::None { until: now + SECOND * 3 });
        breaker.failed(now + SECOND * 3, None);
        assert_eq!(breaker.permit(now + SECOND * 3), Permit::None { until: now + SECOND * 6 });
        breaker.not_tried(now + SECOND * 6);
        assert_eq!(breaker.permit(now + SECOND * 6), Permit::None { until: now + SECOND * 9 });
        assert!(breaker.succeeded());
        assert_eq!(breaker.permit(now), Permit::All);
    }

    #[test]
    fn a_wish_to_be_left_alone_is_obeyed_at_once() {
        let (mut breaker, now) = breaker();
        assert!(breaker.failed(now, Some(SECOND * 7)));
        assert_eq!(breaker.permit(now), Permit::None { until: now + SECOND * 7 });
        assert_eq!(breaker.permit(now + SECOND * 7), Permit::One);
        assert!(breaker.succeeded());
    }
}

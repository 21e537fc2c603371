//! The circuit breaker of an endpoint: when too much fails nothing is sent but one probe at a time, ever more rarely, until
//! one succeeds. Pure: time comes in as a value.
//!
//! It opens when enough attempts within a sliding window failed, or when as many failed in a row, however long that took:
//! an endpoint that was well for a while and dies is noticed at once, and so is one that hangs until each attempt times
//! out. It opens, too, when a receiver asks to be left alone; that by itself does not make the endpoint a failing one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::BreakerPolicy;

/// How finely the window is cut: what is older than the window leaves it in steps of this part of it.
const SLICES: u32 = 10;

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

/// What an attempt changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing that others would want to know.
    None,
    /// The receiver asked to be left alone: the breaker has opened, and the endpoint does not count as failing.
    Paused,
    /// The endpoint counts as failing from now on; the breaker is open.
    Failing,
    /// The breaker has closed.
    Closed {
        /// The endpoint had counted as failing.
        had_failed: bool,
    },
}

/// Attempts of a part of the window.
#[derive(Debug)]
struct Slice {
    began: Instant,
    attempts: u32,
    failures: u32,
}

/// The attempts of the last while.
#[derive(Debug, Default)]
struct Window {
    slices: VecDeque<Slice>,
    attempts: u32,
    failures: u32,
}

impl Window {
    fn count(&mut self, now: Instant, length: Duration, failed: bool) {
        while let Some(oldest) = self.slices.front().filter(|slice| slice.began + length <= now) {
            self.attempts -= oldest.attempts;
            self.failures -= oldest.failures;
            self.slices.pop_front();
        }
        if self.slices.back().is_none_or(|slice| slice.began + length / SLICES <= now) {
            self.slices.push_back(Slice { began: now, attempts: 0, failures: 0 });
        }
        // A bound of `u32` attempts a window is never met; a counter that is full counts no further.
        if let Some(slice) = self.slices.back_mut().filter(|_| self.attempts < u32::MAX) {
            slice.attempts += 1;
            slice.failures += u32::from(failed);
            self.attempts += 1;
            self.failures += u32::from(failed);
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// One endpoint's breaker.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    window: Window,
    in_a_row: u32,
    state: State,
    /// The endpoint counts as failing; implies an open state.
    failing: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, window: Window::default(), in_a_row: 0, state: State::Closed, failing: false }
    }

    /// An open breaker with a probe due at once: of an endpoint that was failing when the daemon stopped, or of which
    /// nothing is known since its subscription was disabled.
    pub fn probing(policy: BreakerPolicy, now: Instant, failing: bool) -> Self {
        let state = State::Open { until: now, delay: policy.probe_delay };
        Self { state, failing, ..Self::new(policy) }
    }

    /// Goes on under another policy; the state stays.
    pub fn set_policy(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
    }

    /// Is it open: is the endpoint failing or asking to be left alone?
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Does the endpoint count as failing?
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// What may be sent now.
    pub fn permit(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed => Permit::All,
            State::Open { until, .. } if until <= now => Permit::One,
            State::Open { until, .. } => Permit::None { until },
        }
    }

    /// The receiver took something.
    pub fn succeeded(&mut self, now: Instant) -> Turn {
        self.in_a_row = 0;
        if self.state == State::Closed {
            self.window.count(now, self.policy.window, false);
        }
        self.answered(now)
    }

    /// The receiver answered, be it that it refused an event for good: that says nothing of the next one. Only a probe closes
    /// the breaker: what was under way when it opened may well be answered, and a wish to be left alone holds until its time.
    pub fn answered(&mut self, now: Instant) -> Turn {
        match self.state {
            State::Open { until, .. } if until <= now => {
                self.in_a_row = 0;
                self.window.clear();
                self.state = State::Closed;
                Turn::Closed { had_failed: std::mem::take(&mut self.failing) }
            }
            State::Closed | State::Open { .. } => Turn::None,
        }
    }

    /// An attempt did not get as far as the receiver, by our own fault or a refused address: it says nothing of it, and an open
    /// breaker waits as long again.
    pub fn not_tried(&mut self, now: Instant) {
        if let State::Open { until, delay } = self.state {
            self.state = State::Open { until: until.max(now + delay), delay };
        }
    }

    /// An attempt failed by the receiver's fault, and perhaps the receiver asked to be left alone for a while.
    pub fn failed(&mut self, now: Instant, retry_after: Option<Duration>) -> Turn {
        let asked = retry_after.unwrap_or_default();
        // Attempts that were under way when the breaker opened are no probes, and say nothing new.
        if let State::Open { until, delay } = self.state
            && until > now
        {
            self.state = State::Open { until: until.max(now + asked), delay };
            return Turn::None;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.window.count(now, self.policy.window, true);
        let fails = self.fails();
        let now_failing = fails && !self.failing;
        self.failing |= fails;
        let was_closed = self.state == State::Closed;
        match self.state {
            State::Closed if !fails && retry_after.is_none() => return Turn::None,
            State::Closed => {
                let delay = self.policy.probe_delay;
                let wait = if fails { delay.max(asked) } else { asked };
                self.state = State::Open { until: now + wait, delay };
            }
            State::Open { delay, .. } => {
                let delay = (delay * 2).min(self.policy.probe_delay_max.max(self.policy.probe_delay));
                self.state = State::Open { until: now + delay.max(asked), delay };
            }
        }
        match (now_failing, was_closed) {
            (true, _) => Turn::Failing,
            (false, true) => Turn::Paused,
            (false, false) => Turn::None,
        }
    }

    /// Does what was counted make the endpoint a failing one?
    fn fails(&self) -> bool {
        let enough = self.window.attempts >= self.policy.attempts_min;
        let ratio = f64::from(self.window.failures) >= self.policy.failure_ratio * f64::from(self.window.attempts);
        self.in_a_row >= self.policy.attempts_min || (enough && ratio)
    }
}

#[cfg(test)]
mod tests;

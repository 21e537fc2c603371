//! A plugin that does nothing but fail, for one subscription: it is set aside, and its calls fail at once, but for a probe now
//! and then.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Limits;
use super::fault::FaultKind;

/// Whether one use of a plugin is set aside.
#[derive(Debug)]
pub(super) struct Quarantine {
    policy: Policy,
    course: Mutex<Course>,
}

#[derive(Debug, Clone, Copy)]
struct Policy {
    /// After so many faults in a row it is set aside; 0 is never.
    faults: u32,
    /// Between the first probes; the wait doubles with each that fails.
    probe: Duration,
    probe_max: Duration,
}

#[derive(Debug, Default)]
struct Course {
    in_a_row: u32,
    aside: Option<Aside>,
}

#[derive(Debug, Clone, Copy)]
struct Aside {
    /// When the next probe is due.
    until: Instant,
    delay: Duration,
}

/// What a call that ended has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    None,
    /// The plugin is set aside from now on.
    Aside,
    /// It works again.
    Back,
}

impl Quarantine {
    pub(super) fn new(limits: &Limits) -> Self {
        let probe = Duration::from_millis(limits.quarantine_probe_ms);
        let probe_max = Duration::from_millis(limits.quarantine_probe_ms_max).max(probe);
        let policy = Policy { faults: limits.quarantine_faults, probe, probe_max };
        Self { policy, course: Mutex::default() }
    }

    /// Whether a call may be made: always, but for a plugin that is set aside, and to that one at a time, when a probe is due.
    /// A call that is given up counts as none: the next probe is due as if it had failed.
    ///
    /// # Errors
    /// The fault of a call that is not made.
    pub(super) fn permit(&self, now: Instant) -> Result<(), FaultKind> {
        let mut course = self.course.lock();
        let faults = course.in_a_row;
        match &mut course.aside {
            Some(aside) if aside.until > now => Err(FaultKind::Quarantined { faults }),
            Some(aside) => {
                aside.until = now + aside.delay;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes in how a call ended. What a plugin says of an event in an orderly way is no fault of its own.
    pub(super) fn ended<T>(&self, result: &Result<T, FaultKind>, now: Instant) -> Turn {
        let failed = matches!(result, Err(kind) if !matches!(kind, FaultKind::Reported { .. }));
        let mut course = self.course.lock();
        if !failed {
            course.in_a_row = 0;
            return if course.aside.take().is_some() { Turn::Back } else { Turn::None };
        }
        let in_a_row = course.in_a_row.saturating_add(1);
        course.in_a_row = in_a_row;
        let Policy { faults, probe, probe_max } = self.policy;
        match &mut course.aside {
            Some(aside) => {
                aside.delay = (aside.delay * 2).min(probe_max);
                aside.until = now + aside.delay;
                Turn::None
            }
            None if faults > 0 && in_a_row >= faults => {
                course.aside = Some(Aside { until: now + probe, delay: probe });
                Turn::Aside
            }
            None => Turn::None,
        }
    }

    /// How many faults in a row it had, when it is set aside.
    pub(super) fn faults(&self) -> Option<u32> {
        let course = self.course.lock();
        course.aside.map(|_| course.in_a_row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn quarantine(faults: u32) -> Quarantine {
        let limits = Limits {
            quarantine_faults: faults,
            quarantine_probe_ms: 1_000,
            quarantine_probe_ms_max: 3_000,
            ..Limits::default()
        };
        Quarantine::new(&limits)
    }

    fn trap() -> Result<(), FaultKind> {
        Err(FaultKind::Trap { reason: "unreachable".into() })
    }

    #[test]
    fn faults_in_a_row_set_it_aside_and_a_probe_that_works_brings_it_back() {
        let (quarantine, now) = (quarantine(3), Instant::now());
        let reported: Result<(), _> = Err(FaultKind::Reported { message: "no JSON".into() });
        let story = [trap(), trap(), reported, trap(), trap(), Ok(()), trap(), trap()];
        for result in &story {
            assert!(quarantine.permit(now).is_ok());
            assert_eq!(quarantine.ended(result, now), Turn::None, "never three in a row");
        }
        assert_eq!(quarantine.ended(&trap(), now), Turn::Aside);
        assert_eq!(quarantine.faults(), Some(3));
        assert_eq!(quarantine.permit(now), Err(FaultKind::Quarantined { faults: 3 }));
        // The waits between probes: 1 s, 2 s, and then 3 s for ever.
        let mut at = now;
        for wait in [1, 2, 3, 3] {
            assert!(quarantine.permit(at + SECOND * wait - Duration::from_millis(1)).is_err());
            at += SECOND * wait;
            assert!(quarantine.permit(at).is_ok(), "a probe");
            assert!(quarantine.permit(at).is_err(), "one at a time");
            assert_eq!(quarantine.ended(&trap(), at), Turn::None);
        }
        at += SECOND * 3;
        assert!(quarantine.permit(at).is_ok());
        assert_eq!(quarantine.ended(&Ok(()), at), Turn::Back);
        assert_eq!(quarantine.faults(), None);
        assert!(quarantine.permit(at).is_ok() && quarantine.permit(at).is_ok());
    }

    #[test]
    fn a_probe_that_is_given_up_is_followed_by_another() {
        let (quarantine, now) = (quarantine(1), Instant::now());
        assert_eq!(quarantine.ended(&trap(), now), Turn::Aside);
        assert!(quarantine.permit(now + SECOND).is_ok());
        assert!(quarantine.permit(now + SECOND).is_err());
        assert!(quarantine.permit(now + SECOND * 2).is_ok());
    }

    #[test]
    fn without_a_number_of_faults_it_is_never_set_aside() {
        let (quarantine, now) = (quarantine(0), Instant::now());
        for _ in 0..1_000 {
            assert_eq!(quarantine.ended(&trap(), now), Turn::None);
        }
        assert!(quarantine.permit(now).is_ok());
    }
}

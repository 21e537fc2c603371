//! Shadow mode: a candidate for a plugin's place runs beside the one that has it, on the same events and without effect, and
//! what the two say is compared.
//!
//! The candidate is called after the plugin in place has answered, in a task of its own, so that no event waits for it. Beyond
//! [`UNDER_WAY_MAX`] calls under way an event is not compared but counted as skipped: a slow candidate costs its own time and
//! no memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::fault::Fault;
use super::host::{Plugin, Role};
use super::usage::Usage;
use super::view::View;
use crate::domain::{Event, Output, Position, SubscriptionId, Verdict};
use crate::telemetry::clock;

/// The calls of a candidate that may be under way.
const UNDER_WAY_MAX: usize = 64;
/// The differences that are kept to be looked at: the last ones.
const SAMPLES_MAX: usize = 20;
/// The bytes that are kept of an output in a sample.
const SAMPLE_BYTES_MAX: usize = 4 << 10;
/// The subscriptions that are named of those whose configuration the candidate refuses.
const UNFIT_MAX: usize = 100;

/// A candidate, and what came of comparing it.
pub struct Trial {
    candidate: Arc<Plugin>,
    since_ms: u64,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
    over: AtomicBool,
    tally: Mutex<Tally>,
}

/// What came of comparing a candidate so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Calls after which both said the same.
    pub same: u64,
    /// Calls in which one kept an event that the other dropped.
    pub verdicts: u64,
    /// Calls in which the outputs differ.
    pub outputs: u64,
    /// Calls in which only the candidate failed.
    pub faults: u64,
    /// Calls in which only the plugin in place failed.
    pub mended: u64,
    /// Calls that were not compared, because too many were under way.
    pub skipped: u64,
    /// The time that the plugin in place took for all calls compared, on the wall.
    pub current_took: Duration,
    /// The time that the candidate took for them.
    pub candidate_took: Duration,
    /// The last differences, the newest last.
    pub samples: VecDeque<Difference>,
    /// Subscriptions whose configuration the candidate refuses, with the reason. They are not compared.
    pub unfit: Vec<(SubscriptionId, Box<str>)>,
}

/// One call in which the two did not say the same.
#[derive(Debug, Clone)]
pub struct Difference {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Whose event it was.
    pub subscription: SubscriptionId,
    /// The event's place.
    pub position: Position,
    /// The event's type.
    pub kind: Box<str>,
    /// What the plugin in place said.
    pub current: Said,
    /// What the candidate said.
    pub candidate: Said,
}

/// What a plugin said of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A filter's verdict.
    Verdict(Verdict),
    /// A transform's outputs.
    Outputs(Vec<Output>),
    /// It failed.
    Fault(Fault),
}

/// A candidate as one subscription would use it.
pub(super) struct Attached {
    trial: Arc<Trial>,
    role: Role,
    usage: Arc<Usage>,
}

impl Trial {
    pub(super) fn new(candidate: Arc<Plugin>) -> Self {
        Self {
            candidate,
            since_ms: clock::now_ms(),
            permits: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
            tasks: TaskTracker::new(),
            over: AtomicBool::new(false),
            tally: Mutex::default(),
        }
    }

    /// The candidate.
    pub fn candidate(&self) -> &Arc<Plugin> {
        &self.candidate
    }

    /// When it began, in milliseconds since the Unix epoch.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// What came of it so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().clone()
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Notes that the candidate cannot be used where the plugin in place is.
    pub(super) fn unfit(&self, subscription: &SubscriptionId, reason: Box<str>) {
        let mut tally = self.tally.lock();
        tally.unfit.retain(|(other, _)| other != subscription);
        if tally.unfit.len() < UNFIT_MAX {
            tally.unfit.push((subscription.clone(), reason));
        }
    }
}

impl Tally {
    fn note(&mut self, difference: Difference, took: (Duration, Duration)) {
        self.current_took += took.0;
        self.candidate_took += took.1;
        let counter = match (&difference.current, &difference.candidate) {
            (Said::Verdict(a), Said::Verdict(b)) => match is_keep(a) == is_keep(b) {
                true => return self.same += 1,
                false => &mut self.verdicts,
            },
            (Said::Fault(a), Said::Fault(b)) if a.kind_str() == b.kind_str() => return self.same += 1,
            (a, b) if a == b => return self.same += 1,
            (Said::Fault(_), Said::Verdict(_) | Said::Outputs(_)) => &mut self.mended,
            (_, Said::Fault(_)) => &mut self.faults,
            // What is both filter and transform is compared in one role at a time.
            (Said::Outputs(_) | Said::Verdict(_), Said::Outputs(_) | Said::Verdict(_)) => &mut self.outputs,
        };
        *counter += 1;
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        let (current, candidate) = (difference.current.shortened(), difference.candidate.shortened());
        self.samples.push_back(Difference { current, candidate, ..difference });
    }
}

fn is_keep(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Keep)
}

impl Said {
    /// The same, with no more of each output than is kept.
    fn shortened(self) -> Self {
        let Self::Outputs(mut outputs) = self else { return self };
        for output in outputs.iter_mut().filter(|output| output.data.len() > SAMPLE_BYTES_MAX) {
            // A copy, so that the rest can go.
            output.data = bytes::Bytes::copy_from_slice(&output.data[..SAMPLE_BYTES_MAX]);
        }
        Self::Outputs(outputs)
    }

    pub(super) fn of_filter(said: &Result<Verdict, Fault>) -> Self {
        match said {
            Ok(verdict) => Self::Verdict(verdict.clone()),
            Err(fault) => Self::Fault(fault.clone()),
        }
    }

    pub(super) fn of_transform(said: &Result<Vec<Output>, Fault>) -> Self {
        match said {
            Ok(outputs) => Self::Outputs(outputs.clone()),
            Err(fault) => Self::Fault(fault.clone()),
        }
    }
}

impl Attached {
    pub(super) fn new(trial: Arc<Trial>, role: Role, usage: Arc<Usage>) -> Self {
        Self { trial, role, usage }
    }

    pub(super) fn is_over(&self) -> bool {
        self.trial.is_over()
    }

    /// Has the candidate work on what the plugin in place has answered, and compares, some time from now.
    pub(super) fn compare(self: Arc<Self>, event: &Event, part: &Output, current: Said, took: Duration) {
        let trial = Arc::clone(&self.trial);
        let Ok(permit) = Arc::clone(&trial.permits).try_acquire_owned() else {
            trial.tally.lock().skipped += 1;
            return;
        };
        let (event, part) = (event.clone(), part.clone());
        trial.tasks.spawn(async move {
            let began = Instant::now();
            let view = View::new(&event, &part);
            let candidate = match self.role {
                Role::Filter => Said::of_filter(&self.usage.keep(view).await),
                Role::Transform => Said::of_transform(&self.usage.outputs(view).await),
            };
            let took = (took, began.elapsed());
            let subscription = self.usage.subscription().clone();
            let Event { position, kind, .. } = event;
            let at_ms = clock::now_ms();
            let difference = Difference { at_ms, subscription, position, kind, current, candidate };
            self.trial.tally.lock().note(difference, took);
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::StreamName;
    use crate::plugin::FaultKind;

    fn difference(current: Said, candidate: Said) -> Difference {
        let position = Position { stream: StreamName::parse("S").expect("a name"), sequence: 1 };
        let subscription = SubscriptionId::parse("s").expect("an id");
        Difference { at_ms: 1, subscription, position, kind: "a.b".into(), current, candidate }
    }

    fn output(bytes: usize) -> Said {
        Said::Outputs(vec![Output { data: vec![b'x'; bytes].into(), content_type: None, headers: vec![], kind: None }])
    }

    #[test]
    fn what_differs_is_counted_by_its_kind_and_the_last_differences_are_kept() {
        let keep = || Said::Verdict(Verdict::Keep);
        let drop = |reason: &str| Said::Verdict(Verdict::Drop(Some(reason.into())));
        let fault = |kind| Said::Fault(Fault { plugin: "p".into(), kind });
        let trap = || fault(FaultKind::Trap { reason: "unreachable".into() });
        let mut tally = Tally::default();
        let ms = Duration::from_millis(1);
        let pairs = [
            (keep(), keep()),
            (drop("a"), drop("b")),
            (trap(), trap()),
            (output(3), output(3)),
            (keep(), drop("a")),
            (output(3), output(4)),
            (keep(), trap()),
            (trap(), output(1)),
            (trap(), fault(FaultKind::Deadline { limit_ms: 1 })),
        ];
        for (current, candidate) in pairs {
            tally.note(difference(current, candidate), (ms, ms * 2));
        }
        let Tally { same, verdicts, outputs, faults, mended, .. } = tally;
        assert_eq!((same, verdicts, outputs, faults, mended), (4, 1, 1, 2, 1));
        assert_eq!((tally.current_took, tally.candidate_took), (ms * 9, ms * 18));
        assert_eq!(tally.samples.len(), 5);
        for _ in 0..SAMPLES_MAX {
            tally.note(difference(keep(), output(SAMPLE_BYTES_MAX + 1)), (ms, ms));
        }
        assert_eq!(tally.samples.len(), SAMPLES_MAX);
        let Said::Outputs(kept) = &tally.samples[0].candidate else { panic!("an output") };
        assert_eq!(kept[0].data.len(), SAMPLE_BYTES_MAX);
    }
}

//! A redrive: dead letters are parked again, newest first, no faster than its pace and than the worker takes them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::pace::Pace;
use super::{End, Entry, Inner, is_durable};
use crate::deliver::Lane;
use crate::domain::{DeliveryId, JobState};
use crate::store::{DeadFilter, DeadKey, Error, JobTask, RESEND_MAX, RedriveTask, Resent, Store};
use crate::telemetry::{self, clock};

/// How long to wait before it is looked again whether the worker has begun what is due.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long to wait when the store cannot be read or written.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long a stop waits for the last place to be durable.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Sends dead letters again.
pub(super) async fn run(inner: &Inner, entry: &Entry, lane: &Arc<Lane>, task: RedriveTask) -> End {
    let record = entry.record();
    let mut work = Work { inner, entry, lane, dry_run: record.dry_run, task, begun: 0, since: Instant::now() };
    let mut pace = Pace::new(record.rate, Instant::now());
    loop {
        let state = entry.state();
        work.clock(state);
        match state {
            JobState::Cancelled => return End::Cancelled,
            _ if lane.state().removed => return End::removed(),
            _ => {}
        }
        let look_again = match state == JobState::Running {
            false => Instant::now() + RETRY_DELAY,
            true if work.dry_run => match work.step(RESEND_MAX).await {
                Step::Over => return End::Over(JobState::Done, None),
                Step::Again(at) => at,
            },
            true => match pace.free(work.begun, 0, Instant::now()) {
                0 => pace.next_at(0),
                _ if work.must_wait() => Instant::now() + LOOK_AGAIN,
                free => match work.step(free.min(work.slots())).await {
                    Step::Over => return End::Over(JobState::Done, None),
                    Step::Again(at) => at,
                },
            },
        };
        tokio::select! {
            () = entry.changed.notified() => {}
            () = tokio::time::sleep_until(look_again) => {}
            () = inner.stop.cancelled() => {
                drop(tokio::time::timeout(STOP_TIME_MAX, is_durable(inner.save(entry))).await);
                return End::Stopped;
            }
        }
    }
}

/// What comes after a step.
enum Step {
    Over,
    Again(Instant),
}

/// A redrive at work.
struct Work<'a> {
    inner: &'a Inner,
    entry: &'a Entry,
    lane: &'a Arc<Lane>,
    dry_run: bool,
    task: RedriveTask,
    /// How many letters were parked again since the daemon started.
    begun: u64,
    since: Instant,
}

impl Work<'_> {
    /// Counts the time that it has been at work.
    fn clock(&mut self, state: JobState) {
        let ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since += Duration::from_millis(ms);
        if state == JobState::Running {
            self.entry.record.lock().ran_ms += ms;
        }
    }

    /// Has the worker yet to begin what is due? Then its endpoint is left alone, or slow, or the subscription is disabled,
    /// and more letters would only wait in another place.
    fn must_wait(&self) -> bool {
        let due = self.inner.shared.store.next_due_ms(self.lane.id());
        self.lane.state().disabled.is_some() || !due.is_ok_and(|due| due.is_none_or(|due| due > clock::now_ms()))
    }

    /// How many letters may be parked before the worker has begun them: as many as it has slots.
    fn slots(&self) -> usize {
        self.lane.state().limits().in_flight_max as usize
    }

    /// The next letters, at most so many.
    async fn step(&mut self, letters_max: usize) -> Step {
        let (store, subscription) = (self.inner.shared.store.clone(), self.lane.id().clone());
        let RedriveTask { status, class, since_ms, until_ms, after } = &self.task;
        let filter =
            DeadFilter { status: *status, class: class.clone(), since_ms: Some(*since_ms), until_ms: Some(*until_ms) };
        let before =
            after.map(|(failed_ms, delivery)| DeadKey { subscription: subscription.clone(), failed_ms, delivery });
        let dry_run = self.dry_run;
        let done = tokio::task::spawn_blocking(move || {
            let keys = store.dead_letter_keys(&subscription, &filter, before.as_ref(), letters_max)?;
            let deliveries: Vec<DeliveryId> = keys.iter().map(|key| key.delivery).collect();
            let resent = match dry_run {
                true => vec![Resent::Parked; keys.len()],
                false => resend(&store, &keys, &deliveries)?,
            };
            Ok::<_, Error>((keys, resent))
        });
        match done.await {
            Ok(Ok((keys, resent))) => self.took(&keys, &resent),
            Ok(Err(error)) => self.failed(&telemetry::chain(&error)),
            Err(error) => self.failed(&error),
        }
    }

    fn took(&mut self, keys: &[DeadKey], resent: &[Resent]) -> Step {
        let Some(last) = keys.last() else { return Step::Over };
        let parked = resent.iter().filter(|answer| **answer == Resent::Parked).count() as u64;
        if !self.dry_run {
            self.begun += parked;
            self.lane.resent(parked, clock::now_ms());
            self.lane.read_parked(&self.inner.shared.store);
        }
        self.task.after = Some((last.failed_ms, last.delivery));
        {
            let mut record = self.entry.record.lock();
            record.counts.seen += keys.len() as u64;
            record.counts.deliveries += parked;
            record.counts.pending += keys.len() as u64 - parked;
            record.task = JobTask::Redrive(self.task.clone());
        }
        // A letter that was parked is a dead letter no more: a daemon that is killed before this is on record sends none twice.
        drop(self.inner.save(self.entry));
        Step::Again(Instant::now())
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Step {
        warn!(subscription = %self.lane.id(), %error, "a redrive cannot go on, trying again");
        Step::Again(Instant::now() + RETRY_DELAY)
    }
}

fn resend(store: &Store, keys: &[DeadKey], deliveries: &[DeliveryId]) -> Result<Vec<Resent>, Error> {
    match keys.first() {
        Some(key) => store.resend(&key.subscription, deliveries),
        None => Ok(Vec::new()),
    }
}

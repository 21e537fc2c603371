//! Jobs: replays of history and redrives of dead letters, each for one subscription, over restarts.
//!
//! A job is a task beside the subscription's worker. A `replay` reads its stretch of the stream as `history` and puts the
//! events into the lane, where the worker takes them by turns with everything else; a `redrive` parks dead letters again.
//! Both go no faster than their `pace`, wait while the endpoint is left alone, and write down how far they are: a replay's
//! place moves only past what is on record, so that a daemon that is killed goes on without a gap.

mod history;
mod pace;
mod redrive;
mod replay;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::feed::Routes;
use super::{Shared, Spec};
use crate::deliver::{Lane, Token};
use crate::domain::{Begin, JobId, JobState, NewJob, NewTask, RangeSet, StreamName, SubscriptionId, Wish};
use crate::store::{Change, JobCounts, JobRecord, JobTask, RedriveTask, ReplayTask};
use crate::telemetry::clock;
use crate::{ingest, store};

/// How many jobs there may be that are not over.
pub const JOBS_MAX: usize = 16;
/// How many jobs that are over are kept; the oldest are forgotten.
pub const JOBS_KEPT_MAX: usize = 100;

/// How often a job looks at what nobody tells it: whether its subscription is still there, or runs again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a job cannot be begun or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No webhook subscription of that name runs.
    #[error("there is no webhook subscription {0}")]
    NoSubscription(SubscriptionId),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoJob(JobId),
    /// The stream is not configured, or there are several and none was named.
    #[error("name one of the streams: {}", known.join(", "))]
    Stream {
        /// Those that there are.
        known: Vec<String>,
    },
    /// The stream forgets what is acked.
    #[error("stream {stream} has work-queue or interest retention: it has no history to replay")]
    Forgetful {
        /// The stream.
        stream: StreamName,
    },
    /// The stream has no event in the range.
    #[error("there is nothing to replay from {from} to {to}: {stream} has the sequences {first} to {last}")]
    Range {
        /// The stream.
        stream: StreamName,
        /// The first sequence asked for.
        from: u64,
        /// The last sequence asked for.
        to: u64,
        /// The first that the stream has.
        first: u64,
        /// The last that the stream has.
        last: u64,
    },
    /// The subscription has a job already.
    #[error("job {0} of this subscription is not over: wait for its end, or cancel it")]
    Busy(JobId),
    /// There are too many.
    #[error("{JOBS_MAX} jobs are not over: wait for the end of one, or cancel it")]
    TooMany,
    /// It is over.
    #[error("the job is {}, nothing can be changed about it any more", .0.as_str())]
    Over(JobState),
    /// The store does not take it.
    #[error("the store cannot write: nothing is certain, ask how the job is and try again")]
    NotDurable,
    /// The stream cannot be asked.
    #[error(transparent)]
    Ingest(#[from] ingest::Error),
}

/// The jobs. Cloning shares them.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    shared: Shared,
    routes: Arc<ArcSwap<Routes>>,
    entries: Mutex<BTreeMap<JobId, Arc<Entry>>>,
    tasks: TaskTracker,
    /// The workers have ended: what came of their last deliveries is to be written down.
    stop: CancellationToken,
}

/// One job.
struct Entry {
    record: Mutex<JobRecord>,
    /// Told when somebody wants something of it, and when something has come of it.
    changed: Arc<Notify>,
}

/// How a job's task ended.
enum End {
    /// The daemon stops; the job goes on when it starts again.
    Stopped,
    /// Somebody cancelled it.
    Cancelled,
    /// It is over.
    Over(JobState, Option<Box<str>>),
}

impl End {
    fn removed() -> Self {
        Self::Over(JobState::Cancelled, Some("the subscription was removed".into()))
    }
}

impl Jobs {
    /// The jobs on record, at work again. Their tasks run on `tasks` and end after `stop`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn start(
        shared: Shared,
        routes: Arc<ArcSwap<Routes>>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, store::Error> {
        let known = shared.store.jobs()?;
        let jobs = Self(Arc::new(Inner { shared, routes, entries: Mutex::default(), tasks, stop }));
        for record in known {
            let (id, over) = (record.id, record.state.is_over());
            let entry = Arc::new(Entry { record: Mutex::new(record), changed: Arc::default() });
            jobs.0.entries.lock().insert(id, Arc::clone(&entry));
            if !over {
                info!(job = %id, "a job goes on");
                jobs.set_to_work(entry);
            }
        }
        Ok(jobs)
    }

    /// Begins a job; durable when it returns.
    ///
    /// # Errors
    /// When it cannot be begun; the error says why.
    pub async fn begin(&self, new: NewJob) -> Result<JobRecord, Error> {
        if self.0.find(&new.subscription).is_none() {
            return Err(Error::NoSubscription(new.subscription));
        }
        let now_ms = clock::now_ms();
        let task = match new.task {
            NewTask::Replay { stream, from, to } => JobTask::Replay(self.stretch(stream, from, to).await?),
            NewTask::Redrive { status, class, since_ms, until_ms } => JobTask::Redrive(RedriveTask {
                status,
                class,
                since_ms: since_ms.unwrap_or(0),
                until_ms: until_ms.unwrap_or(now_ms).min(now_ms),
                after: None,
            }),
        };
        let record = JobRecord {
            id: JobId::new(now_ms, rand::random()),
            subscription: new.subscription,
            task,
            dry_run: new.dry_run,
            rate: new.rate,
            state: JobState::Running,
            reason: None,
            created_ms: now_ms,
            updated_ms: now_ms,
            ran_ms: 0,
            counts: JobCounts::default(),
        };
        let entry = self.enter(record)?;
        if !is_durable(self.0.save(&entry)).await {
            self.0.entries.lock().remove(&entry.id());
            return Err(Error::NotDurable);
        }
        let record = entry.record();
        info!(job = %record.id, subscription = %record.subscription, dry_run = record.dry_run, "a job begins");
        self.set_to_work(entry);
        Ok(record)
    }

    /// All jobs, oldest first.
    pub fn list(&self) -> Vec<JobRecord> {
        self.0.entries.lock().values().map(|entry| entry.record()).collect()
    }

    /// One job.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn get(&self, id: JobId) -> Result<JobRecord, Error> {
        self.0.entries.lock().get(&id).map(|entry| entry.record()).ok_or(Error::NoJob(id))
    }

    /// Pauses, resumes or cancels a job; durable when it returns. What is under way ends as usual.
    ///
    /// # Errors
    /// When there is no such job, when it is over, or when the store does not take it.
    pub async fn change(&self, id: JobId, wish: Wish) -> Result<JobRecord, Error> {
        let entry = self.0.entries.lock().get(&id).cloned().ok_or(Error::NoJob(id))?;
        {
            let mut record = entry.record.lock();
            record.state = record.state.after(wish).ok_or(Error::Over(record.state))?;
        }
        let saved = self.0.save(&entry);
        entry.changed.notify_one();
        if !is_durable(saved).await {
            return Err(Error::NotDurable);
        }
        let record = entry.record();
        info!(job = %id, state = record.state.as_str(), "a job was changed");
        Ok(record)
    }

    /// What is to be replayed, in sequences.
    async fn stretch(&self, stream: Option<StreamName>, from: Begin, to: Begin) -> Result<ReplayTask, Error> {
        let nats = &self.0.shared.nats;
        let known = || nats.streams().iter().map(|stream| stream.name.to_string()).collect();
        let stream = match (stream, nats.streams()) {
            (Some(stream), _) if nats.stream(&stream).is_some() => stream,
            (None, [only]) => only.name.clone(),
            _ => return Err(Error::Stream { known: known() }),
        };
        if nats.is_forgetful(&stream) {
            return Err(Error::Forgetful { stream });
        }
        let facts = nats.facts(&stream).await?;
        let (first, last) = (facts.first_sequence.max(1), facts.last_sequence);
        let from = match from {
            Begin::Sequence(sequence) => sequence,
            Begin::Time(at_ms) => nats.sequence_at(&stream, at_ms).await?,
            Begin::All | Begin::Now => first,
        };
        let to = match to {
            Begin::Sequence(sequence) => sequence.min(last),
            Begin::Time(at_ms) => nats.sequence_at(&stream, at_ms).await?.saturating_sub(1).min(last),
            Begin::All | Begin::Now => last,
        };
        if from > to || to < first {
            return Err(Error::Range { stream, from, to, first, last });
        }
        let available = (from < first).then_some(first);
        Ok(ReplayTask { stream, from, to, available, next: from, recorded_above: RangeSet::new(), marks: Vec::new() })
    }

    /// Takes a job in, when there is room for it; makes room among those that are over.
    fn enter(&self, record: JobRecord) -> Result<Arc<Entry>, Error> {
        let mut entries = self.0.entries.lock();
        let at_work: Vec<JobRecord> =
            entries.values().map(|entry| entry.record()).filter(|job| !job.state.is_over()).collect();
        if let Some(own) = at_work.iter().find(|job| job.subscription == record.subscription) {
            return Err(Error::Busy(own.id));
        }
        if at_work.len() >= JOBS_MAX {
            return Err(Error::TooMany);
        }
        let over: Vec<JobId> =
            entries.iter().filter(|(_, entry)| entry.record().state.is_over()).map(|(id, _)| *id).collect();
        for id in over.iter().take(over.len().saturating_sub(JOBS_KEPT_MAX - 1)) {
            entries.remove(id);
            self.0.shared.recorder.submit(Change::ForgetJob(*id), Token::Nobody);
        }
        let id = record.id;
        let entry = Arc::new(Entry { record: Mutex::new(record), changed: Arc::default() });
        entries.insert(id, Arc::clone(&entry));
        Ok(entry)
    }

    fn set_to_work(&self, entry: Arc<Entry>) {
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn(async move { Box::pin(inner.run(&entry)).await });
    }
}

impl Inner {
    /// A running subscription's lane, and what it is.
    fn find(&self, subscription: &SubscriptionId) -> Option<(Arc<Lane>, Arc<ArcSwap<Spec>>)> {
        let routes = self.routes.load();
        let at = routes.lanes.iter().position(|lane| lane.id() == subscription)?;
        Some((Arc::clone(&routes.lanes[at]), Arc::clone(&routes.specs[at])))
    }

    /// The subscription of a job, once it runs. While it cannot run, the job says why it waits.
    async fn found(&self, entry: &Entry) -> Result<(Arc<Lane>, Arc<ArcSwap<Spec>>), End> {
        let subscription = entry.record().subscription;
        loop {
            if let Some(found) = self.find(&subscription) {
                entry.record.lock().reason = None;
                return Ok(found);
            }
            let Some(why) = self.routes.load().idle.get(&subscription).cloned() else { return Err(End::removed()) };
            if entry.state() == JobState::Cancelled {
                return Err(End::Cancelled);
            }
            entry.record.lock().reason = Some(format!("waits for its subscription, which cannot run: {why}").into());
            tokio::select! {
                () = entry.changed.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.stop.cancelled() => return Err(End::Stopped),
            }
        }
    }

    async fn run(&self, entry: &Entry) {
        let record = entry.record();
        let end = match (self.found(entry).await, &record.task) {
            (Err(end), _) => end,
            (Ok((lane, spec)), JobTask::Replay(task)) if record.dry_run => {
                Box::pin(replay::count(self, entry, &lane, &spec, task.clone())).await
            }
            (Ok((lane, spec)), JobTask::Replay(task)) => {
                Box::pin(replay::run(self, entry, &lane, &spec, task.clone())).await
            }
            (Ok((lane, _)), JobTask::Redrive(task)) => redrive::run(self, entry, &lane, task.clone()).await,
        };
        match end {
            End::Stopped => return,
            End::Cancelled => {}
            End::Over(state, reason) => {
                let mut record = entry.record.lock();
                record.state = state;
                record.reason = reason;
            }
        }
        let record = entry.record();
        info!(job = %record.id, state = record.state.as_str(), "a job is over");
        if !is_durable(self.save(entry)).await {
            // At the next start it is taken up where it was last saved, and comes to this end again.
            error!(job = %record.id, "the end of a job is not on record");
        }
    }

    /// Hands the job's record to the store as it is now. The records of one job are written in the order of these calls.
    fn save(&self, entry: &Entry) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        let mut record = entry.record.lock();
        record.updated_ms = clock::now_ms();
        self.shared.recorder.submit(Change::Job(Box::new(record.clone())), Token::Told(tell));
        told
    }
}

impl Entry {
    fn record(&self) -> JobRecord {
        self.record.lock().clone()
    }

    fn id(&self) -> JobId {
        self.record.lock().id
    }

    fn state(&self) -> JobState {
        self.record.lock().state
    }
}

/// Waits for the store's answer. One that never comes is a no: the writer has ended.
async fn is_durable(saved: oneshot::Receiver<bool>) -> bool {
    saved.await.unwrap_or(false)
}

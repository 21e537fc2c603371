//! Jobs on record: what is to be done, how far it is, and what came of it. A job's key is `J` and its id, big-endian: in
//! order of time.

use super::codec::{read_ranges, write_ranges};
use super::keys::kind;
use super::records::Disposition;
use super::wire::{Reader, Writer};
use super::{Error, Store};
use crate::domain::{DeliveryId, JobId, JobState, RangeSet, StreamName, SubscriptionId};

/// The current version of job records.
const VERSION: u8 = 2;
/// How much room a record is given at first.
const RECORD_BYTES_TYPICAL: usize = 256;

/// A job, as it is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// The subscription that it works for.
    pub subscription: SubscriptionId,
    /// What it does.
    pub task: JobTask,
    /// It counts, and delivers nothing.
    pub dry_run: bool,
    /// How many deliveries it begins a second, at most.
    pub rate: u32,
    /// How it is.
    pub state: JobState,
    /// Why it is so, where there is more to say.
    pub reason: Option<Box<str>>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When this record was last changed, in milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// How long it has been running, in milliseconds.
    pub ran_ms: u64,
    /// What has come of it so far.
    pub counts: JobCounts,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobTask {
    /// Delivers a stretch of a stream's history again.
    Replay(ReplayTask),
    /// Sends dead letters again.
    Redrive(RedriveTask),
}

/// A stretch of history, and how far the replay is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayTask {
    /// The stream.
    pub stream: StreamName,
    /// The first sequence.
    pub from: u64,
    /// The last sequence.
    pub to: u64,
    /// The first sequence that the stream still had when it was to be read, where the beginning was gone.
    pub available: Option<u64>,
    /// The next sequence to read: everything before it is on record.
    pub next: u64,
    /// Sequences at or above `next` that are on record already.
    pub recorded_above: RangeSet,
    /// What came on record after this place was: each mark is written with the outcome that it tells of, so that a daemon
    /// that is killed makes no attempt again whose outcome is durable.
    pub marks: Vec<Mark>,
}

/// The outcome of one delivery of a replay, on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The event.
    pub sequence: u64,
    /// Which part of it.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// What came of it.
    pub disposition: Disposition,
}

impl ReplayTask {
    /// Does the place tell of that event by itself?
    fn has_passed(&self, sequence: u64) -> bool {
        sequence < self.next || self.recorded_above.contains(sequence)
    }
}

/// Which dead letters are sent again, and how far the redrive is. It goes from the newest to the oldest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedriveTask {
    /// Only those whose last answer had this status.
    pub status: Option<u16>,
    /// Only those of this failure class.
    pub class: Option<Box<str>>,
    /// Only those that were given up at that time or later, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Only those that were given up before that time: never later than the job was asked for, so that a letter that dies
    /// again is not taken again.
    pub until_ms: u64,
    /// The last letter that was looked at: its time of death and its delivery.
    pub after: Option<(u64, DeliveryId)>,
}

/// What has come of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobCounts {
    /// Events of the range that the subscription asks for, or dead letters, that were looked at.
    pub seen: u64,
    /// Kept back by a filter, or dropped by policy; dead letters that the filter of a redrive leaves out.
    pub filtered: u64,
    /// Events that a plugin failed on, or that cannot be understood.
    pub faulted: u64,
    /// Left alone, because they are in hand, still to come, or wait for their next attempt anyway.
    pub pending: u64,
    /// Deliveries made, their outcomes on record; of a dry run, those that would be.
    pub deliveries: u64,
    /// Of these: taken by the receiver at the first attempt.
    pub delivered: u64,
    /// Of these: parked, to be tried again.
    pub parked: u64,
    /// Of these: given up.
    pub failed: u64,
}

impl JobCounts {
    /// Adds others to these.
    pub fn add(&mut self, mut others: Self) {
        for (count, other) in self.fields().into_iter().zip(others.fields()) {
            *count += *other;
        }
    }

    fn fields(&mut self) -> [&mut u64; 8] {
        [
            &mut self.seen,
            &mut self.filtered,
            &mut self.faulted,
            &mut self.pending,
            &mut self.deliveries,
            &mut self.delivered,
            &mut self.parked,
            &mut self.failed,
        ]
    }
}

impl Store {
    /// Every job on record, oldest first. One whose record is damaged is left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn jobs(&self) -> Result<Vec<JobRecord>, Error> {
        let mut jobs = Vec::new();
        for pair in self.engine()?.state.scan_prefix([kind::JOB]) {
            let (key, value) = pair.map_err(Error::read)?;
            match read(&key, &value) {
                Ok(job) => jobs.push(job),
                // A daemon that does not start for it would help nobody.
                Err(error) => tracing::error!(%error, "store has a damaged job, taken as absent"),
            }
        }
        Ok(jobs)
    }
}

/// `J ‖ id (big-endian)`.
pub(super) fn key(id: JobId) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(kind::JOB);
    key.extend_from_slice(&id.number().to_be_bytes());
    key
}

/// The record of a job as it is to be written in the place of the one `before`: the marks of outcomes that its place does
/// not tell of stay.
pub(super) fn follow(before: Option<&[u8]>, job: &JobRecord) -> Vec<u8> {
    let before = before.and_then(|record| read(&key(job.id), record).ok());
    let (JobTask::Replay(task), Some(JobTask::Replay(before))) = (&job.task, before.map(|job| job.task)) else {
        return write(job);
    };
    let marks = before.marks.into_iter().filter(|mark| !task.has_passed(mark.sequence)).collect();
    write(&JobRecord { task: JobTask::Replay(ReplayTask { marks, ..task.clone() }), ..job.clone() })
}

/// The record of a job with one more mark; `None` when it has that already, or needs it no more.
pub(super) fn marked(id: JobId, record: &[u8], mark: Mark) -> Result<Option<Vec<u8>>, Error> {
    let mut job = read(&key(id), record)?;
    let JobTask::Replay(task) = &mut job.task else { return Ok(None) };
    let known = |other: &Mark| (other.sequence, other.part) == (mark.sequence, mark.part);
    if task.has_passed(mark.sequence) || task.marks.iter().any(known) {
        return Ok(None);
    }
    task.marks.push(mark);
    Ok(Some(write(&job)))
}

const STATES: [JobState; 5] =
    [JobState::Running, JobState::Paused, JobState::Done, JobState::Cancelled, JobState::Failed];

pub(super) fn write(job: &JobRecord) -> Vec<u8> {
    let mut w = Writer::record(VERSION, RECORD_BYTES_TYPICAL);
    w.text(job.subscription.as_str());
    w.0.push(u8::from(job.dry_run));
    w.number(u64::from(job.rate));
    w.text(job.state.as_str());
    w.option(job.reason.as_deref(), Writer::text);
    for time_ms in [job.created_ms, job.updated_ms, job.ran_ms] {
        w.number(time_ms);
    }
    let mut counts = job.counts;
    for count in counts.fields() {
        w.number(*count);
    }
    match &job.task {
        JobTask::Replay(task) => {
            w.0.push(1);
            w.text(task.stream.as_str());
            w.number(task.from);
            w.number(task.to);
            w.option(task.available, Writer::number);
            w.number(task.next);
            write_ranges(&mut w, task.next, &task.recorded_above);
            w.number(task.marks.len() as u64);
            for mark in &task.marks {
                w.difference(task.next, mark.sequence);
                w.number(u64::from(mark.part));
                w.number(u64::from(mark.parts));
                w.0.push(mark.disposition.code());
            }
        }
        JobTask::Redrive(task) => {
            w.0.push(2);
            w.option(task.status, |w, status| w.number(u64::from(status)));
            w.option(task.class.as_deref(), Writer::text);
            w.number(task.since_ms);
            w.number(task.until_ms);
            w.option(task.after, |w, (failed_ms, delivery)| {
                w.number(failed_ms);
                w.0.extend_from_slice(delivery.bytes());
            });
        }
    }
    w.0
}

pub(super) fn read(key: &[u8], record: &[u8]) -> Result<JobRecord, Error> {
    let read = || {
        let id = JobId::from_number(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
        let (version, mut r) = Reader::record(record, VERSION)?;
        let subscription = SubscriptionId::parse(r.text()?).ok()?;
        let (dry_run, rate) = (r.byte()? != 0, r.small()?);
        let state = r.text()?;
        let state = STATES.into_iter().find(|known| known.as_str() == state)?;
        let reason = r.option(Reader::boxed)?;
        let (created_ms, updated_ms, ran_ms) = (r.number()?, r.number()?, r.number()?);
        let mut counts = JobCounts::default();
        for count in counts.fields() {
            *count = r.number()?;
        }
        let task = match r.byte()? {
            1 => JobTask::Replay(read_replay(&mut r, version)?),
            2 => JobTask::Redrive(read_redrive(&mut r)?),
            _ => return None,
        };
        Some(JobRecord { id, subscription, task, dry_run, rate, state, reason, created_ms, updated_ms, ran_ms, counts })
    };
    read().ok_or(Error::Record { what: "job" })
}

fn read_replay(r: &mut Reader<'_>, version: u8) -> Option<ReplayTask> {
    let (stream, from, to) = (r.stream()?, r.number()?, r.number()?);
    let (available, next) = (r.option(Reader::number)?, r.number()?);
    let recorded_above = read_ranges(r, next)?;
    let mut marks = Vec::new();
    for _ in 0..if version == 1 { 0 } else { r.number()? } {
        let (sequence, part, parts) = (r.difference(next)?, r.small()?, r.small()?);
        marks.push(Mark { sequence, part, parts, disposition: Disposition::of_code(r.byte()?)? });
    }
    Some(ReplayTask { stream, from, to, available, next, recorded_above, marks })
}

fn read_redrive(r: &mut Reader<'_>) -> Option<RedriveTask> {
    Some(RedriveTask {
        status: r.option(|r| u16::try_from(r.number()?).ok())?,
        class: r.option(Reader::boxed)?,
        since_ms: r.number()?,
        until_ms: r.number()?,
        after: r.option(|r| {
            let failed_ms = r.number()?;
            Some((failed_ms, DeliveryId::from_bytes(r.take(16)?.try_into().ok()?)))
        })?,
    })
}

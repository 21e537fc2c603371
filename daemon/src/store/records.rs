//! What the store keeps, as values: the words of its interface.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::jobs::{JobRecord, Mark};
use crate::domain::{
    DeliveryId, Failure, FailureClass, Header, JobId, Position, RangeSet, Response, StreamName, SubscriptionId,
};

/// What the store knows of a subscription besides its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registration {
    /// When the daemon first saw it, in milliseconds since the Unix epoch.
    pub first_seen_ms: u64,
    /// Per stream the last sequence before its time: events at or below it are not for this subscription.
    pub starts_after: Vec<(StreamName, u64)>,
    /// Why and since when it is disabled, when it is.
    pub disabled: Option<Disabled>,
    /// When this record was last changed, in milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// Since when its endpoint has done nothing but fail, in milliseconds since the Unix epoch.
    pub failing_since_ms: Option<u64>,
    /// History that was not read: the last [`GAPS_MAX`] gaps, oldest first.
    pub gaps: Vec<GapRecord>,
}

/// A subscription that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registering {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// What is known of it.
    pub registration: Registration,
    /// Where its readers begin.
    pub begins: Vec<Position>,
}

/// How many gaps a registration keeps.
pub const GAPS_MAX: usize = 16;

impl Registration {
    /// Notes a gap, in place of the oldest one when there are [`GAPS_MAX`].
    pub fn add_gap(&mut self, gap: GapRecord) {
        add_gap(&mut self.gaps, gap);
    }
}

/// Notes a gap among the last [`GAPS_MAX`].
pub fn add_gap(gaps: &mut Vec<GapRecord>, gap: GapRecord) {
    if gaps.len() >= GAPS_MAX {
        gaps.remove(0);
    }
    gaps.push(gap);
}

/// That a subscription is disabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    /// Why.
    pub reason: Box<str>,
    /// Since when, in milliseconds since the Unix epoch; 0 when a version of the daemon disabled it that did not note it.
    pub since_ms: u64,
    /// The digest of the endpoint that is the cause: another endpoint lifts it. `None` when only an operator does.
    pub endpoint: Option<u64>,
}

/// Why a subscription did not read a part of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// The stream discarded it before.
    Discarded,
    /// An operator asked for it to be passed over.
    Skipped,
    /// The stream was deleted, and another one of its name was made.
    Replaced,
}

/// History that a subscription did not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRecord {
    /// The stream.
    pub stream: StreamName,
    /// The first sequence that was to be read.
    pub from: u64,
    /// The first sequence after it; of the new stream, when the old one was replaced.
    pub available: u64,
    /// When it was noticed, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Why it was not read.
    pub cause: GapCause,
    /// How many of its events were the subscription's: at most so many when it was discarded, since nobody can tell any
    /// more; counted when it was passed over; 0 when the stream was replaced, since nobody knows what the old one had.
    pub events: u64,
}

/// A held subscription's place in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionRecord {
    /// The next event to read.
    pub position: Position,
    /// Sequences at or above the position that are on record already.
    pub recorded_above: RangeSet,
    /// Of events at or above the position of which some parts are on record, and others not: which are.
    pub partly_above: BTreeMap<u64, RangeSet>,
}

impl PositionRecord {
    /// A place from which on nothing is on record.
    pub fn beginning(position: Position) -> Self {
        Self { position, recorded_above: RangeSet::default(), partly_above: BTreeMap::default() }
    }
}

/// Where a parked delivery lies. Within one subscription keys are ordered by due time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParkedKey {
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// When its next attempt is due, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// The delivery.
    pub delivery: DeliveryId,
}

/// Where a dead letter lies. Within one subscription keys are ordered by time of death.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadKey {
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub failed_ms: u64,
    /// The delivery.
    pub delivery: DeliveryId,
}

/// The last failure of a delivery, as records keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// Its class: the word of [`FailureClass::as_str`]; of a class that this version does not know, the word that was
    /// stored.
    pub class: Box<str>,
    /// The receiver's status, when it answered.
    pub status: Option<u16>,
    /// What happened, for a person.
    pub message: Box<str>,
}

impl From<&Failure> for LastFailure {
    fn from(failure: &Failure) -> Self {
        Self { class: failure.class.as_str().into(), status: failure.status, message: failure.message.clone() }
    }
}

/// One attempt of a delivery, as its record keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, 1 for the delivery's first.
    pub number: u32,
    /// When it began, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The receiver's status, when it answered.
    pub status: Option<u16>,
    /// Whose fault it was, when it failed: the word of [`FailureClass::as_str`].
    pub class: Option<Box<str>>,
    /// What happened, for a person.
    pub message: Box<str>,
    /// What the receiver answered, as far as it was captured.
    pub response: Option<Response>,
}

/// The most attempts that a delivery's record keeps: the newest ones.
pub const HISTORY_ATTEMPTS_MAX: usize = 100;
/// The most bytes of responses that a delivery's record keeps: the newest responses.
pub const HISTORY_RESPONSE_BYTES_MAX: usize = 64 << 10;

/// Adds an attempt to a delivery's history, and keeps it within [`HISTORY_ATTEMPTS_MAX`] and
/// [`HISTORY_RESPONSE_BYTES_MAX`].
pub fn add_attempt(history: &mut Vec<Attempt>, attempt: Attempt) {
    history.push(attempt);
    let surplus = history.len().saturating_sub(HISTORY_ATTEMPTS_MAX);
    history.drain(..surplus);
    let mut bytes = 0;
    for attempt in history.iter_mut().rev() {
        bytes += attempt.response.as_ref().map_or(0, Response::size_bytes);
        if bytes > HISTORY_RESPONSE_BYTES_MAX {
            attempt.response = None;
        }
    }
}

/// What is to be sent: an event, or one output of its transforms, ready for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The event's id.
    pub event_id: Box<str>,
    /// The event's type.
    pub event_type: Box<str>,
    /// When the event was stored by JetStream, in milliseconds since the Unix epoch.
    pub event_time_ms: u64,
    /// The body's media type, where one is known.
    pub content_type: Option<Box<str>>,
    /// The headers to send.
    pub headers: Vec<Header>,
    /// The body. Above [`INLINE_BODY_BYTES_MAX`](super::INLINE_BODY_BYTES_MAX) it is kept in a file of its own.
    pub body: Bytes,
}

/// A delivery that waits for its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Its id.
    pub delivery: DeliveryId,
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// The event's place.
    pub position: Position,
    /// Which of the event's outputs it is; 0 is the first.
    pub part: u32,
    /// How many outputs the event has.
    pub parts: u32,
    /// When the next attempt is due, in milliseconds since the Unix epoch.
    pub due_ms: u64,
    /// How many attempts were made.
    pub attempts: u32,
    /// When the first attempt was made, in milliseconds since the Unix epoch.
    pub first_attempt_ms: u64,
    /// Why the last attempt failed, when one did.
    pub last_failure: Option<LastFailure>,
    /// What to send.
    pub content: Content,
    /// When the delivery came about, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// How many attempts had been made when it was last resent; 0 when it never was. Only later ones count for its retry
    /// policy.
    pub resent_after: u32,
    /// What it is ordered by, in a subscription that keeps order.
    pub order_key: Option<Box<str>>,
    /// Its attempts, oldest first, as far as they are kept; without those that older versions of the daemon made.
    pub history: Vec<Attempt>,
}

impl Parked {
    /// Where it lies.
    pub fn key(&self) -> ParkedKey {
        ParkedKey { subscription: self.subscription.clone(), due_ms: self.due_ms, delivery: self.delivery }
    }
}

/// A delivery that was given up, kept to be looked at and sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id.
    pub delivery: DeliveryId,
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// The event's place.
    pub position: Position,
    /// Which of the event's outputs it is; 0 is the first.
    pub part: u32,
    /// How many outputs the event has.
    pub parts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub failed_ms: u64,
    /// How many attempts were made.
    pub attempts: u32,
    /// When the first attempt was made, in milliseconds since the Unix epoch; 0 when none was.
    pub first_attempt_ms: u64,
    /// Why it was given up.
    pub failure: LastFailure,
    /// What was to be sent.
    pub content: Content,
    /// When the delivery came about, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// How many attempts had been made when it was last resent; 0 when it never was.
    pub resent_after: u32,
    /// Its attempts, oldest first, as far as they are kept; without those that older versions of the daemon made.
    pub history: Vec<Attempt>,
}

impl DeadLetter {
    /// Where it lies.
    pub fn key(&self) -> DeadKey {
        DeadKey { subscription: self.subscription.clone(), failed_ms: self.failed_ms, delivery: self.delivery }
    }
}

impl DeadLetter {
    /// The same delivery, parked to be sent again at that time. Its attempts stay, and its retry policy begins anew.
    pub fn resent(self, due_ms: u64) -> Parked {
        Parked {
            delivery: self.delivery,
            subscription: self.subscription,
            position: self.position,
            part: self.part,
            parts: self.parts,
            due_ms,
            attempts: self.attempts,
            first_attempt_ms: self.first_attempt_ms,
            last_failure: Some(self.failure),
            content: self.content,
            created_ms: self.created_ms,
            resent_after: self.attempts,
            // It has lost its place in the order when it was given up.
            order_key: None,
            history: self.history,
        }
    }
}

/// What became of a delivery, as its log entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// The receiver took it.
    Delivered,
    /// It was dropped because the subscription's policy says so.
    Dropped,
    /// It waits for its next attempt.
    Parked,
    /// It was given up and is kept as a dead letter.
    Dead,
}

impl Disposition {
    /// A stable word for the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Dropped => "dropped",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }

    /// Its number in records.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Delivered => 0,
            Self::Dropped => 1,
            Self::Parked => 2,
            Self::Dead => 3,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        [Self::Delivered, Self::Dropped, Self::Parked, Self::Dead].get(usize::from(code)).copied()
    }
}

/// One line of the log. Whatever it says, the delivery counts as on record from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The event's place.
    pub position: Position,
    /// Which of the event's outputs it is; 0 is the first.
    pub part: u32,
    /// How many outputs the event has: with all parts on record, so is the event.
    pub parts: u32,
    /// The attempt's number, 1 for the first; 0 when none was made.
    pub attempt: u32,
    /// The receiver's status, when it answered.
    pub status: Option<u16>,
    /// When it happened, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What became of it.
    pub disposition: Disposition,
    /// Whose fault it was, when it failed.
    pub class: Option<FailureClass>,
    /// More about the attempt: of those that failed, and of others only when there is something to keep.
    pub detail: Option<Box<Detail>>,
}

/// What a log entry says of an attempt besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detail {
    /// How long the attempt took, in milliseconds; 0 when none was made.
    pub took_ms: u64,
    /// When the next attempt is due, in milliseconds since the Unix epoch, when there is to be one.
    pub due_ms: Option<u64>,
    /// What happened, for a person.
    pub message: Box<str>,
    /// What the receiver answered, as far as it was captured.
    pub response: Option<Response>,
}

impl LogEntry {
    /// The delivery's id: derived, not stored, since it is a function of the entry.
    pub fn delivery(&self) -> DeliveryId {
        DeliveryId::derive(&self.subscription, &self.position, self.part)
    }
}

/// Where a log entry lies; newer ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    /// The number of the flush that wrote it.
    pub flush: u64,
    /// Its place among the entries of that flush.
    pub index: u32,
}

/// A page of a subscription's log, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryPage {
    /// The entries.
    pub entries: Vec<(LogKey, LogEntry)>,
    /// Where to go on; `None` when there is no more. A page may be short, even empty, and still have a next one: the
    /// search behind a page is bounded.
    pub next: Option<LogKey>,
}

/// A part of an event that is on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recorded {
    /// The event's stream sequence.
    pub sequence: u64,
    /// Which of its outputs.
    pub part: u32,
    /// How many outputs it has.
    pub parts: u32,
}

/// What is on record for one subscription in one stream when the daemon starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The stream.
    pub stream: StreamName,
    /// Its position, when it is held.
    pub position: Option<PositionRecord>,
    /// All that is on record above the stream's ack floor, in order, each part once.
    pub recorded: Vec<Recorded>,
}

/// What the store says of a stream that it is shown at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamBinding {
    /// It was not known.
    New,
    /// It is the one that was known.
    Known,
    /// Another stream has taken its name: positions, checkpoint and records of the old one no longer count.
    Replaced,
}

/// What is to be made durable. One change is one atomic transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A delivery ended at its first attempt, or was dropped by policy.
    Finished(LogEntry),
    /// A delivery is to be tried again: parked for the first time, or again with a new due time. Whatever the delivery
    /// had in the store (parked earlier, or a dead letter) gives way to it.
    Park {
        /// What to park.
        parked: Box<Parked>,
        /// The attempt that failed.
        log: LogEntry,
    },
    /// A parked delivery ended: it leaves the store.
    FinishParked {
        /// The delivery.
        delivery: DeliveryId,
        /// How it ended.
        log: LogEntry,
    },
    /// A delivery is given up. Whatever it had in the store gives way to the dead letter.
    Dead {
        /// The dead letter.
        letter: Box<DeadLetter>,
        /// The attempt, or what else made an end.
        log: LogEntry,
    },
    /// A dead letter is to be sent again: it is parked in its place. What is no dead letter stays as it is, so that a
    /// delivery which was resent before is not sent once more. [`Store::resend`](super::Store::resend) says which it was.
    Resend(Box<Parked>),
    /// A parked delivery is to be tried at another time. What is not parked stays as it is.
    Hasten(Box<Parked>),
    /// A dead letter has been published.
    Published {
        /// The delivery.
        delivery: DeliveryId,
        /// When it was given up.
        failed_ms: u64,
    },
    /// A parked delivery or dead letter is taken out of the store without more ado.
    Remove(DeliveryId),
    /// A subscription is held at a position, or its position moves.
    Hold {
        /// The subscription.
        subscription: SubscriptionId,
        /// Its position in one stream.
        position: PositionRecord,
    },
    /// A subscription reads live again.
    Unhold {
        /// The subscription.
        subscription: SubscriptionId,
        /// The stream in which it had a position.
        stream: StreamName,
    },
    /// A stream's ack floor.
    Checkpoint {
        /// The stream.
        stream: StreamName,
        /// Every message up to this sequence is acked.
        ack_floor: u64,
    },
    /// A subscription is disabled.
    Disable {
        /// The subscription.
        subscription: SubscriptionId,
        /// Why, and since when.
        disabled: Disabled,
    },
    /// A subscription is enabled again. Its endpoint is no longer held to have done nothing but fail.
    Enable {
        /// The subscription.
        subscription: SubscriptionId,
    },
    /// A subscription's endpoint has begun to do nothing but fail, or has taken something again.
    Failing {
        /// The subscription.
        subscription: SubscriptionId,
        /// Since when, in milliseconds since the Unix epoch; `None` when it works.
        since_ms: Option<u64>,
    },
    /// History was discarded before a subscription had read it.
    Gap {
        /// The subscription.
        subscription: SubscriptionId,
        /// What is missing.
        gap: GapRecord,
    },
    /// The outcome of a delivery that a replay brought, and its mark in the job's record: neither is durable without the
    /// other.
    Replayed {
        /// What becomes of the delivery.
        outcome: Box<Change>,
        /// The job.
        job: JobId,
        /// What is marked in its record.
        mark: Mark,
    },
    /// A job's record, for the first time or as it has become.
    Job(Box<JobRecord>),
    /// A job's record is no longer kept.
    ForgetJob(JobId),
    /// Nothing: its token comes back once all changes before it are durable.
    Barrier,
}

impl Change {
    /// What becomes of the delivery itself.
    pub fn outcome(&self) -> &Self {
        match self {
            Self::Replayed { outcome, .. } => outcome,
            other => other,
        }
    }
}

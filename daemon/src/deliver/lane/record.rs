//! Outcomes on their way into the store, and what a lane's worker is told of them.

use crate::deliver::ledger::PositionChange;
use crate::domain::{DeliveryId, Position, StreamName, SubscriptionId};
use crate::store::{Change, PositionRecord};
use crate::telemetry::spans::Span;

/// An outcome on its way into the store.
#[derive(Debug)]
pub struct Record {
    /// The ledger and the event it belongs to; `None` for a parked delivery, whose event is long on record.
    pub event: Option<(usize, u64)>,
    /// Which part of the event.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// When the delivery is due next, when it is parked.
    pub due_ms: Option<u64>,
    /// How it is counted.
    pub count: Count,
    /// The delivery and what it is ordered by, in an ordered subscription.
    pub order: Option<(DeliveryId, Box<str>)>,
    /// What is written: kept to be handed in again should the store fail.
    pub change: Change,
    /// It goes on until the outcome is durable.
    pub span: Span,
}

impl Record {
    /// The parked delivery that this is the outcome of.
    pub(super) fn claimed(&self) -> Option<DeliveryId> {
        match self.change.outcome() {
            _ if self.event.is_some() => None,
            Change::FinishParked { delivery, .. } => Some(*delivery),
            Change::Dead { letter, .. } => Some(letter.delivery),
            Change::Park { parked, .. } => Some(parked.delivery),
            _ => None,
        }
    }
}

/// How an outcome counts once it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The receiver took it at the first attempt.
    Delivered,
    /// The receiver took it after it had been parked.
    DeliveredParked,
    /// It was parked for the first time.
    Parked,
    /// It was parked again.
    ParkedAgain,
    /// It is a dead letter.
    Failed,
    /// It was parked, and is a dead letter now.
    FailedParked,
}

/// A delivery of an ordered subscription of which something became durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it is ordered by.
    pub key: Box<str>,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Had it been parked before?
    pub was_parked: bool,
    /// Is it parked now? Else it is finished.
    pub is_parked: bool,
}

/// The change that makes a ledger's new position durable.
pub fn position_change(id: &SubscriptionId, stream: &StreamName, change: PositionChange) -> Change {
    match change {
        PositionChange::Remove => Change::Unhold { subscription: id.clone(), stream: stream.clone() },
        PositionChange::Save { sequence, done_above, partly_above } => {
            let position = Position { stream: stream.clone(), sequence };
            let record = PositionRecord { position, recorded_above: done_above, partly_above };
            Change::Hold { subscription: id.clone(), position: record }
        }
    }
}

//! Events of streams that forget what is acked, where a subscription cannot take them: no reader could bring them again, so
//! they are parked with their bodies, up to a bound; beyond it the stream waits.

use std::collections::VecDeque;
use std::sync::Arc;

use super::State;
use crate::deliver::ledger::Ledger;
use crate::domain::{Event, Position};

/// How a lane is with such events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overflow {
    /// They are parked as they come, because the lane stayed full, the endpoint is left alone, or the subscription is
    /// disabled; and until what is due of them has been tried.
    pub is_on: bool,
    /// So many deliveries are parked that no more of them are: they wait in the lane, and the stream waits for them.
    pub is_full: bool,
}

impl State {
    /// Has the lane a stream that forgets what is acked?
    pub fn has_forgetful(&self) -> bool {
        self.ledgers.iter().any(Ledger::is_forgetful)
    }

    /// Takes out of the queue what a reader can bring again. What it cannot bring stays, and is to be parked from now on.
    pub(super) fn give_back_queue(&mut self) -> Vec<Position> {
        if !self.has_forgetful() {
            return self.queue.drain(..).map(|event| event.position.clone()).collect();
        }
        self.overflow.is_on = true;
        let queue = std::mem::take(&mut self.queue);
        let (stay, back): (VecDeque<_>, VecDeque<_>) = queue.into_iter().partition(|event| self.forgets(event));
        self.queue = stay;
        back.into_iter().map(|event| event.position.clone()).collect()
    }

    /// Does an event wait in the queue that is to be parked?
    pub fn overflows(&self) -> bool {
        self.overflow.is_on && self.queue.iter().any(|event| self.forgets(event))
    }

    /// The oldest event that is to be parked. The second value is as that of [`State::pop`].
    pub fn pop_overflow(&mut self) -> Option<(Arc<Event>, bool)> {
        let at = self.queue.iter().position(|event| self.forgets(event))?;
        let event = self.queue.remove(at)?;
        Some((event, self.relieved()))
    }

    /// How many outcomes are on their way to the store.
    pub fn unrecorded(&self) -> u32 {
        self.unrecorded
    }

    fn forgets(&self, event: &Event) -> bool {
        self.ledgers.iter().any(|ledger| ledger.is_forgetful() && *ledger.stream() == event.position.stream)
    }
}

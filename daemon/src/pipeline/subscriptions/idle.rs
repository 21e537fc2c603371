//! Subscriptions that are configured and cannot run: where they stand is kept, so that nothing is lost when they run again.
//!
//! No event is offered to them, and none waits for them to be acked. So each is held, before the first event is taken: its
//! position is durable, and its reader brings what was published in the meantime.

use std::sync::Arc;

use tracing::info;

use super::{Error, Registered, Subscriptions, starts_after};
use crate::deliver::lane::position_change;
use crate::deliver::ledger::Ledger;
use crate::domain::{Order, SubscriptionId};
use crate::store::{Change, Recovered};

/// A subscription that cannot run.
pub(super) struct Idle {
    /// Why not.
    pub(super) reason: Arc<str>,
    /// Where it stands; nothing for one that has never run.
    ledgers: Vec<Ledger>,
}

impl Subscriptions {
    /// Holds a subscription that cannot run at where it stands; durable when it returns.
    pub(super) async fn keep_place(
        &self,
        id: &SubscriptionId,
        reason: &str,
        recovered: &[Recovered],
    ) -> Result<Idle, Error> {
        let reason = Arc::from(reason);
        let Some(registration) = self.shared.store.registration(id)? else {
            return Ok(Idle { reason, ledgers: Vec::new() });
        };
        let registered = Registered { registration, begun: Vec::new() };
        // As one that keeps an order it stands at its oldest event that is not on record, whoever had that in hand.
        let mut ledgers = self.ledgers(&registered, recovered, &Order::Strict);
        ledgers.retain(|ledger| starts_after(&registered.registration, ledger.stream()).is_some());
        for ledger in &mut ledgers {
            ledger.hold([]);
            // The live tail offers it nothing meanwhile.
            ledger.read_to_end();
            if let Some(change) = ledger.position_change() {
                self.durable(position_change(id, ledger.stream(), change)).await?;
                // Nothing of the live tail waits for it.
                drop(ledger.position_saved());
            }
        }
        info!(subscription = %id, "a subscription that cannot run is held where it stands");
        Ok(Idle { reason, ledgers })
    }

    /// The ledgers of a subscription that comes to run, `fresh` but for the streams in which it was held as one that could
    /// not.
    pub(super) fn with_kept_places(&mut self, id: &SubscriptionId, fresh: Vec<Ledger>) -> Vec<Ledger> {
        let mut kept = self.idle.remove(id).map(|idle| idle.ledgers).unwrap_or_default();
        let place = |ledger: Ledger| match kept.iter().position(|other| other.stream() == ledger.stream()) {
            Some(at) => kept.swap_remove(at),
            None => ledger,
        };
        fresh.into_iter().map(place).collect()
    }

    async fn durable(&self, change: Change) -> Result<(), Error> {
        match self.shared.written(change).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.shared.store.writable().err().map_or(Error::NotDurable, Error::Store)),
            Err(_) => Err(Error::Ending),
        }
    }
}

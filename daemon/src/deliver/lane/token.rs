//! What travels with a change to the store, and what follows when the store has answered.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Count, Lane, Record};
use crate::store::{Change, Store};

/// What travels with a change to the store and comes back when it is durable.
pub enum Token {
    /// An outcome of a lane.
    Record(Arc<Lane>, Record),
    /// A position of a lane.
    Position {
        /// The lane.
        lane: Arc<Lane>,
        /// Which of its ledgers.
        ledger: usize,
    },
    /// A change of a lane's subscription that must not be lost.
    Health {
        /// The lane.
        lane: Arc<Lane>,
        /// The change, to be handed in again should the store fail.
        change: Change,
    },
    /// Somebody waits to be told whether it is durable.
    Told(oneshot::Sender<bool>),
    /// Nobody waits for it.
    Nobody,
}

/// Takes a group of tokens back from the store's writer, on its thread: frees slots, moves ledgers, and lets go of the
/// acknowledgements.
pub fn completed(tokens: Vec<Token>, durable: bool) {
    for token in tokens {
        let shares = match token {
            Token::Record(lane, record) => lane.record_done(record, durable),
            Token::Position { lane, ledger } => lane.position_done(ledger, durable),
            Token::Health { lane, change } => {
                if !durable {
                    lane.change_lost(change);
                }
                continue;
            }
            Token::Told(told) => {
                // Whoever asked may have gone.
                let _ = told.send(durable);
                continue;
            }
            Token::Nobody => continue,
        };
        for share in shares {
            share.done();
        }
    }
}

/// As [`completed`], and reads from the store how many deliveries are parked now.
pub fn concluded(tokens: Vec<Token>, durable: bool, store: &Store) {
    let lanes = with_parked(&tokens);
    completed(tokens, durable);
    lanes.iter().for_each(|lane| lane.read_parked(store));
}

/// The lanes in whose subscriptions these outcomes change what is parked.
fn with_parked(tokens: &[Token]) -> Vec<Arc<Lane>> {
    let mut lanes: Vec<Arc<Lane>> = Vec::new();
    for token in tokens {
        let Token::Record(lane, record) = token else { continue };
        // Of a parked delivery, or of a replay: what that had under way may have been resent meanwhile.
        let changes = record.event.is_none() || !matches!(record.count, Count::Delivered | Count::Failed);
        if changes && !lanes.iter().any(|known| Arc::ptr_eq(known, lane)) {
            lanes.push(Arc::clone(lane));
        }
    }
    lanes
}

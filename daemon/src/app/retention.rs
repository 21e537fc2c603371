//! The retention of dead letters, at work beside deliveries, and how much the log has. (The store's writer sees to the log's
//! own retention.)

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::{EXPIRE_LETTERS_MAX, Store};
use crate::telemetry::{self, metrics::StoreMetrics};

/// How often the store is asked for dead letters that are past their retention.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long to leave the store to others between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// Removes dead letters that are past their retention, step by step, until `stop`.
pub(super) async fn run(store: Store, metrics: StoreMetrics, stop: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let asked = store.clone();
        if let Ok(Ok(bytes)) = tokio::task::spawn_blocking(move || asked.log_bytes()).await {
            metrics.log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let (mut by_age, mut by_size) = (0, 0);
        loop {
            let store = store.clone();
            match tokio::task::spawn_blocking(move || store.expire_dead_letters()).await {
                Ok(Ok(expired)) => {
                    metrics.dead_letters_expired.inc_by(expired.total() as u64);
                    by_age += expired.by_age;
                    by_size += expired.by_size;
                    if expired.total() < EXPIRE_LETTERS_MAX {
                        break;
                    }
                }
                // That the store cannot write shows elsewhere too; here it only means that dead letters stay longer.
                Ok(Err(error)) => {
                    warn!(error = %telemetry::chain(&error), "cannot remove old dead letters, trying again later");
                    break;
                }
                Err(error) => {
                    warn!(%error, "the removal of old dead letters broke off, trying again later");
                    break;
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(STEP_PAUSE)).await.is_none() {
                break;
            }
        }
        if by_age + by_size > 0 {
            warn!(by_age, by_size, "dead letters are removed: too old, or the oldest of too many bytes");
        }
    }
}

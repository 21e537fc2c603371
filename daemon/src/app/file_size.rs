//! Looks now and then whether the store's file has grown far beyond its data.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::{Size, Store};
use crate::telemetry::health::{Condition, Health};
use crate::telemetry::metrics::StoreMetrics;

/// How often it looks: the file changes slowly.
const INTERVAL: Duration = Duration::from_secs(60);
/// The name under which readiness says it.
const COMPONENT: &str = "store_file";

/// Looks until `stop`.
pub(super) async fn watch(store: Store, gauges: StoreMetrics, health: Health, stop: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    let mut bloated = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        let asked = store.clone();
        // The store says by itself when it cannot be read.
        let Ok(Ok(size)) = tokio::task::spawn_blocking(move || asked.size()).await else { continue };
        gauges.live_bytes.set(i64::try_from(size.live_bytes).unwrap_or(i64::MAX));
        if size.is_bloated() && !bloated {
            let Size { file_bytes, live_bytes } = size;
            warn!(
                file_bytes,
                live_bytes,
                "the store's file is far larger than its data, stop the daemon some time and run sluiced compact"
            );
        }
        bloated = size.is_bloated();
        note(&health, bloated.then_some(size));
    }
}

/// Says it in the readiness answer, which stays green: nothing fails.
fn note(health: &Health, bloated: Option<Size>) {
    match bloated {
        Some(Size { file_bytes, live_bytes }) => {
            let note = format!("the file has {file_bytes} bytes for about {live_bytes} of data: see `sluiced compact`");
            health.set(COMPONENT, Condition::Noted(note));
        }
        None => health.clear(COMPONENT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bloated_file_is_noted_and_readiness_stays_green() {
        let health = Health::new([]);
        note(&health, Some(Size { file_bytes: 9_000, live_bytes: 1_000 }));
        assert!(health.is_ready());
        let report = format!("{:?}", health.report());
        assert!(report.contains("9000 bytes for about 1000"), "{report}");
        note(&health, None);
        assert!(health.report().is_empty());
    }
}

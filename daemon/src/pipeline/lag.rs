//! How far behind each subscription is, measured now and then: one question a stream, whatever the number of subscriptions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::feed::Routes;
use crate::deliver::Lane;
use crate::deliver::health::Lag;
use crate::domain::StreamName;
use crate::ingest::Nats;
use crate::telemetry::{chain, clock};

/// How often it is measured.
const INTERVAL: Duration = Duration::from_secs(2);
/// After so many subscriptions other tasks get their turn.
const LANES_AT_ONCE: usize = 128;
/// How many events are looked up at most, each time, for the age of a position that comes from an earlier run.
const LOOK_UPS_MAX: usize = 16;

/// Measures until `stop`.
pub async fn measure(nats: Nats, routes: Arc<ArcSwap<Routes>>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = measure_once(&nats, &routes) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn measure_once(nats: &Nats, routes: &ArcSwap<Routes>) {
    let mut last = HashMap::new();
    for stream in nats.streams() {
        match nats.facts(&stream.name).await {
            Ok(facts) => drop(last.insert(stream.name.clone(), facts.last_sequence)),
            Err(error) => return debug!(error = %chain(&error), "could not measure how far behind subscriptions are"),
        }
    }
    let lanes = routes.load_full();
    let mut look_ups = 0;
    for (index, lane) in lanes.lanes.iter().enumerate() {
        if index % LANES_AT_ONCE == LANES_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let Some((stream, sequence)) = note(lane, &last) else { continue };
        if look_ups < LOOK_UPS_MAX {
            look_ups += 1;
            let time_ms = nats.time_of(&stream, sequence).await.unwrap_or(None);
            // What is no longer there tells nothing: better a small lag than one that grows from nowhere.
            lane.state().unread_ms.get_or_insert_with(|| time_ms.unwrap_or_else(clock::now_ms));
        }
    }
}

/// Notes a lane's lag. Returns the event whose age is not known, if there is one.
fn note(lane: &Lane, last: &HashMap<StreamName, u64>) -> Option<(StreamName, u64)> {
    let mut state = lane.state();
    let mut events = 0;
    let mut unread = None;
    for ledger in &state.ledgers {
        let end = last.get(ledger.stream()).copied().unwrap_or(0);
        events += ledger.waiting(end);
        if let Some(cursor) = ledger.cursor().filter(|cursor| *cursor <= end) {
            unread.get_or_insert((ledger.stream().clone(), cursor));
        }
    }
    let oldest_ms = if unread.is_some() { state.unread_ms } else { state.oldest_queued_ms() };
    let seconds = oldest_ms.map_or(0, |oldest| clock::now_ms().saturating_sub(oldest) / 1_000);
    state.health.lag = Lag { events, seconds };
    drop(state);
    lane.metrics.lag_events.set(i64::try_from(events).unwrap_or(i64::MAX));
    lane.metrics.lag_seconds.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    unread.filter(|_| oldest_ms.is_none())
}

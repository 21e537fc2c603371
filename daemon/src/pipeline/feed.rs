//! A stream's feed: it receives events, matches them, and offers each to the lanes that it concerns.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::deliver::Lane;
use crate::deliver::lane::{IMPATIENCE, Offered, Token};
use crate::domain::{AckShare, Event, Pattern};
use crate::ingest::{Live, Received};
use crate::route::Table;
use crate::store::{Change, Recorder};
use crate::telemetry;
use crate::telemetry::metrics::StreamMetrics;

/// How often the server's ack floor is read, to forget what cannot come again and to keep a checkpoint.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Who gets what: replaced as a whole when the subscriptions change.
#[derive(Default)]
pub struct Routes {
    /// From event types to indices of `lanes`.
    pub table: Table,
    /// The webhook subscriptions' lanes.
    pub lanes: Vec<Arc<Lane>>,
    /// Every event type that some lane asks for.
    pub types: Vec<Pattern>,
}

/// What a feed needs.
pub struct Feed {
    /// The live tail.
    pub live: Live,
    /// Who gets what.
    pub routes: Arc<ArcSwap<Routes>>,
    /// Told when a full lane has room again.
    pub room: Arc<Notify>,
    /// How long a lane may be full while others could go on.
    pub hold_after: Duration,
    /// The stream's counters.
    pub metrics: StreamMetrics,
    /// For the checkpoint.
    pub recorder: Recorder<Token>,
    /// Asked to take other event types; answers when JetStream has taken them.
    pub retarget: mpsc::Receiver<Retarget>,
}

/// Asks a feed for other event types.
pub struct Retarget {
    /// The event types.
    pub types: Vec<Pattern>,
    /// Told the result.
    pub done: tokio::sync::oneshot::Sender<Result<(), crate::ingest::Error>>,
}

/// An event that a full lane has yet to take.
struct Blocked {
    lane: Arc<Lane>,
    share: AckShare,
}

impl Feed {
    /// Receives, matches and offers until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let mut checkpoint = 0;
        let mut found = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                batch = self.live.next() => {
                    for received in batch {
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = self.carry(received, &mut found) => {}
                        }
                    }
                }
                Some(ask) = self.retarget.recv() => self.take_types(ask).await,
                _ = housekeeping.tick() => self.keep_house(&mut checkpoint).await,
            }
        }
    }

    /// One event: received, matched, offered. Plugins, attempt and record follow in each lane's worker, and the token
    /// is settled when all of them are through.
    async fn carry(&mut self, received: Received, found: &mut Vec<u32>) {
        let Received { event, token } = received;
        self.metrics.received.inc();
        let routes = self.routes.load();
        routes.table.matches(&event.kind, found);
        if found.is_empty() {
            self.metrics.unmatched.inc();
            return token.done();
        }
        let mut blocked = Vec::new();
        for index in &*found {
            let lane = &routes.lanes[*index as usize];
            if let Offered::Full(share) = lane.offer(&event, token.share()) {
                blocked.push(Blocked { lane: Arc::clone(lane), share });
            }
        }
        token.done();
        if !blocked.is_empty() {
            self.wait_for_room(&routes, &event, blocked).await;
        }
    }

    /// Back-pressure: waits until every lane has taken the event. A lane that stays full while others could go on is
    /// held instead, so that nobody waits for it. Other event types are taken meanwhile: what changes may be the very
    /// endpoint that is waited for.
    async fn wait_for_room(&mut self, routes: &Routes, event: &Arc<Event>, mut blocked: Vec<Blocked>) {
        let has_room = Arc::clone(&self.room);
        loop {
            let room = has_room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let mut still = Vec::new();
            for Blocked { lane, share } in blocked {
                if lane.is_stuck(self.hold_after) && others_could_go_on(routes, &lane) {
                    warn!(subscription = %lane.id(), "the lane stays full, its events wait in the stream");
                    lane.hold();
                }
                if let Offered::Full(share) = lane.offer(event, share) {
                    still.push(Blocked { lane, share });
                }
            }
            if still.is_empty() {
                return;
            }
            blocked = still;
            let look_again = Instant::now() + (self.hold_after / IMPATIENCE).max(Duration::from_millis(1));
            let ask = tokio::select! {
                () = room => None,
                () = tokio::time::sleep_until(look_again) => None,
                ask = self.retarget.recv() => ask,
            };
            if let Some(ask) = ask {
                self.take_types(ask).await;
            }
        }
    }

    async fn take_types(&mut self, ask: Retarget) {
        let result = self.live.retarget(&ask.types).await;
        // Whoever asked may have gone: then nobody needs the answer.
        let _ = ask.done.send(result);
    }

    async fn keep_house(&self, checkpoint: &mut u64) {
        let acks = self.live.acks();
        self.metrics.unacked.set(i64::try_from(acks.open()).unwrap_or(i64::MAX));
        let floor = match acks.confirmed_floor().await {
            Ok(floor) => floor,
            Err(error) => {
                return debug!(error = %telemetry::chain(&error), "could not read the ack floor");
            }
        };
        if floor <= *checkpoint {
            return;
        }
        *checkpoint = floor;
        let stream = self.live.stream().name.clone();
        for lane in &self.routes.load().lanes {
            let mut state = lane.state();
            if let Some(ledger) = state.ledger_of(&stream) {
                state.ledgers[ledger].forget_through(floor);
            }
        }
        self.recorder.submit(Change::Checkpoint { stream, ack_floor: floor }, Token::Nobody);
    }
}

/// Is there a lane besides this one that could take live events?
fn others_could_go_on(routes: &Routes, stuck: &Arc<Lane>) -> bool {
    routes.lanes.iter().any(|lane| !Arc::ptr_eq(lane, stuck) && lane.could_go_on())
}

//! A stream's feed: it receives events, matches them, and offers each to the lanes that it concerns.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Spec;
use super::traced::receive;
use crate::deliver::Lane;
use crate::deliver::lane::{HURRY, IMPATIENCE, Offered, Token};
use crate::domain::{AckShare, Event, Pattern, SubscriptionId};
use crate::ingest::{Live, Received};
use crate::route::Table;
use crate::store::{Change, Recorder};
use crate::telemetry;
use crate::telemetry::metrics::StreamMetrics;
use crate::telemetry::spans::Spans;

/// How often the server's ack floor is read, to forget what cannot come again and to keep a checkpoint.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// How often it is looked whether the messages that may be unacknowledged are used up.
const STARVATION_CHECK: Duration = Duration::from_millis(100);
/// Of the messages that may be unacknowledged, the part (in percent) from which on hanging lanes are held.
const STARVATION_PERCENT: usize = 75;

/// How many times longer than a wait for a full lane it takes until the wait is forgotten.
const WAITED_FORGOTTEN: u32 = 10;

/// Who gets what: replaced as a whole when the subscriptions change.
#[derive(Default)]
pub struct Routes {
    /// From event types to indices of `lanes`.
    pub table: Table,
    /// The webhook subscriptions' lanes.
    pub lanes: Vec<Arc<Lane>>,
    /// What is to be known of each of them, in the same order.
    pub specs: Vec<Arc<ArcSwap<Spec>>>,
    /// Every event type that some lane asks for.
    pub types: Vec<Pattern>,
    /// The subscriptions that cannot run, and why not.
    pub idle: HashMap<SubscriptionId, Arc<str>>,
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
    /// Makes the spans of traces.
    pub spans: Spans,
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

/// The part of a feed that hands events on: apart from the live tail, so that one can wait while the other reads ahead.
struct Dispatch {
    routes: Arc<ArcSwap<Routes>>,
    room: Arc<Notify>,
    hold_after: Duration,
    metrics: StreamMetrics,
    spans: Spans,
    waited: Mutex<Waited>,
}

/// How long everybody has waited for full lanes of late. It is forgotten at a tenth of the speed at which it comes about.
#[derive(Default)]
struct Waited {
    time: Duration,
    until: Option<Instant>,
}

impl Waited {
    /// The time that counts now.
    fn of_late(&self) -> Duration {
        let forgotten = self.until.map_or(Duration::ZERO, |until| until.elapsed() / WAITED_FORGOTTEN);
        self.time.saturating_sub(forgotten)
    }

    fn add(&mut self, time: Duration) {
        self.time = self.of_late() + time;
        self.until = Some(Instant::now());
    }
}

/// The part of a feed that is done now and then.
struct Chores {
    recorder: Recorder<Token>,
    retarget: mpsc::Receiver<Retarget>,
    housekeeping: tokio::time::Interval,
    starvation: tokio::time::Interval,
    checkpoint: u64,
}

impl Feed {
    /// Receives, matches and offers until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let Self { mut live, routes, room, hold_after, metrics, spans, recorder, retarget } = self;
        let dispatch = Dispatch { routes, room, hold_after, metrics, spans, waited: Mutex::default() };
        let housekeeping = tokio::time::interval(HOUSEKEEPING);
        let starvation = tokio::time::interval(STARVATION_CHECK);
        let mut chores = Chores { recorder, retarget, housekeeping, starvation, checkpoint: 0 };
        let mut found = Vec::new();
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => return,
                batch = live.next() => batch,
                chore = chores.next() => {
                    chores.carry_out(chore, &mut live, &dispatch).await;
                    continue;
                }
            };
            for received in batch {
                let mut carry = pin!(dispatch.carry(received, &mut found));
                // While a full lane keeps the event waiting, everything else goes on.
                loop {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        () = &mut carry => break,
                        chore = chores.next() => chores.carry_out(chore, &mut live, &dispatch).await,
                        never = live.read_ahead() => match never {},
                    }
                }
            }
        }
    }
}

enum Chore {
    Retarget(Retarget),
    KeepHouse,
    Relieve,
}

impl Chores {
    /// The next thing to do. Safe to cancel.
    async fn next(&mut self) -> Chore {
        tokio::select! {
            Some(ask) = self.retarget.recv() => Chore::Retarget(ask),
            _ = self.housekeeping.tick() => Chore::KeepHouse,
            _ = self.starvation.tick() => Chore::Relieve,
        }
    }

    async fn carry_out(&mut self, chore: Chore, live: &mut Live, dispatch: &Dispatch) {
        match chore {
            Chore::Retarget(ask) => {
                let result = live.retarget(&ask.types).await;
                // Whoever asked may have gone: then nobody needs the answer.
                let _ = ask.done.send(result);
            }
            Chore::KeepHouse => self.keep_house(live, dispatch).await,
            Chore::Relieve => dispatch.relieve(live),
        }
    }

    async fn keep_house(&mut self, live: &Live, dispatch: &Dispatch) {
        let acks = live.acks();
        dispatch.metrics.unacked.set(i64::try_from(acks.open()).unwrap_or(i64::MAX));
        let floor = match acks.confirmed_floor().await {
            Ok(floor) => floor,
            Err(error) => {
                return debug!(error = %telemetry::chain(&error), "could not read the ack floor");
            }
        };
        if floor <= self.checkpoint {
            return;
        }
        self.checkpoint = floor;
        let stream = live.stream().name.clone();
        for lane in &dispatch.routes.load().lanes {
            let mut state = lane.state();
            if let Some(ledger) = state.ledger_of(&stream) {
                state.ledgers[ledger].forget_through(floor);
            }
        }
        self.recorder.submit(Change::Checkpoint { stream, ack_floor: floor }, Token::Nobody);
    }
}

impl Dispatch {
    /// One event: received, matched, offered. Plugins, attempt and record follow in each lane's worker, and the token
    /// is settled when all of them are through.
    async fn carry(&self, received: Received, found: &mut Vec<u32>) {
        let Received { event, token, after_loss } = received;
        self.metrics.received.inc();
        let routes = self.routes.load();
        if after_loss {
            // What was lost comes again after later events: whoever keeps an order reads it from the stream before them.
            routes.lanes.iter().filter(|lane| lane.keeps_order()).for_each(|lane| lane.hold());
        }
        routes.table.matches(&event.kind, found);
        if found.is_empty() {
            self.metrics.unmatched.inc();
            return token.done();
        }
        let (_span, event) = receive(&self.spans, event);
        let mut blocked = Vec::new();
        for index in &*found {
            let lane = &routes.lanes[*index as usize];
            if let Offered::Full(share) = lane.offer(&event, token.share()) {
                blocked.push(Blocked { lane: Arc::clone(lane), share });
            }
        }
        token.done();
        if !blocked.is_empty() {
            self.wait_for_room(&event, blocked).await;
        }
    }

    /// Back-pressure: waits until every lane has taken the event. A lane that stays full while others could go on is
    /// held instead, so that nobody waits for it. The more others have waited of late, the sooner: with many dead endpoints,
    /// each of which fills its lane once, the waits would otherwise add up.
    async fn wait_for_room(&self, event: &Arc<Event>, mut blocked: Vec<Blocked>) {
        let hurried = self.waited.lock().of_late() >= self.hold_after;
        let began = Instant::now();
        let mut others_waited = false;
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let mut still = Vec::new();
            for Blocked { lane, share } in blocked {
                let others = self.others_could_go_on(&lane);
                others_waited |= others;
                if others && lane.is_stuck(self.hold_after, hurried) {
                    warn!(subscription = %lane.id(), "the lane stays full, its events wait in the stream");
                    lane.hold();
                }
                if let Offered::Full(share) = lane.offer(event, share) {
                    still.push(Blocked { lane, share });
                }
            }
            if still.is_empty() {
                if others_waited {
                    self.waited.lock().add(began.elapsed());
                }
                return;
            }
            blocked = still;
            let impatience = if hurried { HURRY } else { IMPATIENCE };
            let look_again = Instant::now() + (self.hold_after / impatience).max(Duration::from_millis(1));
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }

    /// JetStream sends nothing to anybody while too many messages are unacknowledged, and many lanes can use them all up
    /// although none of them is full. Those that hang are then held, with all that they have in hand, so that nobody waits
    /// for them.
    fn relieve(&self, live: &Live) {
        if live.acks().open() * 100 < live.ack_pending_max() * STARVATION_PERCENT {
            return;
        }
        let routes = self.routes.load();
        let (hanging, others): (Vec<_>, Vec<_>) =
            routes.lanes.iter().partition(|lane| lane.is_hanging(self.hold_after));
        if hanging.is_empty() || others.is_empty() {
            return;
        }
        warn!(
            stream = %live.stream().name, lanes = hanging.len(),
            "too many messages are unacknowledged, the events of the lanes that hang wait in the stream"
        );
        hanging.into_iter().for_each(|lane| lane.hold_all());
    }

    /// Is there a lane besides this one that could take live events? Asked of the set as it is now, which may have changed
    /// since the event came.
    fn others_could_go_on(&self, stuck: &Arc<Lane>) -> bool {
        self.routes.load().lanes.iter().any(|lane| !Arc::ptr_eq(lane, stuck) && lane.could_go_on())
    }
}

//! A subscription's worker: it takes events, carries them through plugins and attempt, and records what becomes of them.

use std::collections::{HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::catchup::{Ask, CatchUp, PAGE_EVENTS};
use super::job::{InAir, Job, Landed, failure};
use super::{Shared, Spec};
use crate::deliver::Prepared;
use crate::deliver::breaker::{Breaker, Permit};
use crate::deliver::lane::{Lane, Record, Token, position_change};
use crate::deliver::ledger::Shares;
use crate::domain::{DeliveryId, Event, FailureClass, OnPluginError, Outcome, Position};
use crate::plugin::Passed;
use crate::store::{self, Change};
use crate::telemetry::{self, clock};

/// How many parked deliveries are taken from the store at a time.
const DUE_PAGE: usize = 64;
/// How many probes may fail with the same event before it is parked and the next one is tried: it may be the event that the
/// endpoint cannot take.
const PROBES_PER_EVENT_MAX: u32 = 20;
/// How long to wait before changes that the store refused are handed in again.
const RESUBMIT_DELAY: Duration = Duration::from_millis(500);
/// How long to wait, in milliseconds, before a reading of the store that failed is tried again.
const REREAD_DELAY_MS: u64 = 1_000;

/// How long a stop waits at least for the last outcomes and positions to be durable.
const SETTLE_TIME_MIN: Duration = Duration::from_secs(2);

/// The worker of one lane.
pub struct Worker {
    lane: Arc<Lane>,
    spec: Arc<ArcSwap<Spec>>,
    shared: Shared,
    /// Told when the lane has room again.
    room: Arc<Notify>,
    /// The endpoint that the breaker watches.
    endpoint: Arc<Prepared>,
    breaker: Breaker,
    in_air: FuturesUnordered<InAir>,
    /// Jobs whose plugins have run and which wait for a slot: the parts of one event, or parked deliveries that are due.
    ready: VecDeque<Job>,
    catch_up: CatchUp,
    /// Up to where history is read once the page has been worked through.
    through: Option<(usize, u64)>,
    /// The event that went back to the reader last, and how many probes failed with it. It has been counted already.
    given_back: Option<(Position, u32)>,
    /// Take live events and parked deliveries by turns.
    parked_next: bool,
}

/// Where the next piece of work comes from.
enum Next {
    Job(Box<Job>),
    Event(Arc<Event>),
}

impl Worker {
    /// A worker; it does nothing before [`Worker::run`].
    pub fn new(lane: Arc<Lane>, spec: Arc<ArcSwap<Spec>>, shared: Shared, room: Arc<Notify>) -> Self {
        let breaker = Breaker::new(shared.config.breaker);
        let endpoint = Arc::clone(&spec.load().endpoint);
        Self {
            lane,
            spec,
            shared,
            room,
            endpoint,
            breaker,
            in_air: FuturesUnordered::new(),
            ready: VecDeque::new(),
            catch_up: CatchUp::default(),
            through: None,
            given_back: None,
            parked_next: true,
        }
    }

    /// Works until told to stop; then lets the attempts under way end, within the drain time, and parks the rest.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.start_work().await;
            self.save_positions();
            let timer = self.timer();
            tokio::select! {
                Some(landed) = self.in_air.next(), if !self.in_air.is_empty() => self.land_all(landed),
                brought = self.catch_up.arrival(self.lane.id()), if self.catch_up.is_reading() => self.brought(brought),
                () = self.lane.woken() => {}
                () = sleep_until(timer) => {}
                () = stop.cancelled() => {}
            }
        }
        self.drain().await;
    }

    /// Starts whatever slots, breaker and store allow.
    async fn start_work(&mut self) {
        self.forgive_changed_endpoint();
        if !self.resubmit() {
            return;
        }
        loop {
            let permit = self.breaker.permit(Instant::now());
            let (free, in_flight) = {
                let state = self.lane.state();
                if state.disabled.is_some() {
                    return;
                }
                (state.free_slots(), state.in_flight())
            };
            match permit {
                Permit::None { .. } => return,
                Permit::One if in_flight > 0 => return,
                _ if free == 0 => return,
                _ => {}
            }
            match self.next(permit == Permit::One) {
                Some(Next::Job(job)) => self.launch(*job),
                Some(Next::Event(event)) => self.carry(event).await,
                None => return,
            }
        }
    }

    /// What was learnt of an endpoint does not hold for the one that a reload put in its place.
    fn forgive_changed_endpoint(&mut self) {
        let spec = self.spec.load();
        if !Arc::ptr_eq(&spec.endpoint, &self.endpoint) {
            self.endpoint = Arc::clone(&spec.endpoint);
            self.breaker = Breaker::new(self.shared.config.breaker);
        }
    }

    /// The next piece of work: a job that waits for a slot, a parked delivery that is due, a live event, or one that the
    /// reader brings.
    fn next(&mut self, probe: bool) -> Option<Next> {
        if let Some(job) = self.ready.pop_front() {
            return Some(Next::Job(Box::new(job)));
        }
        self.parked_next = !self.parked_next;
        let due_max = if probe { 1 } else { DUE_PAGE };
        if (self.parked_next || probe) && self.load_due(due_max) {
            return self.ready.pop_front().map(|job| Next::Job(Box::new(job)));
        }
        if let Some(event) = self.next_live() {
            return Some(Next::Event(event));
        }
        if let Some(event) = self.next_history(probe) {
            return Some(Next::Event(event));
        }
        if self.load_due(due_max) {
            return self.ready.pop_front().map(|job| Next::Job(Box::new(job)));
        }
        None
    }

    fn next_live(&mut self) -> Option<Arc<Event>> {
        let (event, relieved) = self.lane.state().pop()?;
        if relieved {
            self.room.notify_waiters();
        }
        Some(event)
    }

    /// The next event of the catch-up page that is still to be worked on; asks for a page when there is none, and goes
    /// back to reading live when all that was skipped has been read.
    fn next_history(&mut self, probe: bool) -> Option<Arc<Event>> {
        self.drop_what_was_read_ahead();
        loop {
            let mut state = self.lane.state();
            let ledger = state.ledgers.iter().position(|ledger| ledger.is_held())?;
            if self.catch_up.is_empty()
                && let Some((of, through)) = self.through.take()
            {
                state.ledgers[of].read_through(through);
            }
            if !self.breaker.is_open() && state.ledgers[ledger].try_rejoin() {
                state.rejoined();
                let all_live = !state.ledgers.iter().any(|ledger| ledger.is_held());
                drop(state);
                self.rejoined(all_live);
                continue;
            }
            if let Some(event) = self.catch_up.next_event() {
                let of = state.ledger_of(&event.position.stream)?;
                if state.ledgers[of].read(event.position.sequence) {
                    return Some(event);
                }
                continue;
            }
            if !self.catch_up.is_reading() && self.catch_up.not_before().is_none() {
                let cursor = state.ledgers[ledger].cursor()?;
                let target = state.ledgers[ledger].target();
                if self.breaker.is_open() && cursor > target {
                    return None;
                }
                let stream = state.ledgers[ledger].stream().clone();
                drop(state);
                let types = self.spec.load().types.clone();
                let events_max = if probe { 1 } else { PAGE_EVENTS };
                self.catch_up.ask(&self.shared, Ask { ledger, stream, types, cursor, target, events_max });
            }
            return None;
        }
    }

    /// The cursor may have gone back without the worker: a feed holds a lane that is full, also one that catches up in
    /// another stream. The page then no longer follows on the cursor.
    fn drop_what_was_read_ahead(&mut self) {
        let rewound = self.lane.state().take_rewound();
        if rewound {
            self.drop_page();
        }
    }

    fn rejoined(&mut self, all_live: bool) {
        self.drop_page();
        if all_live {
            self.lane.metrics.held.set(0);
            info!(subscription = %self.lane.id(), "caught up, reading live again");
        }
        self.room.notify_waiters();
    }

    /// Forgets the page and what was to follow on it, and closes the reader, whose permit another subscription may wait for.
    fn drop_page(&mut self) {
        self.through = None;
        if let Some(close) = self.catch_up.reset() {
            self.shared.background.spawn(close);
        }
    }

    /// Loads parked deliveries that are due into `ready`, at most so many. True when there is one.
    fn load_due(&mut self, due_max: usize) -> bool {
        let now = clock::now_ms();
        let claimed = {
            let mut state = self.lane.state();
            // Taken out before the store is read: what is parked meanwhile puts its own time there.
            if state.due_ms.take_if(|due| *due <= now).is_none() {
                return false;
            }
            state.claimed()
        };
        let later = match self.load_unclaimed(now, due_max, &claimed) {
            Ok(later) => later,
            Err(error) => {
                error!(subscription = %self.lane.id(), error = %telemetry::chain(&error), "cannot read what is parked");
                Some(now + REREAD_DELAY_MS)
            }
        };
        if let Some(later) = later {
            self.lane.state().due_at(later);
        }
        !self.ready.is_empty()
    }

    /// Reads on in the store past what is claimed. Returns when the first delivery that it left is due.
    fn load_unclaimed(
        &mut self,
        now: u64,
        due_max: usize,
        claimed: &HashSet<DeliveryId>,
    ) -> Result<Option<u64>, store::Error> {
        let mut after = None;
        loop {
            let limit = claimed.len() + due_max + 1;
            let page = self.shared.store.parked_page(self.lane.id(), after.as_ref(), u64::MAX, limit)?;
            let Some((last, _)) = page.last() else { return Ok(None) };
            after = Some(last.clone());
            for (key, parked) in page {
                if claimed.contains(&key.delivery) {
                    continue;
                }
                if key.due_ms > now || self.ready.len() >= due_max {
                    return Ok(Some(key.due_ms));
                }
                self.lane.state().claim(key.delivery);
                self.ready.push_back(Job::parked(parked));
            }
        }
    }

    /// Carries one event on: decoded, through the plugins, and each output to an attempt.
    async fn carry(&mut self, event: Arc<Event>) {
        let spec = self.spec.load_full();
        let Some(ledger) = self.lane.state().ledger_of(&event.position.stream) else { return };
        if self.given_back.as_ref().is_none_or(|(position, _)| *position != event.position) {
            self.lane.metrics.received.inc();
        }
        if let Some(reason) = &event.undecodable {
            let failure = failure(FailureClass::Undecodable, reason.clone());
            let record = Job::whole(self.lane.id(), ledger, &event).dead(0, &failure);
            return self.record_unattempted(record);
        }
        let ran = self.run_plugins(&spec, &event).await;
        for fault in &ran.passed_over {
            self.lane.metrics.faulted(fault.kind_str());
            debug!(subscription = %self.lane.id(), %fault, "a plugin failed and was passed over");
        }
        match ran.passed {
            Passed::Kept(outputs) => {
                let parts = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
                let before = self.ready.len();
                for (part, output) in (0..).zip(outputs) {
                    if !self.lane.state().ledgers[ledger].is_recorded(event.position.sequence, part) {
                        self.ready.push_back(Job::new(self.lane.id(), ledger, &event, output, part, parts));
                    }
                }
                // A daemon before this one recorded as many parts, of then more: there is nothing left to be recorded.
                if self.ready.len() == before {
                    self.settle(ledger, &event);
                }
            }
            Passed::Dropped { .. } => {
                self.lane.metrics.filtered.inc();
                self.settle(ledger, &event);
            }
            Passed::Faulted { fault, policy } => {
                self.lane.metrics.faulted(fault.kind_str());
                warn!(
                    subscription = %self.lane.id(), event = %event.id, %fault,
                    "a plugin failed"
                );
                if policy == OnPluginError::Drop {
                    self.lane.metrics.dropped.inc();
                    self.settle(ledger, &event);
                } else {
                    let failure = failure(FailureClass::Plugin, fault.to_string());
                    self.record_unattempted(Job::whole(self.lane.id(), ledger, &event).dead(0, &failure));
                }
            }
        }
    }

    /// Runs the plugins, while attempts under way go on.
    async fn run_plugins(&mut self, spec: &Spec, event: &Event) -> crate::plugin::Ran {
        let mut run = pin!(spec.chain.run(event));
        loop {
            tokio::select! {
                biased;
                ran = &mut run => return ran,
                Some(landed) = self.in_air.next(), if !self.in_air.is_empty() => self.land_all(landed),
            }
        }
    }

    fn settle(&self, ledger: usize, event: &Event) {
        let shares = self.lane.state().ledgers[ledger].settle(event.position.sequence);
        done(shares);
    }

    fn launch(&mut self, job: Job) {
        self.lane.state().take_slot();
        self.lane.metrics.in_flight.inc();
        self.in_air.push(InAir::new(self.shared.client.clone(), &self.spec.load(), Arc::new(job)));
    }

    /// Takes in an attempt that ended, and all others that have.
    fn land_all(&mut self, first: Landed) {
        self.land(first);
        while let Some(Some(landed)) = self.in_air.next().now_or_never() {
            self.land(landed);
        }
    }

    fn land(&mut self, landed: Landed) {
        let Landed { job, outcome, took } = landed;
        self.lane.metrics.attempt_seconds.observe(took.as_secs_f64());
        let was_probe = self.breaker.permit(Instant::now()) == Permit::One;
        self.judge(&job, &outcome);
        let from_reader = job.ledger.is_some() && job.parts == 1;
        if was_probe
            && from_reader
            && matches!(outcome, Outcome::Retry(_))
            && self.probes_of(&job) < PROBES_PER_EVENT_MAX
        {
            return self.give_back(&job);
        }
        let spec = self.spec.load();
        let record = job.conclude(&spec, &outcome, rand::random::<f64>());
        self.submit(record);
    }

    /// Counts the outcome, and tells the breaker what it says of the endpoint.
    fn judge(&mut self, job: &Job, outcome: &Outcome) {
        let failed = match outcome {
            Outcome::Delivered { .. } => {
                self.lane.metrics.attempted("delivered");
                if self.breaker.succeeded() {
                    info!(subscription = %self.lane.id(), "the endpoint works again");
                }
                return;
            }
            Outcome::Retry(failure) | Outcome::Final(failure) => failure,
        };
        self.lane.metrics.attempted(failed.class.as_str());
        debug!(
            subscription = %self.lane.id(), delivery = %job.delivery, attempt = job.attempt, class = failed.class.as_str(),
            status = failed.status, reason = %failed.message, "an attempt failed"
        );
        if failed.class == FailureClass::Gone {
            return self.disable("the endpoint answered 410 Gone");
        }
        if failed.class == FailureClass::Internal {
            self.breaker.not_tried(Instant::now());
        }
        let blames = matches!(outcome, Outcome::Retry(_)) && failed.class != FailureClass::Internal;
        let retry_after = failed.retry_after_ms.map(Duration::from_millis);
        if blames && self.breaker.failed(Instant::now(), retry_after) {
            warn!(
                subscription = %self.lane.id(), reason = %failed.message,
                "the endpoint is left alone for a while, its events wait in the stream"
            );
            self.hold();
        }
    }

    fn disable(&mut self, reason: &str) {
        error!(subscription = %self.lane.id(), reason, "the subscription is disabled");
        self.lane.state().disabled = Some(reason.into());
        let subscription = self.lane.id().clone();
        self.shared.recorder.submit(Change::Disable { subscription, reason: reason.into() }, Token::Nobody);
        self.hold();
    }

    fn hold(&mut self) {
        self.drop_page();
        self.lane.hold();
    }

    fn probes_of(&self, job: &Job) -> u32 {
        self.given_back.as_ref().filter(|(position, _)| *position == job.position).map_or(0, |(_, probes)| *probes)
    }

    /// A probe that failed leaves no record: its event stays in the stream, and the reader will bring it again.
    fn give_back(&mut self, job: &Job) {
        self.given_back = Some((job.position.clone(), self.probes_of(job) + 1));
        self.drop_page();
        let mut state = self.lane.state();
        state.give_slot_back();
        if let Some(ledger) = job.ledger {
            state.ledgers[ledger].step_back(job.position.sequence);
        }
        drop(state);
        self.lane.metrics.in_flight.dec();
        self.lane.metrics.held.set(1);
    }

    fn record_unattempted(&self, record: Record) {
        self.lane.state().take_slot();
        self.lane.metrics.in_flight.inc();
        self.submit(record);
    }

    fn submit(&self, record: Record) {
        let hurry = self.lane.state().submitted();
        let change = record.change.clone();
        self.shared.recorder.submit(change, Token::Record(Arc::clone(&self.lane), record));
        if hurry {
            self.shared.recorder.hurry();
        }
    }

    /// Hands in again what the store refused, after a pause. False while the store is not to be bothered: then no attempt
    /// is begun either, so that a store that is full or broken does not make duplicates.
    fn resubmit(&mut self) -> bool {
        let lost = {
            let mut state = self.lane.state();
            match state.refused_at {
                None => return true,
                Some(at) if at.elapsed() < RESUBMIT_DELAY => return false,
                Some(_) => state.take_lost(),
            }
        };
        for record in lost {
            let change = record.change.clone();
            self.shared.recorder.submit(change, Token::Record(Arc::clone(&self.lane), record));
        }
        true
    }

    fn save_positions(&self) {
        let mut state = self.lane.state();
        if state.refused_at.is_some() || state.removed {
            return;
        }
        for index in 0..state.ledgers.len() {
            let ledger = &mut state.ledgers[index];
            if let Some(change) = ledger.position_change() {
                let change = position_change(self.lane.id(), ledger.stream(), change);
                let token = Token::Position { lane: Arc::clone(&self.lane), ledger: index };
                self.shared.recorder.submit(change, token);
            }
        }
    }

    fn brought(&mut self, brought: super::catchup::Brought) {
        self.through = brought.through.map(|through| (brought.ledger, through));
        if let Some(gap) = brought.gap {
            self.lane.metrics.gap_events.inc_by(gap.available - gap.from);
        }
    }

    /// When to look again although nothing happens.
    fn timer(&self) -> Option<Instant> {
        let now = Instant::now();
        let state = self.lane.state();
        let resubmit = state.refused_at.map(|at| at + RESUBMIT_DELAY);
        if state.disabled.is_some() {
            return resubmit;
        }
        let due = state.due_ms.map(|due| now + Duration::from_millis(due.saturating_sub(clock::now_ms())));
        match self.breaker.permit(now) {
            Permit::None { until } => Some(until).into_iter().chain(resubmit).min(),
            // With no slot free, the end of an attempt wakes the worker.
            _ if state.free_slots() == 0 => resubmit,
            _ => due.into_iter().chain(resubmit).chain(self.catch_up.not_before()).min(),
        }
    }

    /// The end: no new work; attempts under way may end, and what does not end in time is parked.
    async fn drain(mut self) {
        self.catch_up.reset();
        self.ready.clear();
        self.lane.state().clear_queue();
        let deadline = Instant::now() + self.shared.config.drain_timeout;
        while !self.in_air.is_empty() {
            tokio::select! {
                Some(landed) = self.in_air.next() => self.land(landed),
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        let cut_short = failure(FailureClass::Internal, "the daemon was stopped during the attempt");
        for in_air in self.in_air.iter() {
            let job = &in_air.job;
            info!(subscription = %self.lane.id(), delivery = %job.delivery, "parked an attempt that the stop cut short");
            self.submit(job.park(job.attempt - 1, clock::now_ms(), &cut_short));
        }
        self.settle_positions(deadline).await;
    }

    /// Waits until the last outcomes are durable, and then the positions that tell of them: a daemon that starts later
    /// reads the log above the ack floor only.
    async fn settle_positions(&mut self, deadline: Instant) {
        let deadline = deadline.max(Instant::now() + SETTLE_TIME_MIN);
        loop {
            self.resubmit();
            self.save_positions();
            if self.lane.state().is_settled() {
                return;
            }
            self.shared.recorder.hurry();
            let look_again = Instant::now() + RESUBMIT_DELAY;
            tokio::select! {
                () = self.lane.woken() => {}
                () = tokio::time::sleep_until(look_again.min(deadline)) => {}
            }
            if Instant::now() >= deadline {
                return warn!(subscription = %self.lane.id(), "the store did not take the last outcomes in time");
            }
        }
    }
}

fn done(shares: Shares) {
    for share in shares {
        share.done();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

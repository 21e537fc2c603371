//! A subscription's worker: it takes events, carries them through plugins and attempt, and records what becomes of them.
//!
//! Here is what it does in which order; `next` is where work comes from, `order` what has to wait for what, `outcome`
//! what follows from an attempt, `health` what it says of the endpoint, and `finish` its positions and its end.

mod finish;
mod health;
mod next;
mod order;
mod outcome;
mod overflow;
mod replay;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::health::Course;
use self::replay::Replayed;
use super::catchup::CatchUp;
use super::job::{InAir, Job, Landed, failure};
use super::pace::Pace;
use super::traced::{outgoing, process};
use super::{Shared, Spec};
use crate::deliver::Prepared;
use crate::deliver::breaker::{Breaker, Permit};
use crate::deliver::lane::Lane;
use crate::deliver::ledger::Shares;
use crate::domain::{Event, FailureClass, OnPluginError, Position, SubscriptionId};
use crate::plugin::{Chain, Fault, Passed, Ran};
use crate::telemetry::clock;
use crate::telemetry::spans::Span;

/// How long to wait before changes that the store refused are handed in again.
const RESUBMIT_DELAY: Duration = Duration::from_millis(500);
/// How long the log is silent of further plugin faults of a subscription after one.
const FAULT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The worker of one lane.
pub struct Worker {
    lane: Arc<Lane>,
    spec: Arc<ArcSwap<Spec>>,
    shared: Arc<Shared>,
    /// Told when the lane has room again.
    room: Arc<Notify>,
    /// The endpoint that the breaker watches.
    endpoint: Arc<Prepared>,
    breaker: Breaker,
    course: Course,
    pace: Pace,
    in_air: FuturesUnordered<InAir>,
    /// Jobs whose plugins have run and which wait for a slot: the parts of one event, or parked deliveries that are due.
    ready: VecDeque<Job>,
    catch_up: CatchUp,
    /// Up to where history is read once the page has been worked through.
    through: Option<(usize, u64)>,
    /// The event that went back to the reader last, and how many probes failed with it.
    given_back: Option<(Position, u32)>,
    /// Attempts that failed a moment ago, and since when: they may be the first of those that make the endpoint a failing
    /// one.
    suspects: Vec<Landed>,
    suspected_at: Option<Instant>,
    /// Events that went back to the reader, and have been counted already.
    returned: HashSet<Position>,
    /// Which events wait for which.
    order: order::Keeper,
    /// Take live events and parked deliveries by turns.
    parked_next: bool,
    /// Take events of a replay and all others by turns.
    replayed_next: bool,
    /// The earliest of the times that the last look for work was told to wait for. Kept, and not asked for again when the
    /// timer is set: it may have passed by then, and nobody would look.
    look_again: Option<Instant>,
    /// When the log last had a plugin fault, and how many there were since.
    fault_logged_at: Option<Instant>,
    faults_unlogged: u64,
}

/// Where the next piece of work comes from.
enum Next {
    Job(Box<Job>),
    Event(Taken),
    Replayed(Replayed),
}

/// An event that is to be worked on.
struct Taken {
    event: Arc<Event>,
    /// What it is ordered by, in a subscription that keeps an order.
    key: Option<Box<str>>,
    /// It was worked on before: it is counted already.
    again: bool,
}

impl Worker {
    /// A worker; it does nothing before [`Worker::run`].
    pub fn new(lane: Arc<Lane>, spec: Arc<ArcSwap<Spec>>, shared: Arc<Shared>, room: Arc<Notify>) -> Self {
        let failing_since_ms = lane.state().health.failing_since_ms;
        let breaker = health::breaker(&spec.load().health, failing_since_ms);
        let endpoint = Arc::clone(&spec.load().endpoint);
        let pace = Pace::new(spec.load().rate_limit);
        Self {
            lane,
            spec,
            shared,
            room,
            endpoint,
            breaker,
            course: Course::resumed(failing_since_ms),
            pace,
            in_air: FuturesUnordered::new(),
            ready: VecDeque::new(),
            catch_up: CatchUp::default(),
            through: None,
            given_back: None,
            suspects: Vec::new(),
            suspected_at: None,
            returned: HashSet::new(),
            order: order::Keeper::default(),
            parked_next: true,
            replayed_next: false,
            look_again: None,
            fault_logged_at: None,
            faults_unlogged: 0,
        }
    }

    /// Whose deliveries it makes.
    pub fn subscription(&self) -> &SubscriptionId {
        self.lane.id()
    }

    /// Works until told to stop; then lets the attempts under way end, within the drain time, and parks the rest.
    ///
    /// Boxed, like the calls of plugins below: a future has room for its arguments twice, and for the largest future that it
    /// waits for. With ten thousand workers at rest that was most of the daemon's memory.
    pub async fn run(mut self: Box<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.start_work().await;
            self.defer_waiting();
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

    /// Starts whatever slots, breaker, rate limit and store allow.
    async fn start_work(&mut self) {
        self.forgive();
        self.pace.follow(self.spec.load().rate_limit);
        self.look_again = None;
        self.give_way();
        self.announce_gap();
        if self.suspects_due().is_some_and(|due| due <= Instant::now()) {
            self.conclude_suspects();
        }
        if !self.resubmit() || !self.keep_order().await {
            return;
        }
        // A probe waits until nothing is under way, also not to the store: it comes before what would be parked next.
        let probes = self.in_air.is_empty() && self.breaker.permit(Instant::now()) == Permit::One;
        if !probes || self.lane.state().disabled.is_some() {
            self.park_overflow().await;
        }
        self.begin_work().await;
        if probes && !self.in_air.is_empty() {
            self.park_overflow().await;
        }
    }

    /// Begins attempts.
    async fn begin_work(&mut self) {
        loop {
            let permit = self.breaker.permit(Instant::now());
            let (free, in_flight) = {
                let state = self.lane.state();
                if state.disabled.is_some() {
                    drop(state);
                    return self.stop_reading();
                }
                (state.free_slots(), state.in_flight())
            };
            match permit {
                Permit::None { until } => {
                    self.stop_reading();
                    return self.wait_until(until);
                }
                Permit::One if in_flight > 0 => return,
                _ if free == 0 => return,
                _ => {}
            }
            if let Some(token_at) = self.pace.not_before() {
                return self.wait_until(token_at);
            }
            match self.next(permit == Permit::One) {
                Some(Next::Job(job)) => self.launch(*job),
                Some(Next::Event(taken)) => self.carry(taken).await,
                Some(Next::Replayed(replayed)) => self.carry_replayed(replayed).await,
                None if permit == Permit::All => return self.end_overflow(),
                None => return,
            }
        }
    }

    /// Carries one event on: decoded, through the plugins, and each output to an attempt.
    async fn carry(&mut self, taken: Taken) {
        let Taken { event, key, again } = taken;
        let spec = self.spec.load_full();
        let Some(ledger) = self.lane.state().ledger_of(&event.position.stream) else { return };
        // What went back to the stream, or waits in its order, has been counted already.
        let is_probe = self.given_back.as_ref().is_some_and(|(position, _)| *position == event.position);
        let is_known = self.returned.remove(&event.position) || again || is_probe;
        if !is_known {
            self.lane.metrics.received.inc();
        }
        if let Some(reason) = &event.undecodable {
            let failure = failure(FailureClass::Undecodable, reason.clone());
            return self
                .record_unattempted(Job::whole(self.lane.id(), ledger, &event).ordered(key).dead(None, &failure));
        }
        let (passed, span) = self.run_plugins(&spec, &event).await;
        match passed {
            Passed::Kept(outputs) => {
                let parts = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
                let mut jobs = VecDeque::with_capacity(outputs.len());
                for (part, output) in (0..).zip(outputs) {
                    if !self.lane.state().ledgers[ledger].is_recorded(event.position.sequence, part) {
                        let output = outgoing(&spec, &span, &event, output);
                        let job = Job::new(self.lane.id(), ledger, &event, output, part, parts);
                        jobs.push_back(job.ordered(key.clone()));
                    }
                }
                match key {
                    // A daemon before this one recorded as many parts, of then more: there is nothing left to be recorded.
                    _ if jobs.is_empty() => self.settle(ledger, &event, key),
                    None => self.ready.extend(jobs),
                    Some(key) => self.begin_parts(key, event, jobs),
                }
            }
            Passed::Dropped { .. } => {
                self.lane.metrics.filtered.inc();
                self.settle(ledger, &event, key);
            }
            Passed::Faulted { fault, policy } => {
                self.lane.metrics.faulted(fault.kind_str());
                self.warn_of_fault(&event, &fault);
                if policy == OnPluginError::Drop {
                    self.lane.metrics.dropped.inc();
                    self.settle(ledger, &event, key);
                } else {
                    let failure = failure(FailureClass::Plugin, fault.to_string());
                    let job = Job::whole(self.lane.id(), ledger, &event).ordered(key);
                    self.record_unattempted(job.dead(None, &failure));
                }
            }
        }
    }

    /// Runs the plugins: what became of the event, and the span of finding out.
    async fn run_plugins(&mut self, spec: &Spec, event: &Event) -> (Passed, Span) {
        let mut span = process(&self.shared.spans, self.lane.id(), event);
        let ran = self.run_chain(spec, event).await;
        ran.describe(&mut span);
        for fault in &ran.passed_over {
            self.lane.metrics.faulted(fault.kind_str());
            debug!(subscription = %self.lane.id(), %fault, "a plugin failed and was passed over");
        }
        (ran.passed, span)
    }

    /// Runs the chain, while attempts under way go on.
    async fn run_chain(&mut self, spec: &Spec, event: &Event) -> Ran {
        if spec.chain.is_empty() {
            return Ran::untouched(event);
        }
        let mut run = Box::pin(spec.chain.run(event));
        let ran = loop {
            tokio::select! {
                biased;
                ran = &mut run => break ran,
                Some(landed) = self.in_air.next(), if !self.in_air.is_empty() => self.land_all(landed),
            }
        };
        let failed = matches!(ran.passed, Passed::Faulted { .. }) || !ran.passed_over.is_empty();
        // Only a fault, or the end of a row of them, changes it.
        if failed || self.lane.metrics.quarantined.get() > 0 {
            self.note_quarantined(&spec.chain);
        }
        ran
    }

    /// Shows which plugins are set aside.
    fn note_quarantined(&self, chain: &Chain) {
        let quarantined: Vec<_> = chain.quarantined().map(|(plugin, faults)| (plugin.into(), faults)).collect();
        self.lane.metrics.quarantined.set(i64::try_from(quarantined.len()).unwrap_or(i64::MAX));
        self.lane.state().health.quarantined = quarantined;
    }

    /// Each fault is counted; the log has one line of them in a while, since a plugin may fail on every event.
    fn warn_of_fault(&mut self, event: &Event, fault: &Fault) {
        let now = Instant::now();
        if self.fault_logged_at.is_some_and(|at| now < at + FAULT_LOG_INTERVAL) {
            self.faults_unlogged += 1;
            return debug!(subscription = %self.lane.id(), event = %event.id, %fault, "a plugin failed");
        }
        self.fault_logged_at = Some(now);
        let unlogged = std::mem::take(&mut self.faults_unlogged);
        warn!(subscription = %self.lane.id(), event = %event.id, %fault, unlogged, "a plugin failed");
    }

    fn settle(&mut self, ledger: usize, event: &Event, key: Option<Box<str>>) {
        let shares = self.lane.state().ledgers[ledger].settle(event.position.sequence);
        done(shares);
        if let Some(key) = key {
            self.order.leave(&key);
        }
    }

    fn launch(&mut self, job: Job) {
        self.pace.take();
        self.lane.state().take_slot();
        self.lane.metrics.in_flight.inc();
        self.in_air.push(InAir::new(self.shared.client.clone(), &self.shared.spans, &self.spec.load(), Arc::new(job)));
    }

    /// Look for work again at that time, if not before.
    fn wait_until(&mut self, at: Instant) {
        self.look_again = Some(self.look_again.map_or(at, |earliest| earliest.min(at)));
    }

    /// When to look again although nothing happens.
    fn timer(&self) -> Option<Instant> {
        let now = Instant::now();
        let state = self.lane.state();
        let resubmit = state.refused_at.map(|at| at + RESUBMIT_DELAY);
        if state.disabled.is_some() {
            return resubmit.into_iter().chain(self.course.gap_due()).chain(self.suspects_due()).min();
        }
        // What is due cannot begin before what the last look for work was told to wait for, or without a free slot: the end
        // of an attempt wakes the worker.
        let may_begin = match self.breaker.permit(now) {
            Permit::None { .. } => false,
            Permit::One => state.in_flight() == 0,
            Permit::All => state.free_slots() > 0,
        };
        let due = state.due_ms.filter(|_| may_begin && self.pace.not_before().is_none());
        let now_ms = clock::now_ms();
        let latest = self.latest_due_ms(now_ms);
        let due = due.map(|due| now + Duration::from_millis(if due > latest { 0 } else { due.saturating_sub(now_ms) }));
        due.into_iter()
            .chain(resubmit)
            .chain(self.look_again)
            .chain(self.catch_up.turn_end())
            .chain(self.course.gap_due())
            .chain(self.suspects_due())
            .min()
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

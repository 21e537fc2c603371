//! Random schedules: one stream and one lane, driven as feed and worker drive them, with a JetStream and a store that
//! crash, fail and repeat themselves. Each schedule comes from a seed; a failure names it.
//!
//! After every step whatever JetStream counts as acked must be on record, dropped by a filter, or covered by the position
//! in the store. When all has run dry, everything must have been received, and nothing may be left behind.

mod broken;
mod ends;
mod ordered;
mod replayed;

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;

use self::broken::Broken;
use self::ordered::Keeper;
use self::replayed::Driver;
pub(super) use self::replayed::OnRecord;
use super::lasting::{EVENTS, Lasting, Part, Plan, Told};
use crate::deliver::lane::{Count, Lane, Limits, Offered, Record, Token, completed};
use crate::deliver::ledger::{Ledger, PositionChange};
use crate::domain::{
    AckShare, AckSink, AckToken, Event, JobId, KeySource, Order, Position, RangeSet, Settlement, StreamName,
    SubscriptionId,
};
use crate::store::{Change, Mark};
use crate::telemetry::metrics::Metrics;

const SCHEDULES: u64 = 1_000;
/// How many are tried until one must have noticed that a rule is broken.
const BROKEN_SCHEDULES: u64 = 3_000;
const STEPS: usize = 700;
const DRY_STEPS: usize = 5_000;

#[derive(Default)]
struct Sink(Mutex<Vec<(u64, Settlement)>>);

impl AckSink for Sink {
    fn settle(&self, sequence: u64, settlement: Settlement) {
        self.0.lock().push((sequence, settlement));
    }
}

#[derive(Clone)]
struct Job {
    sequence: u64,
    part: u32,
    parts: u32,
    /// What it is ordered by, when the subscription keeps an order.
    key: Option<Box<str>>,
    was_parked: bool,
    /// The replay that it is of.
    of: Option<JobId>,
}

/// What stands in the store's queue.
enum Write {
    /// On record, and under that key parked.
    Record(Part, Option<Box<str>>),
    Position(Option<Told>),
    /// An outcome of a replay.
    Mark(JobId, Mark),
    /// The place of a replay.
    Place(u64, RangeSet),
}

struct Simulation {
    rng: SmallRng,
    broken: Option<Broken>,
    lasting: Lasting,
    /// Nothing fails any more: all is to run dry.
    dry: bool,
    metrics: Metrics,
    // What a crash loses.
    sink: Arc<Sink>,
    /// Received and not settled.
    open: BTreeSet<u64>,
    /// What JetStream will send again.
    again: Vec<u64>,
    lane: Arc<Lane>,
    blocked: Option<(u64, AckShare)>,
    writes: VecDeque<(Write, Token)>,
    ready: VecDeque<Job>,
    in_air: Vec<Job>,
    breaker_open: bool,
    /// The page that was asked for: from where, and up to where the reader must come.
    asked: Option<(u64, u64)>,
    page: VecDeque<u64>,
    through: Option<u64>,
    /// Something that JetStream sent did not arrive.
    lost: bool,
    keeper: Keeper,
    driver: Driver,
}

fn stream() -> StreamName {
    StreamName::parse("EVENTS").expect("name")
}

fn event(sequence: u64, key: &str) -> Arc<Event> {
    Arc::new(Event {
        id: "e".into(),
        kind: key.into(),
        subject: "k".into(),
        position: Position { stream: stream(), sequence },
        time_ms: 0,
        headers: Vec::new(),
        content_type: None,
        data: Bytes::new(),
        undecodable: None,
    })
}

fn lane(rng: &mut SmallRng, metrics: &Metrics, ledger: Ledger, ordered: bool) -> Arc<Lane> {
    let (in_flight_max, queue_events_max) = (rng.random_range(1..6), rng.random_range(1..6));
    let limits = Limits { in_flight_max, queue_events_max, rate: None, ordered };
    let id = SubscriptionId::parse("s").expect("id");
    Arc::new(Lane::new(id, metrics.subscription("s"), limits, vec![ledger], Arc::new(Notify::new())))
}

impl Simulation {
    fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let sparse = rng.random_range(0.2..1.0);
        let mut plan = || Plan {
            matches: rng.random_bool(sparse),
            parts: [0, 1, 1, 1, 1, 2, 3][rng.random_range(0..7)],
            gone: rng.random_bool(0.03),
            key: ["a", "b", "c"][rng.random_range(0..3)],
        };
        let by_key = || Order::ByKey(KeySource::Token(NonZeroU32::MIN));
        let order = [Order::None, by_key(), Order::Strict][(seed % 3) as usize].clone();
        let plans = (0..EVENTS).map(|_| plan()).collect();
        let metrics = Metrics::new();
        let lane = lane(&mut rng, &metrics, Ledger::live(stream(), 0), order.is_kept());
        let begins_live = broken == Some(Broken::BeginsHeld);
        let mut simulation = Self {
            rng,
            broken,
            lasting: Lasting { plans, order: order.clone(), begins_live, ..Default::default() },
            dry: false,
            metrics,
            sink: Arc::default(),
            open: BTreeSet::new(),
            again: Vec::new(),
            lane,
            blocked: None,
            writes: VecDeque::new(),
            ready: VecDeque::new(),
            in_air: Vec::new(),
            breaker_open: false,
            asked: None,
            page: VecDeque::new(),
            through: None,
            lost: false,
            keeper: Keeper::new(order),
            driver: Driver::default(),
        };
        simulation.forget_order_if_broken();
        if simulation.chance(0.3) {
            simulation.begin_late();
        }
        simulation
    }

    /// The subscription is new: what was published before its time is not for it, and it reads the rest by itself.
    fn begin_late(&mut self) {
        let (after, last) = (self.rng.random_range(1..10), self.rng.random_range(10..20));
        // What came to the live tail before it knew of the subscription.
        let known = self.rng.random_range(after as u64..=last);
        self.lasting.plans.iter_mut().take(after).for_each(|plan| plan.matches = false);
        let after = after as u64;
        (self.lasting.begins_after, self.lasting.delivered, self.lasting.published) = (after, last, last);
        self.lasting.position = Some((after + 1, RangeSet::new(), Default::default()));
        let mut ledger = Ledger::held_at(stream(), after + 1, RangeSet::new(), known);
        ledger.begin_after(after);
        if self.broken != Some(Broken::ReadToEnd) {
            ledger.read_to_end();
        }
        ledger.set_ordered(self.lasting.order.is_kept());
        self.lane.state().ledgers[0] = ledger;
        self.forget_order_if_broken();
    }

    fn chance(&mut self, p: f64) -> bool {
        !self.dry && self.rng.random_bool(p)
    }

    fn step(&mut self) {
        match self.rng.random_range(0..22) {
            0 => self.lasting.published = EVENTS.min(self.lasting.published + self.rng.random_range(1..6)),
            1..=4 => self.live(),
            5..=9 => self.work(),
            10..=12 => self.land(),
            13..=14 => self.flush(),
            15..=16 => self.arrive(),
            17 => self.lane.state().ledgers[0].forget_through(self.lasting.floor()),
            // The feed of another stream finds the lane full.
            18 if self.chance(0.1) => self.lane.hold(),
            18 if self.lasting.disabled || self.chance(0.02) => self.turn_off_or_on(),
            19 if self.chance(0.06) => self.crash(),
            19 if self.chance(0.06) => self.stop(),
            20..=21 => self.replay(),
            _ => {}
        }
        self.settle_acks();
    }

    // JetStream and the feed.

    fn live(&mut self) {
        if let Some((sequence, share)) = self.blocked.take() {
            if self.chance(0.3) {
                self.lane.hold();
            }
            return self.offer(sequence, share);
        }
        if self.chance(0.02)
            && let Some(sequence) = self.open.first().copied()
        {
            // It took too long: JetStream sends it once more.
            self.again.push(sequence);
        }
        let sequence = if !self.again.is_empty() && self.rng.random_bool(0.5) {
            let at = self.rng.random_range(0..self.again.len());
            self.again.swap_remove(at)
        } else if self.lasting.delivered < self.lasting.published {
            self.lasting.delivered += 1;
            self.lasting.unacked.insert(self.lasting.delivered);
            if self.chance(0.03) {
                // It does not arrive, and comes again after later ones.
                self.again.push(self.lasting.delivered);
                self.lost = true;
                return;
            }
            self.lasting.delivered
        } else {
            return;
        };
        self.notice_loss();
        self.open.insert(sequence);
        let token = AckToken::new(Arc::clone(&self.sink) as Arc<dyn AckSink>, sequence);
        if !self.lasting.plan(sequence).matches {
            return token.done();
        }
        let share = token.share();
        token.done();
        self.offer(sequence, share);
    }

    fn offer(&mut self, sequence: u64, share: AckShare) {
        let passed = self.lane.state().ledgers[0].cursor().is_some_and(|cursor| sequence < cursor);
        if self.broken == Some(Broken::AheadOnly) && passed {
            return share.done();
        }
        if let Offered::Full(share) = self.lane.offer(&event(sequence, self.lasting.plan(sequence).key), share) {
            self.blocked = Some((sequence, share));
        }
    }

    fn settle_acks(&mut self) {
        let settled = std::mem::take(&mut *self.sink.0.lock());
        for (sequence, settlement) in settled {
            if !self.open.remove(&sequence) {
                continue;
            }
            if settlement == Settlement::Ack && !self.chance(0.03) {
                self.lasting.unacked.remove(&sequence);
                self.again.retain(|other| *other != sequence);
            } else if !self.again.contains(&sequence) {
                self.again.push(sequence);
            }
        }
        self.lasting.check_acked();
    }

    // The worker.

    fn work(&mut self) {
        self.take_ended();
        for _ in 0..self.rng.random_range(1..5) {
            if !self.resubmit() || self.lasting.disabled {
                break;
            }
            let (free, in_flight) = {
                let state = self.lane.state();
                (state.free_slots(), state.in_flight())
            };
            let may_probe = self.dry || self.rng.random_bool(0.3);
            if free == 0 || (self.breaker_open && (in_flight > 0 || !may_probe)) || !self.work_on_next() {
                break;
            }
        }
        self.defer_waiting();
        self.save_position();
    }

    fn work_on_next(&mut self) -> bool {
        if let Some(job) = self.ready.pop_front() {
            self.lane.state().take_slot();
            self.lane.metrics.in_flight.inc();
            self.in_air.push(job);
            return true;
        }
        if self.retry_parked() {
            return true;
        }
        if !self.breaker_open && self.rng.random_bool(0.5) && self.work_on_replayed() {
            return true;
        }
        let Some((sequence, key)) = self.next_event() else { return false };
        let parts = self.lasting.plan(sequence).parts;
        let unrecorded = |part: &u32| !self.lane.state().ledgers[0].is_recorded(sequence, *part);
        let job = |part| Job { sequence, part, parts, key: key.clone(), was_parked: false, of: None };
        let mut jobs: VecDeque<Job> = (0..parts).filter(unrecorded).map(job).collect();
        if jobs.is_empty() {
            let shares = self.lane.state().ledgers[0].settle(sequence);
            shares.into_iter().for_each(AckShare::done);
            self.leave(key);
        } else if key.is_some() {
            self.ready.extend(jobs.pop_front());
            self.begin_parts(key, sequence, jobs);
        } else {
            self.ready.extend(jobs);
        }
        true
    }

    fn next_from_stream(&mut self) -> Option<u64> {
        let live = self.lane.state().pop().map(|(event, _)| event.position.sequence);
        live.or_else(|| self.next_history())
    }

    fn next_history(&mut self) -> Option<u64> {
        let lane = Arc::clone(&self.lane);
        let mut state = lane.state();
        if state.take_rewound() && self.broken != Some(Broken::DropWhatWasReadAhead) {
            self.close_reader();
        }
        let ledger = &mut state.ledgers[0];
        loop {
            if self.page.is_empty()
                && let Some(through) = self.through.take()
            {
                ledger.came_to_end(through);
            }
            if !self.breaker_open && ledger.try_rejoin() {
                self.close_reader();
                if self.broken == Some(Broken::KeepPositionUntilRecorded) {
                    self.lasting.position = None;
                }
            }
            let cursor = ledger.cursor()?;
            let Some(sequence) = self.page.pop_front() else {
                self.asked.get_or_insert((cursor, ledger.target()));
                return None;
            };
            if ledger.read(sequence) {
                return Some(sequence);
            }
        }
    }

    fn close_reader(&mut self) {
        self.page.clear();
        self.asked = None;
        self.through = None;
    }

    /// The page that was asked for comes.
    fn arrive(&mut self) {
        let Some((from, target)) = self.asked.take() else { return };
        let size = self.rng.random_range(1..8);
        let matching = |s: &u64| self.lasting.plan(*s).matches && !self.lasting.plan(*s).gone;
        let mut events: VecDeque<u64> = (from..=self.lasting.published).filter(matching).collect();
        self.through = (events.len() <= size).then_some(target);
        events.truncate(size);
        self.page = events;
    }

    fn land(&mut self) {
        if self.in_air.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.in_air.len());
        let job = self.in_air.swap_remove(at);
        let was_probe = self.breaker_open;
        let failed = self.chance(if was_probe { 0.6 } else { 0.2 });
        if !failed {
            self.breaker_open = false;
        } else if !was_probe && self.rng.random_bool(0.3) {
            self.breaker_open = true;
            self.close_reader();
            self.lane.hold();
        }
        if failed && was_probe && job.parts == 1 && !job.was_parked && job.of.is_none() {
            self.lane.metrics.in_flight.dec();
            if self.put_back(&job) {
                return self.lane.state().give_slot_back();
            }
            self.close_reader();
            let mut state = self.lane.state();
            state.give_slot_back();
            return state.ledgers[0].step_back(job.sequence);
        }
        self.record(&job, failed);
    }

    /// Without order a failure is recorded as received: parked, the store sees to it from then on. Where an order is kept it
    /// is parked and tried again.
    fn record(&mut self, job: &Job, failed: bool) {
        if let Some(of) = job.of {
            return self.record_replayed(job, of);
        }
        let is_parked = failed && job.key.is_some();
        if !is_parked {
            self.lasting.receive((job.sequence, job.part));
        }
        let order = job.key.clone().map(|key| (self.keeper.name((job.sequence, job.part)), key));
        let record = Record {
            event: (!job.was_parked).then_some((0, job.sequence)),
            part: job.part,
            parts: job.parts,
            due_ms: is_parked.then_some(1),
            count: Count::ParkedAgain,
            order,
            change: Change::Barrier,
            span: Default::default(),
        };
        self.end_early(&record);
        self.lane.state().submitted();
        self.submit_record(record);
    }

    fn submit_record(&mut self, record: Record) {
        if let Change::Replayed { job, mark, .. } = &record.change {
            let write = Write::Mark(*job, *mark);
            let token = Token::Record(Arc::clone(&self.lane), record);
            return self.writes.push_back((write, token));
        }
        let part = match (&record.event, &record.order) {
            (Some((_, sequence)), _) => (*sequence, record.part),
            (None, order) => self.keeper.part(order.as_ref().expect("an ordered one").0),
        };
        let key = record.order.as_ref().map(|(_, key)| key.clone());
        let write = Write::Record(part, key.filter(|_| record.due_ms.is_some()));
        let token = Token::Record(Arc::clone(&self.lane), record);
        self.submit(write, token, Broken::PositionFollowsRecords);
    }

    /// The rule that can be broken is to wait for the store.
    fn submit(&mut self, write: Write, mut token: Token, rule: Broken) {
        if self.broken == Some(rule) {
            completed(vec![std::mem::replace(&mut token, Token::Nobody)], true);
        }
        self.writes.push_back((write, token));
    }

    fn resubmit(&mut self) -> bool {
        if self.lane.state().refused_at.is_none() {
            return true;
        }
        if self.dry || self.rng.random_bool(0.3) {
            let lost = self.lane.state().take_lost();
            lost.into_iter().for_each(|record| self.submit_record(record));
        }
        false
    }

    fn save_position(&mut self) {
        let change = {
            let mut state = self.lane.state();
            if state.refused_at.is_some() { None } else { state.ledgers[0].position_change() }
        };
        let Some(change) = change else { return };
        let position = match change {
            PositionChange::Save { sequence, done_above, partly_above } => Some((sequence, done_above, partly_above)),
            PositionChange::Remove => None,
        };
        let token = Token::Position { lane: Arc::clone(&self.lane), ledger: 0 };
        self.submit(Write::Position(position), token, Broken::GateSkips);
    }

    // The store.

    fn flush(&mut self) {
        let size = self.rng.random_range(1..10).min(self.writes.len());
        let group: Vec<_> = self.writes.drain(..size).collect();
        if !group.is_empty() && self.chance(0.05) {
            // Nobody knows whether a group that failed is durable.
            let applied = self.rng.random_bool(0.5);
            let tokens = group.into_iter().map(|write| self.apply(write, applied)).collect();
            completed(tokens, false);
            return completed(self.writes.drain(..).map(|(_, token)| token).collect(), false);
        }
        let tokens = group.into_iter().map(|write| self.apply(write, true)).collect();
        completed(tokens, true);
    }

    fn apply(&mut self, (write, token): (Write, Token), applied: bool) -> Token {
        match write {
            _ if !applied => {}
            Write::Record(part, parked) => {
                self.lasting.log.insert(part);
                match parked {
                    Some(key) => drop(self.lasting.parked.insert(part, key)),
                    None => drop(self.lasting.parked.remove(&part)),
                }
            }
            Write::Position(position) => self.lasting.position = position,
            write => self.apply_replayed(write),
        }
        token
    }
}

fn run(seed: u64, broken: Option<Broken>) {
    let mut simulation = Simulation::new(seed, broken);
    for _ in 0..STEPS {
        simulation.step();
    }
    simulation.finish();
}

fn fails(seed: u64, broken: Option<Broken>) -> Option<String> {
    let caught = std::panic::catch_unwind(|| run(seed, broken)).err()?;
    Some(match caught.downcast::<String>() {
        Ok(message) => *message,
        Err(_) => "panicked".to_owned(),
    })
}

#[test]
fn nothing_is_lost_and_only_what_a_crash_cut_short_is_repeated() {
    for seed in 0..SCHEDULES {
        if let Some(message) = fails(seed, None) {
            panic!("seed {seed}: {message}");
        }
    }
}

#[test]
fn a_rule_that_is_broken_is_noticed() {
    for rule in Broken::ALL {
        assert!((0..BROKEN_SCHEDULES).any(|seed| fails(seed, Some(rule)).is_some()), "nobody noticed: {rule:?}");
    }
}

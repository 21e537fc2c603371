//! Random schedules: one stream and one lane, driven as feed and worker drive them, with a JetStream and a store that
//! crash, fail and repeat themselves. Each schedule comes from a seed; a failure names it.
//!
//! After every step whatever JetStream counts as acked must be on record, dropped by a filter, or covered by the position
//! in the store. When all has run dry, everything must have been received, and nothing may be left behind.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::Notify;

use super::lasting::{EVENTS, Lasting, Part, Plan};
use crate::deliver::lane::{Count, Lane, Limits, Offered, Record, Token, completed};
use crate::deliver::ledger::{Ledger, PositionChange};
use crate::domain::{AckShare, AckSink, AckToken, Event, Position, RangeSet, Settlement, StreamName, SubscriptionId};
use crate::store::Change;
use crate::telemetry::metrics::Metrics;

const SCHEDULES: u64 = 1_000;
/// How many are tried until one must have noticed that a rule is broken.
const BROKEN_SCHEDULES: u64 = 3_000;
const STEPS: usize = 700;
const DRY_STEPS: usize = 5_000;

/// A rule that a driver can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// Skipped events are acked before the position is durable.
    GateSkips,
    /// The position moves past what is not on record.
    PositionFollowsRecords,
    /// The position is removed at rejoin, though the reader's events are not on record.
    KeepPositionUntilRecorded,
    /// A live event is skipped although the reader has passed it.
    AheadOnly,
    /// What the reader has read ahead is used although the cursor went back.
    DropWhatWasReadAhead,
    /// One that comes to the live tail later reads no further than what was offered.
    ReadToEnd,
    /// A stop does not wait for the last position.
    StopWaitsForPosition,
}

#[derive(Default)]
struct Sink(Mutex<Vec<(u64, Settlement)>>);

impl AckSink for Sink {
    fn settle(&self, sequence: u64, settlement: Settlement) {
        self.0.lock().push((sequence, settlement));
    }
}

struct Job {
    sequence: u64,
    part: u32,
    parts: u32,
}

/// What stands in the store's queue.
enum Write {
    Record(Part),
    Position(Option<(u64, RangeSet)>),
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
}

fn stream() -> StreamName {
    StreamName::parse("EVENTS").expect("name")
}

fn event(sequence: u64) -> Arc<Event> {
    Arc::new(Event {
        id: "e".into(),
        kind: "k".into(),
        subject: "k".into(),
        position: Position { stream: stream(), sequence },
        time_ms: 0,
        headers: Vec::new(),
        content_type: None,
        data: Bytes::new(),
        undecodable: None,
    })
}

fn lane(rng: &mut SmallRng, metrics: &Metrics, ledger: Ledger) -> Arc<Lane> {
    let limits = Limits { in_flight_max: rng.random_range(1..6), queue_events_max: rng.random_range(1..6), rate: None };
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
        };
        let plans = (0..EVENTS).map(|_| plan()).collect();
        let metrics = Metrics::new();
        let lane = lane(&mut rng, &metrics, Ledger::live(stream(), 0));
        let mut simulation = Self {
            rng,
            broken,
            lasting: Lasting { plans, ..Default::default() },
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
        };
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
        self.lasting.position = Some((after + 1, RangeSet::new()));
        let mut ledger = Ledger::held_at(stream(), after + 1, RangeSet::new(), known);
        ledger.begin_after(after);
        if self.broken != Some(Broken::ReadToEnd) {
            ledger.read_to_end();
        }
        self.lane.state().ledgers[0] = ledger;
    }

    fn chance(&mut self, p: f64) -> bool {
        !self.dry && self.rng.random_bool(p)
    }

    fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0 => self.lasting.published = EVENTS.min(self.lasting.published + self.rng.random_range(1..6)),
            1..=4 => self.live(),
            5..=9 => self.work(),
            10..=12 => self.land(),
            13..=14 => self.flush(),
            15..=16 => self.arrive(),
            17 => self.lane.state().ledgers[0].forget_through(self.lasting.floor()),
            // The feed of another stream finds the lane full.
            18 if self.chance(0.1) => self.lane.hold(),
            19 if self.chance(0.06) => self.crash(),
            19 if self.chance(0.06) => self.stop(),
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
            self.lasting.delivered
        } else {
            return;
        };
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
        if let Offered::Full(share) = self.lane.offer(&event(sequence), share) {
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
        for _ in 0..self.rng.random_range(1..5) {
            if !self.resubmit() {
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
        self.save_position();
    }

    fn work_on_next(&mut self) -> bool {
        if let Some(job) = self.ready.pop_front() {
            self.lane.state().take_slot();
            self.lane.metrics.in_flight.inc();
            self.in_air.push(job);
            return true;
        }
        let live = self.lane.state().pop().map(|(event, _)| event.position.sequence);
        let Some(sequence) = live.or_else(|| self.next_history()) else { return false };
        let parts = self.lasting.plan(sequence).parts;
        let before = self.ready.len();
        for part in 0..parts {
            if !self.lane.state().ledgers[0].is_recorded(sequence, part) {
                self.ready.push_back(Job { sequence, part, parts });
            }
        }
        if self.ready.len() == before {
            let shares = self.lane.state().ledgers[0].settle(sequence);
            shares.into_iter().for_each(AckShare::done);
        }
        true
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
        if failed && was_probe && job.parts == 1 {
            self.close_reader();
            self.lane.metrics.in_flight.dec();
            let mut state = self.lane.state();
            state.give_slot_back();
            return state.ledgers[0].step_back(job.sequence);
        }
        // A failure is recorded as parked: from then on the store sees to it that it is received.
        self.record(&job);
    }

    fn record(&mut self, job: &Job) {
        self.lasting.receive((job.sequence, job.part));
        self.lane.state().submitted();
        self.submit_record(Record {
            event: Some((0, job.sequence)),
            part: job.part,
            parts: job.parts,
            due_ms: None,
            count: Count::Delivered,
            replay: None,
            change: Change::Barrier,
        });
    }

    fn submit_record(&mut self, record: Record) {
        let (_, sequence) = record.event.expect("an event's record");
        let write = Write::Record((sequence, record.part));
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
            PositionChange::Save { sequence, done_above } => Some((sequence, done_above)),
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
            Write::Record(part) => drop(self.lasting.log.insert(part)),
            Write::Position(position) => self.lasting.position = position,
        }
        token
    }

    // Ends and beginnings.

    /// Everything but JetStream and the store is lost.
    fn crash(&mut self) {
        self.settle_acks();
        self.lasting.excuse_what_a_crash_forgets(&self.lane.state().ledgers[0]);
        self.start();
    }

    /// A stop: attempts under way end or are parked, and the last records and positions become durable.
    fn stop(&mut self) {
        self.close_reader();
        self.ready.clear();
        self.lane.state().clear_queue();
        for job in std::mem::take(&mut self.in_air) {
            self.record(&job);
        }
        let waits = self.broken != Some(Broken::StopWaitsForPosition);
        self.dry = true;
        self.save_position();
        while !self.writes.is_empty() || (waits && !self.lane.state().is_settled()) {
            if waits {
                self.resubmit();
                self.save_position();
            }
            self.flush();
        }
        self.dry = false;
        self.settle_acks();
        self.lasting.excuse_halves();
        self.start();
    }

    fn start(&mut self) {
        self.sink = Arc::default();
        self.open.clear();
        self.blocked = None;
        self.ready.clear();
        self.in_air.clear();
        self.writes.clear();
        self.close_reader();
        self.breaker_open = false;
        self.again = self.lasting.unacked.iter().copied().collect();
        let ledger = self.lasting.ledger(stream());
        self.lane = lane(&mut self.rng, &self.metrics, ledger);
    }

    /// Lets everything run dry.
    fn finish(&mut self) {
        self.dry = true;
        self.breaker_open = false;
        self.lasting.published = EVENTS;
        for _ in 0..DRY_STEPS {
            let idle =
                self.blocked.is_none() && self.in_air.is_empty() && self.writes.is_empty() && self.ready.is_empty();
            if idle && self.lasting.is_over() && self.lane.state().is_settled() {
                break;
            }
            self.step();
        }
        assert_eq!(self.lasting.delivered, EVENTS, "nobody waits for ever");
        assert_eq!(self.lasting.unacked, BTreeSet::new(), "everything is acked in the end");
        assert_eq!(self.lasting.position, None, "the position is removed in the end");
        self.lasting.check_received();
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
    let rules = [
        Broken::GateSkips,
        Broken::PositionFollowsRecords,
        Broken::KeepPositionUntilRecorded,
        Broken::AheadOnly,
        Broken::DropWhatWasReadAhead,
        Broken::ReadToEnd,
        Broken::StopWaitsForPosition,
    ];
    for rule in rules {
        assert!((0..BROKEN_SCHEDULES).any(|seed| fails(seed, Some(rule)).is_some()), "nobody noticed: {rule:?}");
    }
}

//! A replay beside everything else: what the job's task and the worker do for it, over crashes and refusing stores.
//!
//! The model: a replay delivers each event of its stretch that the subscription has passed, in the order of the stream
//! where an order is kept, and twice only what a crash cut off. What the subscription comes to by itself is left to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngExt as _;
use tokio::sync::oneshot;

use super::{Broken, Job, Simulation, Write, event, stream};
use crate::deliver::lane::{Count, Record, Token};
use crate::deliver::ledger::tests::lasting::{Lasting, Part};
use crate::deliver::replay::{Place, Replay};
use crate::domain::{JobId, RangeSet};
use crate::store::{Change, Disposition, JobCounts, Mark};

/// A job as the store has it, and what its receiver has seen of it.
pub(in crate::deliver::ledger::tests) struct OnRecord {
    id: JobId,
    from: u64,
    to: u64,
    next: u64,
    recorded_above: RangeSet,
    marks: Vec<Mark>,
    received: BTreeMap<Part, u32>,
    /// How many receipts of a part a crash has excused.
    excused: BTreeMap<Part, u32>,
    /// What was left to come by itself.
    left: BTreeSet<Part>,
}

/// What a daemon knows of the job beside the lane.
#[derive(Default)]
pub(super) struct Driver {
    /// The next sequence that its reader brings.
    read_next: u64,
    /// The place that the store was handed last, and its answer to come.
    on_its_way: Option<oneshot::Receiver<bool>>,
    saved: Option<(u64, RangeSet)>,
}

impl OnRecord {
    fn has_passed(&self, sequence: u64) -> bool {
        sequence < self.next || self.recorded_above.contains(sequence)
    }

    fn is_marked(&self, (sequence, part): Part) -> bool {
        self.has_passed(sequence) || self.marks.iter().any(|m| (m.sequence, m.part) == (sequence, part))
    }

    pub(super) fn receive(&mut self, part: Part, in_order: bool) {
        // What was left has no mark: a daemon that begins after a crash may bring it when it has come by itself.
        if in_order && !self.received.contains_key(&part) && !self.left.contains(&part) {
            let latest = self.received.keys().next_back().map_or(0, |(sequence, _)| *sequence);
            assert!(latest <= part.0, "a replay brought {latest} before {}", part.0);
        }
        *self.received.entry(part).or_default() += 1;
    }

    /// What the write does to the record: a mark, or another place, which takes over the marks of what it tells of.
    fn mark(&mut self, mark: Mark) {
        if !self.is_marked((mark.sequence, mark.part)) {
            self.marks.push(mark);
        }
    }

    fn move_to(&mut self, next: u64, recorded_above: RangeSet) {
        (self.next, self.recorded_above) = (next, recorded_above);
        let marks = std::mem::take(&mut self.marks);
        self.marks = marks.into_iter().filter(|mark| !self.has_passed(mark.sequence)).collect();
    }

    /// A crash may repeat what was not on record.
    pub(super) fn excuse_what_a_crash_forgets(&mut self) {
        let unknown: Vec<_> =
            self.received.iter().filter(|(p, _)| !self.is_marked(**p)).map(|(p, times)| (*p, *times)).collect();
        self.excused.extend(unknown);
    }

    fn check(&self, lasting: &Lasting) {
        for sequence in (self.from..=self.to).filter(|s| lasting.plan(*s).matches && !lasting.plan(*s).gone) {
            for part in 0..lasting.plan(sequence).parts {
                let came = self.received.contains_key(&(sequence, part)) || self.left.contains(&(sequence, part));
                assert!(came, "the replay of {} to {} lost {sequence}:{part}", self.from, self.to);
            }
        }
        for (part, times) in &self.received {
            let excused = self.excused.get(part).copied().unwrap_or_default();
            assert!(*times <= excused + 1, "the replay brought {part:?} {times} times, {excused} of them excused");
        }
    }
}

impl Simulation {
    /// What is there to do for a replay: one begins, its reader brings events, its place is written down.
    pub(super) fn replay(&mut self) {
        if self.lasting.job.is_none() {
            if self.lasting.published > 0 && self.chance(0.3) {
                self.begin_replay();
            }
            return;
        }
        self.feed_replay();
        self.save_place();
    }

    fn begin_replay(&mut self) {
        let to = self.rng.random_range(1..=self.lasting.published);
        let from = self.rng.random_range(1..=to);
        self.lasting.jobs += 1;
        self.lasting.job = Some(OnRecord {
            id: JobId::from_number(self.lasting.jobs),
            from,
            to,
            next: from,
            recorded_above: RangeSet::new(),
            marks: Vec::new(),
            received: BTreeMap::new(),
            excused: BTreeMap::new(),
            left: BTreeSet::new(),
        });
        self.resume_replay();
    }

    /// A daemon takes the job up where the store has it.
    pub(super) fn resume_replay(&mut self) {
        let Some(job) = &self.lasting.job else { return };
        let place = Place { next: job.next, recorded_above: job.recorded_above.clone(), counts: JobCounts::default() };
        let marks = if self.broken == Some(Broken::MarksAreRead) { &[][..] } else { &job.marks[..] };
        let mut replay = Replay::new(job.id, stream(), job.to, place, marks, Arc::default());
        replay.keep_order(self.lasting.order.is_kept());
        self.driver = Driver { read_next: job.next, ..Driver::default() };
        self.lane.state().replay = Some(replay);
    }

    fn feed_replay(&mut self) {
        let (Some(job), lane) = (&self.lasting.job, Arc::clone(&self.lane)) else { return };
        let mut state = lane.state();
        let Some(replay) = &mut state.replay else { return };
        for _ in 0..self.rng.random_range(1..6) {
            if self.driver.read_next > job.to {
                return replay.came_to(job.to);
            }
            let (sequence, plan) = (self.driver.read_next, self.lasting.plan(self.driver.read_next));
            if plan.matches && !plan.gone {
                if replay.room() == 0 {
                    return;
                }
                replay.bring(event(sequence, plan.key));
            }
            self.driver.read_next += 1;
        }
    }

    fn save_place(&mut self) {
        if let Some(told) = &mut self.driver.on_its_way {
            match told.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                answer => {
                    self.driver.on_its_way = None;
                    if answer != Ok(true) {
                        self.driver.saved = None;
                    }
                }
            }
        }
        let Some(place) = self.lane.state().replay.as_mut().map(Replay::place) else { return };
        let job = self.lasting.job.as_ref().expect("a replay in the lane has a job");
        let next = match self.broken {
            Some(Broken::PlaceFollowsRecords) => self.driver.read_next.min(job.to + 1),
            _ => place.next,
        };
        let place = (next, place.recorded_above);
        if self.driver.saved.as_ref() == Some(&place) {
            if place.0 > job.to {
                self.end_replay();
            }
            return;
        }
        let (tell, told) = oneshot::channel();
        self.driver.on_its_way = Some(told);
        self.driver.saved = Some(place.clone());
        self.writes.push_back((Write::Place(place.0, place.1), Token::Told(tell)));
    }

    fn end_replay(&mut self) {
        let job = self.lasting.job.take().expect("it is at its end");
        job.check(&self.lasting);
        self.lane.state().replay = None;
    }

    /// The next event of the replay that may begin, and its parts. False when there is none.
    pub(super) fn work_on_replayed(&mut self) -> bool {
        let lane = Arc::clone(&self.lane);
        let Some(job) = &mut self.lasting.job else { return false };
        let mut state = lane.state();
        let sequence = loop {
            let Some(event) = state.replay.as_mut().and_then(Replay::take) else { return false };
            let sequence = event.position.sequence;
            let passed = state.ledgers[0].has_passed(sequence) || self.broken == Some(Broken::LeavesWhatComes);
            if passed {
                break sequence;
            }
            job.left.extend((0..self.lasting.plans[sequence as usize - 1].parts).map(|part| (sequence, part)));
            state.replay.as_mut().expect("it was just there").leave(sequence, 0, 1);
        };
        let replay = state.replay.as_mut().expect("it was just there");
        let parts = self.lasting.plans[sequence as usize - 1].parts;
        if parts == 0 {
            replay.filtered(sequence);
            return true;
        }
        for part in (0..parts).filter(|part| !replay.is_recorded(sequence, *part)).collect::<Vec<_>>() {
            if self.lasting.parked.contains_key(&(sequence, part)) {
                job.left.insert((sequence, part));
                replay.leave(sequence, part, parts);
                continue;
            }
            replay.begin();
            let is_same = |other: &Job| (other.sequence, other.part) == (sequence, part);
            assert!(!self.in_air.iter().chain(&self.ready).any(is_same), "{sequence}:{part} is made by two at once");
            self.ready.push_back(Job { sequence, part, parts, key: None, was_parked: false, of: Some(job.id) });
        }
        true
    }

    /// An attempt of a replay has ended. One that failed is parked like any other, and counts as received.
    pub(super) fn record_replayed(&mut self, job: &Job, of: JobId) {
        let in_order = self.lasting.order.is_kept();
        if let Some(on_record) = self.lasting.job.as_mut().filter(|on_record| on_record.id == of) {
            on_record.receive((job.sequence, job.part), in_order);
        }
        let (sequence, part, parts) = (job.sequence, job.part, job.parts);
        let mark = Mark { sequence, part, parts, disposition: Disposition::Delivered };
        let change = Change::Replayed { outcome: Box::new(Change::Barrier), job: of, mark };
        let count = Count::Delivered;
        let record =
            Record { event: None, part, parts, due_ms: None, count, order: None, change, span: Default::default() };
        self.lane.state().submitted();
        self.submit_record(record);
    }

    pub(super) fn apply_replayed(&mut self, write: Write) {
        match write {
            Write::Mark(of, mark) => {
                if let Some(job) = self.lasting.job.as_mut().filter(|job| job.id == of) {
                    job.mark(mark);
                }
            }
            Write::Place(next, recorded_above) => {
                if let Some(job) = &mut self.lasting.job {
                    job.move_to(next, recorded_above);
                }
            }
            _ => {}
        }
    }
}

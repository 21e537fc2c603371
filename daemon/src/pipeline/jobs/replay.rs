//! A replay: history goes into the lane as fast as its pace and the worker allow, and the place follows what is on record.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::history::History;
use super::pace::Pace;
use super::{End, Entry, Inner, LOOK_AGAIN, is_durable};
use crate::deliver::Lane;
use crate::deliver::replay::{Place, Replay};
use crate::domain::{DeliveryId, Event, JobState, OnPluginError};
use crate::pipeline::Spec;
use crate::plugin::Passed;
use crate::store::{JobCounts, JobTask, ReplayTask};

/// How long a stop waits for the last place to be durable.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Delivers a stretch of history again.
pub(super) async fn run(
    inner: &Inner,
    entry: &Entry,
    lane: &Arc<Lane>,
    spec: &Arc<ArcSwap<Spec>>,
    task: ReplayTask,
) -> End {
    let Some(mut work) = Work::new(inner, entry, lane, spec, &task) else { return stream_gone() };
    let end = loop {
        match entry.state() {
            JobState::Cancelled => break End::Cancelled,
            _ if lane.state().removed => break End::removed(),
            state => work.pause(state == JobState::Paused),
        }
        let look_again = work.feed();
        if work.save() {
            break End::Over(JobState::Done, None);
        }
        tokio::select! {
            () = entry.changed.notified() => {}
            () = work.history.arrival() => {}
            durable = answer(&mut work.on_its_way) => work.saved(durable),
            () = tokio::time::sleep_until(look_again) => {}
            () = inner.stop.cancelled() => {
                work.settle().await;
                break End::Stopped;
            }
        }
    };
    Box::pin(work.end()).await;
    end
}

/// Counts what a replay of a stretch of history would do.
pub(super) async fn count(
    inner: &Inner,
    entry: &Entry,
    lane: &Arc<Lane>,
    spec: &Arc<ArcSwap<Spec>>,
    task: ReplayTask,
) -> End {
    let Some(mut work) = Work::new(inner, entry, lane, spec, &task) else { return stream_gone() };
    let mut counts = entry.record().counts;
    let end = loop {
        let paused = match entry.state() {
            JobState::Cancelled => break End::Cancelled,
            _ if lane.state().removed => break End::removed(),
            state => state == JobState::Paused,
        };
        let mut look_again = Instant::now() + LOOK_AGAIN;
        work.clock(paused);
        if !paused {
            if let Some(event) = work.history.pop() {
                work.count(&event, &mut counts).await;
                let next = event.position.sequence + 1;
                work.write_down(Place { next, recorded_above: Default::default(), counts });
                continue;
            }
            if work.history.is_over() {
                work.write_down(Place { next: task.to + 1, recorded_above: Default::default(), counts });
                break End::Over(JobState::Done, None);
            }
            // A page is through: what is counted so far is on record before the next one comes.
            drop(inner.save(entry));
            look_again = work.history.ask(&spec.load().types).unwrap_or(look_again);
        }
        tokio::select! {
            () = entry.changed.notified() => {}
            () = work.history.arrival() => {}
            () = tokio::time::sleep_until(look_again) => {}
            () = inner.stop.cancelled() => {
                drop(tokio::time::timeout(STOP_TIME_MAX, is_durable(inner.save(entry))).await);
                break End::Stopped;
            }
        }
    };
    work.history.close().await;
    end
}

fn stream_gone() -> End {
    End::Over(JobState::Failed, Some("its stream is no longer configured".into()))
}

/// A replay at work.
struct Work<'a> {
    inner: &'a Inner,
    entry: &'a Entry,
    lane: &'a Arc<Lane>,
    spec: &'a Arc<ArcSwap<Spec>>,
    to: u64,
    history: History,
    pace: Pace,
    paused: bool,
    /// Since when the time that it is at work has not been written down.
    running_since: Instant,
    /// The place on record, and the one that was handed to the store, with its answer to come.
    saved: Place,
    on_its_way: Option<(Place, oneshot::Receiver<bool>)>,
}

impl<'a> Work<'a> {
    fn new(
        inner: &'a Inner,
        entry: &'a Entry,
        lane: &'a Arc<Lane>,
        spec: &'a Arc<ArcSwap<Spec>>,
        task: &ReplayTask,
    ) -> Option<Self> {
        let stream = inner.shared.nats.stream(&task.stream)?.clone();
        let record = entry.record();
        let place = Place { next: task.next, recorded_above: task.recorded_above.clone(), counts: record.counts };
        if !record.dry_run {
            let changed = Arc::clone(&entry.changed);
            let (stream, marks) = (task.stream.clone(), &task.marks);
            let replay = Replay::new(record.id, stream, task.to, place.clone(), marks, changed);
            lane.state().replay = Some(replay);
        }
        Some(Self {
            inner,
            entry,
            lane,
            spec,
            to: task.to,
            history: History::new(inner.shared.nats.clone(), stream, task.next, task.to),
            pace: Pace::new(record.rate, Instant::now()),
            paused: false,
            running_since: Instant::now(),
            saved: place,
            on_its_way: None,
        })
    }

    fn pause(&mut self, paused: bool) {
        self.clock(paused);
        if let Some(replay) = &mut self.lane.state().replay {
            replay.pause(paused);
            replay.keep_order(self.spec.load().order.is_kept());
        }
        if !paused {
            self.lane.wake();
        }
    }

    /// Counts the time that it has been at work.
    fn clock(&mut self, paused: bool) {
        if !self.paused {
            let ms = u64::try_from(self.running_since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.entry.record.lock().ran_ms += ms;
            self.running_since += Duration::from_millis(ms);
        } else {
            self.running_since = Instant::now();
        }
        self.paused = paused;
    }

    /// Puts as many events into the lane as it may, and asks for more. Returns when to look again.
    fn feed(&mut self) -> Instant {
        let mut look_again = Instant::now() + LOOK_AGAIN;
        if self.paused {
            return look_again;
        }
        let mut state = self.lane.state();
        let Some(replay) = &mut state.replay else { return look_again };
        let free = self.pace.free(replay.begun(), replay.waiting(), Instant::now());
        let mut brought = 0;
        while brought < free.min(replay.room())
            && let Some(event) = self.history.pop()
        {
            replay.bring(event);
            brought += 1;
        }
        if self.history.is_over() {
            replay.came_to(self.to);
        } else if brought == free {
            look_again = look_again.min(self.pace.next_at(replay.waiting()));
        }
        drop(state);
        if brought > 0 {
            self.lane.wake();
        }
        match self.history.ask(&self.spec.load().types) {
            Some(at) => look_again.min(at),
            None => look_again,
        }
    }

    /// Hands the place to the store when it has moved. True when all of the stretch is on record, and that too.
    fn save(&mut self) -> bool {
        if self.on_its_way.is_some() {
            return false;
        }
        let Some(place) = self.lane.state().replay.as_mut().map(Replay::place) else { return false };
        if place == self.saved {
            return place.next > self.to;
        }
        self.write_down(place.clone());
        self.on_its_way = Some((place, self.inner.save(self.entry)));
        false
    }

    fn write_down(&mut self, place: Place) {
        let mut record = self.entry.record.lock();
        record.counts = place.counts;
        if let JobTask::Replay(task) = &mut record.task {
            task.next = place.next;
            task.recorded_above = place.recorded_above;
            task.available = task.available.or(self.history.available);
        }
    }

    fn saved(&mut self, durable: bool) {
        if let Some((place, _)) = self.on_its_way.take()
            && durable
        {
            self.saved = place;
        }
    }

    /// The workers have ended: what came of the last deliveries is written down.
    async fn settle(&mut self) {
        let deadline = Instant::now() + STOP_TIME_MAX;
        self.clock(self.paused);
        loop {
            let is_over = self.save();
            if is_over || self.on_its_way.is_none() {
                return;
            }
            self.inner.shared.recorder.hurry();
            match tokio::time::timeout_at(deadline, answer(&mut self.on_its_way)).await {
                Ok(durable) => self.saved(durable),
                Err(_) => return,
            }
        }
    }

    /// Leaves the lane. What is under way there ends as usual.
    async fn end(mut self) {
        self.clock(self.paused);
        self.lane.state().replay = None;
        self.history.close().await;
    }

    /// Adds to the counts what would come of an event.
    async fn count(&mut self, event: &Event, counts: &mut JobCounts) {
        counts.seen += 1;
        let passed = {
            let state = self.lane.state();
            let own = state.ledger_of(&event.position.stream);
            own.is_none_or(|own| state.ledgers[own].has_passed(event.position.sequence))
        };
        if !passed {
            counts.pending += 1;
            return;
        }
        if event.undecodable.is_some() {
            return self.count_fault(event, counts);
        }
        let spec = self.spec.load_full();
        match spec.chain.run(event).await.passed {
            Passed::Kept(outputs) => {
                for (part, _) in (0..).zip(outputs) {
                    *(if self.waits(event, part) { &mut counts.pending } else { &mut counts.deliveries }) += 1;
                }
            }
            Passed::Dropped { .. } => counts.filtered += 1,
            Passed::Faulted { policy: OnPluginError::Drop, .. } => {
                counts.faulted += 1;
                counts.filtered += 1;
            }
            Passed::Faulted { .. } => self.count_fault(event, counts),
        }
    }

    fn count_fault(&self, event: &Event, counts: &mut JobCounts) {
        counts.faulted += 1;
        if self.waits(event, 0) {
            counts.pending += 1;
        } else {
            counts.deliveries += 1;
            counts.failed += 1;
        }
    }

    /// Is that delivery under way, or does it wait for its next attempt?
    fn waits(&self, event: &Event, part: u32) -> bool {
        let delivery = DeliveryId::derive(self.lane.id(), &event.position, part);
        let is_claimed = self.lane.state().is_claimed(&delivery);
        is_claimed || self.inner.shared.store.parked(&delivery).is_ok_and(|parked| parked.is_some())
    }
}

/// The store's answer; pends for ever when it was asked nothing. Safe to cancel.
async fn answer(on_its_way: &mut Option<(Place, oneshot::Receiver<bool>)>) -> bool {
    match on_its_way {
        Some((_, told)) => told.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

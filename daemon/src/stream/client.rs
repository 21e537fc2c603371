//! One client's stream of bytes: made when it is asked for, and never queued beyond one piece.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::admit::Slot;
use super::cursor::{Part, Seen, Tag, write_parts};
use super::frame::{self, Gone, HEARTBEAT, id_line};
use super::group::{Group, Supply};
use super::history::{Piece, fetch};
use super::ring::{Entry, Found, TAKEN_ENTRIES_MAX};
use super::standing::Watched;
use crate::telemetry::metrics::SseMetrics;

/// Frames up to so many bytes are put together where several are there; larger ones go out as they are.
const TOGETHER_BYTES_MAX: usize = 16 << 10;
/// How often a client looks in a row without finding anything that it wants, before others have a turn.
const LOOKS_MAX: usize = 16;

/// What a client gets: each item is one or more whole frames. It ends when the hub does, or when its named stream is
/// defined anew.
pub struct Client(Box<State>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// `begun` are its places, in the order of the streams' names.
    pub(super) fn new(config: &Config, begun: Vec<Begun>, common: Common, slot: Slot) -> Self {
        Self(Box::new(State::new(config, begun, common, slot)))
    }

    /// Asks where it stands, from outside.
    pub fn watched(&self) -> Watched {
        Watched(self.0.sources.iter().map(|source| (Arc::clone(&source.group), source.number)).collect())
    }
}

impl Stream for Client {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let state = &mut *self.0;
        state.slot.polled();
        let bytes = ready!(state.poll(context));
        state.common.metrics.bytes.inc_by(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
        Poll::Ready(bytes)
    }
}

/// A client's place in one stream.
pub(super) struct Source {
    group: Arc<Group>,
    /// Its number in the group.
    number: usize,
    /// The sequence that it looks for next.
    next: u64,
    epoch: u64,
    /// That of the stream.
    tag: Tag,
    /// Where its entries come from; whoever reads history is told in the metrics.
    supply: Supply,
    fetching: Option<oneshot::Receiver<Arc<Piece>>>,
    /// What it has of history and is not through with, and how many entries it is through with.
    piece: Option<(Arc<Piece>, usize)>,
}

/// A place that is found.
pub(super) struct Begun {
    pub(super) source: Source,
    /// The stream was made anew: how far the client was in the one before.
    pub(super) before: Option<Seen>,
}

/// In the order of the streams' names, as a cursor has them.
type Sources = SmallVec<[Source; 1]>;

impl Source {
    pub(super) fn new(group: Arc<Group>, next: u64, epoch: u64, tag: Tag) -> Self {
        let number = group.join(next, tag);
        Self { group, number, next, epoch, tag, supply: Supply::Ring, fetching: None, piece: None }
    }

    /// The last sequence that the client needs no more.
    fn seen(&self) -> Seen {
        Seen::before(self.next, self.tag)
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.group.leave(self.number);
    }
}

/// Where a client stands: the text of the [`Cursor`](super::Cursor) with the last sequence that it needs no more, of every
/// stream that it sees.
struct Place<'a>(&'a [Source]);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_parts(f, self.0.iter().map(|source| Part(source.group.stream(), source.seen())))
    }
}

/// What a client needs of the hub.
pub(super) struct Common {
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) metrics: SseMetrics,
}

/// Everything that there is of a client.
struct State {
    sources: Sources,
    pending: VecDeque<Bytes>,
    /// The place has moved since an `id:` was last sent.
    moved: bool,
    /// Something was sent since the heartbeat was last due.
    heard: bool,
    heartbeat: Pin<Box<Sleep>>,
    period: Duration,
    common: Common,
    slot: Slot,
}

impl State {
    fn new(config: &Config, begun: Vec<Begun>, common: Common, slot: Slot) -> Self {
        let period = config.heartbeat;
        // Those who come at once are not to have their heartbeats at once ever after.
        let heartbeat = Box::pin(sleep(period.mul_f64(rand::random_range(0.5..=1.0))));
        let pending = VecDeque::new();
        let (sources, before): (Sources, Vec<_>) = begun.into_iter().map(|begun| (begun.source, begun.before)).unzip();
        let mut state = Self { sources, pending, moved: false, heard: false, heartbeat, period, common, slot };
        state.greet(config, &before);
        state
    }

    /// The first bytes go out at once, so that proxies pass the headers on; and they hold the client's place, so that it
    /// can come back to it before any event came.
    fn greet(&mut self, config: &Config, before: &[Option<Seen>]) {
        let retry_ms = u64::try_from(config.retry.as_millis()).unwrap_or(u64::MAX);
        let jittered_ms = rand::random_range(retry_ms..=retry_ms.saturating_add(retry_ms / 2));
        let gone: Vec<(usize, Seen)> = (0..).zip(before).filter_map(|(at, seen)| Some((at, (*seen)?))).collect();
        // Nobody is given a place behind a gap that he has not been told of.
        let place = if gone.is_empty() { id_line(Place(&self.sources)) } else { String::new() };
        self.pending.push_back(format!("retry: {jittered_ms}\n:\n{place}\n").into());
        let last = gone.last().map(|(at, _)| *at);
        for (at, seen) in gone {
            let place = (Some(at) == last).then_some(Place(&self.sources));
            let gap = frame::gap(place, &self.gone(at, seen, self.sources[at].next, true));
            self.pending.push_back(gap);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut looks = 0;
        loop {
            if let Some(bytes) = self.pending.pop_front() {
                self.heard = true;
                if self.pending.is_empty() {
                    // A queue that is kept for the next time is most of what an idle client would hold.
                    self.pending = VecDeque::new();
                }
                return Poll::Ready(Some(bytes));
            }
            if self.common.closing.is_cancelled() {
                let farewell = std::mem::take(&mut self.moved).then(|| self.place_block());
                return Poll::Ready(farewell);
            }
            let mut went_on = false;
            for at in 0..self.sources.len() {
                went_on |= self.advance(at, context);
            }
            if !self.pending.is_empty() {
                continue;
            }
            if !went_on {
                ready!(self.poll_heartbeat(context));
            }
            looks += 1;
            if looks >= LOOKS_MAX {
                // One that wants little of much is not to keep others waiting.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Ready when a heartbeat was due: it is pending then, unless something was heard in the meantime.
    fn poll_heartbeat(&mut self, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.heartbeat.as_mut().poll(context));
        self.heartbeat.as_mut().reset(Instant::now() + self.period);
        if !std::mem::take(&mut self.heard) {
            self.pending.push_back(Bytes::from_static(HEARTBEAT.as_bytes()));
        }
        if std::mem::take(&mut self.moved) {
            let place = self.place_block();
            self.pending.push_back(place);
        }
        Poll::Ready(())
    }

    /// An `id:` without data: a place, and no event.
    fn place_block(&self) -> Bytes {
        format!("{}\n", id_line(Place(&self.sources))).into()
    }

    /// Takes what there is at one source's place. False when there is nothing yet.
    fn advance(&mut self, at: usize, context: &mut Context<'_>) -> bool {
        let source = &mut self.sources[at];
        // Before it looks: what comes after that wakes it. Also where history is waited for, for the sake of the end.
        source.group.wait(source.number, source.next, source.tag, context.waker());
        if let Some(fetching) = &mut source.fetching {
            let Poll::Ready(fetched) = Pin::new(fetching).poll(context) else { return false };
            source.fetching = None;
            // Without one the stream was made anew, which shows below.
            source.piece = fetched.ok().map(|piece| (piece, 0));
        }
        if source.piece.is_some() {
            self.takes_from(at, Supply::Piece);
            self.take_piece(at);
            return true;
        }
        match source.group.find(source.next, source.epoch) {
            Found::Nothing => {
                self.takes_from(at, Supply::Ring);
                false
            }
            Found::Entries(entries, next) => {
                self.takes_from(at, Supply::Ring);
                self.take(at, &entries, next);
                true
            }
            Found::Behind => {
                self.fetch(at);
                true
            }
            Found::Reset { available, epoch, tag } => {
                let seen = source.seen();
                (source.epoch, source.tag) = (epoch, tag);
                self.gap(at, seen, available, true);
                true
            }
        }
    }

    /// Asks for history, by a task of its own, so that a client that does not read keeps no reader from others.
    fn fetch(&mut self, at: usize) {
        self.takes_from(at, Supply::Asked);
        let source = &mut self.sources[at];
        source.fetching = Some(source.group.waiting.join(source.next, source.epoch));
        let (group, closing) = (Arc::clone(&source.group), self.common.closing.clone());
        self.common.tasks.spawn(fetch(group, source.next, source.epoch, closing));
    }

    fn takes_from(&mut self, at: usize, supply: Supply) {
        let source = &mut self.sources[at];
        let before = std::mem::replace(&mut source.supply, supply);
        if before == supply {
            return;
        }
        source.group.takes_from(source.number, supply);
        match (before, supply) {
            (Supply::Ring, _) => {
                self.common.metrics.catch_ups.inc();
                self.common.metrics.catching_up.inc();
            }
            (_, Supply::Ring) => drop(self.common.metrics.catching_up.dec()),
            _ => {}
        }
    }

    /// Takes the next part of a piece of history. The piece may begin before the client's place: others wait for it too.
    fn take_piece(&mut self, at: usize) {
        let source = &mut self.sources[at];
        let Some((piece, done)) = source.piece.take() else { return };
        if let Some(available) = piece.available.filter(|available| *available > source.next) {
            source.piece = Some((piece, done));
            let seen = source.seen();
            self.gap(at, seen, available, false);
            return;
        }
        let next = source.next;
        let left = &piece.entries[done..];
        let passed = left.partition_point(|entry| entry.sequence < next);
        let entries = &left[passed..left.len().min(passed + TAKEN_ENTRIES_MAX)];
        let done = done + passed + entries.len();
        match piece.entries.get(done) {
            Some(more) => {
                self.take(at, entries, more.sequence);
                self.sources[at].piece = Some((piece, done));
            }
            None => self.take(at, entries, piece.next),
        }
    }

    fn gap(&mut self, at: usize, seen: Seen, available: u64, is_replaced: bool) {
        self.sources[at].next = available;
        let gap = frame::gap(Some(Place(&self.sources)), &self.gone(at, seen, available, is_replaced));
        self.pending.push_back(gap);
        self.moved = false;
    }

    fn gone(&self, at: usize, seen: Seen, available: u64, is_replaced: bool) -> Gone<'_> {
        self.common.metrics.gaps.inc();
        let Source { group, tag, .. } = &self.sources[at];
        Gone { stream: group.stream(), seen, available, tag: *tag, is_replaced }
    }

    /// Entries that the client wants, up to a place.
    fn take(&mut self, at: usize, entries: &[Arc<Entry>], next: u64) {
        let alone = self.sources.len() == 1;
        let mut together = Together::new(&mut self.pending);
        for entry in entries {
            self.sources[at].next = entry.sequence + 1;
            self.moved = false;
            match alone {
                true => entry.frames().shared().for_each(|frame| together.put(frame)),
                false => entry.frames().with_cursor(Place(&self.sources)).for_each(|frame| together.put(frame)),
            }
        }
        let frames = together.end();
        self.common.metrics.frames.inc_by(frames);
        let source = &mut self.sources[at];
        self.moved |= next > source.next;
        source.next = source.next.max(next);
    }
}

/// Puts small frames together. One that is alone is shared by all who get it, and not copied for each.
struct Together<'a> {
    out: &'a mut VecDeque<Bytes>,
    held: Held,
    frames: u64,
}

enum Held {
    Shared(Bytes),
    Joined(Vec<u8>),
}

impl<'a> Together<'a> {
    fn new(out: &'a mut VecDeque<Bytes>) -> Self {
        Self { out, held: Held::Joined(Vec::new()), frames: 0 }
    }

    fn put(&mut self, frame: Bytes) {
        self.frames += 1;
        let held = std::mem::replace(&mut self.held, Held::Joined(Vec::new()));
        self.held = match held {
            Held::Joined(joined) if joined.is_empty() => Held::Shared(frame),
            Held::Joined(mut joined) if joined.len() + frame.len() <= TOGETHER_BYTES_MAX => {
                joined.extend_from_slice(&frame);
                Held::Joined(joined)
            }
            Held::Shared(first) if first.len() + frame.len() <= TOGETHER_BYTES_MAX => {
                Held::Joined([&first[..], &frame[..]].concat())
            }
            held => {
                self.flush(held);
                Held::Shared(frame)
            }
        };
    }

    fn flush(&mut self, held: Held) {
        match held {
            Held::Shared(frame) => self.out.push_back(frame),
            Held::Joined(joined) if joined.is_empty() => {}
            Held::Joined(joined) => self.out.push_back(joined.into()),
        }
    }

    /// How many frames there were.
    fn end(mut self) -> u64 {
        let held = std::mem::replace(&mut self.held, Held::Joined(Vec::new()));
        self.flush(held);
        self.frames
    }
}

impl Drop for State {
    fn drop(&mut self) {
        (0..self.sources.len()).for_each(|at| self.takes_from(at, Supply::Ring));
    }
}

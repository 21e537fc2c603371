//! One client's stream of bytes: made when it is asked for, and never queued beyond one batch.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::select_all;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::feed::Lease;
use super::frame::{self, HEARTBEAT, id_line};
use super::history::{Fetched, Historian};
use super::hub::Slot;
use super::ring::{Entry, Found};
use super::{Config, Cursor};
use crate::domain::{Pattern, StreamName};
use crate::telemetry::metrics::SseMetrics;

/// What a client gets: each item is one or more whole frames. It ends when the hub does, or when its named stream is
/// defined anew.
pub struct Client(BoxStream<'static, Bytes>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    pub(super) fn new(state: State) -> Self {
        Self(Box::pin(stream::unfold(state, |mut state| async move { state.next().await.map(|bytes| (bytes, state)) })))
    }
}

impl Stream for Client {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.0.as_mut().poll_next(context)
    }
}

/// A client's place in one stream.
pub(super) struct Source {
    stream: StreamName,
    lease: Lease,
    changes: watch::Receiver<()>,
    historian: Arc<Historian>,
    /// What it wants of the feed; `None` is all.
    subjects: Option<Vec<Pattern>>,
    /// The sequence that it looks for next.
    next: u64,
    epoch: u64,
    /// The stream was made anew: what the client asked for.
    reset_from: Option<u64>,
    /// It reads from the ring.
    live: bool,
    fetching: Option<oneshot::Receiver<Fetched>>,
    fetched: Option<Fetched>,
}

impl Source {
    pub(super) fn new(
        stream: StreamName,
        lease: Lease,
        historian: Arc<Historian>,
        subjects: Option<Vec<Pattern>>,
        next: u64,
        epoch: u64,
        reset_from: Option<u64>,
    ) -> Self {
        let changes = lease.feed().changes();
        let (live, fetching, fetched) = (true, None, None);
        Self { stream, lease, changes, historian, subjects, next, epoch, reset_from, live, fetching, fetched }
    }

    /// Waits until there may be something. Safe to cancel.
    async fn ready(&mut self) {
        if let Some(fetching) = &mut self.fetching {
            self.fetched = fetching.await.ok();
            self.fetching = None;
        } else {
            // The sender lives as long as the feed, which is leased.
            let _closed = self.changes.changed().await;
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        match (&self.subjects, entry.event()) {
            (Some(subjects), Some(event)) => subjects.iter().any(|pattern| pattern.matches(&event.subject)),
            _ => true,
        }
    }
}

/// Everything that there is of a client.
pub(super) struct State {
    sources: Vec<Source>,
    pending: VecDeque<Bytes>,
    /// The cursor has moved since an `id:` was last sent.
    moved: bool,
    heartbeat: Interval,
    closing: CancellationToken,
    tasks: TaskTracker,
    metrics: SseMetrics,
    _slot: Slot,
}

impl State {
    pub(super) fn new(
        config: &Config,
        sources: Vec<Source>,
        closing: CancellationToken,
        tasks: TaskTracker,
        metrics: SseMetrics,
        slot: Slot,
    ) -> Self {
        let mut heartbeat = interval_at(Instant::now() + config.heartbeat, config.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let pending = VecDeque::new();
        let mut state = Self { sources, pending, moved: false, heartbeat, closing, tasks, metrics, _slot: slot };
        state.greet(config);
        state
    }

    /// The first bytes go out at once, so that proxies pass the headers on; and they hold the client's place, so that it
    /// can come back to it before any event came.
    fn greet(&mut self, config: &Config) {
        let retry_ms = u64::try_from(config.retry.as_millis()).unwrap_or(u64::MAX);
        let jittered_ms = rand::random_range(retry_ms..=retry_ms.saturating_add(retry_ms / 2));
        let place = id_line(cursor(&self.sources));
        self.pending.push_back(format!("retry: {jittered_ms}\n:\n{place}\n").into());
        for at in 0..self.sources.len() {
            if let Some(asked) = self.sources[at].reset_from.take() {
                self.gap(at, asked, self.sources[at].next, true);
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.pending.pop_front() {
                self.metrics.bytes.inc_by(bytes.len() as u64);
                return Some(bytes);
            }
            if self.closing.is_cancelled() {
                return std::mem::take(&mut self.moved).then(|| format!("{}\n", id_line(cursor(&self.sources))).into());
            }
            let mut moved = false;
            for at in 0..self.sources.len() {
                moved |= self.advance(at);
            }
            if moved {
                // A client that wants little of much is not to keep others waiting.
                tokio::task::consume_budget().await;
            } else if self.pending.is_empty() {
                self.wait().await;
            }
        }
    }

    async fn wait(&mut self) {
        let Self { sources, closing, heartbeat, .. } = self;
        let ready = select_all(sources.iter_mut().map(|source| Box::pin(source.ready())));
        let quiet = tokio::select! {
            () = closing.cancelled() => false,
            _ = ready => false,
            _ = heartbeat.tick() => true,
        };
        if quiet {
            self.pending.push_back(Bytes::from_static(HEARTBEAT.as_bytes()));
            if std::mem::take(&mut self.moved) {
                self.pending.push_back(format!("{}\n", id_line(cursor(&self.sources))).into());
            }
        }
    }

    /// Takes what there is at one source's place. False when there is nothing yet.
    fn advance(&mut self, at: usize) -> bool {
        let Some(source) = self.sources.get_mut(at) else { return false };
        if source.fetching.is_some() {
            return false;
        }
        if let Some(fetched) = source.fetched.take() {
            if let Some(gap) = fetched.gap {
                self.gap(at, gap.from, gap.available, false);
            }
            self.take(at, &fetched.entries, fetched.next);
            return true;
        }
        source.changes.mark_unchanged();
        match source.lease.feed().find(source.next, source.epoch) {
            Found::Nothing => {
                source.live = true;
                false
            }
            Found::Entries(entries, next) => {
                source.live = true;
                self.take(at, &entries, next);
                true
            }
            Found::Behind => {
                if std::mem::take(&mut source.live) {
                    self.metrics.catch_ups.inc();
                }
                let (reply, fetching) = oneshot::channel();
                source.fetching = Some(fetching);
                // A task of its own, so that a client that does not read keeps no reader from others.
                let fetch = Arc::clone(&source.historian).fetch_for(source.next, reply);
                let closing = self.closing.clone();
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = fetch => {}
                        () = closing.cancelled() => {}
                    }
                });
                false
            }
            Found::Reset { available, epoch } => {
                let asked = source.next;
                source.epoch = epoch;
                self.gap(at, asked, available, true);
                true
            }
        }
    }

    fn gap(&mut self, at: usize, asked: u64, available: u64, reset: bool) {
        self.metrics.gaps.inc();
        self.sources[at].next = available;
        let gap = frame::gap(cursor(&self.sources), &self.sources[at].stream, asked, available, reset);
        self.pending.push_back(gap);
        self.moved = false;
    }

    fn take(&mut self, at: usize, entries: &[Arc<Entry>], next: u64) {
        let single = self.sources.len() == 1;
        for entry in entries {
            if !self.sources[at].wants(entry) {
                continue;
            }
            self.sources[at].next = entry.sequence + 1;
            let sent = self.pending.len();
            if single {
                self.pending.extend(entry.frames().shared());
            } else {
                self.pending.extend(entry.frames().with_cursor(cursor(&self.sources)));
            }
            self.metrics.frames.inc_by((self.pending.len() - sent) as u64);
            self.moved = false;
        }
        let source = &mut self.sources[at];
        self.moved |= next > source.next;
        source.next = source.next.max(next);
    }
}

/// Where a client stands: the last sequence that it needs no more, of every stream that it sees.
fn cursor(sources: &[Source]) -> Cursor {
    let mut cursor = Cursor::default();
    for source in sources {
        cursor.set(source.stream.clone(), source.next.saturating_sub(1));
    }
    cursor
}

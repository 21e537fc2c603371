//! The group writer: one thread that makes changes durable in groups and hands their tokens back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::index::BLOCK_FLUSHES;
use super::{Change, Error, Expired, Store};

/// A group ends when its bodies have this many bytes, so that no write grows without bound.
const GROUP_BODY_BYTES_MAX: usize = 1 << 20;
/// The pauses between tries to open a failed store again: this at first, then twice as long each time,
const REVIVE_DELAY_MIN: Duration = Duration::from_millis(500);
/// and this at most.
const REVIVE_DELAY_MAX: Duration = Duration::from_secs(15);

/// A handle to the writer. Cloning is cheap; when the last one is dropped, the writer flushes what it has and ends.
///
/// `T` is what travels with a change: an ack token, a lane's bookkeeping.
pub struct Recorder<T> {
    handle: Arc<Handle<T>>,
}

impl<T> Clone for Recorder<T> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

struct Handle<T>(Arc<Shared<T>>);

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// The writer waits here for work.
    work: Condvar,
    ops_max: usize,
    queue_ops_max: usize,
}

struct Queue<T> {
    changes: VecDeque<Change>,
    tokens: VecDeque<T>,
    /// Tokens of changes that found the queue full.
    refused: Vec<T>,
    /// When the oldest change came.
    first_at: Instant,
    /// How many changes were submitted, and how many of them taken, since the start.
    submitted: u64,
    taken: u64,
    /// Changes up to this one are wanted now.
    hurried: u64,
    closed: bool,
}

impl<T> Shared<T> {
    fn close(&self) {
        self.queue.lock().closed = true;
        self.work.notify_one();
    }
}

impl<T: Send + 'static> Recorder<T> {
    /// Starts the writer thread. `completed` is called on it once for each group, with the group's tokens in the order
    /// of submission: `Ok` when all of the group is durable; on an error nothing of it is certain, and the tokens come
    /// back all the same. After a failed group all changes that wait at that moment fail too, because they may build on
    /// it; whoever is told of a failure must not count on what was submitted but not yet confirmed.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        store: Store,
        completed: impl Fn(Vec<T>, Result<(), Error>) + Send + 'static,
    ) -> Result<(Self, JoinHandle<()>), Error> {
        let config = store.config();
        let queue = Queue {
            changes: VecDeque::new(),
            tokens: VecDeque::new(),
            refused: Vec::new(),
            first_at: Instant::now(),
            submitted: 0,
            taken: 0,
            hurried: 0,
            closed: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            work: Condvar::new(),
            ops_max: config.flush_ops_max.max(1),
            queue_ops_max: config.queue_ops_max,
        });
        let writer = Writer {
            delay_max: Duration::from_millis(config.flush_delay_ms_max),
            shared: Arc::clone(&shared),
            store,
            completed,
            expiry: None,
            indexer: None,
            unindexed: 0,
        };
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run());
        Ok((Self { handle: Arc::new(Handle(shared)) }, thread.map_err(Error::Thread)?))
    }

    /// Hands in a change. It never blocks: when [`Config::queue_ops_max`](super::Config::queue_ops_max) changes wait
    /// already, the change is refused and its token comes back through `completed` with [`Error::QueueFull`]. After
    /// [`Recorder::close`] the token is dropped.
    pub fn submit(&self, change: Change, token: T) {
        let shared = &self.handle.0;
        let mut queue = shared.queue.lock();
        if queue.closed {
            return;
        }
        if queue.changes.len() >= shared.queue_ops_max {
            queue.refused.push(token);
            shared.work.notify_one();
            return;
        }
        if queue.changes.is_empty() {
            queue.first_at = Instant::now();
        }
        queue.changes.push_back(change);
        queue.tokens.push_back(token);
        queue.submitted += 1;
        // The writer looks again by itself in between: it sleeps no longer than the delay of a group.
        if queue.changes.len() == 1 || queue.changes.len() == shared.ops_max {
            shared.work.notify_one();
        }
    }

    /// Asks for what was submitted so far to be flushed now: somebody cannot go on before it is durable.
    pub fn hurry(&self) {
        let mut queue = self.handle.0.queue.lock();
        queue.hurried = queue.submitted;
        self.handle.0.work.notify_one();
    }

    /// How many changes wait for the writer.
    pub fn waiting(&self) -> usize {
        self.handle.0.queue.lock().changes.len()
    }

    /// Flushes everything and ends the thread; later submissions, also of other handles, are dropped.
    pub fn close(self) {
        self.handle.0.close();
    }
}

/// What the writer is to do next.
enum Work<T> {
    /// Changes to write, with their tokens, after handing back the refused ones.
    Group { changes: Vec<Change>, tokens: Vec<T>, refused: Vec<T> },
    /// The time to try a failed store again has come.
    Revive,
    /// Nothing more will come.
    End,
}

struct Writer<T, F: Fn(Vec<T>, Result<(), Error>)> {
    shared: Arc<Shared<T>>,
    store: Store,
    completed: F,
    delay_max: Duration,
    expiry: Option<JoinHandle<()>>,
    indexer: Option<JoinHandle<()>>,
    /// How many groups were written since the log was last indexed.
    unindexed: u64,
}

impl<T: Send + 'static, F: Fn(Vec<T>, Result<(), Error>)> Writer<T, F> {
    fn run(mut self) {
        // Should this thread ever panic, the tokens that wait are dropped rather than kept for ever.
        let _ended = Ended(Arc::clone(&self.shared));
        let mut revive: Option<(Instant, Duration)> = None;
        self.expire();
        self.index();
        loop {
            match self.next(revive.map(|(at, _)| at)) {
                Work::End => break,
                Work::Revive => {}
                Work::Group { changes, tokens, refused } => {
                    if !refused.is_empty() {
                        (self.completed)(refused, Err(Error::QueueFull));
                    }
                    if !tokens.is_empty() {
                        self.write(&changes, tokens);
                    }
                }
            }
            revive = self.revive(revive);
        }
        for thread in [self.expiry.take(), self.indexer.take()].into_iter().flatten() {
            drop(thread.join());
        }
    }

    fn write(&mut self, changes: &[Change], tokens: Vec<T>) {
        match self.store.commit(changes) {
            Ok(partition_begun) => {
                (self.completed)(tokens, Ok(()));
                if partition_begun {
                    self.expire();
                }
                self.unindexed += 1;
                if self.unindexed >= BLOCK_FLUSHES {
                    self.index();
                }
            }
            Err(error) => {
                (self.completed)(tokens, Err(error));
                let behind: Vec<T> = {
                    let mut queue = self.shared.queue.lock();
                    queue.taken += queue.changes.len() as u64;
                    queue.changes.clear();
                    queue.tokens.drain(..).collect()
                };
                if !behind.is_empty() {
                    (self.completed)(behind, Err(self.store.unavailable()));
                }
            }
        }
    }

    /// Opens a failed store again when it is time: at once after the failure, then with growing pauses. Returns when to
    /// try next.
    fn revive(&self, planned: Option<(Instant, Duration)>) -> Option<(Instant, Duration)> {
        if self.store.writable().is_ok() {
            return None;
        }
        if planned.is_some_and(|(at, _)| Instant::now() < at) {
            return planned;
        }
        let error = self.store.revive().err()?;
        let pause = planned.map_or(REVIVE_DELAY_MIN, |(_, pause)| (pause * 2).min(REVIVE_DELAY_MAX));
        tracing::warn!(%error, retry_in_ms = pause.as_millis() as u64, "store still cannot write");
        Some((Instant::now() + pause, pause))
    }

    /// Waits for a group to be due.
    fn next(&self, revive_at: Option<Instant>) -> Work<T> {
        let mut queue = self.shared.queue.lock();
        loop {
            let now = Instant::now();
            if revive_at.is_some_and(|at| at <= now) {
                return Work::Revive;
            }
            let until_revive = revive_at.map(|at| at.saturating_duration_since(now));
            let full = queue.changes.len() >= self.shared.ops_max;
            if full || queue.hurried > queue.taken || !queue.refused.is_empty() {
                return self.take(&mut queue);
            }
            if queue.changes.is_empty() {
                match until_revive {
                    _ if queue.closed => return Work::End,
                    None => self.shared.work.wait(&mut queue),
                    Some(pause) => {
                        self.shared.work.wait_for(&mut queue, pause);
                    }
                }
                continue;
            }
            // Never longer than the delay, whatever a paused or strange clock makes of `first_at`.
            let age = now.saturating_duration_since(queue.first_at);
            let left = self.delay_max.saturating_sub(age);
            if queue.closed || left.is_zero() {
                return self.take(&mut queue);
            }
            self.shared.work.wait_for(&mut queue, left.min(until_revive.unwrap_or(left)));
        }
    }

    fn take(&self, queue: &mut Queue<T>) -> Work<T> {
        let (mut n, mut bytes) = (0, 0);
        for change in queue.changes.iter().take(self.shared.ops_max) {
            bytes += body_bytes(change);
            if n > 0 && bytes > GROUP_BODY_BYTES_MAX {
                break;
            }
            n += 1;
        }
        queue.taken += n as u64;
        queue.first_at = Instant::now();
        Work::Group {
            changes: queue.changes.drain(..n).collect(),
            tokens: queue.tokens.drain(..n).collect(),
            refused: std::mem::take(&mut queue.refused),
        }
    }

    /// Indexes the log in a thread of its own. One thread at a time.
    fn index(&mut self) {
        if self.indexer.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        self.unindexed = 0;
        let (store, shared) = (self.store.clone(), Arc::clone(&self.shared));
        let index = move || match store.index_log(|| shared.queue.lock().closed) {
            Ok(blocks) => tracing::debug!(blocks, "indexed the log"),
            Err(error) => tracing::warn!(%error, "cannot index the log, listings of deliveries take longer"),
        };
        match std::thread::Builder::new().name("store-index".into()).spawn(index) {
            Ok(thread) => self.indexer = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start the thread that indexes the log"),
        }
    }

    /// Drops old log partitions in a thread of its own: a big one takes most of a second. One thread at a time.
    fn expire(&mut self) {
        if self.expiry.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let store = self.store.clone();
        let expire = move || match store.expire() {
            Ok(expired) if expired.total() == 0 => {}
            Ok(Expired { by_age, by_size }) => tracing::info!(by_age, by_size, "dropped old log partitions"),
            Err(error) => tracing::warn!(%error, "cannot drop old log partitions"),
        };
        match std::thread::Builder::new().name("store-expiry".into()).spawn(expire) {
            Ok(thread) => self.expiry = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start the thread that drops old log partitions"),
        }
    }
}

/// The bytes that a change's body adds to its group's write.
fn body_bytes(change: &Change) -> usize {
    match change.outcome() {
        Change::Park { parked, .. } | Change::Resend(parked) | Change::Hasten(parked) => parked.content.body.len(),
        Change::Dead { letter, .. } => letter.content.body.len(),
        _ => 0,
    }
}

/// Marks the writer as gone.
struct Ended<T>(Arc<Shared<T>>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        queue.changes.clear();
        let tokens = (std::mem::take(&mut queue.tokens), std::mem::take(&mut queue.refused));
        drop(queue);
        // Outside the lock: a token's drop may submit.
        drop(tokens);
    }
}

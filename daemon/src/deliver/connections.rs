//! Every connection that the client has open, and the bound on their number.
//!
//! A connection holds a permit from before it is dialled until it is closed. When none is free, the connection that has
//! had nothing to do for the longest time is closed to make room: endpoints are many, and those that were called a moment
//! ago must not keep the others out. A connection that is in use is never closed for another.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection as Connects};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::telemetry::metrics::ClientMetrics;

/// No connection could be made, because all that there may be are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {max} connections are in use")]
pub(super) struct NoneFree {
    max: usize,
}

/// The connections of one client. Cloning shares them.
#[derive(Clone)]
pub(super) struct Connections(Arc<Inner>);

struct Inner {
    max: usize,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    open: Mutex<HashMap<u64, Weak<Link>>>,
    next_id: AtomicU64,
    /// Counts how often a connection came to rest, so that the one that rests the longest can be told.
    rests: AtomicU64,
    metrics: ClientMetrics,
}

impl Connections {
    /// At most `max` at a time.
    pub(super) fn new(max: usize, metrics: ClientMetrics) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Inner {
            max,
            permits: Arc::new(Semaphore::new(max)),
            waiting: AtomicUsize::new(0),
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            rests: AtomicU64::new(0),
            metrics,
        }))
    }

    /// The right to open one connection, as soon as there is one.
    ///
    /// # Errors
    /// When there is none until `deadline`.
    pub(super) async fn permit(&self, deadline: Instant) -> Result<Permit, NoneFree> {
        let inner = &self.0;
        let permit = match Arc::clone(&inner.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::begin(&inner.waiting);
                inner.close_idle();
                let permit = timeout_at(deadline, Arc::clone(&inner.permits).acquire_owned()).await;
                permit.ok().and_then(Result::ok).ok_or(NoneFree { max: inner.max })?
            }
        };
        Ok(Permit { inner: Arc::clone(inner), permit })
    }
}

impl Inner {
    /// Closes the connection that rests the longest, if any rests.
    fn close_idle(&self) {
        let open: Vec<Arc<Link>> = self.open.lock().values().filter_map(Weak::upgrade).collect();
        let resting = open.iter().filter_map(|link| Some((link.state.lock().resting_since?, link)));
        if let Some((since, link)) = resting.min_by_key(|(since, _)| *since) {
            link.close_if_resting_since(since);
        }
    }
}

/// Counts somebody as waiting for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to open one connection.
pub(super) struct Permit {
    inner: Arc<Inner>,
    permit: OwnedSemaphorePermit,
}

impl Permit {
    /// The connection that was opened with it.
    pub(super) fn opened(self, stream: TcpStream) -> Connection {
        let Self { inner, permit } = self;
        let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
        let link = Arc::new(Link { connections: Arc::downgrade(&inner), state: Mutex::default() });
        inner.open.lock().insert(id, Arc::downgrade(&link));
        inner.metrics.connections.inc();
        Connection { io: TokioIo::new(stream), link, open: Open { id, inner, _permit: permit } }
    }
}

/// What a connection and those who used it share.
pub(super) struct Link {
    connections: Weak<Inner>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How often something was written.
    writes: u64,
    /// Set while nothing is under way: the number of this rest.
    resting_since: Option<u64>,
    /// It was closed to make room, and reads as ended.
    closed: bool,
    /// Who waits for something to read.
    reader: Option<Waker>,
}

impl Link {
    /// How often something was written so far. Asked when an answer has begun to come.
    pub(super) fn writes(&self) -> u64 {
        self.state.lock().writes
    }

    /// Says that the answer has come to its end, and that the connection rests now, unless something was written since
    /// `writes`: then the next request has it already.
    pub(super) fn rests(&self, writes: u64) {
        let Some(connections) = self.connections.upgrade() else { return };
        {
            let mut state = self.state.lock();
            if state.writes != writes || state.closed {
                return;
            }
            state.resting_since = Some(connections.rests.fetch_add(1, Ordering::Relaxed));
        }
        if connections.waiting.load(Ordering::Relaxed) > 0 {
            connections.close_idle();
        }
    }

    fn close_if_resting_since(&self, since: u64) {
        let reader = {
            let mut state = self.state.lock();
            if state.resting_since != Some(since) {
                return;
            }
            state.closed = true;
            state.resting_since = None;
            state.reader.take()
        };
        // The HTTP client watches a connection that rests, and drops it when it reads as ended.
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A TCP connection that gives its permit back when it is dropped.
pub(super) struct Connection {
    io: TokioIo<TcpStream>,
    link: Arc<Link>,
    open: Open,
}

struct Open {
    id: u64,
    inner: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.inner.open.lock().remove(&self.id);
        self.inner.metrics.connections.dec();
    }
}

impl Connects for Connection {
    fn connected(&self) -> Connected {
        debug_assert!(self.open.inner.open.lock().contains_key(&self.open.id), "a connection in use is registered");
        Connected::new().extra(Arc::clone(&self.link))
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut state = this.link.state.lock();
        if state.closed {
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        if read.is_pending() && !state.reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
            state.reader = Some(context.waker().clone());
        }
        read
    }
}

impl Connection {
    /// Notes that something is written, unless the connection was closed.
    fn begin_write(&self) -> io::Result<()> {
        let mut state = self.link.state.lock();
        if state.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.writes += 1;
        state.resting_since = None;
        Ok(())
    }
}

impl Write for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.begin_write()?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.begin_write()?;
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests;

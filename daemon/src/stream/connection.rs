//! The connection below a client, as far as this stage needs it: it can be cut, and says whether bytes go through it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// A connection that can be ended from outside. Cloning shares it.
///
/// A body is asked for bytes only while its client takes them, so what a client that does not read is to notice cannot be
/// told by the body: whoever holds the socket asks here too.
#[derive(Debug, Clone, Default)]
pub struct Connection(Arc<Cut>);

#[derive(Debug, Default)]
struct Cut {
    cut: AtomicBool,
    waker: AtomicWaker,
    /// Whoever holds the socket has sent bytes since this was looked at.
    moved: AtomicBool,
}

/// A connection that may have ended meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Remembered(Weak<Cut>);

impl Remembered {
    /// Is it still there?
    pub(super) fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Ends it, where it is still there.
    pub(super) fn cut(&self) {
        if let Some(cut) = self.0.upgrade() {
            Connection(cut).cut();
        }
    }
}

impl Connection {
    /// The same, for one who does not keep it.
    pub(super) fn remember(&self) -> Remembered {
        Remembered(Arc::downgrade(&self.0))
    }

    /// Ends it.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    /// Says that the client has taken bytes: one that takes a large frame slowly does read, though its body is not asked for more.
    pub fn moved(&self) {
        self.0.moved.store(true, Ordering::Relaxed);
    }

    /// Has the client taken bytes since this was asked before?
    pub(super) fn take_moved(&self) -> bool {
        self.0.moved.swap(false, Ordering::Relaxed)
    }

    /// Is it to end? The task that asks is woken when it is.
    pub fn poll_cut(&self, context: &Context<'_>) -> Poll<()> {
        self.0.waker.register(context.waker());
        match self.0.cut.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

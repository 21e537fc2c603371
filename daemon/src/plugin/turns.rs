//! Whose turn it is among the calls that have used up a slice: they go on one at a time, and the runtime looks for what has
//! come in (sockets, timers) before each.
//!
//! A call that only woke itself would be polled again at once: the runtime looks for what has come in after some dozens of
//! polls, and with a slice in each of them the neighbours would wait as many milliseconds.

use tokio::sync::Semaphore;

/// The turns, in the order in which they are asked for.
pub(super) struct Turns(Semaphore);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(1))
    }

    /// Waits for the next turn: until all others that wait have had theirs, and whatever is ready has run.
    pub(super) async fn next(&self) {
        let _first = self.0.acquire().await.expect("the semaphore is never closed");
        // Woken only when the runtime has nothing else to run and has looked for what has come in: behind those who read it,
        // but before those whom they wake in their turn. The second time these have run too.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
}

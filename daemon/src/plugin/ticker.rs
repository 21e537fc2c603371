//! The thread that makes the engine's epoch advance while plugins run.
//!
//! The epoch is what cuts a call into slices. The thread ticks once a [`SLICE_MS`] and parks itself after a while without
//! calls, so that an idle daemon is not woken, and a busy one does not pay for waking it at each call.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

/// How long a call runs before it is put aside for its neighbours, in milliseconds.
pub(super) const SLICE_MS: u64 = 1;

/// How many ticks without a call the thread waits before it parks.
const QUIET_TICKS_MAX: u32 = 50;

/// The unit of the count of calls begun, which shares a word with the count of calls running.
const BEGUN: u64 = 1 << 32;

/// The thread, which ends when this is dropped.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    waker: Thread,
}

/// Keeps the epoch advancing while it lives.
pub(super) struct Running<'a>(&'a Shared);

struct Shared {
    /// Calls begun (upper half, wrapping) and calls running (lower half).
    calls: AtomicU64,
    parked: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    /// Starts the thread. `tick` is called once a slice while calls run.
    pub(super) fn start(tick: impl Fn() + Send + 'static) -> Result<Self, io::Error> {
        let shared =
            Arc::new(Shared { calls: AtomicU64::new(0), parked: AtomicBool::new(false), stop: AtomicBool::new(false) });
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("plugin-ticker".into()).spawn(move || shared.run(tick))?
        };
        let waker = thread.thread().clone();
        Ok(Self { shared, thread: Some(thread), waker })
    }

    /// A call begins; it ends when the guard is dropped.
    pub(super) fn begin(&self) -> Running<'_> {
        self.shared.calls.fetch_add(BEGUN + 1, Ordering::SeqCst);
        // The thread sets `parked` before it looks at `calls` for the last time: one of the two sees the other.
        if self.shared.parked.load(Ordering::SeqCst) {
            self.waker.unpark();
        }
        Running(&self.shared)
    }

    /// A number that grows with the calls begun, and wraps: good enough to tell who was used longest ago.
    pub(super) fn begun(&self) -> u32 {
        (self.shared.calls.load(Ordering::Relaxed) >> 32) as u32
    }

    #[cfg(test)]
    pub(super) fn is_parked(&self) -> bool {
        self.shared.parked.load(Ordering::SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.waker.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by the panic hook; there is nothing to add here.
            let _ = thread.join();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn run(&self, tick: impl Fn()) {
        let mut seen = 0;
        let mut quiet_ticks = 0;
        while !self.stop.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(SLICE_MS));
            tick();
            let calls = self.calls.load(Ordering::SeqCst);
            let quiet = calls == seen && calls.is_multiple_of(BEGUN);
            seen = calls;
            quiet_ticks = if quiet { quiet_ticks + 1 } else { 0 };
            if quiet_ticks >= QUIET_TICKS_MAX {
                self.park(seen);
                quiet_ticks = 0;
            }
        }
    }

    fn park(&self, seen: u64) {
        self.parked.store(true, Ordering::SeqCst);
        while self.calls.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let give_up = tokio::time::Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(tokio::time::Instant::now() < give_up, "not within 10 s: {what}");
            thread::yield_now();
        }
    }

    #[test]
    fn it_ticks_while_a_call_runs_and_parks_when_none_does() {
        let ticks = Arc::new(AtomicU32::new(0));
        let ticker = {
            let ticks = Arc::clone(&ticks);
            Ticker::start(move || {
                ticks.fetch_add(1, Ordering::SeqCst);
            })
            .unwrap()
        };
        wait_until("parked without calls", || ticker.is_parked());
        let before = ticks.load(Ordering::SeqCst);
        let running = ticker.begin();
        wait_until("ticking far beyond the quiet time", || ticks.load(Ordering::SeqCst) > before + 2 * QUIET_TICKS_MAX);
        assert!(!ticker.is_parked());
        drop(running);
        wait_until("parked again", || ticker.is_parked());
        assert_eq!(ticker.begun(), 1);
    }
}

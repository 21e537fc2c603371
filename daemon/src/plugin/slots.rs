//! The instances that may exist at a time, in all, and who must give one up when there are too few.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::usage::Usage;

/// How many uses are looked at to find the one used longest ago. It is the oldest of a sample, which is as good as the
/// oldest of all and costs the same with ten thousand of them.
const SAMPLE: usize = 64;

/// Permits to have an instance.
pub(super) struct Slots {
    permits: Arc<Semaphore>,
    total: usize,
    waiting: AtomicUsize,
    uses: Mutex<Uses>,
}

#[derive(Default)]
struct Uses {
    list: Vec<Weak<Usage>>,
    /// Where the next sample begins.
    next: usize,
    /// The length at which the dead ones are removed.
    prune_at: usize,
}

impl Slots {
    /// That many permits.
    pub(super) fn new(total: u32) -> Self {
        let total = total as usize;
        Self { permits: Arc::new(Semaphore::new(total)), total, waiting: AtomicUsize::new(0), uses: Mutex::default() }
    }

    /// Waits for a permit. When there is none, an idle instance is dropped; when none is idle, the next one that
    /// becomes idle is.
    pub(super) async fn acquire(&self, now: u32) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return permit;
        }
        let _waiting = Waiting::new(&self.waiting);
        self.evict_one(now);
        Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Does anybody wait for a permit?
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// How many permits are given out.
    pub(super) fn in_use(&self) -> usize {
        self.total - self.permits.available_permits()
    }

    /// Makes a use's idle instances known, so that they can be given up.
    pub(super) fn register(&self, usage: &Arc<Usage>) {
        let mut uses = self.uses.lock();
        if uses.list.len() >= uses.prune_at {
            uses.list.retain(|usage| usage.strong_count() > 0);
            uses.prune_at = (2 * uses.list.len()).max(SAMPLE);
        }
        uses.list.push(Arc::downgrade(usage));
    }

    fn evict_one(&self, now: u32) {
        let mut oldest: Option<(u32, Arc<Usage>)> = None;
        {
            let mut uses = self.uses.lock();
            let (len, start) = (uses.list.len(), uses.next);
            for step in 0..len {
                if step >= SAMPLE && oldest.is_some() {
                    break;
                }
                uses.next = (start + step + 1) % len;
                let Some(usage) = uses.list[(start + step) % len].upgrade() else { continue };
                let Some(age) = usage.idle_for(now) else { continue };
                if oldest.as_ref().is_none_or(|(best, _)| age > *best) {
                    oldest = Some((age, usage));
                }
            }
        }
        // Outside the lock: dropping an instance takes a while, and dropping the last reference to a use drops more.
        if let Some((_, usage)) = oldest {
            usage.evict();
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

//! The tokens of a worker's rate limit, against the real clock.

use tokio::time::Instant;

use crate::domain::{RateLimit, TokenBucket};

/// One webhook's tokens. Every attempt takes one: first or again, live or of history, and a probe too.
pub(super) struct Pace {
    began: Instant,
    bucket: Option<TokenBucket>,
}

impl Pace {
    /// All the tokens of a limit, if there is one.
    pub(super) fn new(limit: Option<RateLimit>) -> Self {
        Self { began: Instant::now(), bucket: limit.map(TokenBucket::new) }
    }

    /// Goes by this limit from now on: a reload may have changed it.
    pub(super) fn follow(&mut self, limit: Option<RateLimit>) {
        let now = self.began.elapsed();
        match (&mut self.bucket, limit) {
            (Some(bucket), Some(limit)) if bucket.limit() != limit => bucket.change(limit, now),
            (Some(_), Some(_)) | (None, None) => {}
            (bucket, limit) => *bucket = limit.map(TokenBucket::new),
        }
    }

    /// When the next attempt may begin, unless it is now.
    pub(super) fn not_before(&self) -> Option<Instant> {
        let at = self.began + self.bucket.as_ref()?.next_at();
        (at > Instant::now()).then_some(at)
    }

    /// An attempt begins.
    pub(super) fn take(&mut self) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(self.began.elapsed());
        }
    }
}

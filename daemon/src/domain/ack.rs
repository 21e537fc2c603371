//! The acknowledgement that travels with an event.
//!
//! One [`AckToken`] stands for one JetStream message. It is split into [`AckShare`]s, one for each subscription that the
//! event concerns. When every share has been settled by [`AckShare::done`], the message is acked; when a share is
//! dropped without it, the message is not acked but handed back to JetStream, to come again. So an early return, a
//! panic or a forgotten branch can delay an event but never lose it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Everything that it caused is finished or durably on record.
    Ack,
    /// Something could not be recorded: JetStream is to send it again, after a while.
    Nak,
}

/// Where settled messages go: the ingest's ack task.
pub trait AckSink: Send + Sync {
    /// Takes the settlement of the message with that stream sequence.
    fn settle(&self, sequence: u64, settlement: Settlement);
}

struct Inner {
    sink: Arc<dyn AckSink>,
    sequence: u64,
    open: AtomicUsize,
    refused: AtomicBool,
}

impl Inner {
    fn close_one(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            let settlement = if self.refused.load(Ordering::Acquire) { Settlement::Nak } else { Settlement::Ack };
            self.sink.settle(self.sequence, settlement);
        }
    }
}

/// The one-shot right to acknowledge one message.
#[must_use = "a token that is dropped hands the message back to JetStream"]
pub struct AckToken(AckShare);

impl AckToken {
    /// A token for the message with that stream sequence.
    pub fn new(sink: Arc<dyn AckSink>, sequence: u64) -> Self {
        let inner = Inner { sink, sequence, open: AtomicUsize::new(1), refused: AtomicBool::new(false) };
        Self(AckShare { inner: Arc::new(inner), settled: false })
    }

    /// A further share of this token. The message is settled only when the token and all shares are.
    pub fn share(&self) -> AckShare {
        self.0.inner.open.fetch_add(1, Ordering::AcqRel);
        AckShare { inner: Arc::clone(&self.0.inner), settled: false }
    }

    /// Ends the token itself; the shares that were taken from it decide.
    pub fn done(self) {
        self.0.done();
    }
}

/// One subscription's part in a message's acknowledgement.
#[must_use = "a share that is dropped hands the message back to JetStream"]
pub struct AckShare {
    inner: Arc<Inner>,
    settled: bool,
}

impl AckShare {
    /// This subscription is finished with the event, or has it on record.
    pub fn done(mut self) {
        self.settled = true;
        self.inner.close_one();
    }
}

impl Drop for AckShare {
    fn drop(&mut self) {
        if !self.settled {
            self.inner.refused.store(true, Ordering::Release);
            self.inner.close_one();
        }
    }
}

impl std::fmt::Debug for AckShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AckShare({})", self.inner.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Sink(Mutex<Vec<(u64, Settlement)>>);

    impl AckSink for Sink {
        fn settle(&self, sequence: u64, settlement: Settlement) {
            self.0.lock().expect("sink").push((sequence, settlement));
        }
    }

    fn settled(run: impl FnOnce(AckToken)) -> Vec<(u64, Settlement)> {
        let sink = Arc::new(Sink::default());
        run(AckToken::new(Arc::clone(&sink) as Arc<dyn AckSink>, 7));
        sink.0.lock().expect("sink").clone()
    }

    #[test]
    fn acks_when_every_share_is_done() {
        assert_eq!(settled(AckToken::done), [(7, Settlement::Ack)]);
        let both = settled(|token| {
            let (a, b) = (token.share(), token.share());
            token.done();
            a.done();
            b.done();
        });
        assert_eq!(both, [(7, Settlement::Ack)]);
    }

    #[test]
    fn a_dropped_share_or_token_is_a_nak_once_all_are_in() {
        assert_eq!(settled(drop), [(7, Settlement::Nak)]);
        let one = settled(|token| {
            let (a, b) = (token.share(), token.share());
            token.done();
            drop(a);
            b.done();
        });
        assert_eq!(one, [(7, Settlement::Nak)]);
    }

    #[test]
    fn waits_for_the_last_share() {
        let sink = Arc::new(Sink::default());
        let token = AckToken::new(Arc::clone(&sink) as Arc<dyn AckSink>, 1);
        let share = token.share();
        token.done();
        assert!(sink.0.lock().expect("sink").is_empty());
        share.done();
        assert_eq!(sink.0.lock().expect("sink").len(), 1);
    }
}

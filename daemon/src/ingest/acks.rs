//! Settled messages on their way to JetStream, in a task of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::domain::{AckSink, Settlement};
use crate::failpoint::{self, Place};

/// How long JetStream is to wait before it sends a message again that could not be recorded.
const NAK_DELAY: Duration = Duration::from_secs(5);

/// For how long nothing can be recorded before open messages are handed back, so that whoever can record them may take them.
const HAND_BACK_AFTER: Duration = Duration::from_secs(5);

struct Open {
    reply: Subject,
    /// When it was received, or last reported as in progress.
    since: Instant,
    /// It was handed back because nothing can be recorded, and has not come again. It stays open: should it be settled
    /// before it comes again, its acknowledgement still counts.
    handed_back: bool,
}

#[derive(Default)]
struct State {
    /// Received and not settled, by stream sequence. A message that came again has its newest reply here.
    open: BTreeMap<u64, Open>,
    /// Settled and not sent. It holds at most what was open: JetStream bounds it by `max_ack_pending`.
    settled: Vec<(Subject, Settlement)>,
    /// The highest sequence received.
    routed: u64,
    /// The stream is no more: nothing is sent.
    discarded: bool,
}

/// The ledger of one consumer's messages: which are open, and which are to be acked.
#[derive(Default)]
pub(super) struct Acks {
    state: Mutex<State>,
    ready: Notify,
}

impl AckSink for Acks {
    fn settle(&self, sequence: u64, settlement: Settlement) {
        let mut state = self.state.lock();
        // A message that came twice while it was open is settled once, under its newest reply.
        if let Some(open) = state.open.remove(&sequence).filter(|_| !state.discarded) {
            state.settled.push((open.reply, settlement));
        }
        drop(state);
        self.ready.notify_one();
    }
}

impl Acks {
    /// A message came. True when it is one that was handed back and never let go of: whoever has it in hand goes on with
    /// it.
    pub(super) fn received(&self, sequence: u64, reply: Subject) -> bool {
        let mut state = self.state.lock();
        state.routed = state.routed.max(sequence);
        let open = Open { reply, since: Instant::now(), handed_back: false };
        state.open.insert(sequence, open).is_some_and(|known| known.handed_back)
    }

    /// Everything at or below this sequence that was received is settled.
    pub(super) fn floor(&self) -> u64 {
        let state = self.state.lock();
        state.open.first_key_value().map_or(state.routed, |(first, _)| first - 1)
    }

    /// Where the consumer stood when it was opened.
    pub(super) fn start_at(&self, routed: u64) {
        let mut state = self.state.lock();
        state.routed = state.routed.max(routed);
    }

    /// The stream and its consumer are no more. What is settled from now on, or was and has not been sent, is not sent.
    pub(super) fn discard(&self) {
        let mut state = self.state.lock();
        state.discarded = true;
        state.settled.clear();
        state.open.clear();
    }

    /// How many messages are open.
    pub(super) fn open(&self) -> usize {
        self.state.lock().open.len()
    }

    /// Sends settlements as they come, and reports old open messages as in progress, until told to stop; then sends what
    /// is left, and flushes. While nothing can be recorded for long, open messages are handed back instead.
    pub(super) async fn run(
        self: Arc<Self>,
        client: async_nats::Client,
        ack_wait: Duration,
        can_record: impl Fn() -> bool,
        stop: CancellationToken,
    ) {
        let mut progress = tokio::time::interval(ack_wait / 3);
        let mut failing_since = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.ready.notified() => self.send_settled(&client, NAK_DELAY).await,
                now = progress.tick() => {
                    let since = *failing_since.get_or_insert(now);
                    if can_record() {
                        failing_since = None;
                    }
                    let hands_back = failing_since.is_some() && now - since >= HAND_BACK_AFTER;
                    self.report_old(&client, ack_wait / 3, hands_back).await;
                }
            }
        }
        // Nobody here will take them again, so they may come again at once.
        self.send_settled(&client, Duration::ZERO).await;
        if let Err(error) = client.flush().await {
            warn!(%error, "could not flush the last acks");
        }
    }

    async fn send_settled(&self, client: &async_nats::Client, nak_delay: Duration) {
        let settled = std::mem::take(&mut self.state.lock().settled);
        failpoint::pass(Place::BeforeAck);
        for (reply, settlement) in settled {
            let payload = match settlement {
                Settlement::Ack => Bytes::from_static(b"+ACK"),
                Settlement::Nak if nak_delay.is_zero() => Bytes::from_static(b"-NAK"),
                Settlement::Nak => nak(nak_delay),
            };
            send(client, reply, payload).await;
        }
    }

    /// Reports messages that have been open for so long as in progress, or hands them back.
    async fn report_old(&self, client: &async_nats::Client, age: Duration, hands_back: bool) {
        let payload = if hands_back { nak(NAK_DELAY) } else { Bytes::from_static(b"+WPI") };
        let old = self.old(Instant::now(), age, hands_back);
        if hands_back && !old.is_empty() {
            info!(messages = old.len(), "nothing can be recorded, messages are handed back to jetstream");
        }
        for reply in old {
            send(client, reply, payload.clone()).await;
        }
    }

    /// The replies of messages that have been open for so long and are not handed back.
    fn old(&self, now: Instant, age: Duration, hands_back: bool) -> Vec<Subject> {
        let mut state = self.state.lock();
        let old = state.open.values_mut().filter(|open| now - open.since >= age && !open.handed_back);
        old.map(|open| {
            open.since = now;
            open.handed_back = hands_back;
            open.reply.clone()
        })
        .collect()
    }
}

fn nak(delay: Duration) -> Bytes {
    format!("-NAK {{\"delay\": {}}}", delay.as_nanos()).into()
}

async fn send(client: &async_nats::Client, reply: Subject, payload: Bytes) {
    if let Err(error) = client.publish(reply, payload).await {
        // The message comes again after `ack_wait`, and is then known as finished.
        warn!(%error, "could not send an ack");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_back_stays_open_until_it_comes_again_or_is_settled() {
        let acks = Acks::default();
        let reply = |text: &'static str| Subject::from_static(text);
        for sequence in 1..=3 {
            assert!(!acks.received(sequence, reply("first")), "{sequence} is new");
        }
        let later = Instant::now() + NAK_DELAY;
        assert!(acks.old(later, NAK_DELAY * 2, true).is_empty(), "they are not old");
        assert_eq!(acks.old(later, Duration::ZERO, true).len(), 3);
        assert!(acks.old(later, Duration::ZERO, false).is_empty(), "nobody asks for more time for them");
        assert_eq!((acks.open(), acks.floor()), (3, 0), "nothing is passed over");
        assert!(acks.received(1, reply("again")), "it is in hand already");
        assert!(!acks.received(1, reply("once more")), "it was not handed back since");
        for sequence in 1..=2 {
            acks.settle(sequence, Settlement::Ack);
        }
        let settled: Vec<_> = acks.state.lock().settled.drain(..).map(|(reply, _)| reply).collect();
        assert_eq!(settled, [reply("once more"), reply("first")], "each under its newest reply");
        assert_eq!((acks.open(), acks.floor()), (1, 2));
    }
}

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
use tracing::warn;

use crate::domain::{AckSink, Settlement};
use crate::failpoint::{self, Place};

/// How long JetStream is to wait before it sends a message again that could not be recorded.
const NAK_DELAY: Duration = Duration::from_secs(5);

struct Open {
    reply: Subject,
    /// When it was received, or last reported as in progress.
    since: Instant,
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
    /// A message came.
    pub(super) fn received(&self, sequence: u64, reply: Subject) {
        let mut state = self.state.lock();
        state.open.insert(sequence, Open { reply, since: Instant::now() });
        state.routed = state.routed.max(sequence);
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
    /// is left, and flushes.
    pub(super) async fn run(self: Arc<Self>, client: async_nats::Client, ack_wait: Duration, stop: CancellationToken) {
        let mut progress = tokio::time::interval(ack_wait / 3);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.ready.notified() => self.send_settled(&client, NAK_DELAY).await,
                _ = progress.tick() => self.report_progress(&client, ack_wait / 3).await,
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
                Settlement::Nak => format!("-NAK {{\"delay\": {}}}", nak_delay.as_nanos()).into(),
            };
            send(client, reply, payload).await;
        }
    }

    async fn report_progress(&self, client: &async_nats::Client, age: Duration) {
        let now = Instant::now();
        let old: Vec<Subject> = {
            let mut state = self.state.lock();
            let old = state.open.values_mut().filter(|open| now - open.since >= age);
            old.map(|open| {
                open.since = now;
                open.reply.clone()
            })
            .collect()
        };
        for reply in old {
            send(client, reply, Bytes::from_static(b"+WPI")).await;
        }
    }
}

async fn send(client: &async_nats::Client, reply: Subject, payload: Bytes) {
    if let Err(error) = client.publish(reply, payload).await {
        // The message comes again after `ack_wait`, and is then known as finished.
        warn!(%error, "could not send an ack");
    }
}

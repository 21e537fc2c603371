//! The live end of a stream without acknowledgements: every event once and in order, however often the connection, the
//! server or the consumer fails. Server-Sent Events are fed by it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{MessagesErrorKind, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures_util::{FutureExt as _, StreamExt as _};
use tracing::{debug, info, warn};

use super::connect::{Nats, StreamConfig, StreamFacts};
use super::{Error, decode};
use crate::domain::Event;
use crate::telemetry::chain;

/// How many messages one pull asks for.
const BATCH_MESSAGES: usize = 500;
/// How many events are handed on at once.
const HANDED_ON_MAX: usize = 256;
/// How long a pull waits for messages.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server tells, in a quiet time, that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// After how long without a pull the server removes the consumer.
const INACTIVE: Duration = Duration::from_secs(60);
/// The wait before the consumer is made again after a failure.
const REOPEN_DELAY: Duration = Duration::from_millis(500);

/// The most that removing the consumer at the end may take: the server does it later by itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of what a stream holds a tail begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refill {
    /// At most so many of the last sequences.
    pub events_max: u64,
    /// At most about so many bytes, going by the average of the stream's messages.
    pub bytes_max: u64,
}

impl Refill {
    /// The sequence to begin with.
    fn first(&self, facts: &StreamFacts) -> u64 {
        let average = facts.bytes.checked_div(facts.messages).unwrap_or(0).max(1);
        let events = self.events_max.min(self.bytes_max / average);
        (facts.last_sequence + 1).saturating_sub(events).max(facts.first_sequence).max(1)
    }
}

/// Why the sequence of events is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Events were discarded by the stream before they could be read. It goes on at `available`.
    Discarded {
        /// The first sequence that is still there.
        available: u64,
    },
    /// The stream holds less than was read from it: it was made anew. It goes on at `available`.
    Reset {
        /// The first sequence of the new stream.
        available: u64,
        /// The new stream's.
        identity: u64,
    },
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    /// Events, at least one, in stream order.
    Events(Vec<Arc<Event>>),
    /// The events that come are not the successors of those that came.
    Broken(Break),
}

/// A stream's live end, for readers that keep their own place.
pub struct Tail {
    nats: Nats,
    stream: StreamConfig,
    /// The next sequence that is expected.
    next: u64,
    /// How many messages the present consumer has sent.
    delivered: u64,
    /// What the stream held when it was opened.
    last_at_open: u64,
    /// The stream's: another one of its name has another.
    identity: u64,
    messages: Option<Messages>,
    /// The name of the present consumer.
    consumer: String,
    /// A message that came after others that did not, until it is known why.
    ahead: Option<Ahead>,
}

struct Ahead {
    message: async_nats::Message,
    stored: decode::Stored,
}

impl Tail {
    /// Opens the end of a stream, beginning with some of what it holds.
    ///
    /// # Errors
    /// When the stream's facts cannot be had, or no consumer can be made.
    pub async fn open(nats: Nats, stream: StreamConfig, refill: Refill) -> Result<Self, Error> {
        let facts = nats.facts(&stream.name).await?;
        let mut tail = Self {
            next: refill.first(&facts),
            nats,
            stream,
            delivered: 0,
            last_at_open: facts.last_sequence,
            identity: facts.identity,
            messages: None,
            consumer: String::new(),
            ahead: None,
        };
        tail.pull().await?;
        Ok(tail)
    }

    /// Removes the consumer at once, where the server answers; it would do so by itself after a minute.
    pub async fn close(self) {
        let Self { nats, stream, messages, consumer, .. } = self;
        drop(messages);
        let removed = nats.jetstream.delete_consumer_from_stream(&consumer, stream.name.as_str());
        if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, removed).await, Ok(Ok(_))) {
            debug!(stream = %stream.name, "could not delete the live tail's consumer, the server will");
        }
    }

    /// The next sequence that is expected.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The last sequence that the stream had when this was opened.
    pub fn last_at_open(&self) -> u64 {
        self.last_at_open
    }

    /// What tells the stream that is read from another one of its name.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// What comes next. Failures of the connection, the server or the consumer are waited out. Safe to cancel.
    pub async fn next(&mut self) -> Next {
        loop {
            if self.ahead.is_some() {
                match self.explain_jump().await {
                    Ok(Some(broken)) => return Next::Broken(broken),
                    Ok(None) => {
                        let mut batch = Vec::new();
                        batch.extend(self.ahead.take().map(|ahead| self.accept(&ahead.message, ahead.stored)));
                        self.drain(&mut batch);
                        return Next::Events(batch);
                    }
                    Err(error) => self.pause(&error).await,
                }
                continue;
            }
            let Some(messages) = &mut self.messages else {
                match self.reopen().await {
                    Ok(Some(broken)) => return Next::Broken(broken),
                    Ok(None) => {}
                    Err(error) => self.pause(&error).await,
                }
                continue;
            };
            match messages.next().await {
                Some(Ok(message)) => {
                    let mut batch = Vec::with_capacity(16);
                    self.receive(message.message, &mut batch);
                    self.drain(&mut batch);
                    if !batch.is_empty() {
                        return Next::Events(batch);
                    }
                }
                Some(Err(error)) => {
                    self.messages = None;
                    if !matches!(error.kind(), MessagesErrorKind::MissingHeartbeat | MessagesErrorKind::ConsumerDeleted)
                    {
                        self.pause(&error).await;
                    }
                }
                None => self.messages = None,
            }
        }
    }

    async fn pause(&self, error: &(dyn std::error::Error + Sync)) {
        warn!(stream = %self.stream.name, error = %chain(error), "the live tail is interrupted, trying again");
        tokio::time::sleep(REOPEN_DELAY).await;
    }

    /// Takes what has come already, without waiting.
    fn drain(&mut self, batch: &mut Vec<Arc<Event>>) {
        while batch.len() < HANDED_ON_MAX && self.ahead.is_none() {
            match self.messages.as_mut().and_then(|messages| messages.next().now_or_never()) {
                Some(Some(Ok(message))) => self.receive(message.message, batch),
                Some(Some(Err(_)) | None) => self.messages = None,
                None => return,
            }
        }
    }

    fn receive(&mut self, message: async_nats::Message, batch: &mut Vec<Arc<Event>>) {
        let Some(stored) = message.reply.as_deref().and_then(decode::stored) else { return };
        // Nothing is acknowledged, so a message that is lost on its way would not come again: it shows as a step in the
        // consumer's own count, and the consumer is made again at the place where we are.
        if stored.delivery != self.delivered + 1 || stored.sequence < self.next {
            self.messages = None;
            return;
        }
        self.delivered = stored.delivery;
        if stored.sequence > self.next {
            self.ahead = Some(Ahead { message, stored });
        } else {
            let event = self.accept(&message, stored);
            batch.push(event);
        }
    }

    fn accept(&mut self, message: &async_nats::Message, stored: decode::Stored) -> Arc<Event> {
        self.next = stored.sequence + 1;
        Arc::new(decode::event(&self.stream, message, stored))
    }

    /// Sequences are missing before the message in hand: were they deleted one by one, which is somebody's wish, or
    /// discarded from the stream's beginning before we read them?
    async fn explain_jump(&mut self) -> Result<Option<Break>, Error> {
        let facts = self.nats.facts(&self.stream.name).await?;
        let Some(ahead) = &self.ahead else { return Ok(None) };
        if ahead.stored.sequence > self.next && facts.first_sequence > self.next {
            self.next = ahead.stored.sequence;
            return Ok(Some(Break::Discarded { available: self.next }));
        }
        Ok(None)
    }

    async fn reopen(&mut self) -> Result<Option<Break>, Error> {
        let facts = self.nats.facts(&self.stream.name).await?;
        let available = facts.first_sequence.max(1);
        if facts.last_sequence + 1 < self.next || facts.identity != self.identity {
            self.identity = facts.identity;
            warn!(stream = %self.stream.name, read = self.next - 1, last = facts.last_sequence, "the stream was made anew");
            self.next = available;
            return Ok(Some(Break::Reset { available, identity: facts.identity }));
        }
        if available > self.next {
            self.next = available;
            return Ok(Some(Break::Discarded { available }));
        }
        self.pull().await?;
        info!(stream = %self.stream.name, next = self.next, "the live tail is open again");
        Ok(None)
    }

    /// Pulls from where it is, with a consumer of its own.
    async fn pull(&mut self) -> Result<(), Error> {
        let stream = self.stream.name.clone();
        let fail = move |action, source| Error::Consumer { action, stream: stream.clone(), source };
        let config = pull::Config {
            description: Some("sluiced: the live tail of Server-Sent Events".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.next },
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let made = self.nats.jetstream.create_consumer_on_stream(config, self.stream.name.as_str()).await;
        let consumer = made.map_err(|e| fail("make", e.into()))?;
        // Asked after the consumer was made: it goes with its stream, so what it sends is of this one.
        if self.nats.facts(&self.stream.name).await?.identity != self.identity {
            return Err(Error::Replaced { stream: self.stream.name.clone() });
        }
        let pulling = consumer
            .stream()
            .max_messages_per_batch(BATCH_MESSAGES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await;
        self.messages = Some(pulling.map_err(|e| fail("pull from", e.into()))?);
        self.consumer = consumer.cached_info().name.clone();
        self.delivered = 0;
        Ok(())
    }
}

//! The daemon's one durable consumer of a stream: every event that some webhook subscription asks for, once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::pull::{MessagesErrorKind, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::acks::Acks;
use super::connect::{Nats, StreamConfig, identity};
use super::{Error, decode};
use crate::domain::{AckSink, AckToken, Event, Pattern, StreamName};

/// How many messages one pull asks for.
const BATCH_MESSAGES: usize = 500;
/// How many received events are handed on at once.
const HANDED_ON_MAX: usize = 256;
/// How many bytes of events are read ahead, at most, while those before them wait.
const AHEAD_BYTES_MAX: usize = 16 << 20;
/// How long a pull waits for messages.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server tells, in a quiet time, that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The wait before the consumer is opened again after a failure.
const REOPEN_DELAY: Duration = Duration::from_millis(500);
/// The ack wait that makes the server send again whatever it has handed out,
const CALL_BACK_ACK_WAIT: Duration = Duration::from_millis(1);
/// and how long it stays: the server looks 100 ms after the change.
const CALL_BACK_TIME: Duration = Duration::from_millis(300);
/// What the consumer asks for while no subscription asks for anything: a subject that nobody publishes.
const NOTHING: &str = "sluiced.no-subscription";

/// An event and the right to acknowledge it.
pub struct Received {
    /// The event.
    pub event: Arc<Event>,
    /// Its message's token.
    pub token: AckToken,
    /// JetStream sent something before it that did not arrive, and will send that again later.
    pub after_loss: bool,
}

/// How a live tail is, for whoever looks after the daemon. Cloning shares it.
#[derive(Clone, Default)]
pub struct Status {
    replaced: CancellationToken,
    trouble: Arc<Mutex<Option<Box<str>>>>,
}

impl Status {
    /// Waits until another stream has taken the place of the one that was opened. Nothing more comes from the tail then:
    /// what is known of the old one's events does not hold for the new one's, and a start is what tells them apart.
    pub async fn replaced(&self) {
        self.replaced.cancelled().await;
    }

    /// Why nothing comes, when the consumer cannot be opened.
    pub fn trouble(&self) -> Option<Box<str>> {
        self.trouble.lock().clone()
    }
}

/// A stream's live tail.
pub struct Live {
    nats: Nats,
    stream: StreamConfig,
    /// Tells the stream from another one of its name.
    identity: u64,
    status: Status,
    filter: Vec<Pattern>,
    acks: Arc<Acks>,
    messages: Option<Messages>,
    /// Events received while those before them had yet to be handed on.
    ahead: VecDeque<Received>,
    ahead_bytes: usize,
    /// The consumer's own number of the message that came last: the next one has the next number, or one was lost.
    last_delivery: u64,
    /// The highest sequence that the consumer had handed out when it was first opened.
    delivered: u64,
    floor: u64,
}

impl Live {
    /// Opens the durable consumer for the subjects of `types`, or makes it. A new one begins after `resume_after` (the ack
    /// floor on record, when there is one) or else with the next event that is published. `identity` is the stream's as it
    /// was seen last.
    ///
    /// # Errors
    /// When the consumer can neither be found nor made, or the stream is another one by now.
    pub async fn open(
        nats: Nats,
        stream: StreamConfig,
        identity: u64,
        types: &[Pattern],
        resume_after: Option<u64>,
    ) -> Result<Self, Error> {
        let filter = nats.filter_for(&stream, types);
        let mut live = Self {
            nats,
            stream,
            identity,
            status: Status::default(),
            filter,
            acks: Arc::default(),
            messages: None,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            last_delivery: 0,
            delivered: 0,
            floor: 0,
        };
        let consumer = live.consumer(resume_after).await?;
        let info = consumer.cached_info();
        live.delivered = info.delivered.stream_sequence;
        live.last_delivery = info.delivered.consumer_sequence;
        live.floor = info.ack_floor.stream_sequence;
        live.acks.start_at(live.delivered);
        if info.num_ack_pending > 0 {
            live.call_back(&consumer).await?;
        }
        live.messages = Some(live.pull(&consumer).await?);
        Ok(live)
    }

    /// The stream that this is the tail of.
    pub fn stream(&self) -> &StreamConfig {
        &self.stream
    }

    /// The highest sequence that had been handed out when the tail was opened: what a daemon before this one may have
    /// acked, or left to a held subscription.
    pub fn delivered_before(&self) -> u64 {
        self.delivered
    }

    /// The consumer's ack floor when the tail was opened: nothing at or below it comes again.
    pub fn floor_before(&self) -> u64 {
        self.floor
    }

    /// A handle on how it is.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// The most messages that JetStream hands out unacknowledged.
    pub fn ack_pending_max(&self) -> usize {
        self.nats.config.ack_pending_max as usize
    }

    /// A handle on the acknowledgements, for readings and for the ack task.
    pub fn acks(&self) -> AckHandle {
        AckHandle { acks: Arc::clone(&self.acks), nats: self.nats.clone(), stream: self.stream.name.clone() }
    }

    /// Asks for other event types from now on.
    ///
    /// # Errors
    /// When JetStream does not take the new filter; the old one stays.
    pub async fn retarget(&mut self, types: &[Pattern]) -> Result<(), Error> {
        let filter = self.nats.filter_for(&self.stream, types);
        if filter == self.filter {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.filter, filter);
        match self.consumer(None).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.filter = before;
                Err(error)
            }
        }
    }

    /// The next events, at least one. Failures of the connection, the server or the consumer are waited out: this ends
    /// only with an event. Safe to cancel.
    pub async fn next(&mut self) -> Vec<Received> {
        if !self.ahead.is_empty() {
            self.ahead_bytes = 0;
            return std::mem::take(&mut self.ahead).into();
        }
        loop {
            let Some(messages) = &mut self.messages else {
                self.reopen().await;
                continue;
            };
            match messages.next().await {
                Some(Ok(message)) => {
                    let mut batch = Vec::with_capacity(16);
                    let received = self.receive(message.message);
                    batch.extend(received);
                    self.drain(&mut batch);
                    if !batch.is_empty() {
                        return batch;
                    }
                }
                Some(Err(error)) => match error.kind() {
                    MessagesErrorKind::MissingHeartbeat => {
                        warn!(stream = %self.stream.name, "no heartbeat from the consumer, opening it again");
                        self.messages = None;
                    }
                    MessagesErrorKind::NoResponders => {
                        warn!(stream = %self.stream.name, "jetstream does not answer, trying again");
                        self.messages = None;
                        tokio::time::sleep(REOPEN_DELAY).await;
                    }
                    MessagesErrorKind::ConsumerDeleted => {
                        warn!(stream = %self.stream.name, "the consumer was deleted, making it again");
                        self.messages = None;
                    }
                    _ => {
                        warn!(stream = %self.stream.name, %error, "pulling failed, opening the consumer again");
                        self.messages = None;
                        tokio::time::sleep(REOPEN_DELAY).await;
                    }
                },
                None => self.messages = None,
            }
        }
    }

    /// Receives what comes while events before it cannot be handed on, up to a bound of bytes: what is received is
    /// reported to JetStream as in progress, and what waited in the client's buffer would be sent again for its lateness.
    /// Never ends. Safe to cancel.
    pub async fn read_ahead(&mut self) -> Infallible {
        loop {
            let has_room = self.ahead_bytes < AHEAD_BYTES_MAX;
            let Some(messages) = self.messages.as_mut().filter(|_| has_room) else {
                return std::future::pending().await;
            };
            match messages.next().await {
                Some(Ok(message)) => {
                    let bytes = message.message.length;
                    if let Some(received) = self.receive(message.message) {
                        self.ahead_bytes += bytes;
                        self.ahead.push_back(received);
                    }
                }
                // Opened again when the next event is asked for.
                Some(Err(error)) => {
                    warn!(stream = %self.stream.name, %error, "reading ahead failed, opening the consumer again later");
                    self.messages = None;
                }
                None => self.messages = None,
            }
        }
    }

    /// Takes what has come already, without waiting.
    fn drain(&mut self, batch: &mut Vec<Received>) {
        while batch.len() < HANDED_ON_MAX {
            let next = self.messages.as_mut().and_then(|messages| messages.next().now_or_never());
            match next {
                Some(Some(Ok(message))) => {
                    let received = self.receive(message.message);
                    batch.extend(received);
                }
                // Errors are met again at the next call, or are passing; the end is met again too.
                Some(Some(Err(error))) => {
                    warn!(stream = %self.stream.name, %error, "pulling failed, opening the consumer again");
                    self.messages = None;
                    return;
                }
                Some(None) | None => return,
            }
        }
    }

    fn receive(&mut self, mut message: async_nats::Message) -> Option<Received> {
        let reply = message.reply.take()?;
        let stored = decode::stored(&reply)?;
        let after_loss = stored.delivery != self.last_delivery + 1;
        self.last_delivery = stored.delivery;
        if self.acks.received(stored.sequence, reply) && !after_loss {
            return None;
        }
        let event = Arc::new(decode::event(&self.stream, &message, stored));
        let sink = Arc::clone(&self.acks) as Arc<dyn AckSink>;
        Some(Received { event, token: AckToken::new(sink, stored.sequence), after_loss })
    }

    async fn reopen(&mut self) {
        if self.status.replaced.is_cancelled() {
            return std::future::pending().await;
        }
        // Everything above our own floor comes again from a consumer that was made anew; what is in flight or on record is
        // recognised.
        let resume_after = self.acks.floor();
        let opened = match self.consumer(Some(resume_after)).await {
            Ok(consumer) => self.pull(&consumer).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(messages) => {
                info!(stream = %self.stream.name, "consumer is open");
                self.status.trouble.lock().take();
                self.messages = Some(messages);
            }
            Err(Error::Replaced { .. }) => {
                warn!(stream = %self.stream.name, "the stream was deleted and made anew");
                // By its old place a message of the new stream would be acked.
                self.acks.discard();
                self.status.replaced.cancel();
            }
            Err(error) => {
                let error = crate::telemetry::chain(&error);
                warn!(stream = %self.stream.name, error, "could not open the consumer, trying again");
                *self.status.trouble.lock() = Some(error.into());
                tokio::time::sleep(REOPEN_DELAY).await;
            }
        }
    }

    /// Has JetStream send again at once what it handed out to a daemon that is no more, instead of after the ack wait: by
    /// an ack wait that is over already, for the moment that the server takes to look.
    async fn call_back(&self, consumer: &PullConsumer) -> Result<(), Error> {
        let info = consumer.cached_info();
        info!(stream = %self.stream.name, messages = info.num_ack_pending, "calling back what was handed out before");
        let stream = self.nats.jetstream.get_stream_no_info(self.stream.name.as_str()).await;
        let stream = stream.map_err(|e| self.fail("look for", e))?;
        let policy = info.config.deliver_policy;
        self.create(&stream, policy, CALL_BACK_ACK_WAIT).await?;
        tokio::time::sleep(CALL_BACK_TIME).await;
        self.create(&stream, policy, self.nats.config.ack_wait).await?;
        Ok(())
    }

    async fn pull(&self, consumer: &PullConsumer) -> Result<Messages, Error> {
        consumer
            .stream()
            .max_messages_per_batch(BATCH_MESSAGES)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|e| self.fail("pull from", e))
    }

    /// Finds the durable consumer and brings its settings up to date, or makes it.
    async fn consumer(&self, resume_after: Option<u64>) -> Result<PullConsumer, Error> {
        let name = self.stream.name.as_str();
        let stream = self.nats.jetstream.get_stream(name).await.map_err(|e| self.fail("look for", e))?;
        if identity(stream.cached_info()) != self.identity {
            return Err(Error::Replaced { stream: self.stream.name.clone() });
        }
        let found = match stream.consumer_info(&self.nats.config.consumer_name).await {
            Ok(info) => Some(info.config.deliver_policy),
            Err(error) => match error.kind() {
                ConsumerInfoErrorKind::NotFound => None,
                ConsumerInfoErrorKind::JetStream(e) if e.error_code() == ErrorCode::CONSUMER_NOT_FOUND => None,
                _ => return Err(self.fail("look for", error)),
            },
        };
        // The deliver policy of a consumer that exists cannot be changed: it is repeated as it stands.
        let deliver_policy = found.unwrap_or(match resume_after {
            // What such a stream has is what nobody has acked, and it takes no other policy.
            _ if self.nats.is_forgetful(&self.stream.name) => DeliverPolicy::All,
            Some(floor) => DeliverPolicy::ByStartSequence { start_sequence: floor + 1 },
            None => DeliverPolicy::New,
        });
        self.create(&stream, deliver_policy, self.nats.config.ack_wait).await
    }

    async fn create<I>(
        &self,
        stream: &Stream<I>,
        deliver_policy: DeliverPolicy,
        ack_wait: Duration,
    ) -> Result<PullConsumer, Error> {
        let mut subjects: Vec<String> = self.filter.iter().map(ToString::to_string).collect();
        if subjects.is_empty() {
            subjects.push(NOTHING.to_owned());
        }
        let config = pull::Config {
            durable_name: Some(self.nats.config.consumer_name.clone()),
            description: Some("sluiced: every event that some subscription asks for".to_owned()),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait,
            max_ack_pending: i64::from(self.nats.config.ack_pending_max),
            filter_subjects: subjects,
            ..Default::default()
        };
        stream.create_consumer(config).await.map_err(|e| self.fail("make or change", e))
    }

    fn fail(&self, action: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Consumer { action, stream: self.stream.name.clone(), source: source.into() }
    }
}

/// The acknowledgements of a live tail.
#[derive(Clone)]
pub struct AckHandle {
    acks: Arc<Acks>,
    nats: Nats,
    stream: StreamName,
}

impl AckHandle {
    /// Every message at or below this sequence that was received is settled.
    pub fn floor(&self) -> u64 {
        self.acks.floor()
    }

    /// How many messages are received and not settled.
    pub fn open(&self) -> usize {
        self.acks.open()
    }

    /// The ack floor as the server has it: nothing at or below it comes again, also not after acks were lost.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn confirmed_floor(&self) -> Result<u64, Error> {
        let (stream, name) = (self.stream.as_str(), &self.nats.config.consumer_name);
        let fail = |source| Error::Consumer { action: "read", stream: self.stream.clone(), source };
        let handle = self.nats.jetstream.get_stream_no_info(stream).await.map_err(|e| fail(e.into()))?;
        let info = handle.consumer_info(name).await.map_err(|e| fail(e.into()))?;
        Ok(info.ack_floor.stream_sequence)
    }

    /// Sends acks until `stop`, then sends what is left. While nothing can be recorded for some seconds, what is open is
    /// handed back to JetStream, to come again later: to this daemon or to one that can record it.
    pub async fn run(self, can_record: impl Fn() -> bool, stop: CancellationToken) {
        let ack_wait = self.nats.config.ack_wait;
        self.acks.run(self.nats.client.clone(), ack_wait, can_record, stop).await;
    }
}

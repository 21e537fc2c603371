//! Reading a stream from a position, page by page, without acknowledgements: one mechanism for catching up, replay and an
//! SSE client's resume.

use std::sync::Arc;
use std::time::Duration;

use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::StreamExt as _;
use tracing::debug;

use super::connect::{Nats, StreamConfig};
use super::{Error, decode};
use crate::domain::{Event, Pattern, StreamName};
use crate::telemetry::clock;

/// How long a page may take to come.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// After how long without a request the server removes a reader's consumer.
const INACTIVE: Duration = Duration::from_secs(60);

/// History that was gone before it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The stream.
    pub stream: StreamName,
    /// The first sequence that was asked for.
    pub from: u64,
    /// The first sequence that is still there. What is missing is at most `available - from` events.
    pub available: u64,
}

/// A page of history.
#[derive(Debug, Default)]
pub struct Page {
    /// The events, in stream order.
    pub events: Vec<Arc<Event>>,
    /// Nothing more that matches was in the stream when the page was read.
    pub at_end: bool,
    /// History that was discarded while the reader stood before it.
    pub gap: Option<Gap>,
}

impl Nats {
    /// The sequence of the first event that a stream stored at that time or later, in milliseconds since the Unix epoch;
    /// one above the last when there is none.
    ///
    /// # Errors
    /// When the stream cannot be asked.
    pub async fn sequence_at(&self, stream: &StreamName, at_ms: u64) -> Result<u64, Error> {
        let fail = |source| Error::Consumer { action: "make", stream: stream.clone(), source };
        let start_time = parse_rfc3339(&clock::rfc3339(at_ms)).map_err(fail)?;
        let config = pull::Config {
            description: Some("sluiced: looks up a time".to_owned()),
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let made = self.jetstream.create_consumer_on_stream(config, stream.as_str()).await;
        let consumer: PullConsumer = made.map_err(|e| fail(e.into()))?;
        let info = consumer.cached_info();
        // A consumer that has sent nothing stands right before its first message.
        let first = info.delivered.stream_sequence + 1;
        remove(self, stream, &info.name).await;
        Ok(first)
    }
}

/// Removes a consumer that is no longer needed.
async fn remove(nats: &Nats, stream: &StreamName, name: &str) {
    let done = nats.jetstream.delete_consumer_from_stream(name, stream.as_str()).await;
    if let Err(error) = done {
        debug!(%stream, %error, "could not delete a reader, the server will");
    }
}

/// A reader of one stream.
pub struct Reader {
    nats: Nats,
    stream: StreamConfig,
    consumer: PullConsumer,
    next: u64,
    /// What tells the stream that is read from another one of its name.
    identity: u64,
    /// How many messages the consumer has sent.
    delivered: u64,
}

impl Reader {
    /// Opens a reader of the events of `types` at sequence `from`, and tells of history that is gone.
    ///
    /// # Errors
    /// When the stream or its facts cannot be had.
    pub async fn open(
        nats: Nats,
        stream: StreamConfig,
        types: &[Pattern],
        from: u64,
    ) -> Result<(Self, Option<Gap>), Error> {
        let from = from.max(1);
        let subjects = nats.filter_for(&stream, types).iter().map(ToString::to_string).collect();
        let config = pull::Config {
            description: Some("sluiced: a reader of history".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            filter_subjects: subjects,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let fail = |source| Error::Consumer { action: "make", stream: stream.name.clone(), source };
        let consumer =
            nats.jetstream.create_consumer_on_stream(config, stream.name.as_str()).await.map_err(|e| fail(e.into()))?;
        // Asked after the consumer was made: it goes with its stream, so what it sends is of this one.
        let facts = nats.facts(&stream.name).await?;
        let gap = (facts.first_sequence > from).then(|| Gap {
            stream: stream.name.clone(),
            from,
            available: facts.first_sequence,
        });
        let next = from.max(facts.first_sequence);
        Ok((Self { nats, stream, consumer, next, identity: facts.identity, delivered: 0 }, gap))
    }

    /// What tells the stream that is read from another one of its name.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// The next sequence that will be read.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// What is there now, up to `events_max` events; it does not wait for new ones.
    ///
    /// # Errors
    /// When the page does not come whole. What came before the failure is lost with the reader: open another one at
    /// [`Reader::next_sequence`].
    pub async fn page(&mut self, events_max: usize) -> Result<Page, Error> {
        let read = self.read(events_max);
        let page = match tokio::time::timeout(PAGE_TIMEOUT, read).await {
            Ok(page) => page?,
            Err(elapsed) => return Err(self.fail(elapsed)),
        };
        let mut page = page;
        // A jump may be events of other types, or the place where the stream begins by now, also before the first page.
        if page.events.first().is_none_or(|first| first.position.sequence > self.next) {
            page.gap = self.gap_up_to(page.events.first().map(|first| first.position.sequence)).await?;
        }
        if let Some(last) = page.events.last() {
            self.next = last.position.sequence + 1;
        } else if let Some(gap) = &page.gap {
            self.next = gap.available;
        }
        Ok(page)
    }

    /// How many events that match are still to be read, as the server said when the reader was opened.
    pub fn pending(&self) -> u64 {
        self.consumer.cached_info().num_pending
    }

    /// What is gone from where the reader stands, at most up to the event that came.
    async fn gap_up_to(&self, came: Option<u64>) -> Result<Option<Gap>, Error> {
        let first_sequence = self.nats.facts(&self.stream.name).await?.first_sequence;
        let available = came.map_or(first_sequence, |came| came.min(first_sequence));
        let from = self.next;
        Ok((available > from).then(|| Gap { stream: self.stream.name.clone(), from, available }))
    }

    /// Removes the consumer at once; a reader that is only dropped is removed by the server after a minute.
    pub async fn close(self) {
        remove(&self.nats, &self.stream.name, &self.consumer.cached_info().name).await;
    }

    async fn read(&mut self, events_max: usize) -> Result<Page, Error> {
        let fetch = self.consumer.fetch().max_messages(events_max).messages();
        let mut messages = fetch.await.map_err(|e| self.fail(e))?;
        let mut page = Page { events: Vec::with_capacity(events_max.min(64)), at_end: false, gap: None };
        while let Some(message) = messages.next().await {
            let message = message.map_err(|source| Error::Read { stream: self.stream.name.clone(), source })?.message;
            let stored = message.reply.as_deref().and_then(decode::stored).ok_or_else(|| self.fail(Broken))?;
            // Nothing is acknowledged here, so a message that is lost on its way would not come again: it shows as a step
            // in the consumer's count.
            if stored.delivery != self.delivered + 1 {
                return Err(self.fail(Broken));
            }
            self.delivered = stored.delivery;
            page.at_end = stored.pending == 0;
            page.events.push(Arc::new(decode::event(&self.stream, &message, stored)));
        }
        page.at_end |= page.events.is_empty();
        Ok(page)
    }

    fn fail(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Read { stream: self.stream.name.clone(), source: source.into() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a message was lost on its way, or came without its place in the stream")]
struct Broken;

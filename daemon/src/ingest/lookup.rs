//! Finding one event: by its place, or by its id among the newest of a stream.

use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::RawMessageErrorKind;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::Error;
use super::connect::{Nats, StreamConfig};
use super::decode::{self, Stored};
use crate::domain::{Event, Position, StreamName};

/// How many of a stream's newest messages are looked at for an id: JetStream has no index of them.
pub const SEARCH_MESSAGES_MAX: u64 = 100_000;
/// How long the search of one stream may take.
pub const SEARCH_TIME_MAX: Duration = Duration::from_secs(10);
/// How many headers come at a time.
const SEARCH_BATCH: usize = 2_000;
/// After how long without a request the server removes the search's consumer.
const INACTIVE: Duration = Duration::from_secs(30);

/// What a search of one stream came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Searched {
    /// The stream.
    pub stream: StreamName,
    /// The newest event with the id.
    pub found: Option<u64>,
    /// The first sequence that was looked at.
    pub from: u64,
    /// Whether everything from there to the end was looked at, in the time allowed.
    pub to_the_end: bool,
}

impl Nats {
    /// Reads one event. `None` when the stream has no message there (any more).
    ///
    /// # Errors
    /// When the stream is not configured, or cannot be read.
    pub async fn event(&self, position: &Position) -> Result<Option<Event>, Error> {
        let name = &position.stream;
        let fail = |source| Error::Read { stream: name.clone(), source };
        let config = self.stream(name).ok_or_else(|| Error::NoStream { stream: name.clone() })?;
        let stream = self.jetstream.get_stream_no_info(name.as_str()).await.map_err(|e| fail(e.into()))?;
        // Any replica answers a direct get, where the stream allows it. One that lags may not have the message yet: what is
        // not had so is asked of the leader.
        let raw = match stream.direct_get(position.sequence).await {
            Ok(raw) => raw,
            Err(_) => match stream.get_raw_message(position.sequence).await {
                Ok(raw) => raw,
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(None),
                Err(error) => return Err(fail(error.into())),
            },
        };
        let time_ms = u64::try_from(raw.time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let stored = Stored { sequence: raw.sequence, delivery: 0, time_ms, pending: 0 };
        let message = Message {
            subject: raw.subject,
            reply: None,
            payload: raw.payload,
            headers: Some(raw.headers),
            status: None,
            description: None,
            length: 0,
        };
        Ok(Some(decode::event(config, &message, stored)))
    }

    /// Looks for an event with that id (its `Nats-Msg-Id` or `ce-id` header) among the newest [`SEARCH_MESSAGES_MAX`]
    /// messages of a stream, for no longer than [`SEARCH_TIME_MAX`]. Only headers are read: the id within a structured
    /// CloudEvent is not found.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn search(&self, stream: &StreamConfig, id: &str) -> Result<Searched, Error> {
        let name = &stream.name;
        let facts = self.facts(name).await?;
        let from = facts.first_sequence.max(facts.last_sequence.saturating_sub(SEARCH_MESSAGES_MAX - 1)).max(1);
        let mut searched = Searched { stream: name.clone(), found: None, from, to_the_end: facts.messages == 0 };
        if searched.to_the_end {
            return Ok(searched);
        }
        let fail = |source| Error::Consumer { action: "make", stream: name.clone(), source };
        let config = pull::Config {
            description: Some("sluiced: a search for one event".to_owned()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            headers_only: true,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer =
            self.jetstream.create_consumer_on_stream(config, name.as_str()).await.map_err(|e| fail(e.into()))?;
        let deadline = Instant::now() + SEARCH_TIME_MAX;
        let read = async {
            while !searched.to_the_end {
                let batch = consumer.fetch().max_messages(SEARCH_BATCH).messages().await?;
                tokio::pin!(batch);
                let mut any = false;
                while let Some(message) = batch.next().await {
                    let message = message?.message;
                    let Some(stored) = message.reply.as_deref().and_then(decode::stored) else { continue };
                    any = true;
                    searched.to_the_end = stored.pending == 0;
                    if has_id(&message, id) {
                        searched.found = Some(stored.sequence);
                    }
                }
                searched.to_the_end |= !any;
            }
            Ok(())
        };
        let result: Result<Result<(), Box<dyn std::error::Error + Send + Sync>>, _> =
            tokio::time::timeout_at(deadline, read).await;
        // The server removes the consumer too, later.
        drop(self.jetstream.delete_consumer_from_stream(&consumer.cached_info().name, name.as_str()).await);
        match result {
            Ok(Err(source)) => Err(Error::Read { stream: name.clone(), source }),
            Ok(Ok(())) | Err(_) => Ok(searched),
        }
    }
}

/// As an event takes its id from the headers.
fn has_id(message: &Message, id: &str) -> bool {
    let Some(headers) = &message.headers else { return false };
    let value = |wanted: &str| {
        let named = headers.iter().find(|(name, _)| AsRef::<str>::as_ref(*name).eq_ignore_ascii_case(wanted));
        named.and_then(|(_, values)| values.first()).map(|value| value.as_str())
    };
    value("Nats-Msg-Id").or_else(|| value("ce-id")) == Some(id)
}

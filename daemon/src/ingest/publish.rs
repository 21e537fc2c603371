//! Putting an event into a stream, acknowledged by JetStream.

use std::error::Error as _;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;

use super::Error;
use super::connect::Nats;
use crate::domain::{Position, StreamName, Subject};

/// An event to be published.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Its type; the subject is this with the prefix of the stream that takes it.
    pub kind: Subject,
    /// An idempotency key: a second event with the same key within the stream's duplicate window is not stored.
    pub id: Option<String>,
    /// The media type of `data`.
    pub content_type: String,
    /// The payload.
    pub data: Bytes,
}

/// What JetStream said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where it stands.
    pub position: Position,
    /// The same idempotency key was there already: nothing new was stored.
    pub duplicate: bool,
}

impl Nats {
    /// Publishes JSON to a subject of a configured stream, and returns when JetStream has stored it. A second one with the
    /// same `id` within the stream's duplicate window is not stored.
    ///
    /// # Errors
    /// When JetStream does not acknowledge it.
    pub async fn publish_json(&self, subject: &Subject, id: &str, data: Bytes) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", "application/json");
        let message = PublishMessage::build().payload(data).headers(headers).message_id(id);
        let sent = self.jetstream.send_publish(subject.as_str().to_owned(), message).await;
        sent.map_err(|e| Error::Publish(e.into()))?.await.map_err(|e| Error::Publish(e.into()))?;
        Ok(())
    }

    /// Publishes an event, and returns when JetStream has stored it.
    ///
    /// # Errors
    /// When no configured stream takes its type, or JetStream does not acknowledge it; [`Error::TooLarge`] when it never
    /// will.
    pub async fn publish(&self, event: Publish) -> Result<Published, Error> {
        self.send(event).await?.stored().await
    }

    /// Publishes events in their order, and returns when JetStream has answered for each.
    pub async fn publish_all(&self, events: Vec<Publish>) -> Vec<Result<Published, Error>> {
        let mut sent = Vec::with_capacity(events.len());
        for event in events {
            sent.push(self.send(event).await);
        }
        let mut answers = Vec::with_capacity(sent.len());
        for sent in sent {
            answers.push(match sent {
                Ok(sent) => sent.stored().await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Sends an event without waiting for JetStream.
    async fn send(&self, event: Publish) -> Result<Sent, Error> {
        let wanted = |prefix: &str| format!("{prefix}{}", event.kind);
        let stream = self
            .streams()
            .iter()
            .find(|s| s.subjects.iter().any(|p| p.matches(&wanted(&s.type_prefix))))
            .ok_or_else(|| Error::NoStreamFor { subject: event.kind.to_string() })?;
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", event.content_type.as_str());
        let mut message = PublishMessage::build().payload(event.data).headers(headers);
        if let Some(id) = &event.id {
            message = message.message_id(id);
        }
        let ack = self.jetstream.send_publish(wanted(&stream.type_prefix), message).await.map_err(refused)?;
        Ok(Sent { stream: stream.name.clone(), ack })
    }
}

/// An event that JetStream has yet to answer for.
struct Sent {
    stream: StreamName,
    ack: PublishAckFuture,
}

impl Sent {
    async fn stored(self) -> Result<Published, Error> {
        let ack = self.ack.await.map_err(refused)?;
        let position = Position { stream: self.stream, sequence: ack.sequence };
        Ok(Published { position, duplicate: ack.duplicate })
    }
}

/// Why JetStream did not take it: one that is too large for the server, or for the stream, is told apart.
fn refused(error: PublishError) -> Error {
    let of_stream = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    let of_stream = of_stream.map(jetstream::Error::error_code);
    let too_large = [ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM, ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM];
    match error.kind() == PublishErrorKind::MaxPayloadExceeded
        || of_stream.is_some_and(|code| too_large.contains(&code))
    {
        true => Error::TooLarge(error.into()),
        false => Error::Publish(error.into()),
    }
}

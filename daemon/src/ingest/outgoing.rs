//! Putting messages of the daemon's own into streams that it does not read.

use async_nats::HeaderMap;
use async_nats::jetstream::context::{GetStreamByNameErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;

use super::Error;
use super::connect::Nats;
use crate::domain::{Pattern, Subject};

/// A message of the daemon's own.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to.
    pub subject: Subject,
    /// A second message with the same id within the stream's duplicate window is not stored.
    pub id: String,
    /// Headers; line breaks in their values become spaces.
    pub headers: Vec<(&'static str, String)>,
    /// The payload.
    pub body: Bytes,
}

impl Nats {
    /// Publishes a message, and returns when a stream has stored it.
    ///
    /// # Errors
    /// When JetStream does not acknowledge it; [`Error::TooLarge`] when it never will.
    pub async fn publish_outgoing(&self, message: &Outgoing) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in &message.headers {
            headers.insert(*name, value.replace(|c: char| c.is_control(), " ").as_str());
        }
        let payload = PublishMessage::build().payload(message.body.clone()).headers(headers).message_id(&message.id);
        let sent =
            self.jetstream.send_publish(message.subject.to_string(), payload).await.map_err(|error| {
                match error.kind() {
                    PublishErrorKind::MaxPayloadExceeded => Error::TooLarge(error.into()),
                    _ => Error::Publish(error.into()),
                }
            })?;
        sent.await.map_err(|error| Error::Publish(error.into())).map(drop)
    }

    /// Checks that for each of these subjects there is a stream that takes it, and that it is none of those that the
    /// daemon reads.
    ///
    /// # Errors
    /// When there is none, or it is one of those, or JetStream does not answer.
    pub async fn check_outgoing(&self, mut subjects: Vec<Subject>) -> Result<(), Error> {
        while let Some(subject) = subjects.pop() {
            let name = match self.jetstream.stream_by_subject(subject.as_str()).await {
                Ok(name) => name,
                Err(error) if matches!(error.kind(), GetStreamByNameErrorKind::NotFound) => {
                    return Err(Error::NoStreamTakes { subject: subject.to_string() });
                }
                Err(error) => return Err(Error::JetStream(error.into())),
            };
            if self.streams().iter().any(|own| own.name.as_str() == name) {
                return Err(Error::OwnStreamTakes { subject: subject.to_string(), stream: name });
            }
            // One stream takes most of them, or all.
            let stream = self.jetstream.get_stream(&name).await.map_err(|error| Error::JetStream(error.into()))?;
            let taken = &stream.cached_info().config.subjects;
            let taken: Vec<_> = taken.iter().filter_map(|subject| Pattern::parse(subject).ok()).collect();
            subjects.retain(|subject| !taken.iter().any(|pattern| pattern.matches(subject.as_str())));
        }
        Ok(())
    }
}

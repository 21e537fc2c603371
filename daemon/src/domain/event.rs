//! An event as it came from a stream, and what plugins make of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The name of a JetStream stream: letters, digits, `-` and `_`, so that it can stand in a cursor and in a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

/// The longest stream name accepted, in bytes.
pub const STREAM_NAME_BYTES_MAX: usize = 64;

/// A text that is not a stream name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stream name is 1 to {STREAM_NAME_BYTES_MAX} letters, digits, `-` or `_`")]
pub struct StreamNameError;

impl StreamName {
    /// Parses a stream name.
    ///
    /// # Errors
    /// When the text is empty, too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, StreamNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || text.len() > STREAM_NAME_BYTES_MAX || !text.chars().all(allowed) {
            return Err(StreamNameError);
        }
        Ok(Self(text.into()))
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in the log: a stream and a JetStream stream sequence (1 is the first message).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The stream.
    pub stream: StreamName,
    /// The stream sequence.
    pub sequence: u64,
}

/// A header: name as sent, value as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: Box<str>,
    /// The value.
    pub value: Box<str>,
}

/// One event, as read from a stream. Cloning shares the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `Nats-Msg-Id`, else `ce-id`, else `stream:sequence`.
    pub id: Box<str>,
    /// The event type: the subject less the stream's configured prefix.
    pub kind: Box<str>,
    /// The NATS subject it was published on.
    pub subject: Box<str>,
    /// Where it stands in its stream.
    pub position: Position,
    /// When JetStream stored it, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The publisher's headers, without those that NATS itself reads (`Nats-*`) and without `Content-Type`.
    pub headers: Vec<Header>,
    /// The media type of `data`, where the publisher named one.
    pub content_type: Option<Box<str>>,
    /// The payload.
    pub data: Bytes,
    /// Why the message could not be understood, when it could not: `data` is then the message as it came.
    pub undecodable: Option<Box<str>>,
}

impl Event {
    /// The value of the first header of that name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| &*h.value)
    }
}

/// What a filter says of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The event goes on.
    Keep,
    /// The event is not for this subscription, and perhaps why.
    Drop(Option<String>),
}

/// One output of a transform: what is delivered in place of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The payload.
    pub data: Bytes,
    /// Its media type; `None` keeps the event's.
    pub content_type: Option<Box<str>>,
    /// Headers that take the place of the event's of the same name.
    pub headers: Vec<Header>,
    /// Another event type, where the transform sets one.
    pub kind: Option<Box<str>>,
}

//! The records of an event fixture, as the SDK has them: the file that reads and compares fixtures is the SDK's own.

use crate::domain::{self, Position, StreamName};

/// A header of an event or of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// The event of a fixture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's id.
    pub id: String,
    /// The event type.
    pub type_: String,
    /// The subject.
    pub subject: String,
    /// The stream.
    pub stream: String,
    /// The sequence in the stream.
    pub sequence: u64,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The media type of `data`.
    pub content_type: Option<String>,
    /// The headers.
    pub headers: Vec<Header>,
    /// The payload.
    pub data: Vec<u8>,
}

/// What a filter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event goes on.
    Keep,
    /// The event does not, and perhaps why.
    Drop(Option<String>),
}

/// One output of a transform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The payload.
    pub data: Vec<u8>,
    /// Its media type, where the plugin set one.
    pub content_type: Option<String>,
    /// The headers that the plugin set.
    pub headers: Vec<Header>,
    /// Another event type, where the plugin set one.
    pub type_: Option<String>,
}

impl Event {
    /// The event as the daemon has it.
    ///
    /// # Errors
    /// When the stream's name is none.
    pub fn to_domain(&self) -> anyhow::Result<domain::Event> {
        let header =
            |header: &Header| domain::Header { name: header.name.as_str().into(), value: header.value.as_str().into() };
        Ok(domain::Event {
            id: self.id.as_str().into(),
            kind: self.type_.as_str().into(),
            subject: self.subject.as_str().into(),
            position: Position { stream: StreamName::parse(&self.stream)?, sequence: self.sequence },
            time_ms: self.time_ms,
            headers: self.headers.iter().map(header).collect(),
            content_type: self.content_type.as_deref().map(Into::into),
            data: self.data.clone().into(),
            undecodable: None,
        })
    }
}

impl From<domain::Output> for Output {
    fn from(made: domain::Output) -> Self {
        let header = |header: domain::Header| Header { name: header.name.into(), value: header.value.into() };
        Self {
            data: made.data.into(),
            content_type: made.content_type.map(Into::into),
            headers: made.headers.into_iter().map(header).collect(),
            type_: made.kind.map(Into::into),
        }
    }
}

//! JetStream to [`Event`](crate::domain::Event), and back: the only user of the NATS client.
//!
//! - [`connect`]: one connection for the daemon, its state, streams and their facts.
//! - [`live`]: the daemon's one durable consumer of a stream, with acknowledgements that travel with the events.
//! - [`reader`]: reading a stream from a position, without acknowledgements: catching up, replay, an SSE client's resume.
//! - [`tail`]: the live end of a stream without acknowledgements, for Server-Sent Events.
//! - [`browse`]: pages of a stream's events, and how many there are.
//! - [`lookup`]: one event by its place, or by its id among the newest.
//! - [`publish`]: putting an event into a stream.
//! - [`outgoing`]: the daemon's own messages into streams that it does not read.
//! - `passing`: which failures pass by themselves.
//! - `decode`: what a NATS message says, CloudEvents included.

mod acks;
pub mod browse;
pub mod connect;
mod decode;
pub mod live;
pub mod lookup;
pub mod outgoing;
mod passing;
pub mod publish;
pub mod reader;
pub mod tail;

pub use browse::{BROWSE_PLACES_MAX, Heading, Headings, SUBJECTS_MAX, Stretch, TypeCount};
pub use connect::{Config, Nats, StreamConfig, StreamFacts};
pub use live::{Live, Received};
pub use lookup::{SEARCH_MESSAGES_MAX, Searched};
pub use outgoing::Outgoing;
pub use publish::{Publish, Published};
pub use reader::{Gap, Page, Reader};
pub use tail::Tail;

use crate::domain::StreamName;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong between the daemon and NATS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to NATS at {url}")]
    Connect {
        /// Where it was tried.
        url: String,
        /// Why it failed.
        source: Source,
    },
    /// Credentials, certificates or an address that cannot be used.
    #[error("cannot use the NATS setting {setting}")]
    Setting {
        /// The key below `[nats]`.
        setting: &'static str,
        /// Why it cannot be used.
        source: Source,
    },
    /// The server is too old.
    #[error("the NATS server at {url} is version {version}, and sluiced needs 2.10 or newer: upgrade it")]
    ServerTooOld {
        /// The server.
        url: String,
        /// What it said it is.
        version: String,
    },
    /// JetStream is not enabled, or does not answer.
    #[error("JetStream does not answer: is it enabled on the server (`jetstream {{}}` or `-js`)?")]
    JetStream(#[source] Source),
    /// The stream does not exist and `create` is off.
    #[error("stream {stream} does not exist: create it, or set `create = true` for it")]
    NoStream {
        /// The stream.
        stream: StreamName,
    },
    /// The stream is not the one that it was: one of the same name has taken its place.
    #[error("stream {stream} was deleted and made anew")]
    Replaced {
        /// The stream.
        stream: StreamName,
    },
    /// The stream could not be created or its facts not be read.
    #[error("cannot {action} stream {stream}")]
    Stream {
        /// What was tried.
        action: &'static str,
        /// The stream.
        stream: StreamName,
        /// Why it failed.
        source: Source,
    },
    /// The stream exists with other subjects than configured.
    #[error("stream {stream} has the subjects {has}, and the configuration needs {needs}: change one of them")]
    Subjects {
        /// The stream.
        stream: StreamName,
        /// The subjects it has.
        has: String,
        /// The subjects configured.
        needs: String,
    },
    /// A consumer could not be made, read or deleted.
    #[error("cannot {action} a consumer of stream {stream}")]
    Consumer {
        /// What was tried.
        action: &'static str,
        /// The stream.
        stream: StreamName,
        /// Why it failed.
        source: Source,
    },
    /// A page of history could not be read.
    #[error("cannot read stream {stream}")]
    Read {
        /// The stream.
        stream: StreamName,
        /// Why it failed.
        source: Source,
    },
    /// A message was not acknowledged by JetStream.
    #[error("JetStream did not take the event")]
    Publish(#[source] Source),
    /// A message is larger than the server takes.
    #[error("the server takes no message of that size: raise its `max_payload`")]
    TooLarge(#[source] Source),
    /// No stream takes a subject that the daemon is to publish to.
    #[error("no stream takes the subject {subject}: create one for it, or take `dead_letters.publish_subject` out")]
    NoStreamTakes {
        /// The subject.
        subject: String,
    },
    /// A stream that the daemon reads takes a subject that it is to publish to.
    #[error(
        "stream {stream} takes the subject {subject} and is read by the daemon itself, so that its dead letters would \
         come back as events: publish them to another stream with `dead_letters.publish_subject`"
    )]
    OwnStreamTakes {
        /// The subject.
        subject: String,
        /// The stream.
        stream: String,
    },
    /// No configured stream takes that subject.
    #[error("no configured stream takes the subject {subject}")]
    NoStreamFor {
        /// The subject.
        subject: String,
    },
}

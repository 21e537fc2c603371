//! Server-Sent Events: the log's events to any number of clients, none of which loses its place.
//!
//! For each stream that somebody listens to there is one live tail ([`ingest::tail`](crate::ingest::tail)), which fills a
//! bounded ring of recent entries; each entry's frame is rendered once and shared. A client is no more than a place in
//! each stream that it sees. Clients of the same types are a group: an event is matched once for all groups, and wakes those
//! who want it. Within the ring a client reads from there; when it is too slow for that, or comes back with an older place,
//! it reads history from the stream, a bounded piece at a time and a bounded number of readers at once, until it is in the
//! ring again; a piece serves all of a group who wait for it. Nothing is queued for a client beyond a piece, so it may be
//! as slow as it likes. One that reads nothing at all is cut off after a while, and comes back to its place.
//!
//! A named stream with plugins has a ring of its own, filled from the stream's ring by one task that runs the plugins once
//! for all clients; in history they run once for a piece.
//!
//! - [`hub`]: who may listen to what; feeds started with the first client and ended some time after the last.
//! - [`client`]: one client's stream of bytes.
//! - [`connection`]: the connection below it, which can be cut.
//! - [`cursor`]: the `id:` of a frame, a place in every stream that the client sees.
//! - [`frame`]: the text of events, and how binary data is sent.
//! - [`standing`]: where a client stands, for those who ask beside it.
//! - [`process`]: what this stage asks of a named stream's plugins.

mod admit;
pub mod client;
pub mod connection;
pub mod cursor;
mod facts;
mod feed;
pub mod frame;
mod group;
mod history;
pub mod hub;
mod log;
pub mod process;
mod ring;
#[cfg(test)]
mod simulation;
pub mod standing;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use connection::Connection;
pub use cursor::{Cursor, SEQUENCE_MAX, Tag};
pub use hub::{Hub, Listed, Named, Request, Wanted};
#[cfg(test)]
pub(crate) use process::NoPlugins;
pub use process::{Process, Processed};
pub use ring::RingLimits;
pub use standing::{Pace, Standing, Watched};

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{StreamName, SubscriptionId};

/// Bounds and times of this stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The most clients at once.
    pub clients_max: usize,
    /// The most clients of one principal at once.
    pub clients_per_principal_max: usize,
    /// The recent entries kept of each stream.
    pub ring: RingLimits,
    /// How many of a stream's last sequences are read into its ring when it starts, so that clients that come back after a
    /// restart find their place there; fewer where their payloads are more than the ring would keep.
    pub refill_events_max: u64,
    /// The most readings of history at once.
    pub readers_max: usize,
    /// About how much history one reading fetches, in bytes of payload; also what one client may hold of it.
    pub history_bytes_max: usize,
    /// How long a client may read nothing of what there is for it; at least two heartbeats, by which it is told.
    pub unread_timeout: Duration,
    /// How often a client hears something.
    pub heartbeat: Duration,
    /// How long a client is told to wait before it connects again; each gets up to half as much again on top.
    pub retry: Duration,
    /// How long a stream's live tail goes on after its last client.
    pub linger: Duration,
    /// How long a new client may wait for JetStream.
    pub start_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            clients_max: 20_000,
            clients_per_principal_max: 100,
            ring: RingLimits { entries_max: 8_192, bytes_max: 16 << 20 },
            refill_events_max: 8_192,
            readers_max: 16,
            history_bytes_max: 256 << 10,
            unread_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(2),
            linger: Duration::from_secs(20),
            start_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a client cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon is about to end.
    #[error("the daemon is shutting down")]
    Stopping,
    /// [`Config::clients_max`] is reached.
    #[error("there are {clients_max} clients, which is the limit")]
    Clients {
        /// The limit.
        clients_max: usize,
    },
    /// [`Config::clients_per_principal_max`] is reached.
    #[error("you have {clients_max} clients, which is the limit")]
    ClientsOfPrincipal {
        /// The limit.
        clients_max: usize,
    },
    /// No named stream of that name.
    #[error("there is no stream {name}")]
    NoSuchStream {
        /// The name asked for.
        name: SubscriptionId,
    },
    /// No configured stream has events of those types.
    #[error("no stream has events of these types")]
    NoStreamForTypes,
    /// The only stream with events of those types forgets what is acked.
    #[error("stream {stream} has work-queue or interest retention: its events are delivered to webhooks only")]
    Forgetful {
        /// The stream.
        stream: StreamName,
    },
    /// The cursor names a stream that is not configured.
    #[error("the cursor names the stream {stream}, which this daemon does not read")]
    UnknownStream {
        /// The stream.
        stream: StreamName,
    },
    /// JetStream did not answer in time.
    #[error("stream {stream} cannot be read at the moment")]
    NotReady {
        /// The stream.
        stream: StreamName,
    },
    /// The stream's facts could not be had.
    #[error("the place in stream {stream} cannot be found")]
    Facts {
        /// The stream.
        stream: StreamName,
        /// Why not.
        source: Arc<crate::ingest::Error>,
    },
    /// A client that sees several streams cannot begin at one sequence.
    #[error(
        "a sequence is of one stream, and several have events of these types: say STREAM:SEQUENCE as `last_event_id`"
    )]
    SequenceOfSeveral,
}

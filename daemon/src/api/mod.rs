//! The HTTP interface: webhooks, events, deliveries and all else that one may look at or change, health and metrics.
//!
//! - [`server`]: binds, serves, and ends within a bound; `listener`: its connections, with `tls` or without.
//! - [`problem`]: every error as RFC 9457 problem details with a stable code.
//! - [`auth`]: the gate: how it is known who asks, and with `access` and `limit`, whether they may; [`principal`]: who that is;
//!   [`owners`]: whose what is; [`keys`]: API keys; [`session`] and [`portal`]: the console's sessions, and links that open
//!   it; [`audit`]: what was changed.
//! - [`forwarded`]: the address that a request comes from behind proxies.
//! - `cursor` and `paging`: what listings ask for alike.
//! - `watched`: files that are read again when they change.
//! - `extract`: what handlers take out of a request.
//! - `document`: the API's own description, OpenAPI, and a page of it; `console`: the web console.

mod access;
mod answer;
pub mod audit;
pub mod auth;
pub mod backup;
mod console;
mod cursor;
mod dead_letters;
pub mod deliveries;
mod document;
pub mod event_types;
pub mod events;
mod extract;
pub mod forwarded;
pub mod info;
pub mod jobs;
pub mod keys;
mod limit;
mod listener;
mod operate;
mod outlet;
pub mod overview;
pub mod owners;
mod paging;
mod permit;
pub mod plugins;
pub mod portal;
pub mod principal;
pub mod problem;
pub mod secrets;
pub mod server;
pub mod session;
mod status;
pub mod subscriptions;
pub mod testing;
#[cfg(test)]
mod tests;
mod tls;
pub mod trace;
mod trail;
mod watched;
pub mod webhooks;

pub use auth::{AdminKey, Gate};
pub use document::document;
pub use owners::Owners;
pub use principal::Principal;
pub use problem::{Code, FieldError, Problem};
pub use server::{Config, Server, State, router};
pub use tls::Tls;

use std::net::SocketAddr;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on {listen}")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// An origin that cannot stand in a header.
    #[error("{origin:?} is not an origin")]
    Origin {
        /// The text.
        origin: String,
        /// Why not.
        source: http::header::InvalidHeaderValue,
    },
    /// The listener's certificate cannot be used.
    #[error("server.tls cannot be used")]
    Tls(#[from] crate::deliver::tls::Error),
}

//! Deliver: one signed HTTP request to an endpoint, what its answer means, and the lane that each subscription has.
//!
//! - [`ledger`]: which events are on record or in hand, and whether a subscription reads live, is held or catches up.
//! - [`lane`]: a subscription's bounded queue, its slots, and what comes back from the store.
//! - [`order`]: which events of an ordered subscription wait for which.
//! - [`replay`]: history that a job brings into a lane.
//! - [`breaker`]: when an endpoint is left alone, and how it is probed; [`health`]: what is known of it.
//! - [`secrets`]: which secrets a subscription signs with, and how one takes the place of another.
//! - [`fetch`]: a document that the operator named, read from a URL.
//! - [`attempt`]: one request, on [`prepared`] endpoints, in its body `format`, with [`signing`] and [`ed25519`], to a
//!   vetted [`address`], and [`classify`] for its answer.
//! - `client`, `connect`, `connections`: the HTTP client, how it makes a connection, and how many there are; below them
//!   `resolve` and `dns`, [`proxy`] and [`tls`].

pub mod address;
pub mod attempt;
pub mod breaker;
pub mod capture;
pub mod classify;
mod client;
mod connect;
mod connections;
mod dns;
pub mod ed25519;
pub mod fetch;
mod format;
pub mod health;
pub mod lane;
pub mod ledger;
pub mod order;
pub mod prepared;
pub mod proxy;
mod redact;
pub mod replay;
mod resolve;
pub mod secrets;
pub mod signing;
pub mod tls;

pub use attempt::{Client, Config};
pub use lane::{Lane, Token};
pub use prepared::{Prepared, REPLAY_HEADER, Request};
pub use secrets::Secrets;

//! Deliver: one signed HTTP request to an endpoint, what its answer means, and the lane that each subscription has.
//!
//! - [`ledger`]: which events are on record or in hand, and whether a subscription reads live, is held or catches up.
//! - [`lane`]: a subscription's bounded queue, its slots, and what comes back from the store.
//! - [`breaker`]: when an endpoint is left alone, and how it is probed; [`health`]: what is known of it.
//! - [`secrets`]: which secrets a subscription signs with, and how one takes the place of another.
//! - [`attempt`]: one request, on [`prepared`] endpoints, [`signing`], vetted [`address`]es and [`classify`].
//! - `client`, `connect`, `connections`: the HTTP client, how it makes a connection, and how many there are; below them
//!   `resolve` and `dns`, [`proxy`] and [`tls`].

pub mod address;
pub mod attempt;
pub mod breaker;
pub mod classify;
mod client;
mod connect;
mod connections;
mod dns;
pub mod health;
pub mod lane;
pub mod ledger;
pub mod prepared;
pub mod proxy;
mod resolve;
pub mod secrets;
pub mod signing;
pub mod tls;

pub use attempt::{Client, Config};
pub use lane::{Lane, Token};
pub use prepared::{Prepared, Request};
pub use secrets::Secrets;

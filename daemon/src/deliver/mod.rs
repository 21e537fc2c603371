//! Deliver: one signed HTTP request to an endpoint, and what its answer means.

pub mod address;
pub mod attempt;
pub mod classify;
mod connect;
pub mod prepared;
mod resolve;
pub mod signing;

pub use attempt::{Client, Config};
pub use prepared::{Prepared, Request};

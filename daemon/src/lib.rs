//! sluiced: an event router daemon.
//!
//! Events come from NATS JetStream ([`ingest`]), are matched to subscriptions ([`route`]), filtered and transformed by
//! WebAssembly plugins ([`plugin`]), delivered as signed webhooks ([`deliver`]) or Server-Sent Events ([`stream`]), and
//! what must not be forgotten is kept in an embedded store ([`store`]). [`pipeline`] states the order of the stages;
//! [`app`] wires them together.

pub mod api;
pub mod domain;
pub mod ingest;
pub mod stream;
pub mod telemetry;

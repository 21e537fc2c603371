//! sluiced: an event router daemon.
//!
//! Events come from NATS JetStream ([`ingest`]), are matched to subscriptions ([`route`]), filtered and transformed by
//! WebAssembly plugins ([`plugin`]), delivered as signed webhooks ([`deliver`]) or Server-Sent Events ([`stream`]), and
//! what must not be forgotten is kept in an embedded store ([`store`]). [`pipeline`] states the order of the stages;
//! [`app`] wires them together.

pub mod domain;
pub mod failpoint;
pub mod telemetry;

pub mod ingest;

pub mod route;

pub mod plugin;

pub mod deliver;

pub mod store;

pub mod stream;

pub mod pipeline;

pub mod api;

pub mod app;
pub mod cli;
pub mod config;

//! The harness of the integration tests and the benchmarks: real parts under a test's control.
//!
//! A test reads like the sentence it proves: a [`TestNats`], a [`TestDaemon`] and a [`TestReceiver`] are started, events
//! are published, and [`wait_until`] waits on a state with a bound. What does not come true panics with what was seen.
//! Every process is ended by its id when its handle is dropped.

pub mod accounting;
pub mod component;
pub mod daemon;
pub mod dns;
pub mod events;
pub mod http;
pub mod metrics;
pub mod nats;
pub mod paths;
pub mod port;
pub mod proc;
pub mod process;
pub mod proxy;
pub mod random;
pub mod receiver;
mod serving;
pub mod setup;
pub mod sse;
pub mod tls;
pub mod wait;

pub use accounting::Accounting;
pub use daemon::{ADMIN_KEY, TestDaemon};
pub use dns::TestDns;
pub use events::SECRET;
pub use metrics::Metrics;
pub use nats::TestNats;
pub use proxy::TestProxy;
pub use receiver::{Behaviour, Received, Reply, TestReceiver};
pub use setup::Webhook;
pub use sse::{SseClient, SseEvent};
pub use tls::{TestCa, TlsReceiver};
pub use wait::wait_until;

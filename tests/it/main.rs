//! The integration tests: the real binary on real parts.

mod config;
mod crash;
mod dev;
mod docs;
mod harness;
mod hold;
mod nats;
mod plugins;
mod sse;
mod stop;
mod tidy;

//! The integration tests: the real binary on real parts.

mod config;
mod dev;
mod docs;
mod harness;
mod plugins;
mod tidy;

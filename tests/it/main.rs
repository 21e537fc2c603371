//! The integration tests: the real binary on real parts.

mod config;
mod docs;
mod harness;
mod plugins;
mod tidy;

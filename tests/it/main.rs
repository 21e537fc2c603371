//! The integration tests: the real binary on real parts.

mod config;
mod dev;
mod harness;
mod plugins;
mod tidy;

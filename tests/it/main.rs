//! The integration tests: the real binary on real parts.

mod config;
mod harness;
mod plugins;
mod tidy;

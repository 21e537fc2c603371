//! The integration tests: the real binary on real parts.

mod config;
mod delivery;
mod dev;
mod faults;
mod harness;
mod plugins;
mod reload;
mod tidy;

//! The integration tests: the real binary on real parts.

mod backup;
mod config;
mod crash;
mod dead_letters;
mod degrade;
mod deliver_from;
mod delivery;
mod dev;
mod docs;
mod failpoints;
mod failure_table;
mod faults;
mod harness;
mod hold;
mod nats;
mod net;
mod plugins;
mod rate;
mod reload;
mod request;
mod secrets;
mod sse;
mod stop;
mod tidy;
mod trace;
mod webhooks;

//! The integration tests: the real binary on real parts.

mod config;
mod crash;
mod dead_letters;
mod deliver_from;
mod delivery;
mod dev;
mod docs;
mod failpoints;
mod faults;
mod harness;
mod hold;
mod nats;
mod net;
mod plugins;
mod rate;
mod redrive;
mod reload;
mod replay;
mod secrets;
mod sse;
mod stop;
mod tidy;
mod trace;

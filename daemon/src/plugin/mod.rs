//! Plugins: WebAssembly components that filter and transform events, each in a sandbox with hard limits.
//!
//! A [`Host`] holds the engine and the plugins of one directory. A [`Chain`] is what one subscription makes of them: its
//! filters, then its transforms, each with its configuration. [`Chain::run`] takes one event and says what is to be
//! delivered. What a plugin may cost is stated in [`Limits`]; what it did wrong is a [`Fault`].
//!
//! Loading ([`Host::load`], [`Host::chain`]) blocks: it reads files and may compile for a second or more. Running does
//! not: a call is put aside after each millisecond that it used, so that its neighbours on the same thread go on.

use std::path::PathBuf;

mod bindings;
mod cache;
mod chain;
mod contract;
mod description;
mod engine;
mod error;
mod fault;
mod host;
mod instance;
mod quarantine;
mod slots;
mod stamp;
mod state;
mod ticker;
mod trial;
mod turns;
mod usage;
mod view;

pub use chain::{Chain, Passed, Ran};
pub use description::{Description, HeaderNeeds};
pub use error::Error;
pub use fault::{Fault, FaultKind};
pub use host::{Host, Plugin, Stats, Wasm};
pub use state::{Heard, Line};
pub use trial::{Difference, Said, Tally, Trial};

use crate::domain::PluginLimits;

/// What the host needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the plugins are: `NAME.wasm` files.
    pub dir: PathBuf,
    /// Where compiled plugins are kept. It is created with mode 0700, and nothing else may write to it.
    pub cache_dir: PathBuf,
    /// What a plugin may cost.
    pub limits: Limits,
}

/// What a plugin may cost. Each is a hard limit. A use of a plugin may have some of its own ([`PluginLimits`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The running time of one call, in milliseconds. Time in which other plugins run is not counted.
    pub call_deadline_ms: u64,
    /// The running time, in milliseconds, of making an instance and configuring it.
    pub configure_deadline_ms: u64,
    /// How long a call may take in all, in milliseconds, however little it runs: what ends a plugin that only waits. It is
    /// never less than [`Limits::WALL_PER_DEADLINE`] times the deadline, which several calls can share.
    pub call_wall_ms_max: u64,
    /// The memory of one instance, in bytes.
    pub memory_bytes_max: usize,
    /// The entries of one table of an instance.
    pub table_entries_max: usize,
    /// The payloads and headers that one event may become in one transform, in bytes.
    pub output_bytes_max: usize,
    /// The outputs that one event may become in one transform.
    pub outputs_max: usize,
    /// The headers of one output.
    pub output_headers_max: usize,
    /// The instances that may exist at a time, in all. When there are more users, the ones used longest ago are dropped.
    pub instances_max: u32,
    /// The instances of one use that are kept for its next events.
    pub warm_instances_max: usize,
    /// The calls that an instance serves before a fresh one takes its place.
    pub calls_per_instance_max: u64,
    /// The faults in a row after which a subscription's use of a plugin is set aside; 0 is never. What a plugin reports of an
    /// event in an orderly way does not count.
    pub quarantine_faults: u32,
    /// The time until a plugin that was set aside is called again, in milliseconds; it doubles with each call that fails.
    pub quarantine_probe_ms: u64,
    /// The longest time between two such calls, in milliseconds.
    pub quarantine_probe_ms_max: u64,
    /// The log lines of one plugin of one subscription that are written, a second.
    pub log_lines_per_second_max: u32,
    /// The length of a log line, in bytes; what is longer is cut.
    pub log_line_bytes_max: usize,
    /// The size of a plugin file, in bytes.
    pub file_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call_deadline_ms: 50,
            configure_deadline_ms: 1_000,
            call_wall_ms_max: 5_000,
            memory_bytes_max: 64 << 20,
            table_entries_max: 100_000,
            output_bytes_max: 1 << 20,
            outputs_max: 100,
            output_headers_max: 64,
            instances_max: 512,
            warm_instances_max: 2,
            calls_per_instance_max: 10_000,
            quarantine_faults: 20,
            quarantine_probe_ms: 5_000,
            quarantine_probe_ms_max: 60_000,
            log_lines_per_second_max: 20,
            log_line_bytes_max: 1_024,
            file_bytes_max: 64 << 20,
        }
    }
}

impl Limits {
    /// The least memory that an instance can do anything with, in bytes.
    pub const MEMORY_BYTES_MIN: usize = 1 << 20;
    /// The most memory that any instance may be given, in bytes: what the engine's pool has room for.
    pub const MEMORY_BYTES_MAX: usize = 1 << 30;
    /// How many times its deadline a call may take in all, at least.
    pub const WALL_PER_DEADLINE: u64 = 3;
    /// The most instances that the address space is reserved for.
    pub const INSTANCES_MAX: u32 = 8_000;

    fn check(&self) -> Result<(), Error> {
        let bad = |name, allowed| Err(Error::Limit { name, allowed });
        if !(Self::MEMORY_BYTES_MIN..=Self::MEMORY_BYTES_MAX).contains(&self.memory_bytes_max) {
            return bad("memory_bytes_max", "1 MiB to 1 GiB");
        }
        if !(1..=Self::INSTANCES_MAX).contains(&self.instances_max) {
            return bad("instances_max", "1 to 8000");
        }
        let times = [self.call_deadline_ms, self.configure_deadline_ms, self.call_wall_ms_max];
        let counts = [self.outputs_max, self.warm_instances_max];
        if times.contains(&0) || counts.contains(&0) || self.calls_per_instance_max == 0 {
            return bad("call_deadline_ms", "1 or more, like every other deadline and count");
        }
        Ok(())
    }

    /// The limits of one use: its own, and these where it has none.
    fn of_use(&self, own: &PluginLimits) -> Result<Self, Error> {
        let limits = Self {
            call_deadline_ms: own.call_deadline_ms.unwrap_or(self.call_deadline_ms),
            memory_bytes_max: own.memory_bytes_max.unwrap_or(self.memory_bytes_max),
            output_bytes_max: own.output_bytes_max.unwrap_or(self.output_bytes_max),
            warm_instances_max: own.warm_instances_max.unwrap_or(self.warm_instances_max),
            calls_per_instance_max: own.calls_per_instance_max.unwrap_or(self.calls_per_instance_max),
            ..self.clone()
        };
        limits.check()?;
        Ok(limits)
    }

    /// How long a call may take in all, in milliseconds.
    fn wall_ms_max(&self) -> u64 {
        self.call_wall_ms_max.max(self.call_deadline_ms.saturating_mul(Self::WALL_PER_DEADLINE))
    }
}

/// The longest plugin name accepted, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Is that a plugin's name: lower-case letters, digits, `-` and `_`, with a letter or digit first?
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= NAME_BYTES_MAX && text.starts_with(plain) && text.chars().all(|c| plain(c) || matches!(c, '-' | '_'))
}

#[cfg(test)]
mod tests;

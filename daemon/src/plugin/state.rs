//! What the host keeps for one instance: its limits, its empty WASI context and its way to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::Limits;
use super::bindings::v1::sluiced::plugin::{log, types};
use super::fault::cut;
use super::ticker::SLICE_MS;
use super::turns::Turns;

/// The host resources (streams, pollables) that one instance may hold.
const RESOURCES_MAX: usize = 1_024;
/// The random bytes that one call to WASI gives; more would take longer than a slice.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// The core instances, tables and memories that one component may make.
const PARTS_MAX: usize = 256;
/// What the records around a result's bytes may take on their way out of the sandbox, in bytes: an output has about 150.
const RECORDS_BYTES_MAX: usize = 256 << 10;

/// How long a window of the log's rate limit is.
const LOG_WINDOW: Duration = Duration::from_secs(1);

/// The data of one instance's store.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_entries_max: usize,
    /// Since the call began, the first time.
    refused: Option<Refused>,
    slices_left: u64,
    turns: Arc<Turns>,
    log: Arc<LogGate>,
}

/// What an instance wanted and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// More memory.
    Memory,
    /// A larger table.
    Table,
}

/// The log lines of plugins that are run to be looked at. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Line>>>);

/// A log line of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// The line, cut when long.
    pub text: Box<str>,
}

impl Heard {
    /// The most lines that are kept: the first ones.
    pub const LINES_MAX: usize = 100;

    /// The lines so far; they are then no longer here.
    pub fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock())
    }

    fn hear(&self, level: log::Level, line: &str) {
        let level = match level {
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        let mut lines = self.0.lock();
        if lines.len() < Self::LINES_MAX {
            lines.push(Line { level, text: line.into() });
        }
    }
}

/// The end of a call that used up its slices.
#[derive(Debug, thiserror::Error)]
#[error("the deadline is reached")]
pub(super) struct DeadlineReached;

/// Lets a plugin's lines through to the log, so many a second. All instances of one use share it.
pub(super) struct LogGate {
    plugin: Box<str>,
    subscription: Box<str>,
    line_bytes_max: usize,
    lines_per_second_max: u32,
    window: Mutex<Window>,
    /// The lines that the whole host has dropped.
    dropped_total: Arc<AtomicU64>,
    /// Who gets the lines instead of the log.
    heard: Option<Heard>,
}

struct Window {
    since: Instant,
    lines: u32,
    dropped: u64,
}

impl State {
    /// A store for one instance, under the limits. Its calls take turns with those of others.
    pub(super) fn store(engine: &Engine, limits: &Limits, turns: Arc<Turns>, log: Arc<LogGate>) -> Store<Self> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let state = Self {
            wasi: empty_wasi(),
            table,
            memory_bytes: 0,
            memory_bytes_max: limits.memory_bytes_max,
            table_entries_max: limits.table_entries_max,
            refused: None,
            slices_left: 0,
            turns,
            log,
        };
        let mut store = Store::new(engine, state);
        store.limiter(|state| state);
        store.epoch_deadline_callback(next_slice);
        store.set_hostcall_fuel(limits.output_bytes_max.saturating_add(RECORDS_BYTES_MAX));
        store
    }

    /// Gives the next call its time, and forgets what the last one did.
    pub(super) fn begin(store: &mut Store<Self>, deadline_ms: u64) {
        store.data_mut().slices_left = deadline_ms.div_ceil(SLICE_MS);
        store.data_mut().refused = None;
        store.set_epoch_deadline(1);
    }

    /// The memory that the instance has, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// What was refused since the call began.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

/// No files, no sockets, no names, no environment, no arguments, and streams that lead nowhere.
fn empty_wasi() -> WasiCtx {
    WasiCtx::builder()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES_MAX)
        .build()
}

/// Called when a slice is used up: the call is put aside until it is its turn again, or ended when it was the last.
fn next_slice(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let state = store.data_mut();
    let Some(left) = state.slices_left.checked_sub(1) else {
        return Err(wasmtime::Error::new(DeadlineReached));
    };
    state.slices_left = left;
    let turns = Arc::clone(&state.turns);
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(async move { turns.next().await })))
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if bytes > self.memory_bytes_max {
            // The guest sees its allocation fail. When it cannot live with that, the fault is put down to memory.
            self.refused.get_or_insert(Refused::Memory);
            return Ok(false);
        }
        self.memory_bytes = bytes;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.table_entries_max;
        if !fits {
            self.refused.get_or_insert(Refused::Table);
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) {
        self.log.write(level, &message);
    }
}

impl LogGate {
    /// A gate for the lines of that plugin, used by that subscription (empty while the plugin is loaded).
    pub(super) fn new(
        plugin: &str,
        subscription: &str,
        limits: &Limits,
        dropped_total: Arc<AtomicU64>,
        heard: Option<Heard>,
    ) -> Self {
        Self {
            plugin: plugin.into(),
            subscription: subscription.into(),
            line_bytes_max: limits.log_line_bytes_max,
            lines_per_second_max: limits.log_lines_per_second_max,
            window: Mutex::new(Window { since: Instant::now(), lines: 0, dropped: 0 }),
            dropped_total,
            heard,
        }
    }

    fn write(&self, level: log::Level, message: &str) {
        if let Some(heard) = &self.heard {
            return heard.hear(level, cut(message, self.line_bytes_max));
        }
        let Some(dropped) = self.admit(Instant::now()) else { return };
        let line = cut(message, self.line_bytes_max);
        let (plugin, subscription) = (&*self.plugin, &*self.subscription);
        // An error of a plugin is no error of the daemon: nothing is lost, and no operator must act.
        match level {
            log::Level::Debug => tracing::debug!(plugin, subscription, line, dropped, "plugin log"),
            log::Level::Info => tracing::info!(plugin, subscription, line, dropped, "plugin log"),
            log::Level::Warn => tracing::warn!(plugin, subscription, line, dropped, "plugin log"),
            log::Level::Error => tracing::warn!(plugin, subscription, line, dropped, error = true, "plugin log"),
        }
    }

    /// May a line pass? If so, how many were dropped since the last that did.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        if now.duration_since(window.since) >= LOG_WINDOW {
            window.since = now;
            window.lines = 0;
        }
        if window.lines >= self.lines_per_second_max {
            window.dropped += 1;
            self.dropped_total.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_rate_are_dropped_and_counted() {
        let total = Arc::new(AtomicU64::new(0));
        let limits = Limits { log_lines_per_second_max: 2, ..Limits::default() };
        let gate = LogGate::new("p", "s", &limits, Arc::clone(&total), None);
        let start = Instant::now();
        let admitted: Vec<_> = (0..5).map(|_| gate.admit(start)).collect();
        assert_eq!(admitted, [Some(0), Some(0), None, None, None]);
        assert_eq!(gate.admit(start + LOG_WINDOW), Some(3), "the next line says how many were dropped");
        assert_eq!(gate.admit(start + LOG_WINDOW), Some(0));
        assert_eq!(total.load(Ordering::Relaxed), 3);
    }
}

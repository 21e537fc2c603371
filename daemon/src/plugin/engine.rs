//! The WebAssembly engine and the linker, as the limits ask for them.

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::Limits;
use super::bindings::v1;
use super::error::{Below, Error};
use super::state::State;

/// The core modules that one component may consist of. Rust components have 1 to 4, a Python one has 38.
const CORE_INSTANCES_PER_PLUGIN_MAX: u32 = 64;
/// The memories that one component may have.
const MEMORIES_PER_PLUGIN_MAX: u32 = 2;
/// The tables that one component may have.
const TABLES_PER_PLUGIN_MAX: u32 = 8;
/// The tables that one core module of a component may have.
const TABLES_PER_MODULE_MAX: u32 = 4;

/// An engine whose pool holds `instances_max` instances, each with room for the most memory that any use may have. What it
/// reserves is address space, not memory.
pub(super) fn engine(limits: &Limits) -> Result<Engine, Error> {
    let plugins = limits.instances_max;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(plugins)
        .total_core_instances(plugins.saturating_mul(CORE_INSTANCES_PER_PLUGIN_MAX))
        .total_memories(plugins.saturating_mul(MEMORIES_PER_PLUGIN_MAX))
        .total_tables(plugins.saturating_mul(TABLES_PER_PLUGIN_MAX))
        .total_stacks(plugins)
        .max_core_instances_per_component(CORE_INSTANCES_PER_PLUGIN_MAX)
        .max_memories_per_component(MEMORIES_PER_PLUGIN_MAX)
        .max_tables_per_component(TABLES_PER_PLUGIN_MAX)
        .max_tables_per_module(TABLES_PER_MODULE_MAX)
        .max_memory_size(Limits::MEMORY_BYTES_MAX)
        .table_elements(limits.table_entries_max)
        .max_unused_warm_slots(0);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        // The contract has no asynchronous functions; without their book-keeping a warm call is the cheapest.
        .concurrency_support(false)
        .generate_address_map(false);
    Engine::new(&config).map_err(|source| Error::Engine(below(source)))
}

/// A linker with the host's side of the contract and WASI, whose context is empty (see [`State`]).
pub(super) fn linker(engine: &Engine) -> Result<Linker<State>, Error> {
    let mut linker = Linker::new(engine);
    let linked = wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .and_then(|()| v1::FilterTransformPlugin::add_to_linker::<_, HasSelf<State>>(&mut linker, |state| state));
    linked.map_err(|source| Error::Engine(below(source)))?;
    Ok(linker)
}

/// The engine's error as one that this module's errors can carry.
pub(super) fn below(error: wasmtime::Error) -> Below {
    error.into_boxed_dyn_error()
}

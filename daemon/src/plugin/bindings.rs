//! The plugin contract as Rust types, generated from `sdk/wit`.
//!
//! One world is bound, the one with both roles: its interfaces are loaded one by one, so that a component with one role
//! works too. A later version of the contract gets a module of its own beside [`v1`].

/// `sluiced:plugin@1.0.0`.
pub(super) mod v1 {
    wasmtime::component::bindgen!({
        path: "../sdk/wit",
        world: "filter-transform-plugin",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        require_store_data_send: true,
    });
}

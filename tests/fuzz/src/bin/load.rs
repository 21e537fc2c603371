//! Any bytes as the file of a plugin: what `tests/it/plugins/loading.rs` does some thousand times, for as long as one likes.

#![no_main]

use std::sync::LazyLock;

use sieve::{Outcome, Sieve};

#[path = "../../../it/plugins/sieve.rs"]
mod sieve;

static SIEVE: LazyLock<Sieve> = LazyLock::new(Sieve::default);

libfuzzer_sys::fuzz_target!(|wasm: &[u8]| {
    if let Outcome::Faulted(fault) = SIEVE.of(wasm) {
        assert!(!fault.to_string().is_empty());
    }
});

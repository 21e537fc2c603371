//! Any bytes as the file of a plugin: what `tests/it/plugins/loading.rs` does some thousand times, for as long as one likes.

#![no_main]

use std::sync::LazyLock;

use trial::{Outcome, Trial};

#[path = "../../../it/plugins/trial.rs"]
mod trial;

static TRIAL: LazyLock<Trial> = LazyLock::new(Trial::default);

libfuzzer_sys::fuzz_target!(|wasm: &[u8]| {
    if let Outcome::Faulted(fault) = TRIAL.of(wasm) {
        assert!(!fault.to_string().is_empty());
    }
});

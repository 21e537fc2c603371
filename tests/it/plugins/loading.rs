//! Files that are nearly plugins, or no plugins at all, by the thousand.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};
use sluiced_tests::component::{Act, Component};
use sluiced_tests::random::seeded;

use super::sieve::{Outcome, Sieve};

const CASES: usize = 2_000;
/// What a component begins with.
const PREAMBLE: &[u8] = b"\0asm\x0d\0\x01\0";

#[test]
fn a_file_that_is_nearly_a_plugin_is_refused_or_works_and_harms_nobody() {
    let (sieve, mut random) = (Sieve::default(), seeded());
    let whole = Component::default().wasm();
    assert!(matches!(sieve.of(&whole), Outcome::Worked));
    let other = Component::default().apply(Act::NotUtf8).import("own:files/open@1.0.0").wasm();
    let mut outcomes = BTreeMap::new();
    for case in 0..CASES {
        let (how, wasm) = spoiled(&mut random, &whole, &other);
        let run = std::panic::AssertUnwindSafe(|| sieve.of(&wasm));
        let Ok(outcome) = std::panic::catch_unwind(run) else { panic!("case {case}, {how}: {}", hex(&wasm)) };
        let kind = match outcome {
            Outcome::Refused(_) => "refused",
            Outcome::Faulted(fault) => fault.kind_str(),
            Outcome::Worked => "worked",
        };
        *outcomes.entry((how, kind)).or_insert(0) += 1;
    }
    eprintln!("{outcomes:#?}");
    for kind in ["refused", "worked"] {
        assert!(outcomes.keys().any(|(_, seen)| *seen == kind), "nothing was {kind}: {outcomes:?}");
    }
    assert!(matches!(sieve.of(&whole), Outcome::Worked), "after all of them the host still works");
}

/// A file in which something is wrong, and what.
fn spoiled(random: &mut StdRng, whole: &[u8], other: &[u8]) -> (&'static str, Vec<u8>) {
    let mut wasm = whole.to_vec();
    let (from, to) = range(random, wasm.len());
    match random.random_range(0..10) {
        0 => {
            wasm.truncate(from);
            ("truncated", wasm)
        }
        1 => {
            for _ in 0..random.random_range(1..=8) {
                let bit = random.random_range(0..wasm.len() * 8);
                wasm[bit / 8] ^= 1 << (bit % 8);
            }
            ("bits flipped", wasm)
        }
        2 => {
            random.fill_bytes(&mut wasm[from..to]);
            ("overwritten", wasm)
        }
        3 => {
            wasm.drain(from..to);
            ("cut out", wasm)
        }
        4 => {
            let part = wasm[from..to].to_vec();
            wasm.splice(to..to, part);
            ("doubled", wasm)
        }
        5 => {
            let at = random.random_range(0..other.len());
            wasm.truncate(from);
            wasm.extend_from_slice(&other[at..]);
            ("spliced", wasm)
        }
        6..=8 => {
            wasm[from] = random.random_range(0..=u8::MAX);
            ("one byte changed", wasm)
        }
        _ => {
            let mut bytes = vec![0; random.random_range(0..2_000)];
            random.fill_bytes(&mut bytes);
            ("random", [PREAMBLE, &bytes].concat())
        }
    }
}

/// A part of so many bytes, mostly a short one.
fn range(random: &mut StdRng, length: usize) -> (usize, usize) {
    let from = random.random_range(0..length);
    let most = if random.random_bool(0.7) { 16 } else { length };
    (from, (from + random.random_range(1..=most)).min(length))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

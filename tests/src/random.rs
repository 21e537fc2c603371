//! Randomness that a failing test can be given again.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Randomness from `SLUICED_TEST_SEED`, or from a fresh seed; either way the seed is printed.
///
/// # Panics
/// When the variable is not a number.
pub fn seeded() -> StdRng {
    let given = std::env::var("SLUICED_TEST_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let seed: u64 = given.unwrap_or_else(rand::random);
    eprintln!("SLUICED_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

//! The seed of a test's randomness, which is printed so that a failure can be reproduced.

use rand::{SeedableRng, rngs::StdRng};

/// The environment variable that sets the seed.
pub const VARIABLE: &str = "SPOKE_TEST_SEED";

/// The random source of one test. Its seed is in the output of a failed test.
///
/// # Panics
/// If `SPOKE_TEST_SEED` is set and is not a whole number.
pub fn source(test: &str) -> StdRng {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().expect("SPOKE_TEST_SEED must be a whole number of 64 bits"),
        Err(_) => rand::random(),
    };
    println!("{test}: to repeat this run, set {VARIABLE}={seed}");
    StdRng::seed_from_u64(seed)
}

//! Where randomness of a test comes from: one number that is printed, so that a failure can be had again.

use rand::{SeedableRng, rngs::StdRng};

/// The variable that sets the seed of a run.
pub const VARIABLE: &str = "SPOKE_TEST_SEED";

/// The random source of one test. Its seed stands in the output of the test when it fails.
///
/// # Panics
/// When `SPOKE_TEST_SEED` is set and is no whole number.
pub fn source(test: &str) -> StdRng {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().expect("SPOKE_TEST_SEED must be a whole number of 64 bits"),
        Err(_) => rand::random(),
    };
    println!("{test}: to have this run again, set {VARIABLE}={seed}");
    StdRng::seed_from_u64(seed)
}

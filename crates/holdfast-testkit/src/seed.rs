//! One seed for every random choice of a test, printed so that a failure can be repeated.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The generator seeded by `HOLDFAST_SEED`, or by chance; prints the seed.
#[must_use]
pub fn generator(test: &str) -> StdRng {
    generator_or(test, rand::random())
}

/// The same with a seed of the test's own, for what chance is left to soaks.
#[must_use]
pub fn generator_or(test: &str, seed: u64) -> StdRng {
    let told = std::env::var("HOLDFAST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = told.unwrap_or(seed);
    println!("{test}: HOLDFAST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

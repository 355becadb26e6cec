//! One seed for every random choice of a test, printed so that a failure can be repeated.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The generator seeded by `HOLDFAST_SEED`, or by chance; prints the seed.
#[must_use]
pub fn generator(test: &str) -> StdRng {
    let seed = std::env::var("HOLDFAST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    println!("{test}: HOLDFAST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

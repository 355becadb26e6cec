//! What the tests share.

use std::path::Path;

use holdfast_store::Store;

pub(crate) fn open(folder: &Path) -> Store {
    Store::open(&format!("file://{}", folder.display())).expect("the store opens")
}

/// A seed of its own for each run, printed so that a failure can be repeated with `HOLDFAST_SEED`.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("HOLDFAST_SEED")
        .map(|text| text.parse().expect("HOLDFAST_SEED is a number"))
        .unwrap_or_else(|_| rand::random());
    println!("seed: HOLDFAST_SEED={seed}");
    seed
}

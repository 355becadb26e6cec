//! Writes the test vectors of format version 1 into the folder given (`tests/fixtures/v1`). A file that is there is
//! never overwritten: objects of a released format version are kept as they are, for they must open for ever.
//!
//! `cargo run -p holdfast-seal --example make_fixtures -- crates/holdfast-seal/tests/fixtures/v1`

use std::path::PathBuf;

use anyhow::Context as _;

#[allow(dead_code, reason = "the tests use the rest of it")]
#[path = "../tests/seal/vectors.rs"]
mod vectors;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).context("which folder?")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let vectors = vectors::compute();
    let lines = ("vectors.txt".to_owned(), vectors.lines.into_bytes());
    for (name, bytes) in vectors.files.into_iter().chain([lines]) {
        let path = folder.join(name);
        let new = std::fs::File::create_new(&path);
        let mut file =
            new.with_context(|| format!("cannot write {} (it is never replaced)", path.display()))?;
        std::io::Write::write_all(&mut file, &bytes)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

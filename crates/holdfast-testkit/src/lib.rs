//! What the end-to-end tests share: a whole Holdfast in a folder of its own, a client, a ledger of what a writer was
//! told was committed, a real S3 server and a faulty network in front of it.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml
#![allow(clippy::print_stdout, reason = "what a test prints is how it tells its seed and its figures")]

pub mod cases;
pub mod client;
pub mod exactness;
pub mod fault;
pub mod grammar;
pub mod holdfast;
pub mod ledger;
pub mod lost;
pub mod memory;
pub mod ports;
pub mod proxy;
pub mod s3;
pub mod seed;
pub mod trial;
pub mod valkey;
pub mod volume;

pub use client::Client;
pub use fault::Fault;
pub use holdfast::Holdfast;
pub use ledger::{Ledger, Verdict, Writer};
pub use proxy::Proxy;
pub use s3::S3Server;
pub use trial::Trial;

/// Waits until `check` gives something, looking every 100 ms.
///
/// # Errors
/// When `seconds` have passed; `what` says what was waited for.
pub async fn wait_for<T, F>(what: &str, seconds: u64, mut check: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "{what}: not within {seconds} s");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

//! The conformance suite on every engine that has a driver, on a whole Holdfast.

#![allow(clippy::print_stdout, reason = "what a test prints is how it tells its seed and its figures")]

mod support;

use anyhow::Result;
use holdfast_core::engine::EngineKind::Postgresql;

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_keeps_every_promise() -> Result<()> {
    support::keeps_every_promise(Postgresql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_interrupted_leaves_nothing() -> Result<()> {
    support::cleans_up_when_interrupted(Postgresql).await
}

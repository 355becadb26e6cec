//! What the sealed format promises, from outside the crate. One binary, one file a topic.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod chain;
mod common;
mod context;
mod fixtures;
mod keys;
mod oracle;
mod redaction;
mod stream;
mod tamper;
mod vectors;

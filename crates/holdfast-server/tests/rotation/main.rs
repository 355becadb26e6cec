//! Rotation of the key-encryption key on a real catalog, vault and store, in this process and without an agent.
#![allow(clippy::unwrap_used)] // a test says what it expects by failing
#![allow(clippy::print_stdout, reason = "seeds and figures belong to a test's output")]

mod cut_off;
mod destroyed;
mod lost;
mod platform;
mod whole;

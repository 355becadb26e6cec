//! The control plane in this process, on a real catalog and store, without an agent.

#![allow(clippy::unwrap_used)] // a test says what it expects by failing
#![allow(clippy::print_stdout, reason = "seeds and figures belong to a test's output")]

mod api;
mod rotation;

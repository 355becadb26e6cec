//! Everything that runs the real binary: each module is a suite (`scripts/test.sh NAME`), each test a process of its own.
//! One program, since each would be linked with every engine's client.

#![allow(clippy::print_stdout, reason = "what a test prints is how it tells its seed and its figures")]

mod check_store;
mod cli;
mod clock;
mod conformance;
mod contract;
mod crash;
mod disk;
mod doctor;
mod dumps;
mod durable;
mod exactness;
mod gap;
mod generated;
mod kill;
mod lifecycle;
mod limits;
mod memory;
mod openapi;
mod rebuild;
mod regression;
mod rotation;
mod s3;
mod shell;
mod tail;

/// The binary that all of them run.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

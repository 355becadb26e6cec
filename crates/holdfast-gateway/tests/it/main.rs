//! The sealing gateway over a folder: S3 clients of all kinds, and pgBackRest itself.

#![allow(
    clippy::print_stdout,
    reason = "what a test prints is how it tells its seed, its figures and what it skips"
)]

mod gateway;
mod loopback;
mod pgbackrest;
mod support;

//! The store, the gateway and the log archive against real stores: a folder, SeaweedFS, and pgBackRest in front.

#![allow(
    clippy::print_stdout,
    reason = "what a test prints is how it tells its seed, its figures and what it skips"
)]

mod gateway;
mod log;
mod loopback;
mod pgbackrest;
mod s3;
mod s3_faults;
mod store;
mod support;
mod survey_log;

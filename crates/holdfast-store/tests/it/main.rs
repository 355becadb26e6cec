//! The store and the log archive against real stores: a folder and SeaweedFS.

#![allow(
    clippy::print_stdout,
    reason = "what a test prints is how it tells its seed, its figures and what it skips"
)]

mod log;
mod s3;
mod s3_faults;
mod store;
mod support;
mod survey_log;

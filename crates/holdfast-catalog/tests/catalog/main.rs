//! The catalog's suite: what holds whatever the order of calls, the number of workers, or the moment of a crash.
#![allow(clippy::unwrap_used)] // a test that cannot go on should stop

mod backups;
mod coverage;
mod descriptions;
mod fixture;
mod keks;
mod keys;
mod kill;
mod queue;
mod queue_random;
mod services;

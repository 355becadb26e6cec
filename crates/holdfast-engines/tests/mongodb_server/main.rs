//! The MongoDB driver against a running server: the stand-in for mongod, as no real one can be installed
//! (`docs/engines/mongodb.md`). The archive is in memory.

#![allow(clippy::print_stdout, reason = "what a test prints is how it tells its seed and its figures")]

mod follow;
mod kinds;
mod points;
mod tls;
mod world;

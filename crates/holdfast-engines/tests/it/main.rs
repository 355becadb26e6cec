//! Drivers against real servers, and against recordings of what servers wrote.

#![allow(clippy::print_stdout, reason = "what a test prints is how it tells its seed and its figures")]

mod half_copied;
mod kafka;
mod mongodb_oplogs;
mod mongodb_server;
mod mysql;
mod opensearch;
mod streams;
mod valkey;

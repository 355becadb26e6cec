//! The driver of Valkey against a real server: its log followed to the last byte, restores to the second, users, guards.

#![allow(clippy::print_stdout, reason = "what a test prints is how it tells its seed and its figures")]

mod follow;
mod harness;
mod instance;
mod restore;

//! The driver of Valkey against a real server: its log followed to the last byte, restores to the second, users, guards.

mod follow;
mod generated;
mod harness;
mod hostile;
mod instance;
mod restore;
mod unlogged;
mod wire;

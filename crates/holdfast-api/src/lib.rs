//! Wire types: what clients and agents say to the control plane, and the one error shape. No I/O.
//!
//! They stay apart from the domain types on purpose: a field here is a promise to clients that we do not write, one in
//! `holdfast-core` may change with the code. The server converts by hand.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

pub mod agent;
pub mod backup;
pub mod error;
pub mod job;
pub mod keys;
pub mod metrics;
mod number;
pub mod platform;
pub mod restore;
pub mod service;
pub mod user;

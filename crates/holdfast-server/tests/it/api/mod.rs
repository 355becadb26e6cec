//! The HTTP API against a real catalog in a temp folder, in this process and without an agent: what jobs would do is
//! written to the catalog by hand.

mod agents;
mod auth;
mod backups;
mod bad_input;
mod engines;
mod harness;
mod keys;
mod openapi;
mod restores;
mod services;
mod users;
mod wrong_requests;

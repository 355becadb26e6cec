//! Rotation of the key-encryption key on a real catalog, vault and store, in this process and without an agent.

mod cut_off;
mod destroyed;
mod lost;
mod platform;
mod whole;

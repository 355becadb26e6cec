//! Recovery window, restore plans, expiry, trusted time and schedule against generated histories.
//!
//! The model ([`life`], [`model`]) knows a service's log byte by byte and judges by that alone; the functions under test see only
//! what the catalog would hold. A failing history is shrunk and printed with its seed.

mod clock;
mod expiry;
mod life;
mod model;
mod rules;
mod schedule;
mod window;

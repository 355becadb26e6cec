//! One conformance suite for all engines: what Holdfast promises of a restore, tried on a running Holdfast through its public
//! API and judged by what the engine's clients were told. The tests run it, and so does `holdfast check engine`.
//!
//! - [`ledger`]: what writers were told, and the judge.
//! - [`load`]: several writers at once.
//! - [`engines`]: how each engine is written to and read, behind one small trait.
//! - [`scenario`]: the suite, steered by [`holdfast_core::engine::Capability`].

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

pub mod control;
pub mod engines;
pub mod error;
pub mod ledger;
pub mod load;
pub mod report;
pub mod scenario;
pub mod service;

pub use control::{Answer, Control, Method};
pub use engines::{Database, Login, Session};
pub use error::{ConformanceError, Result};
pub use ledger::{Ledger, State, Verdict};
pub use load::{Load, Mix};
pub use report::{Report, Watch};
pub use scenario::Plan;
pub use service::Made;

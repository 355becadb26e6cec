//! MongoDB.
pub mod replay;

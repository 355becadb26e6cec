//! A thin client of one Kafka broker: a connection with TLS and SASL over which requests go one after the other. Messages are
//! `kafka_protocol`'s; whoever sends one says which version of it at most is meant.
//!
//! No retries, no metadata, no groups: callers know what they ask whom.
//!
//! Sources: Kafka's protocol guide; RFC 5802 (SCRAM), RFC 4616 (PLAIN).

#![cfg_attr(not(test), deny(clippy::disallowed_methods))] // the walls: clippy.toml

mod client;
mod error;
mod scram;
mod tls;

pub use client::{Client, Login, Mechanism};
pub use error::{KafkaError, Result};
pub use kafka_protocol as protocol;
pub use scram::{Hash, Salted, salted};
pub use tls::Trust;

/// A response's own error code: nothing, or what the broker means by it.
///
/// # Errors
/// `Refused` for a code other than 0.
pub fn accepted(doing: &'static str, code: i16, message: Option<&str>) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(KafkaError::refused(doing, code, message)),
    }
}

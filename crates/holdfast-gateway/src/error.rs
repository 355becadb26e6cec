//! Why the gateway does not start.

/// Nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("cannot use the sealing gateway's certificate: {reason}")]
    Certificate { reason: String },
    #[error("cannot listen on {address} for the sealing gateway")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

//! The driver of OpenSearch against a real node: what its indices hold comes back as a client reads it.

mod disk;
mod hostile;
mod kinds;
mod rig;
mod snapshots;

//! The MongoDB driver against a running mongod. The archive is in memory.

mod follow;
mod generated;
mod hostile;
mod kinds;
mod networks;
mod points;
mod strange;
mod tls;
mod world;

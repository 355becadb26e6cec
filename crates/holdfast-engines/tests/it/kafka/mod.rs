//! The driver of Kafka against a real server: what topics hold comes back as the vendor's own client reads it.

mod amid;
mod disk;
mod groups;
mod hostile;
mod kinds;
mod pieces;
mod rig;
mod transactions;

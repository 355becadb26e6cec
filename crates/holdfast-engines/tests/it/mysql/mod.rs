//! The MySQL driver against the real server: instances, dumps, the binlog's archive, and restores to an instant.

mod archive;
mod charsets;
mod clone;
mod found;
mod generated;
mod holds;
mod hostile;
mod lifecycle;
mod long;
mod odd;
mod reading;
mod restore;
mod rig;
mod stall;
mod suite;

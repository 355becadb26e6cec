//! The MongoDB driver against a running server: the stand-in for mongod, as no real one can be installed
//! (`docs/engines/mongodb.md`). The archive is in memory.

mod follow;
mod kinds;
mod points;
mod tls;
mod world;

//! Wire types: what clients and agents say to the control plane, and the one error shape. No I/O.

pub mod agent;

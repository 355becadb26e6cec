//! A service's life on a real Holdfast with a real PostgreSQL: the first start, who may do what, stopping, dying and coming
//! back, deletion, restores that must not or cannot work, and what must never leave the host.

mod access;
mod cancel;
mod copies;
mod databases;
mod deletion;
mod fallback;
mod first_start;
mod host;
mod hostile;
mod refusals;
mod running;
mod secrets;
pub(crate) mod support;

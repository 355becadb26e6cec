//! The engines' own regression suites as workload: each runs against a service whose log is archived; then the service comes back as
//! it was at a backup, and at instants in mid-suite and behind it. What the suites themselves find out is no matter here.
//!
//! Only `make soak` runs these (`docs/testing.md`); `scripts/engines.sh suites` fetches the suites.

mod postgresql;
mod valkey;

//! A real Kafka, and a tenant that comes by the vendor's own client.

use std::path::Path;

use holdfast_engines::kafka::Kafka;

use crate::streams::Kind;
pub(crate) use crate::streams::{Base, PASSWORD};

const VERSIONS: [&str; 2] = ["3.9", "4.1"];

/// The newest; all in `make soak`. Suites on a whole Holdfast have the oldest, the usual one.
pub(crate) fn versions() -> &'static [&'static str] {
    match std::env::var("HOLDFAST_SOAK").as_deref() {
        Ok("1") => &VERSIONS,
        _ => &VERSIONS[1..],
    }
}

pub(crate) type Server = crate::streams::Server<Kafka>;

impl Kind for Kafka {
    const NAME: &'static str = "kafka";
    const METHOD: &'static str = "kafka_full";
    const MEMORY_MIB: u64 = 512;
    const TENANT: &'static str = "tests/kafka/tenant.py";

    fn driver(engines: &Path) -> Self {
        Self::new(engines, holdfast_testkit::holdfast::java())
    }
}

//! A real OpenSearch, and a tenant that comes by plain requests.

use std::path::Path;

use holdfast_engines::opensearch::OpenSearch;

use crate::streams::Kind;
pub(crate) use crate::streams::{Base, PASSWORD};

pub(crate) const VERSION: &str = "2";

pub(crate) type Server = crate::streams::Server<OpenSearch>;

impl Kind for OpenSearch {
    const NAME: &'static str = "opensearch";
    const METHOD: &'static str = "snapshot";
    const MEMORY_MIB: u64 = 768;
    const TENANT: &'static str = "tests/opensearch/tenant.py";

    fn driver(engines: &Path) -> Self {
        Self::new(engines, holdfast_testkit::holdfast::java())
    }
}

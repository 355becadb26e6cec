//! What the tests share.

use std::path::Path;

use holdfast_store::Store;

pub(crate) fn open(folder: &Path) -> Store {
    Store::open(&format!("file://{}", folder.display())).expect("the store opens")
}

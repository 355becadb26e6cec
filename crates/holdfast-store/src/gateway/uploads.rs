//! Open multipart uploads.
#[derive(Default)]
pub(super) struct Uploads {}
impl Uploads {
    pub(super) fn drop_of(&self, _access_key: &str) {}
    pub(super) async fn sweep(&self) {}
    pub(super) async fn abort_all(&self) {}
}

//! Multipart uploads. Their parts come in order (pgBackRest sends one after the other), each is sealed as it comes and
//! nothing but its checksum is kept, so an upload is as long as it likes.
//!
//! They live in memory only: after a crash the tool begins its file anew, and the store's side of the upload is swept when
//! it is old (`Store::sweep`). One that is idle for an hour is given up (R22).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use s3s::{S3Result, s3_error};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::MAX_OPEN_UPLOADS;
use crate::repository::StoredObject;
use crate::writing::SealedWrite;

/// An upload without a request for so long is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);

/// All open uploads, by id.
#[derive(Default)]
pub(crate) struct Uploads {
    by_id: Mutex<HashMap<String, Arc<Upload>>>,
}

/// One upload. Who holds its state works on it; everybody else waits.
pub(crate) struct Upload {
    access_key: String,
    key: String,
    used_at: Mutex<Instant>,
    state: tokio::sync::Mutex<State>,
}

enum State {
    Open {
        write: Box<SealedWrite>,
        parts: Vec<Part>,
    },
    /// Kept for a while, for a client that did not get the answer.
    Done {
        object: Box<StoredObject>,
        parts: Vec<Part>,
    },
    Failed,
}

/// A part that has been sealed.
struct Part {
    sha256: [u8; 32],
}

impl Part {
    fn etag(&self) -> String {
        hex::encode(&self.sha256[..16])
    }
}

impl Uploads {
    /// Opens an upload and returns its id.
    pub(crate) fn open(&self, access_key: &str, key: &str, write: SealedWrite) -> S3Result<String> {
        let mut by_id = self.lock();
        if by_id.values().filter(|upload| upload.is_open()).count() >= MAX_OPEN_UPLOADS {
            return Err(s3_error!(SlowDown, "{MAX_OPEN_UPLOADS} multipart uploads are open"));
        }
        let id = Uuid::new_v4().to_string();
        let upload = Upload {
            access_key: access_key.to_owned(),
            key: key.to_owned(),
            used_at: Mutex::new(Instant::now()),
            state: tokio::sync::Mutex::new(State::Open { write: Box::new(write), parts: Vec::new() }),
        };
        by_id.insert(id.clone(), Arc::new(upload));
        Ok(id)
    }

    /// Finds an upload of this credential for this key.
    pub(crate) fn get(&self, access_key: &str, key: &str, id: &str) -> S3Result<Arc<Upload>> {
        let upload = self.lock().get(id).cloned();
        match upload {
            Some(upload) if upload.access_key == access_key && upload.key == key => {
                upload.touch();
                Ok(upload)
            }
            _ => Err(s3_error!(NoSuchUpload)),
        }
    }

    /// Gives an upload up. What was written of it goes with it.
    pub(crate) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Gives up the uploads of a credential.
    pub(crate) fn drop_of(&self, access_key: &str) {
        self.lock().retain(|_, upload| upload.access_key != access_key);
    }

    /// Gives up those that have been idle for too long, as of `now`.
    pub(crate) fn sweep(&self, now: Instant) {
        self.lock().retain(|id, upload| {
            let idle = now.saturating_duration_since(*lock(&upload.used_at)) > IDLE_LIMIT;
            // A part at work holds the state.
            let keep = !idle || upload.state.try_lock().is_err();
            if !keep && upload.is_open() {
                tracing::warn!(upload = %id, key = %upload.key, "gave up a multipart upload that was idle for an hour");
            }
            keep
        });
    }

    /// Gives up all.
    pub(crate) fn abort_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        lock(&self.by_id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is a single step, so a panic leaves nothing half-done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upload {
    fn touch(&self) {
        *lock(&self.used_at) = Instant::now();
    }

    /// Whether it still costs memory. One at work counts.
    fn is_open(&self) -> bool {
        self.state.try_lock().map_or(true, |state| matches!(*state, State::Open { .. }))
    }

    /// Seals part `number` (from 1) and returns its tag. A part sent again with the same content changes nothing.
    pub(crate) async fn add_part(&self, number: usize, body: Bytes) -> S3Result<String> {
        let part = Part { sha256: Sha256::digest(&body).into() };
        let etag = part.etag();
        let mut state = self.state.lock().await;
        let parts = match &*state {
            State::Open { parts, .. } | State::Done { parts, .. } => parts,
            State::Failed => return Err(failed()),
        };
        if let Some(known) = number.checked_sub(1).and_then(|index| parts.get(index)) {
            if known.sha256 == part.sha256 {
                return Ok(etag);
            }
            return Err(s3_error!(InvalidPart, "part {number} was sent before with other content"));
        }
        if number != parts.len() + 1 {
            let expected = parts.len() + 1;
            return Err(s3_error!(
                InvalidPartOrder,
                "part {number} came when part {expected} was due; this gateway takes parts in order"
            ));
        }
        // Should it fail or be cancelled half-way, what is sealed so far no longer matches the parts.
        let State::Open { mut write, mut parts } = std::mem::replace(&mut *state, State::Failed) else {
            return Err(s3_error!(InvalidPart, "the upload is complete"));
        };
        write.update(&body).await?;
        parts.push(part);
        *state = State::Open { write, parts };
        self.touch();
        Ok(etag)
    }

    /// Ends the upload; `tags` are those of the parts that the client believes it has. Repeating it repeats the answer.
    pub(crate) async fn complete(&self, tags: &[(usize, String)]) -> S3Result<StoredObject> {
        let mut state = self.state.lock().await;
        let parts = match &*state {
            State::Open { parts, .. } | State::Done { parts, .. } => parts,
            State::Failed => return Err(failed()),
        };
        let same = tags.len() == parts.len()
            && tags
                .iter()
                .zip(parts)
                .enumerate()
                .all(|(index, ((number, tag), part))| *number == index + 1 && *tag == part.etag());
        if !same {
            return Err(s3_error!(InvalidPart, "the list of parts is not what this gateway received"));
        }
        match std::mem::replace(&mut *state, State::Failed) {
            State::Open { write, parts } => {
                let object = write.finish().await?;
                *state = State::Done { object: Box::new(object.clone()), parts };
                Ok(object)
            }
            State::Done { object, parts } => {
                let answer = (*object).clone();
                *state = State::Done { object, parts };
                Ok(answer)
            }
            State::Failed => Err(failed()),
        }
    }
}

fn failed() -> s3s::S3Error {
    s3_error!(NoSuchUpload, "an earlier part of this upload failed; begin it anew")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId};
    use holdfast_seal::DataKey;

    use holdfast_store::repository::ObjectClass;
    use holdfast_store::{KeyRefused, OwnedKey, RepositoryPath, Store};

    use super::*;
    use crate::{Access, Repository, RepositoryEvents, RepositoryKeys};

    struct OneKey(OwnedKey);

    impl RepositoryKeys for OneKey {
        fn sealing_key(&self, _: &ObjectClass) -> Result<OwnedKey, KeyRefused> {
            Ok(self.0.clone())
        }
        fn opening_key(&self, _: KeyId) -> Result<OwnedKey, KeyRefused> {
            Ok(self.0.clone())
        }
    }

    struct NoEvents;

    impl RepositoryEvents for NoEvents {
        fn stored(&self, _: &StoredObject) {}
        fn deleted(&self, _: &str) {}
        fn served(&self, _: u64) {}
    }

    #[tokio::test]
    async fn idle_uploads_are_given_up_and_busy_ones_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&format!("file://{}", folder.path().display())).expect("a store");
        let key = OwnedKey { key_id: KeyId::random(), owner: "owner".to_owned(), key: DataKey::random() };
        let repository = Arc::new(Repository {
            access_key: "key".to_owned(),
            secret_key: "secret".to_owned(),
            organization: OrganizationId::random(),
            service: ServiceId::random(),
            lineage: LineageId::random(),
            access: Access::ReadWrite,
            keys: Arc::new(OneKey(key)),
            events: Arc::new(NoEvents),
        });
        assert!(!format!("{repository:?}").contains("secret\""), "a secret shows");
        let uploads = Uploads::default();
        let begin = async |name: &str| {
            let path = RepositoryPath::new(name).expect("a path");
            let write =
                SealedWrite::begin(store.clone(), Arc::clone(&repository), path).await.expect("begun");
            uploads.open("key", name, write).expect("open")
        };
        let files = || std::fs::read_dir(folder.path().join(".writing")).expect("readable").count();
        let (idle, busy) = (begin("idle").await, begin("busy").await);
        assert_eq!(files(), 2);
        let at_work = uploads.get("key", "busy", &busy).expect("open");
        let holding = at_work.state.lock().await;
        uploads.sweep(Instant::now() + IDLE_LIMIT - Duration::from_secs(5));
        assert_eq!(files(), 2, "swept too early");
        uploads.sweep(Instant::now() + IDLE_LIMIT + Duration::from_secs(5));
        assert!(uploads.get("key", "idle", &idle).is_err(), "an idle upload stays");
        assert_eq!(files(), 1, "its bytes stay");
        drop(holding);
        assert!(uploads.get("key", "busy", &busy).is_ok(), "an upload at work was swept");
        assert!(uploads.get("other", "busy", &busy).is_err(), "another credential's upload");
        assert!(uploads.get("key", "other", &busy).is_err(), "an upload for another key");

        for i in 1..MAX_OPEN_UPLOADS {
            begin(&format!("more{i}")).await;
        }
        let path = RepositoryPath::new("one too many").expect("a path");
        let write = SealedWrite::begin(store.clone(), Arc::clone(&repository), path).await.expect("begun");
        assert!(uploads.open("key", "one too many", write).is_err(), "no bound");
        drop(at_work);
        uploads.drop_of("key");
        assert_eq!(files(), 0, "bytes of given up uploads stay");
    }
}

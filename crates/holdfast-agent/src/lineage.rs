//! One lineage as the agent serves it: its keys, what of its log is proven, and the files of the backup being made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt;
use holdfast_core::Timestamp;
use holdfast_core::position::{Coverage, Position};
use holdfast_engines::Mark;
use holdfast_engines::postgresql::SEGMENT_BYTES;
use holdfast_seal::ManifestObject;
use holdfast_store::gateway::{
    Damage, KeyRefused, ObjectClass, OwnedKey, RepositoryEvents, RepositoryKeys, StoredObject, Trouble,
    classify,
};
use holdfast_store::{LineageScope, ObjectName, ObjectPrefix, Store};
use tokio::sync::{Notify, watch};

use crate::archive::ArchiveTracker;
use crate::keys::LineageKeys;
use crate::log::LogEnd;

/// A trouble of the store's longer ago than this explains nothing now.
const RECENT_SECONDS: i64 = 60;
const NEVER_STORED: &str = "log between these positions never reached the object store";

pub(crate) struct Lineage {
    pub scope: LineageScope,
    pub keys: LineageKeys,
    archive: Mutex<ArchiveTracker>,
    /// Whether `archive` tells what the store holds; not yet after a restart, until the store was listed.
    is_listed: AtomicBool,
    /// Stored files of backups since the agent started, by the tool's label.
    files: Mutex<HashMap<String, HashMap<String, ManifestObject>>>,
    /// Why log was given up: the cause of the gap that is to be seen next.
    dropped: Mutex<Option<String>>,
    changed: Notify,
    /// Where the archived log ends, of an engine whose log is followed; `None` until that is known.
    log_end: Mutex<Option<LogEnd>>,
    /// Why the log is not followed at the moment.
    log_error: Mutex<Option<String>>,
    /// What the store fails at, until it takes something again.
    trouble: Mutex<Option<Troubled>>,
    /// The first object that does not open and that nothing can replace.
    damage: watch::Sender<Option<String>>,
}

struct Troubled {
    since: Timestamp,
    last_at: Timestamp,
    trouble: Trouble,
}

impl Lineage {
    /// A lineage whose part of the store is empty, or is only read.
    #[must_use]
    pub(crate) fn new(scope: LineageScope, keys: LineageKeys) -> Self {
        Self {
            scope,
            keys,
            archive: Mutex::default(),
            is_listed: AtomicBool::new(true),
            files: Mutex::default(),
            dropped: Mutex::default(),
            changed: Notify::new(),
            log_end: Mutex::default(),
            log_error: Mutex::default(),
            trouble: Mutex::default(),
            damage: watch::Sender::new(None),
        }
    }

    /// A lineage of an earlier life: what the store holds of it is to be loaded.
    #[must_use]
    pub(crate) fn unlisted(scope: LineageScope, keys: LineageKeys) -> Self {
        Self { is_listed: AtomicBool::new(false), ..Self::new(scope, keys) }
    }

    #[must_use]
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Acquire)
    }

    /// Looks in the store for what is there: the truth after a restart.
    ///
    /// # Errors
    /// Whatever the store says.
    pub(crate) async fn load_archive(&self, store: &Store) -> Result<(), holdfast_store::StoreError> {
        let mut segments = Vec::new();
        let mut objects = store.list(&ObjectPrefix::Repository { lineage: self.scope, folder: None });
        while let Some(object) = objects.try_next().await? {
            if let ObjectName::Repository { path, .. } = &object.name
                && let ObjectClass::Wal { timeline, segment } = classify(path.as_str())
            {
                let from = Position { timeline, offset: segment };
                segments.push((from, Position { offset: segment + SEGMENT_BYTES, ..from }));
            }
        }
        for piece in holdfast_store::log::pieces(store, self.scope).await? {
            let at = |offset| Position { timeline: piece.timeline, offset };
            segments.push((at(piece.from), at(piece.to)));
        }
        let mut archive = ArchiveTracker::from_pieces(segments);
        if let Some(document) = crate::coverage::newest(store, self).await? {
            archive.remember(&document.coverage, &document.gaps);
        }
        *self.archive() = archive;
        self.is_listed.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn archive(&self) -> MutexGuard<'_, ArchiveTracker> {
        self.archive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_dropped(&self, cause: Option<String>) {
        *self.dropped.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    pub(crate) fn dropped(&self) -> Option<String> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn mark(&self, mark: Mark) {
        self.archive().mark(mark);
        self.changed.notify_waiters();
    }

    /// The store has confirmed `[from, to)` of a followed log; `gap` says why it does not continue what was there.
    pub(crate) fn log_stored(&self, from: u64, to: u64, gap: Option<&str>) {
        let at = |offset| Position { timeline: 0, offset };
        let cause = gap.unwrap_or(NEVER_STORED).to_owned();
        let found = self.archive().stored(at(from), at(to), Timestamp::now(), cause);
        if let Some(gap) = found {
            self.note_dropped(None);
            tracing::error!(service = %self.scope.service, ?gap, "the log archive has a gap");
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn log_end(&self) -> Option<LogEnd> {
        self.log_end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_log_end(&self, end: Option<LogEnd>) {
        *self.log_end.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    pub(crate) fn note_log_error(&self, error: Option<String>) {
        *self.log_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Why the log is not followed at the moment, in a sentence.
    #[must_use]
    pub(crate) fn log_error(&self) -> Option<String> {
        self.log_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the log of everything acknowledged at or before `at` is in the store; returns the coverage then.
    pub(crate) async fn wait_complete(&self, at: Timestamp) -> Coverage {
        loop {
            let changed = self.changed.notified();
            let newest = self.archive().newest_coverage().cloned();
            if let Some(coverage) = newest.filter(|c| c.complete_until.is_some_and(|until| until >= at)) {
                return coverage;
            }
            changed.await;
        }
    }

    /// The files stored under a label, for its manifest.
    #[must_use]
    pub(crate) fn files_of(&self, label: &str) -> Vec<ManifestObject> {
        let mut files: Vec<_> =
            self.files().get(label).map(|f| f.values().cloned().collect()).unwrap_or_default();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    pub(crate) fn forget_files(&self) {
        self.files().clear();
    }

    /// What the object store fails at since when, in a sentence; `None` once it has taken something again.
    #[must_use]
    pub(crate) fn trouble(&self) -> Option<String> {
        let text = |troubled: &Troubled| format!("since {:.0}: {}", troubled.since, troubled.trouble);
        self.troubled().as_ref().map(text)
    }

    /// What the object store failed at a moment ago: most likely why a tool that uses it has failed now.
    #[must_use]
    pub(crate) fn recent_trouble(&self) -> Option<Trouble> {
        let troubled = self.troubled();
        let is_recent = |t: &&Troubled| Timestamp::now().duration_since(t.last_at).as_secs() < RECENT_SECONDS;
        let recent = troubled.as_ref().filter(is_recent);
        recent.map(|troubled| troubled.trouble.clone())
    }

    fn troubled(&self) -> MutexGuard<'_, Option<Troubled>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of the repository is damaged, as far as somebody has read it.
    #[must_use]
    pub(crate) fn damage(&self) -> Option<String> {
        self.damage.borrow().clone()
    }

    /// Waits until something damaged is read that nothing can replace.
    pub(crate) async fn damaged(&self) -> String {
        let mut damage = self.damage.subscribe();
        let found = damage.wait_for(Option::is_some).await.expect("its sender is ours");
        found.clone().unwrap_or_default()
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, ManifestObject>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RepositoryKeys for Lineage {
    fn sealing_key(&self, class: &ObjectClass) -> Result<OwnedKey, KeyRefused> {
        self.keys.sealing_key(class)
    }

    fn opening_key(&self, key_id: holdfast_core::KeyId) -> Result<OwnedKey, KeyRefused> {
        self.keys.opening_key(key_id)
    }

    fn may_delete(&self, class: &ObjectClass) -> bool {
        self.keys.may_delete(class)
    }
}

impl RepositoryEvents for Lineage {
    fn stored(&self, object: &StoredObject) {
        *self.troubled() = None;
        match &object.class {
            ObjectClass::Wal { timeline, segment } => {
                let from = Position { timeline: *timeline, offset: *segment };
                let to = Position { offset: segment + SEGMENT_BYTES, ..from };
                let cause = self.dropped().unwrap_or_else(|| NEVER_STORED.to_owned());
                let gap = self.archive().stored(from, to, Timestamp::now(), cause);
                if let Some(gap) = gap {
                    self.note_dropped(None);
                    tracing::error!(service = %self.scope.service, ?gap, "the log archive has a gap");
                }
                self.changed.notify_waiters();
            }
            ObjectClass::BackupFile { label } => {
                let file = ManifestObject {
                    name: object.name.relative(),
                    sealed_bytes: object.sealed_bytes,
                    plain_bytes: object.plain_bytes,
                    sha256: object.sha256.clone(),
                    shared: None,
                };
                self.files().entry(label.clone()).or_default().insert(object.path.clone(), file);
            }
            _ => {}
        }
    }

    fn deleted(&self, path: &str) {
        if let ObjectClass::BackupFile { label } = classify(path)
            && let Some(files) = self.files().get_mut(&label)
        {
            files.remove(path);
        }
    }

    fn served(&self, _plain_bytes: u64) {}

    fn damaged(&self, damage: &Damage<'_>) {
        // The tool's own indexes have copies that it turns to.
        let has_copy = damage.path.rsplit('/').next().is_some_and(|file| file.starts_with("backup.manifest"));
        let needed = matches!(
            damage.class,
            ObjectClass::BackupFile { .. }
                | ObjectClass::Wal { .. }
                | ObjectClass::PartialWal { .. }
                | ObjectClass::TimelineHistory { .. }
        );
        if needed && !has_copy {
            self.damage.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(|| damage.what.to_owned());
                is_first
            });
        }
    }

    fn troubled(&self, _class: &ObjectClass, trouble: &Trouble) {
        let mut troubled = self.troubled();
        let now = Timestamp::now();
        let since = troubled.as_ref().map_or(now, |earlier| earlier.since);
        *troubled = Some(Troubled { since, last_at: now, trouble: trouble.clone() });
    }
}

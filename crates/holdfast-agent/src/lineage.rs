//! One lineage as the agent serves it: its keys, what of its log is proven, and the files of the backup being made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::TryStreamExt;
use holdfast_core::Timestamp;
use holdfast_core::causes::chain;
use holdfast_core::position::{Coverage, Piece, Position};
use holdfast_engines::{EngineError, Mark};
use holdfast_gateway::{Damage, RepositoryEvents, RepositoryKeys, StoredObject, Trouble};
use holdfast_seal::ManifestObject;
use holdfast_store::documents::{CoverageDocument, newest_sequence};
use holdfast_store::log::{ListedSegment, Segment, last_segment, pieces, segment_name};
use holdfast_store::manifest::read_document;
use holdfast_store::repository::{ObjectClass, classify};
use holdfast_store::{KeyRefused, LineageScope, ObjectName, ObjectPrefix, OwnedKey, Store, StoreError};
use tokio::sync::{Notify, watch};

use crate::archive::ArchiveTracker;
use crate::error::AgentError;
use crate::keys::LineageKeys;
use crate::log::cutter::LogEnd;
use crate::tail::pieces::Pieces;

/// A trouble of the store's longer ago than this explains nothing now.
const RECENT_SECONDS: i64 = 60;
const NEVER_STORED: &str = "log between these positions never reached the object store";

pub(crate) struct Lineage {
    pub scope: LineageScope,
    pub keys: LineageKeys,
    archive: Mutex<ArchiveTracker>,
    tail: Mutex<Pieces>,
    /// Whether `archive` tells what the store holds; not yet after a restart, until the store was listed.
    is_listed: AtomicBool,
    /// The number of the newest coverage document that is known.
    document: AtomicU64,
    /// Stored files of backups since the agent started, by the tool's label.
    files: Mutex<HashMap<String, HashMap<String, ManifestObject>>>,
    /// Why log was given up: the cause of the gap that is to be seen next.
    dropped: Mutex<Option<String>>,
    changed: Notify,
    /// The latest instant that somebody waits for, and what tells the engine's reader that somebody does.
    awaited: Mutex<Option<Timestamp>>,
    asked: Arc<Notify>,
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
            tail: Mutex::default(),
            is_listed: AtomicBool::new(true),
            document: AtomicU64::new(0),
            files: Mutex::default(),
            dropped: Mutex::default(),
            changed: Notify::new(),
            awaited: Mutex::default(),
            asked: Arc::default(),
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

    /// A coverage document of this number is in the store.
    pub(crate) fn know_document(&self, number: u64) {
        self.document.fetch_max(number, Ordering::AcqRel);
    }

    /// A number for the next one: this one, if no known one is as high.
    pub(crate) fn next_document(&self, wanted: u64) -> u64 {
        let next = |known: u64| Some(wanted.max(known.saturating_add(1)));
        let before = self.document.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        wanted.max(before.unwrap_or_default().saturating_add(1))
    }

    /// Looks in the store for what is there: the truth after a restart.
    ///
    /// # Errors
    /// Whatever the store says.
    pub(crate) async fn load_archive(&self, store: &Store) -> Result<(), holdfast_store::StoreError> {
        let position = |timeline, offset| Position { timeline, offset };
        let listed = pieces(store, self.scope).await?;
        let tail: Vec<Piece> =
            listed.iter().map(|p| (position(p.timeline, p.from), position(p.timeline, p.to))).collect();
        let mut archived: Vec<Piece> = Vec::new();
        let mut objects = store.list(&ObjectPrefix::Repository { lineage: self.scope, folder: None });
        while let Some(object) = objects.try_next().await? {
            if let ObjectName::Repository { path, .. } = &object.name
                && let ObjectClass::Log { from, to } = classify(path.as_str())
            {
                archived.push((from, to));
            }
        }
        let mut archive = ArchiveTracker::from_pieces(archived.iter().chain(&tail).copied().collect());
        let document = self.newest_document(store).await?;
        let (mut known, gaps) = document.map(|d| (d.coverage, d.gaps)).unwrap_or_default();
        let told_to = known.last().map(|newest| newest.to);
        known.extend(self.said_by_newest(store, &tail).await?);
        archive.remember(&known, &gaps);
        for hole in archive.untold_holes(told_to) {
            let (cause, seen_at) = self.cause_in_store(store, &listed, hole.1).await?;
            if let Some(gap) = archive.note_hole(hole, seen_at, cause) {
                self.note_dropped(None);
                tracing::error!(service = %self.scope.service, ?gap, "the log archive has a gap");
            }
        }
        *self.tail() = Pieces::listed(tail, &archived);
        *self.archive() = archive;
        self.is_listed.store(true, Ordering::Release);
        Ok(())
    }

    /// Counts what the store lists and nobody has counted: the answer to its write was lost.
    ///
    /// # Errors
    /// Whatever the store says.
    pub(crate) async fn take_listed(&self, store: &Store) -> Result<(), StoreError> {
        let listed = pieces(store, self.scope).await?;
        for piece in &listed {
            let (from, to) = (Position { timeline: piece.timeline, offset: piece.from }, piece.to);
            let newest = self.archive().newest_coverage().map(|newest| newest.to);
            if newest.is_some_and(|end| (piece.timeline, to) <= (end.timeline, end.offset)) {
                continue;
            }
            let leads_on =
                newest.is_none_or(|end| end.timeline == piece.timeline && piece.from <= end.offset);
            let cause =
                if leads_on { None } else { Some(self.cause_in_store(store, &listed, from).await?.0) };
            self.log_stored(piece.from, to, cause.as_deref());
        }
        Ok(())
    }

    /// Why log begins anew at `at`, as the segment says that marks this place, and when that was stored.
    async fn cause_in_store(
        &self,
        store: &Store,
        listed: &[ListedSegment],
        at: Position,
    ) -> Result<(String, Timestamp), StoreError> {
        let marker = listed.iter().find(|piece| (piece.timeline, piece.from) == (at.timeline, at.offset));
        let Some(marker) = marker else { return Ok((self.cause_of_hole(), Timestamp::now())) };
        let name = segment_name(self.scope, marker.timeline, marker.from, marker.to);
        let said = match Segment::open(store, &name, &|id| self.keys.key(id)).await {
            Ok(segment) => segment.header.gap,
            Err(StoreError::NoKey { .. } | StoreError::Seal { .. } | StoreError::Document { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok((said.unwrap_or_else(|| self.cause_of_hole()), marker.modified_at))
    }

    /// Parts of the log that were shipped ahead of the tool's archive.
    pub(crate) fn tail(&self) -> MutexGuard<'_, Pieces> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has confirmed a part of the tail.
    pub(crate) fn shipped(&self, piece: Piece) {
        *self.troubled() = None;
        self.tail().shipped(piece);
        self.log_arrived(piece, self.cause_of_hole());
    }

    /// What the newest piece of log that was shipped by ourselves says of itself: it may know more than the newest document.
    async fn said_by_newest(&self, store: &Store, tail: &[Piece]) -> Result<Option<Coverage>, StoreError> {
        let newest = tail.iter().max_by_key(|(_, to)| (to.timeline, to.offset));
        let Some((from, to)) = newest.copied() else { return Ok(None) };
        match last_segment(store, self.scope, &|id| self.keys.key(id)).await {
            Ok(found) => {
                Ok(found.map(|(_, header)| Coverage { from, to, complete_until: header.complete_until }))
            }
            // Its key may be gone with its epoch; what is not known from here is known from the next mark.
            Err(StoreError::NoKey { .. } | StoreError::Seal { .. } | StoreError::Document { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn log_arrived(&self, (from, to): Piece, cause: String) {
        let gap = self.archive().stored(from, to, Timestamp::now(), cause);
        if let Some(gap) = gap {
            self.note_dropped(None);
            tracing::error!(service = %self.scope.service, ?gap, "the log archive has a gap");
        }
        self.changed.notify_waiters();
    }

    /// Why a hole in the engine's own log is there.
    fn cause_of_hole(&self) -> String {
        self.dropped().unwrap_or_else(|| NEVER_STORED.to_owned())
    }

    /// The object store refused log.
    pub(crate) fn note_trouble(&self, error: &StoreError) {
        self.note(&Trouble { cause: error.cause(), text: chain(error), hint: error.hint() });
    }

    fn note(&self, trouble: &Trouble) {
        let mut troubled = self.troubled();
        let now = Timestamp::now();
        let since = troubled.as_ref().map_or(now, |earlier| earlier.since);
        *troubled = Some(Troubled { since, last_at: now, trouble: trouble.clone() });
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
        self.log_arrived((at(from), at(to)), gap.unwrap_or(NEVER_STORED).to_owned());
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
    ///
    /// Log that is followed is cut as soon as it reaches there, however young it is.
    pub(crate) async fn wait_complete(&self, at: Timestamp) -> Coverage {
        let latest = |awaited: &mut Option<Timestamp>| *awaited = (*awaited).max(Some(at));
        latest(&mut self.awaited.lock().unwrap_or_else(PoisonError::into_inner));
        self.asked.notify_one();
        loop {
            let changed = self.changed.notified();
            let newest = self.archive().newest_coverage().cloned();
            if let Some(coverage) = newest.filter(|c| c.complete_until.is_some_and(|until| until >= at)) {
                return coverage;
            }
            changed.await;
        }
    }

    /// Whether somebody waits until the log of everything acknowledged until here, or later, is stored.
    #[must_use]
    pub(crate) fn is_awaited(&self, reached: Timestamp) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.take_if(|at| *at <= reached).is_some()
    }

    /// Notified when somebody begins to wait.
    #[must_use]
    pub(crate) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
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

    /// The newest document of its coverage that the store holds.
    async fn newest_document(&self, store: &Store) -> Result<Option<CoverageDocument>, StoreError> {
        let Some(key) = self.keys.coverage_key() else { return Ok(None) };
        let Some(sequence) = newest_sequence(store, &ObjectPrefix::Coverage(self.scope)).await? else {
            return Ok(None);
        };
        self.know_document(sequence);
        let name = ObjectName::Coverage { lineage: self.scope, sequence };
        let plain = read_document(store, &name, &key).await?;
        Ok(CoverageDocument::from_bytes(&name, &plain).ok())
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

    /// A driver's failure, with its cause where that is known better than the tool's last words.
    pub(crate) fn explained(&self, doing: &'static str, source: EngineError) -> AgentError {
        let may_be_store = matches!(source, EngineError::Exec { .. } | EngineError::Hole { .. });
        match self.recent_trouble().filter(|_| may_be_store) {
            Some(trouble) => {
                tracing::warn!(error = %source, "a tool failed, most likely by the object store's failure");
                AgentError::Troubled { doing, trouble }
            }
            None => AgentError::engine(doing)(source),
        }
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
            ObjectClass::Log { from, to } => {
                self.log_arrived((*from, *to), self.cause_of_hole());
                self.tail().archived((*from, *to));
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
        if damage.class.is_needed(damage.path) {
            self.damage.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(|| damage.what.to_owned());
                is_first
            });
        }
    }

    fn troubled(&self, _class: &ObjectClass, trouble: &Trouble) {
        self.note(trouble);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use holdfast_api::agent::{KeyGrant, RepositoryGrant, Secret};
    use holdfast_core::key::KeyPurpose;
    use holdfast_core::position::Gap;
    use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId};
    use holdfast_store::documents::{CoverageDocument, DOCUMENT_FORMAT};
    use holdfast_store::log::{SEGMENT_FORMAT, SegmentHeader, write_segment};
    use holdfast_store::manifest::write_document;

    use super::*;

    /// A store with one lineage, of which agents have their lives.
    pub(crate) struct Bucket {
        pub store: Store,
        scope: LineageScope,
        grant: RepositoryGrant,
        _folder: tempfile::TempDir,
    }

    impl Bucket {
        pub(crate) fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let store = Store::open(&format!("file://{}", folder.path().display())).expect("a store");
            let scope = LineageScope {
                organization: OrganizationId::random(),
                service: ServiceId::random(),
                lineage: LineageId::random(),
            };
            let key = |purpose| KeyGrant {
                id: KeyId::random(),
                purpose,
                owner: "test".to_owned(),
                key_hex: Secret("ab".repeat(32)),
            };
            let keys = vec![key(KeyPurpose::Coverage), key(KeyPurpose::Epoch)];
            let active_epoch = Some(keys[1].id);
            let grant = RepositoryGrant {
                organization_id: scope.organization,
                service_id: scope.service,
                lineage_id: scope.lineage,
                cipher_passphrase: Secret(String::new()),
                keys,
                active_epoch,
            };
            Self { store, scope, grant, _folder: folder }
        }

        /// As the next life of an agent finds it.
        pub(crate) fn lineage(&self) -> Lineage {
            Lineage::unlisted(self.scope, LineageKeys::from_grant(&self.grant).expect("they are keys"))
        }

        pub(crate) async fn write_coverage(&self, sequence: u64, coverage: Vec<Coverage>, gaps: Vec<Gap>) {
            let document =
                CoverageDocument { format: DOCUMENT_FORMAT, written_at: Timestamp::now(), coverage, gaps };
            let name = ObjectName::Coverage { lineage: self.scope, sequence };
            let key = self.lineage().keys.coverage_key().expect("it was granted");
            write_document(&self.store, &name, &key, &document.to_bytes()).await.expect("stored");
        }

        pub(crate) async fn write_log(&self, from: u64, log: &[u8], gap: Option<&str>) {
            let header = SegmentHeader {
                format: SEGMENT_FORMAT,
                from: serde_json::Value::Null,
                to: serde_json::Value::Null,
                complete_until: None,
                gap: gap.map(str::to_owned),
            };
            let name = segment_name(self.scope, 0, from, from + log.len() as u64);
            let keys = self.lineage().keys;
            let key = keys.epoch_key().expect("it was granted");
            write_segment(&self.store, &name, &key, &|id| keys.key(id), &header, log).await.expect("stored");
        }
    }

    fn at(offset: u64) -> Position {
        Position { timeline: 0, offset }
    }

    fn spans(lineage: &Lineage) -> Vec<(u64, u64)> {
        lineage.archive().coverage().iter().map(|c| (c.from.offset, c.to.offset)).collect()
    }

    fn told(lineage: &Lineage) -> Vec<(u64, u64, String)> {
        let archive = lineage.archive();
        archive.gaps().iter().map(|gap| (gap.from.offset, gap.to.offset, gap.cause.clone())).collect()
    }

    #[tokio::test]
    async fn a_gap_that_a_killed_agent_told_nobody_of_is_told_by_the_next_one() {
        let bucket = Bucket::new();
        bucket.write_log(0, b"abc", None).await;
        bucket.write_log(4, b"", Some("an old one")).await;
        bucket.write_log(4, b"efg", None).await;
        // Known, with its hole, when the agent was killed: behind it another one had just been found.
        let covered = |from, to| Coverage { from: at(from), to: at(to), complete_until: None };
        let old = Gap {
            from: at(3),
            to: at(4),
            from_time: Timestamp::UNIX_EPOCH,
            to_time: Timestamp::UNIX_EPOCH,
            cause: "an old one".to_owned(),
            acknowledged: true,
        };
        bucket.write_coverage(1, vec![covered(0, 3), covered(4, 6)], vec![old.clone()]).await;
        bucket.write_log(8, b"", Some("purged")).await;
        bucket.write_log(8, b"ij", None).await;
        let lineage = bucket.lineage();
        lineage.load_archive(&bucket.store).await.expect("it is listed");
        assert_eq!(spans(&lineage), [(0, 3), (4, 7), (8, 10)]);
        assert_eq!(told(&lineage), [(3, 4, "an old one".to_owned()), (7, 8, "purged".to_owned())]);
        assert_eq!(lineage.archive().gaps()[0], old, "as it was");

        // What was told of is not told of again, also where log before it is gone.
        let coverage = lineage.archive().coverage().to_vec();
        let gaps = lineage.archive().gaps().to_vec();
        bucket.write_coverage(2, coverage, gaps.clone()).await;
        let next = bucket.lineage();
        next.load_archive(&bucket.store).await.expect("it is listed");
        assert_eq!(next.archive().gaps(), gaps);
    }

    #[tokio::test]
    async fn a_segment_that_is_stored_and_was_not_counted_is_no_gap() {
        let bucket = Bucket::new();
        bucket.write_log(0, b"abc", None).await;
        let lineage = bucket.lineage();
        lineage.load_archive(&bucket.store).await.expect("it is listed");
        // The answer to these was lost.
        bucket.write_log(3, b"def", None).await;
        bucket.write_log(7, b"", Some("purged")).await;
        bucket.write_log(7, b"hi", None).await;
        lineage.take_listed(&bucket.store).await.expect("it is listed");
        lineage.log_stored(9, 12, None);
        assert_eq!(spans(&lineage), [(0, 6), (7, 12)]);
        assert_eq!(told(&lineage), [(6, 7, "purged".to_owned())]);
        lineage.take_listed(&bucket.store).await.expect("it is listed");
        assert_eq!(spans(&lineage), [(0, 6), (7, 12)]);
    }
}

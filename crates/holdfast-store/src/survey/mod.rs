//! What a bucket holds, found out with the recovery key alone: no catalog, no key-encryption key, nothing written.
//!
//! Damage is told and passed over: one unreadable backup must not hide the others. Only a bucket that cannot be read and a
//! recovery key that opens nothing are errors.

mod backups;
mod keys;
mod listing;
mod log;

use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_core::backup::Backup;
use holdfast_core::causes::chain;
use holdfast_core::engine::EngineKind;
use holdfast_core::key::KeyPurpose;
use holdfast_core::position::{Coverage, Gap, Position, recall, stretches};
use holdfast_core::{KeyId, LineageId, OrganizationId, ServiceId, Timestamp};
use holdfast_seal::{DataKey, RecoveryPrivate};

use crate::description::{ServiceDescription, read_description};
use crate::documents::{CoverageDocument, sequences};
use crate::error::{ErrorKind, Result, StoreError};
use crate::keys::OwnedKey;
use crate::layout::{LineageScope, ObjectName, ObjectPrefix, ServiceScope};
use crate::manifest::read_document;
use crate::store::{Limits, Store};

/// A service of the bucket. Its lineage, keys, backups and log are those of its one life.
#[derive(Debug)]
pub struct FoundService {
    pub scope: ServiceScope,
    pub lineage: LineageId,
    /// `None` when there is none that opens: names and settings are lost then, the backups are not.
    pub description: Option<ServiceDescription>,
    /// The engine and its version, as backups and archive say them.
    pub engine: Option<EngineKind>,
    pub version: Option<String>,
    pub keys: Vec<FoundKey>,
    /// Every backup that the bucket or the description knows of, oldest first; destroyed ones too.
    pub backups: Vec<Backup>,
    pub coverage: Vec<Coverage>,
    pub gaps: Vec<Gap>,
    /// What is damaged or missing, for people.
    pub problems: Vec<String>,
}

/// A data key in the clear, and as the bucket keeps it for the recovery key.
#[derive(Debug, Clone)]
pub struct FoundKey {
    pub id: KeyId,
    pub purpose: KeyPurpose,
    pub key: DataKey,
    pub recovery_wrapped: Vec<u8>,
    pub created_at: Timestamp,
}

/// How far a survey has come; read it from beside.
#[derive(Debug, Default)]
pub struct SurveyProgress {
    objects: AtomicU64,
    services: AtomicU64,
    services_done: AtomicU64,
}

impl SurveyProgress {
    /// Objects listed and read, services found, services done.
    #[must_use]
    pub fn get(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.objects), read(&self.services), read(&self.services_done))
    }

    fn seen(&self, objects: usize) {
        self.objects.fetch_add(objects as u64, Ordering::Relaxed);
    }
}

/// Everything that a bucket holds.
#[derive(Debug, Default)]
pub struct Survey {
    pub services: Vec<FoundService>,
    /// Highest version of a key-encryption key that has wrapped anything.
    pub highest_kek_version: u32,
    /// Services of which nothing opens, and why.
    pub unreadable: Vec<(ServiceScope, String)>,
}

impl FoundService {
    /// The name, or what stands for it where no description tells it.
    #[must_use]
    pub fn name(&self) -> String {
        let id = self.scope.service.to_string();
        self.description
            .as_ref()
            .map_or_else(|| format!("recovered-{}", &id[..8]), |found| found.service.name.clone())
    }

    #[must_use]
    pub fn engine(&self) -> EngineKind {
        let described = self.description.as_ref().map(|found| found.service.engine);
        // Releases that did not name it in each manifest knew no other.
        described.or(self.engine).unwrap_or(EngineKind::Postgresql)
    }

    #[must_use]
    pub fn lineage_scope(&self) -> LineageScope {
        LineageScope {
            organization: self.scope.organization,
            service: self.scope.service,
            lineage: self.lineage,
        }
    }

    /// The key of that id with its owner.
    #[must_use]
    pub fn owned_key(&self, id: KeyId) -> Option<OwnedKey> {
        let found = self.keys.iter().find(|key| key.id == id)?;
        let backup = self.backups.iter().find(|backup| backup.key_id == id);
        let owner = backup.map_or_else(|| id.to_string(), |backup| backup.id.to_string());
        Some(OwnedKey { key_id: id, owner, key: found.key.clone() })
    }
}

/// Asks the bucket for what it holds, without patience: who mistyped its address hears so at once. One that answers with a
/// refusal is there; the survey has the patience for it.
///
/// # Errors
/// Nobody answers.
pub async fn knock(store: &Store) -> Result<()> {
    match listing::services(&store.with_limits(Limits::impatient())?).await {
        Err(error @ StoreError::Unreachable { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// Looks through the whole bucket.
///
/// # Errors
/// The bucket cannot be read; [`StoreError::Seal`] with `WrongRecoveryKey` when all of it is wrapped for another
/// recovery key.
pub async fn survey(store: &Store, kit: &RecoveryPrivate, progress: &SurveyProgress) -> Result<Survey> {
    let mut found = Survey::default();
    let scopes = listing::services(store).await?;
    progress.services.store(scopes.len() as u64, Ordering::Relaxed);
    let mut other_kit = None;
    for scope in scopes {
        match survey_service(store, kit, scope, progress).await {
            Ok((service, kek)) => {
                found.highest_kek_version = found.highest_kek_version.max(kek);
                found.services.push(service);
            }
            Err(error) if is_of_an_object(&error) && listing::is_empty(store, scope).await? => {
                tracing::debug!(service = %scope.service, %error, "a folder without objects");
            }
            Err(error) if is_of_an_object(&error) => {
                found.unreadable.push((scope, chain(&error)));
                other_kit = other_kit.or(Some(error).filter(is_other_kit));
            }
            // Out of reach is not damaged: the survey would pass the service over for ever.
            Err(error) => return Err(error),
        }
        progress.services_done.fetch_add(1, Ordering::Relaxed);
    }
    match other_kit {
        Some(error) if found.services.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Whether the error says that the recovery key is not this bucket's.
#[must_use]
pub fn is_other_kit(error: &StoreError) -> bool {
    matches!(error, StoreError::Seal { source: holdfast_seal::SealError::WrongRecoveryKey { .. }, .. })
}

/// Looks through one service; also the highest version of a key-encryption key that wrapped a key of it.
///
/// # Errors
/// Nothing of it opens, or the bucket cannot be read.
pub async fn survey_service(
    store: &Store,
    kit: &RecoveryPrivate,
    scope: ServiceScope,
    progress: &SurveyProgress,
) -> Result<(FoundService, u32)> {
    let lineages = listing::lineages(store, scope).await?;
    let mut problems = Vec::new();
    let (lineage, mut keys, mut kek) =
        keys::unwrap_all(store, kit, scope, &lineages, progress, &mut problems).await?;
    let description = described(store, scope, &keys, &mut problems).await?;
    if let Some(description) = &description {
        // Of a bucket in use: keys that were made since they were listed.
        if description.keys.iter().any(|described| !keys.iter().any(|key| key.id == described.id)) {
            problems.clear();
            (_, keys, kek) = keys::unwrap_all(store, kit, scope, &lineages, progress, &mut problems).await?;
        }
        keys::take_dates(&mut keys, description, &mut problems);
    }
    let mut service = FoundService {
        scope,
        lineage,
        description,
        engine: None,
        version: None,
        keys,
        backups: Vec::new(),
        coverage: Vec::new(),
        gaps: Vec::new(),
        problems,
    };
    // What names files is read before the files are listed: of a bucket in use the listing may know more, never less.
    let documented = coverage_document(store, &mut service).await?;
    let found = backups::read_all(store, &service, progress).await?;
    let files = listing::files(store, service.lineage_scope(), progress).await?;
    backups::assemble(&mut service, &found, &files);
    service.version = service.version.or(files.version);
    service.coverage = stretches(files.pieces);
    let said = log::said_by_segments(store, &mut service, files.segments).await?;
    recall(&mut service.coverage, &said);
    if let Some(document) = documented {
        recall(&mut service.coverage, &document.coverage);
        tell_lost_log(&mut service, &document);
        service.gaps = document.gaps;
    } else if service.coverage.iter().any(|stretch| stretch.complete_until.is_none()) {
        let text = "without its coverage only backups can be restored, no instants";
        service.problems.push(text.to_owned());
    }
    if let Some(other) = lineages.iter().find(|other| **other != lineage) {
        service.problems.push(format!("a second lineage, {other}, whose keys are not here, was passed over"));
    }
    for purpose in [KeyPurpose::Repository, KeyPurpose::Coverage] {
        if !service.keys.iter().any(|key| key.purpose == purpose) {
            service.problems.push(format!("no {purpose:?} key opens").to_lowercase());
        }
    }
    Ok((service, kek))
}

/// What the services are called, as far as their descriptions open; for finding one by its name.
///
/// # Errors
/// The bucket cannot be read.
pub async fn names(store: &Store, kit: &RecoveryPrivate) -> Result<Vec<(ServiceScope, Option<String>)>> {
    let (mut found, progress) = (Vec::new(), SurveyProgress::default());
    for scope in listing::services(store).await? {
        let lineages = listing::lineages(store, scope).await?;
        let mut ignored = Vec::new();
        let name = match keys::unwrap_all(store, kit, scope, &lineages, &progress, &mut ignored).await {
            Ok((_, keys, _)) => described(store, scope, &keys, &mut ignored).await?.map(|d| d.service.name),
            Err(error) if is_other_kit(&error) => return Err(error),
            Err(error) if is_of_an_object(&error) => {
                if listing::is_empty(store, scope).await? {
                    continue;
                }
                None
            }
            Err(error) => return Err(error),
        };
        found.push((scope, name));
    }
    Ok(found)
}

/// The newest description, if it opens.
async fn described(
    store: &Store,
    scope: ServiceScope,
    keys: &[FoundKey],
    problems: &mut Vec<String>,
) -> Result<Option<ServiceDescription>> {
    let Some(key) = keys.iter().find(|key| key.purpose == KeyPurpose::Coverage) else { return Ok(None) };
    let key = OwnedKey { key_id: key.id, owner: key.id.to_string(), key: key.key.clone() };
    let read = async |sequence| read_description(store, scope, sequence, &key).await;
    let (found, refused) = newest_that_opens(store, &ObjectPrefix::Descriptions(scope), read).await?;
    problems.extend(refused.map(|why| format!("a description does not open: {why}")));
    if found.is_none() {
        problems.push("it has no description, so name and settings are not known".to_owned());
    }
    Ok(found)
}

/// The newest of numbered documents that opens, and why a newer one did not.
async fn newest_that_opens<T>(
    store: &Store,
    prefix: &ObjectPrefix,
    read: impl AsyncFn(u64) -> Result<T>,
) -> Result<(Option<T>, Option<String>)> {
    // In a bucket in use one may be replaced while it is read: the next one is there then.
    for _ in 0..3 {
        let (mut refused, mut replaced) = (None, false);
        for sequence in sequences(store, prefix).await? {
            match read(sequence).await {
                Ok(document) => return Ok((Some(document), refused)),
                Err(error) if error.kind() == ErrorKind::NotFound => replaced = true,
                Err(error) => refused = refused.or(Some(passed_over(error)?)),
            }
        }
        if !replaced {
            return Ok((None, refused));
        }
    }
    Ok((None, None))
}

/// The newest coverage document, if it opens.
async fn coverage_document(store: &Store, service: &mut FoundService) -> Result<Option<CoverageDocument>> {
    let lineage = service.lineage_scope();
    let key = service.keys.iter().find(|key| key.purpose == KeyPurpose::Coverage);
    let Some(key) = key.and_then(|key| service.owned_key(key.id)) else { return Ok(None) };
    let read = async |sequence| {
        let name = ObjectName::Coverage { lineage, sequence };
        CoverageDocument::from_bytes(&name, &read_document(store, &name, &key).await?)
    };
    let (found, refused) = newest_that_opens(store, &ObjectPrefix::Coverage(lineage), read).await?;
    service.problems.extend(refused.map(|why| format!("its coverage does not open: {why}")));
    Ok(found)
}

/// Log that was archived and is not there any more. What lies before the oldest backup may be gone: nothing needs it, and
/// the document of a deleted service is not written again.
fn tell_lost_log(service: &mut FoundService, document: &CoverageDocument) {
    let piece = service.engine().capability().log_piece;
    let needed_from = |timeline: u32| {
        let restorable = service.backups.iter().filter(|backup| backup.is_restorable());
        let starts = restorable.filter_map(|backup| Some(backup.facts.as_ref()?.log?.start));
        let first = starts.filter(|start| start.timeline == timeline).map(|start| start.offset).min();
        first.map(|offset| Position { timeline, offset }.start_of_piece(piece).offset)
    };
    let is_lost = |known: &&Coverage| {
        let (timeline, to) = (known.to.timeline, known.to.offset);
        let from = needed_from(timeline).map_or(to, |needed| needed.max(known.from.offset));
        let is_there = |c: &Coverage| c.to.timeline == timeline && c.from.offset <= from && to <= c.to.offset;
        from < to && !service.coverage.iter().any(is_there)
    };
    let lost = document.coverage.iter().filter(is_lost).count();
    if lost > 0 {
        let all = document.coverage.len();
        service.problems.push(format!("log is missing in {lost} of {all} archived stretches"));
    }
}

/// An error of the bucket's goes on; one of a single object becomes its text.
fn passed_over(error: StoreError) -> Result<String> {
    if is_of_an_object(&error) { Ok(chain(&error)) } else { Err(error) }
}

/// Whether the store answered, and what it holds is the trouble.
fn is_of_an_object(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Seal { .. }
            | StoreError::OtherKey { .. }
            | StoreError::NoKey { .. }
            | StoreError::Document { .. }
            | StoreError::TooLarge { .. }
    ) || error.kind() == ErrorKind::NotFound
}

/// For texts: whose service it is.
impl std::fmt::Display for FoundService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.scope.service)
    }
}

/// The service that an id or a name means.
///
/// # Errors
/// The names that there are, when it means none or several.
pub fn choose(
    names: &[(ServiceScope, Option<String>)],
    asked: &str,
) -> std::result::Result<ServiceScope, String> {
    let by_id = asked.parse::<ServiceId>().ok();
    let fits = |(scope, name): &&(ServiceScope, Option<String>)| {
        Some(scope.service) == by_id || (by_id.is_none() && name.as_deref() == Some(asked))
    };
    let found: Vec<_> = names.iter().filter(fits).collect();
    match found[..] {
        [(scope, _)] => Ok(*scope),
        [] => {
            let known: Vec<&str> = names.iter().filter_map(|(_, name)| name.as_deref()).collect();
            Err(format!("the bucket holds no service {asked:?}; it holds: {}", known.join(", ")))
        }
        _ => {
            let ids: Vec<String> = found.iter().map(|(scope, _)| scope.service.to_string()).collect();
            Err(format!("several services were called {asked:?}; name one by its id: {}", ids.join(", ")))
        }
    }
}

/// The organization that stands for one that no description tells.
#[must_use]
pub fn organization_slug(id: OrganizationId) -> String {
    format!("recovered-{}", &id.to_string()[..8])
}

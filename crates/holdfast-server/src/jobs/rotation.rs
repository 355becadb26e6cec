//! Rotation of the key-encryption key (KEK): a new one is made, everything wrapped is wrapped by it, the older ones are
//! removed. No data is read or written: objects stay as they are, sealed with the same data keys.
//!
//! What is left to do is always read from the catalog's rows, so a step that is cut off anywhere goes on where it was.
//! The order keeps every key openable at every moment: the KEK's file is on the disk before anything is wrapped by it; a
//! key's new wrapping is confirmed in the bucket before the catalog has it; the old one is removed from the bucket after
//! that; and a KEK's file goes after the catalog has retired it, which it does only while nothing is wrapped by it and
//! which refuses late writers (`holdfast_catalog::keks`).

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use holdfast_catalog::{Credential, KekUse, NewJob, Rewrapped};
use holdfast_core::causes::chain;
use holdfast_core::job::{Job, JobKind, Progress};
use holdfast_core::key::KeyRecord;
use holdfast_core::{KeyId, ServiceId, Timestamp};
use holdfast_store::{ErrorKind, ObjectName, ServiceScope};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::grant::user_secret;
use super::{StepError, input, input_of, output_of, scheduler, wrappings};
use crate::ControlPlane;

/// Keys that are rewrapped while the lock on wrappings is held; whoever waits for it waits this long.
const BATCH: u32 = 64;
/// Requests to the object store at a time.
pub(super) const AT_A_TIME: usize = 16;

/// What a step that takes longer says of itself.
pub type Said = watch::Sender<Option<Progress>>;

/// What [`Step::MakeKek`](holdfast_core::job::Step::MakeKek) made.
#[derive(Debug, Serialize, Deserialize)]
pub struct MadeKek {
    pub version: u32,
}

/// Asks for a rotation with a new KEK or, where `new_kek` is false, to bring an earlier one to its end.
#[must_use]
pub fn new_job(cp: &ControlPlane, new_kek: bool, now: Timestamp) -> NewJob {
    let current = cp.vault.current_kek_version();
    let asked = input::RotateKeys { newer_than: if new_kek { current } else { current.saturating_sub(1) } };
    let value = serde_json::to_value(asked).expect("an input has only string keys");
    NewJob::of_platform(JobKind::RotateKeys, value, now)
}

/// The new KEK is on the disk and known to the catalog. Its version is one that neither knows, nor the bucket: a catalog
/// that was put back to an older state must not use a name twice.
pub(super) async fn make_kek(cp: &ControlPlane, job: &Job) -> Result<Value, StepError> {
    let asked: input::RotateKeys = input_of(job)?;
    let mut version = cp.vault.current_kek_version();
    if version <= asked.newer_than {
        let known = cp.catalog.keks().await?.last().map_or(0, |kek| kek.version);
        let used = cp.catalog.kek_uses().await?.keys().next_back().copied().unwrap_or(0);
        let stored = wrappings::newest_version(cp).await?;
        version = version.max(known).max(used).max(stored) + 1;
        cp.vault.add_kek(version)?;
        tracing::info!(version, "a new key-encryption key wraps what is new from here on");
    }
    let created_at = scheduler::expiry_now(cp).await?.unwrap_or_else(Timestamp::now);
    cp.catalog.note_kek(version, created_at).await?;
    Ok(serde_json::to_value(MadeKek { version }).expect("it has only string keys"))
}

pub(super) async fn rewrap_keys(cp: &ControlPlane, job: &Job, said: &Said) -> Result<Value, StepError> {
    let MadeKek { version: to } = output_of(job, "make_kek")?;
    rewrap_all(cp, to, said).await?;
    Ok(Value::Null)
}

/// What is wrapped by an older KEK is wrapped by `to` when this returns, but for what was written meanwhile by somebody
/// who had begun before. All that can be done is done before an error is returned.
async fn rewrap_all(cp: &ControlPlane, to: u32, said: &Said) -> Result<(), StepError> {
    let older: BTreeMap<u32, KekUse> =
        cp.catalog.kek_uses().await?.into_iter().filter(|(v, _)| *v < to).collect();
    let mut walk =
        Walk { to, total: older.values().map(|used| used.keys + used.passwords).sum(), done: 0, said };
    let here = cp.vault.kek_versions();
    let mut trouble = None;
    for (version, used) in older {
        if here.contains(&version) {
            walk.keys(cp, version, &mut trouble).await?;
            walk.passwords(cp, version, &mut trouble).await?;
        } else if used.keys + used.passwords > 0 {
            let why = format!(
                "its file keys/kek-{version} is not there, and {} keys and {} passwords are wrapped by it: bring the file \
                 back from a copy of the data folder, start holdfast again and rotate again; nothing was removed",
                used.keys, used.passwords
            );
            trouble = Some(StepError::KekKept { version, why, passing: false });
        }
    }
    trouble.map_or(Ok(()), Err)
}

struct Walk<'a> {
    to: u32,
    total: u64,
    done: u64,
    said: &'a Said,
}

impl Walk<'_> {
    #[allow(clippy::cast_precision_loss)] // a share for people
    fn say(&mut self, more: usize) {
        self.done += more as u64;
        self.said.send_replace(Some(Progress {
            phase: "rewrapping keys".to_owned(),
            percent: Some((100.0 * self.done as f64 / self.total.max(1) as f64).min(100.0)),
            bytes_done: None,
            bytes_total: None,
            eta_seconds: None,
        }));
    }

    async fn keys(
        &mut self,
        cp: &ControlPlane,
        version: u32,
        trouble: &mut Option<StepError>,
    ) -> Result<(), StepError> {
        let mut after = None;
        loop {
            let lock = cp.vault.lock_wrappings().await;
            // Read under the lock: who is in this list lives, and stays alive until its wrapping is stored.
            let batch = cp.catalog.keys_by_kek(version, after, BATCH).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some(last.id);
            let rewraps: Vec<_> = batch.iter().map(|record| rewrap(cp, record, self.to)).collect();
            let stored: Vec<_> = stream::iter(rewraps).buffer_unordered(AT_A_TIME).collect().await;
            let mut rewrapped = Vec::new();
            for one in stored {
                match one {
                    Ok(one) => rewrapped.push(one),
                    Err(error) if error.is_passing() => return Err(error),
                    Err(error) => *trouble = Some(kept(version, &error)),
                }
            }
            cp.catalog.rewrap_keys(self.to, &rewrapped).await?;
            drop(lock);
            let old = batch.iter().filter(|record| rewrapped.iter().any(|one| one.of == record.id));
            let removals: Vec<_> = old.map(|record| remove(cp, name(record, version))).collect();
            stream::iter(removals).buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
            self.say(rewrapped.len());
        }
    }

    async fn passwords(
        &mut self,
        cp: &ControlPlane,
        version: u32,
        trouble: &mut Option<StepError>,
    ) -> Result<(), StepError> {
        let mut rewrapped = Vec::new();
        for user in cp.catalog.credentials_by_kek(version).await? {
            match rewrap_password(cp, &user, self.to).await {
                Ok(one) => rewrapped.push(one),
                Err(error) if error.is_passing() => return Err(error),
                Err(error) => *trouble = Some(kept(version, &error)),
            }
        }
        for batch in rewrapped.chunks(BATCH as usize) {
            cp.catalog.rewrap_passwords(self.to, batch).await?;
            self.say(batch.len());
        }
        Ok(())
    }
}

fn kept(version: u32, error: &StepError) -> StepError {
    let why = format!("not all that it wraps can be opened: {}", chain(error));
    StepError::KekKept { version, why, passing: false }
}

fn name(record: &KeyRecord, kek_version: u32) -> ObjectName {
    let service = ServiceScope { organization: record.organization_id, service: record.service_id };
    ObjectName::Key { service, key: record.id, kek_version }
}

async fn remove(cp: &ControlPlane, name: ObjectName) -> Result<(), StepError> {
    Ok(cp.store.delete(&name).await?)
}

/// The key's new wrapping, confirmed by the store.
async fn rewrap(cp: &ControlPlane, record: &KeyRecord, to: u32) -> Result<Rewrapped<KeyId>, StepError> {
    let name = name(record, to);
    let before = record.wrapped.clone();
    let after = cp.vault.rewrap(record, to)?;
    match cp.store.put_if_absent(&name, after.clone().into()).await {
        Ok(_) => Ok(Rewrapped { of: record.id, before, after }),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // A try that was cut off before the catalog had it.
            let after = wrappings::read(cp, &name).await?;
            if cp.vault.holds_same_key(record, &after)? {
                Ok(Rewrapped { of: record.id, before, after })
            } else {
                Err(error.into())
            }
        }
        Err(error) => Err(error.into()),
    }
}

async fn rewrap_password(
    cp: &ControlPlane,
    user: &Credential,
    to: u32,
) -> Result<Rewrapped<(ServiceId, String)>, StepError> {
    let service = cp.catalog.service(user.service_id).await?.ok_or_else(|| StepError::Incomplete {
        job: user.service_id.to_string(),
        what: format!("the service of database user {}", user.username),
    })?;
    let name = user_secret(&user.username);
    let password = cp.vault.unwrap_secret(&service, &name, &user.wrapped)?;
    let after = cp.vault.wrap_secret_by(&service, &name, &password, to)?;
    Ok(Rewrapped {
        of: (user.service_id, user.username.clone()),
        before: user.wrapped.clone(),
        after: after.bytes,
    })
}

/// Removes the older KEKs. What late writers left is rewrapped first, and the bucket is looked through: what the catalog
/// says is not the only truth.
pub(super) async fn retire_keks(cp: &ControlPlane, job: &Job, said: &Said) -> Result<Value, StepError> {
    let MadeKek { version: to } = output_of(job, "make_kek")?;
    rewrap_all(cp, to, said).await?;
    let unknown = wrappings::sweep(cp).await?;
    let mut retired = Vec::new();
    for version in cp.vault.kek_versions().into_iter().filter(|version| *version < to) {
        if let Some((count, example)) = unknown.get(&version) {
            let why = format!(
                "the catalog does not know {count} keys in the bucket that are wrapped by it, such as {example}; was the \
                 catalog put back to an older state?"
            );
            return Err(StepError::KekKept { version, why, passing: false });
        }
        let left = cp.catalog.retire_kek(version, Timestamp::now()).await?;
        if !left.is_none() {
            let why = format!(
                "{} keys, {} passwords and {} unfinished jobs need it; tried again until they do not",
                left.keys, left.passwords, left.jobs
            );
            return Err(StepError::KekKept { version, why, passing: true });
        }
        cp.vault.remove_kek(version)?;
        tracing::info!(version, "a key-encryption key is retired and removed");
        retired.push(version);
    }
    Ok(serde_json::json!({ "retired": retired }))
}

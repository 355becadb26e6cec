//! One job of each kind: what it needs, how it is asked for, and what must hold when it has been completed.

use anyhow::{Context, Result, bail, ensure};
use holdfast_core::backup::BackupStatus;
use holdfast_core::job::{Job, JobKind};
use holdfast_core::{BackupId, ServiceId};
use holdfast_testkit::ledger::{connect, rows};
use holdfast_testkit::wait_for;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::OwnedMutexGuard;

use crate::crash::invariants;
use crate::crash::world::World;

/// A scene that is set; then the job is asked for.
pub(crate) struct Stage {
    pub(crate) kind: JobKind,
    /// Whose fault points the job meets: a service's, or `any` where the service does not exist yet.
    pub(crate) points: String,
    service: Option<String>,
    /// The backup that expiry is to remove.
    backup: Option<String>,
    name: String,
    before: Vec<Job>,
    /// Nobody else creates a service meanwhile.
    _alone: Option<OwnedMutexGuard<()>>,
}

/// The job, and the instant that a restore was asked for.
pub(crate) struct Asked {
    pub(crate) job: Job,
    point: Timestamp,
}

impl Stage {
    pub(crate) async fn set(world: &World, kind: JobKind) -> Result<Self> {
        let name = format!("s-{:08x}", rand::random::<u32>());
        let mut stage = Self {
            kind,
            points: "any".to_owned(),
            service: None,
            backup: None,
            name,
            before: Vec::new(),
            _alone: None,
        };
        match kind {
            JobKind::Restore => {
                wait_for("the source has a recovery window", 60, || async {
                    let pitr = world.client.get(&format!("/managed-services/{}/pitr", world.source)).await?;
                    Ok(pitr["latest_restore_point"].is_string().then_some(()))
                })
                .await?;
                return Ok(stage);
            }
            JobKind::Provision => {
                stage._alone = Some(world.creating.clone().lock_owned().await);
                return Ok(stage);
            }
            JobKind::RotateKeys => {
                stage.before = world.jobs(kind, None).await?;
                return Ok(stage);
            }
            JobKind::Backup => stage.service = Some(world.archive.clone()),
            JobKind::Configure | JobKind::Stop | JobKind::ResetPassword => {
                stage.service = Some(world.toy.clone());
            }
            JobKind::Start => {
                world.client.post(&format!("/managed-services/{}/stop", world.toy), json!({})).await?;
                status(world, &world.toy, "stopped").await?;
                stage.service = Some(world.toy.clone());
            }
            JobKind::DeleteService => {
                let _alone = world.creating.lock().await;
                let service = world.client.create(&stage.name).await?;
                world.client.wait_first_backup(&service).await?;
                stage.service = Some(service);
            }
            JobKind::Expire => {
                let service = world.archive.clone();
                let id: ServiceId = service.parse()?;
                wait_for("the scheduler's own first look", 90, || async {
                    Ok((!world.jobs(JobKind::Expire, Some(id)).await?.is_empty()).then_some(()))
                })
                .await?;
                // Nothing needs the first of two backups, once the second is there and it is deleted by hand.
                let backup = world.client.trigger(&service).await?;
                world.client.wait_backup(&service, &backup, 120).await?;
                let later = world.client.trigger(&service).await?;
                world.client.wait_backup(&service, &later, 120).await?;
                stage.service = Some(service);
                stage.backup = Some(backup);
            }
        }
        let service = stage.service()?;
        world.quiet(&service.to_string()).await?;
        stage.before = world.jobs(kind, Some(service)).await?;
        stage.points = service.to_string();
        Ok(stage)
    }

    fn service(&self) -> Result<ServiceId> {
        Ok(self.service.as_ref().context("a service that is there already")?.parse()?)
    }

    /// Asks for the job. It may have begun, and a process may have died of it, when this returns: what counts is the
    /// catalog, not the answer.
    pub(crate) async fn ask(&mut self, world: &World) -> Result<Asked> {
        let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
        let answered = self.request(world, point).await;
        let is_of_a_service = self.kind.is_of_a_service();
        if self.service.is_none() && is_of_a_service {
            let made = wait_for("the new service is in the catalog", 20, || async {
                let services = world.catalog.services(None).await?;
                Ok(services.into_iter().find(|service| service.name == self.name))
            });
            let made = made.await.with_context(|| format!("asked for it: {answered:?}"))?;
            self.service = Some(made.id.to_string());
        }
        let service = if is_of_a_service { Some(self.service()?) } else { None };
        let job = world.new_job(self.kind, service, &self.before).await;
        Ok(Asked { job: job.with_context(|| format!("asked for it: {answered:?}"))?, point })
    }

    async fn request(&self, world: &World, point: Timestamp) -> Result<()> {
        let client = &world.client;
        let path =
            |rest: &str| format!("/managed-services/{}{rest}", self.service.as_deref().unwrap_or_default());
        match self.kind {
            JobKind::Provision => {
                let body = json!({"name": self.name, "database_type": "postgresql", "plan_name": "tier-1"});
                client.post("/managed-services", body).await?;
            }
            JobKind::Restore => {
                client.restore_to(&world.source, &point.to_string(), &self.name).await?;
            }
            JobKind::Backup => drop(client.trigger(&world.archive).await?),
            JobKind::Configure => {
                let cidrs = json!([
                    "127.0.0.0/8",
                    format!("10.{}.{}.0/24", rand::random::<u8>(), rand::random::<u8>())
                ]);
                let answer = client.send("PATCH", &path(""), Some(json!({"allowed_cidrs": cidrs}))).await?;
                ensure!(answer.status == 200, "{answer:?}");
            }
            JobKind::Stop => drop(client.post(&path("/stop"), json!({})).await?),
            JobKind::Start => drop(client.post(&path("/start"), json!({})).await?),
            JobKind::ResetPassword => {
                // The answer waits for the job, which a fault may hold up or cut off.
                let (client, path) = (client.clone(), path("/database-users/app_user/reset-password"));
                tokio::spawn(async move { client.post(&path, json!({})).await });
            }
            JobKind::DeleteService => client.delete(&path("")).await?,
            JobKind::Expire => {
                let backup = self.backup.as_deref().context("a backup to expire")?;
                client.delete(&path(&format!("/backups/{backup}"))).await?;
            }
            JobKind::RotateKeys => drop(client.post("/keys/rotate", json!({})).await?),
        }
        Ok(())
    }

    /// What a completed job of this kind has brought about.
    pub(crate) async fn look(&self, world: &World, asked: &Asked) -> Result<()> {
        if self.kind == JobKind::RotateKeys {
            let files = std::fs::read_dir(world.data.join("keys"))?.count();
            ensure!(files == 2, "{files} files: not one KEK and the recovery key's public half");
            return usable(world, &world.toy).await;
        }
        let id = self.service()?;
        let service = id.to_string();
        match self.kind {
            JobKind::Provision => usable(world, &service).await?,
            JobKind::Restore => {
                status(world, &service, "running").await?;
                let found = rows(&world.client.connection_string(&service).await?).await?;
                world.ledger.judge(&found, asked.point).ensure_exact("restored")?;
                world.client.delete(&format!("/managed-services/{service}")).await?;
            }
            JobKind::Backup => {
                let backups = world.catalog.backups_of(id).await?;
                let newest = backups.iter().max_by_key(|backup| backup.created_at).context("a backup")?;
                ensure!(newest.status == BackupStatus::Completed, "{newest:?}");
            }
            JobKind::Configure | JobKind::ResetPassword => usable(world, &service).await?,
            JobKind::Stop => {
                status(world, &service, "stopped").await?;
                ensure!(!postmaster_runs(world, &service), "a stopped engine runs");
                world.client.post(&format!("/managed-services/{service}/start"), json!({})).await?;
                usable(world, &service).await?;
            }
            JobKind::Start => usable(world, &service).await?,
            JobKind::DeleteService => {
                let answer = world.client.send("GET", &format!("/managed-services/{service}"), None).await?;
                ensure!(answer.status == 404, "{answer:?}");
                ensure!(!world.instances.join(&service).exists(), "a deleted service's folder is there");
            }
            JobKind::Expire => {
                let gone = self.backup.as_deref().context("a backup to expire")?.parse()?;
                let backup = world.catalog.backup(&gone).await?.context("the backup's row")?;
                ensure!(backup.shredded_at.is_some(), "{backup:?}");
                let key = world.catalog.key(backup.key_id).await?.context("the key's row")?;
                ensure!(key.destroyed_at.is_some() && key.wrapped.is_empty(), "its key is there");
            }
            JobKind::RotateKeys => {}
        }
        Ok(())
    }
}

impl Stage {
    /// What a job of this kind that has failed for good leaves: a record, and a reason.
    pub(crate) async fn look_failed(&self, world: &World, asked: &Asked) -> Result<()> {
        let id = self.service()?;
        match self.kind {
            JobKind::Provision | JobKind::Restore => {
                status(world, &id.to_string(), "failed").await?;
                invariants::nothing_left(world, id).await?;
                world.client.delete(&format!("/managed-services/{id}")).await
            }
            JobKind::Backup => {
                let made: BackupId = serde_json::from_value(asked.job.input["backup_id"].clone())?;
                wait_for("the backup has failed", 30, || async {
                    let backup = world.catalog.backup(&made).await?.context("the backup's row")?;
                    Ok((backup.status == BackupStatus::Failed).then_some(()))
                })
                .await?;
                // The next one clears up.
                let next = world.client.trigger(&world.archive).await?;
                world.client.wait_backup(&world.archive, &next, 120).await.map(drop)
            }
            other => bail!("{other:?} is not given up"),
        }
    }
}

/// Running, and its tenant can write.
async fn usable(world: &World, service: &str) -> Result<()> {
    status(world, service, "running").await?;
    let database = connect(&world.client.connection_string(service).await?).await?;
    Ok(database.batch_execute("CREATE TABLE IF NOT EXISTS used (n int); INSERT INTO used VALUES (1)").await?)
}

async fn status(world: &World, service: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("service {service} is {wanted}"), 60, || async {
        let found = world.client.get(&format!("/managed-services/{service}")).await?;
        match found["status"].as_str() {
            Some("failed" | "error") if wanted != "failed" => bail!("{found}"),
            status => Ok((status == Some(wanted)).then_some(())),
        }
    })
    .await
}

fn postmaster_runs(world: &World, service: &str) -> bool {
    !invariants::postmasters_of(&world.instances.join(service)).is_empty()
}

//! What the tests of this suite share: a Holdfast on a bucket of its own, behind a proxy.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::exactness::Source;
use holdfast_testkit::ledger::{Ledger, Writer};
use holdfast_testkit::s3::{BUCKET, Identity};
use holdfast_testkit::{Client, Holdfast, Proxy, S3Server, holdfast, wait_for};
use serde_json::Value;

use crate::BINARY;

/// A Holdfast, and what lies between it and its bucket. The fields' order is the order in which they end.
pub(crate) struct World {
    pub(crate) client: Client,
    holdfast: Holdfast,
    pub(crate) proxy: Proxy,
    pub(crate) identity: Identity,
    pub(crate) server: Arc<S3Server>,
    /// Where its objects lie in the bucket.
    pub(crate) prefix: String,
}

impl World {
    /// `None` after saying why the test is skipped.
    pub(crate) async fn start(name: &str) -> Result<Option<Self>> {
        Self::start_with(name, &[]).await
    }

    /// With more settings in the environment.
    pub(crate) async fn start_with(name: &str, settings: &[(&'static str, &str)]) -> Result<Option<Self>> {
        if holdfast::engines().is_none() {
            return Ok(None);
        }
        let Some(server) = S3Server::start().await? else { return Ok(None) };
        let identity = server.identity().await?;
        let proxy = Proxy::start(server.port()).await?;
        let prefix = format!("{name}-{:08x}/store", rand::random::<u32>());
        let url = format!("s3://{BUCKET}/{prefix}");
        let mut environment = identity.environment(proxy.port());
        environment.push(("HOLDFAST_STORE_URL", url));
        environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let holdfast = Holdfast::start_with(BINARY, name, &environment).await?;
        Ok(Some(Self { client: holdfast.client(), holdfast, proxy, identity, server, prefix }))
    }

    /// A service with a first backup, a writer and a recovery window.
    pub(crate) async fn written(&self) -> Result<(Source, Writer)> {
        let (source, writer) = self.written_without_window().await?;
        wait_for("there is a recovery window", 60, || async {
            let pitr = self.client.get(&format!("/managed-services/{}/pitr", source.id)).await?;
            Ok(pitr["latest_restore_point"].is_string().then_some(()))
        })
        .await?;
        Ok((source, writer))
    }

    /// A service with a first backup and a writer.
    pub(crate) async fn written_without_window(&self) -> Result<(Source, Writer)> {
        let id = self.client.create("ledger").await?;
        self.client.wait_first_backup(&id).await?;
        let writer = Writer::start(&self.client.connection_string(&id).await?, Ledger::default(), 1).await?;
        let ledger = writer.ledger.clone();
        let source = Source { client: self.client.clone(), id, ledger, patience_seconds: 180 };
        Ok((source, writer))
    }

    pub(crate) async fn backup(&self, service: &str, backup: &str) -> Result<Value> {
        self.client.get(&format!("/managed-services/{service}/backups/{backup}")).await
    }

    /// Asks for a backup and waits until it is being made.
    pub(crate) async fn begin_backup(&self, service: &str) -> Result<String> {
        let backup = self.client.trigger(service).await?;
        wait_for("the backup has begun", 30, || async {
            let found = self.backup(service, &backup).await?;
            Ok((found["status"] == "running").then_some(()))
        })
        .await?;
        Ok(backup)
    }

    /// Waits until a backup has ended, well or not.
    pub(crate) async fn ended(&self, service: &str, backup: &str, seconds: u64) -> Result<Value> {
        let began = Instant::now();
        let ended = wait_for("the backup has ended", seconds, || async {
            let found = self.backup(service, backup).await?;
            Ok(matches!(found["status"].as_str(), Some("completed" | "failed")).then_some(found))
        })
        .await?;
        println!(
            "{} after {:.1} s: {}",
            ended["status"],
            began.elapsed().as_secs_f64(),
            ended["error_message"].as_str().unwrap_or("-")
        );
        Ok(ended)
    }

    /// A backup that ended `failed` says why, and nothing in the bucket looks like a whole one.
    pub(crate) async fn ensure_failed(&self, backup: &str, ended: &Value) -> Result<()> {
        ensure!(ended["status"] == "failed", "it is {}", ended["status"]);
        let why = ended["error_message"].as_str().context("a failed backup says why")?;
        ensure!(why.len() > 20 && why.len() < 1500, "{why:?}");
        let manifests = self.manifests(backup).await?;
        ensure!(manifests.is_empty(), "a failed backup has a manifest: {manifests:?}");
        Ok(())
    }

    /// The newest job of a kind of this service.
    pub(crate) async fn job(&self, service: &str, kind: &str) -> Result<Value> {
        let jobs = self.client.get("/jobs").await?;
        let mut jobs = jobs["jobs"].as_array().into_iter().flatten();
        let found = jobs.find(|job| job["service_id"] == service && job["kind"] == kind);
        found.cloned().with_context(|| format!("no job {kind} of {service}"))
    }

    /// Waits until a try of an open job of this kind has failed with a cause; returns the job. Another one may be queued
    /// behind it: a backup's end asks for an expiry as well as a deletion does.
    pub(crate) async fn tried(&self, service: &str, kind: &str, seconds: u64) -> Result<Value> {
        let began = Instant::now();
        let job = wait_for("a try of the job has failed", seconds, || async {
            let jobs = self.client.get("/jobs").await?;
            let mut jobs = jobs["jobs"].as_array().into_iter().flatten();
            let failed_once = |job: &&Value| {
                let is_open = job["status"] == "queued" || job["status"] == "running";
                job["service_id"] == service
                    && job["kind"] == kind
                    && is_open
                    && job["error_cause"].is_string()
            };
            Ok(jobs.find(failed_once).cloned())
        })
        .await?;
        let took = began.elapsed().as_secs_f64();
        println!("{kind}: {} after {took:.1} s: {}", job["error_cause"], job["error_message"]);
        Ok(job)
    }

    /// What `holdfast rebuild --check` says of the bucket: exit code and messages.
    pub(crate) async fn rebuild_check(&self) -> Result<(i32, String)> {
        let kit = self.holdfast.data().join("recovery-kit.txt");
        let ended = tokio::process::Command::new(BINARY)
            .envs(self.identity.environment(self.proxy.port()))
            .args(["rebuild", "--check", "--store", &format!("s3://{BUCKET}/{}", self.prefix)])
            .arg("--recovery-kit")
            .arg(kit)
            .output()
            .await?;
        Ok((ended.status.code().unwrap_or(-1), String::from_utf8_lossy(&ended.stderr).into_owned()))
    }

    /// Manifests in the bucket of this backup.
    pub(crate) async fn manifests(&self, backup: &str) -> Result<Vec<String>> {
        let mut names = self.server.object_names(&self.prefix).await?;
        names.retain(|name| name.contains(&format!("/manifest/{backup}")));
        Ok(names)
    }

    /// Seconds that the log in the store is behind, as metrics and recovery window tell alike.
    pub(crate) async fn lag(&self, service: &str) -> Result<f64> {
        let pitr = self.client.get(&format!("/managed-services/{service}/pitr")).await?;
        pitr["archive_lag_seconds"].as_f64().context("no archive_lag_seconds")
    }

    /// Waits until the log in the store is less than `most` seconds behind.
    pub(crate) async fn caught_up(&self, service: &str, most: f64, seconds: u64) -> Result<()> {
        wait_for("the log in the store catches up", seconds, || async {
            Ok((self.lag(service).await.is_ok_and(|lag| lag < most)).then_some(()))
        })
        .await
    }
}

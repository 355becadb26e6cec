//! What happens to a topic while it is copied.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use holdfast_engines::{BackupSink, ProgressSink, StreamBackupRequest, StreamDriver as _};
use serde_json::Value;
use tokio::io::AsyncRead;

use crate::kafka::rig::{Base, Server};
use crate::streams::same;

const VERSION: &str = "4.1";

/// Has the tenant do something once the first records are on their way.
struct Amid<'a> {
    base: Base,
    server: &'a Server,
    command: &'static str,
    is_done: AtomicBool,
}

#[async_trait]
impl BackupSink for Amid<'_> {
    async fn store(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        self.base.store(name, data).await
    }

    async fn share(
        &self,
        name: &str,
        data: &mut (dyn AsyncRead + Send + Unpin),
    ) -> holdfast_engines::Result<u64> {
        if !self.is_done.swap(true, Ordering::Relaxed) {
            self.server.tenant(self.command).await.expect("the tenant does it");
        }
        self.base.share(name, data).await
    }

    fn rename(&self, name: &str, to: &str) -> holdfast_engines::Result<()> {
        self.base.rename(name, to)
    }

    fn shared(&self) -> Vec<String> {
        self.base.shared()
    }

    fn reuse(&self, name: &str) -> holdfast_engines::Result<()> {
        self.base.reuse(name)
    }
}

/// A backup, and what a copy of it holds.
async fn copied(server: &Server, command: &'static str) -> Result<(Value, Value)> {
    let sink = Amid { base: Base::default(), server, command, is_done: AtomicBool::new(false) };
    let request = StreamBackupRequest { method: "kafka_full" };
    let made = server.driver.backup(&server.instance, &request, &sink, &ProgressSink::default()).await?;
    ensure!(sink.is_done.into_inner(), "nothing was shared, so nothing happened");
    let mut base = sink.base;
    base.made = Some(made);
    let description = serde_json::from_slice(&base.objects.lock().expect("unpoisoned")["cluster.json"])?;
    let (copy, _) = Server::restore(&base, VERSION).await?;
    Ok((description, copy.tenant("digest").await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_loses_records_or_itself_while_it_is_copied_is_what_is_left_of_it() -> Result<()> {
    let Some(server) = Server::start(VERSION).await? else { return Ok(()) };
    server.tenant("one_long").await?;
    let (description, found) = copied(&server, "overtake").await?;
    let partition = &description["topics"][0]["partitions"][0];
    ensure!(partition["overtaken"] == true && partition["start"] == 300, "{partition}");
    same(&found, &server.tenant("digest").await?).context("retention was faster")?;

    let (description, found) = copied(&server, "make_long_anew").await?;
    let there = server.tenant("digest").await?;
    ensure!(there["long/0"]["end"] == 3, "it was made anew: {there}");
    ensure!(description["topics"] == Value::Array(Vec::new()), "{description}");
    ensure!(found == serde_json::json!({}), "it is another, and in no part here: {found}");
    Ok(())
}

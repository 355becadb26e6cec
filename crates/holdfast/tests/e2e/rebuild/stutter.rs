//! A bucket on S3 that does not answer for one of the services: out of reach is not damaged, and never left out.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use holdfast_testkit::s3::BUCKET;
use holdfast_testkit::{Fault, Proxy, S3Server, wait_for};

use crate::BINARY;
use crate::rebuild::Left;
use crate::rebuild::bucket::{self, Run};
use crate::s3::long_outage;

pub(crate) async fn is_waited_for(left: &Left) -> Result<()> {
    let Some(server) = S3Server::start().await? else { return Ok(()) };
    let identity = server.identity().await?;
    let prefix = format!("rebuild-{:016x}", rand::random::<u64>());
    let folder = left.folder.join("bucket");
    for path in bucket::digest(&folder)?.into_keys() {
        let key = format!("{prefix}/{}", path.strip_prefix(&folder)?.to_string_lossy());
        server.put(&key, std::fs::read(&path)?).await?;
    }
    let proxy = Proxy::start(server.port()).await?;
    let rebuild = |data: &Path| {
        let mut command = Command::new(BINARY);
        command.envs(identity.environment(proxy.port())).args(["rebuild", "-o", "json", "--store"]);
        command.arg(format!("s3://{BUCKET}/{prefix}")).arg("--recovery-kit").arg(&left.kit);
        command.arg("--data").arg(data);
        tokio::task::spawn_blocking(move || Run::of(&mut command))
    };
    let meet = |fault: Fault, times: Option<usize>| {
        let service = left.running.clone();
        proxy.inject_where(fault, times, move |seen| {
            seen.path.contains(&service) || seen.query.contains(&service)
        });
    };

    // As many in a row as ten repetitions would not live with.
    meet(Fault::SlowDown, Some(11));
    let whole = rebuild(&left.folder.join("after-a-stutter")).await??;
    ensure!(whole.code == 0 && proxy.count(Fault::SlowDown) == 11, "{whole:?}");
    let found = whole.json()?;
    ensure!(found["services"].as_array().is_some_and(|all| all.len() == 3), "{found}");

    // Away in the midst of it.
    proxy.heal();
    let before = proxy.requests();
    let outage = async {
        wait_for("the bucket is being read", 60, || async {
            Ok((proxy.requests() > before + 10).then_some(()))
        })
        .await?;
        proxy.go_away().await;
        tokio::time::sleep(long_outage()).await;
        proxy.come_back().await
    };
    let data = left.folder.join("after-an-outage");
    let (outage, whole) = tokio::join!(outage, rebuild(&data));
    outage?;
    let whole = whole??;
    ensure!(whole.code == 0 && whole.json()?["services"] == found["services"], "{whole:?}");

    meet(Fault::Forbidden, None);
    let data = left.folder.join("refused");
    let refused = rebuild(&data).await??;
    ensure!(refused.code == 1 && refused.stderr.contains("AccessDenied"), "{refused:?}");
    ensure!(!data.exists(), "a service was left out");
    Ok(())
}

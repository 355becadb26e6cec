//! Backups that share what has not changed: each outlives the others, and what none of them names is removed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use holdfast_conformance::service;
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{Holdfast, Trial, seed, wait_for};
use jiff::Timestamp;
use rand::Rng;
use rand::seq::SliceRandom as _;

use crate::conformance::support::holdfast_for;

const BACKUPS: usize = 3;
const BACKUPS_OF_A_SOAK: usize = 10;
const FILLED: u64 = 24_000_000;
/// A backup of what has not changed stores less than this part of it.
const SMALL: u64 = 20;

/// Names of the blobs in the store.
fn blobs(holdfast: &Holdfast) -> Vec<PathBuf> {
    let mut files = crate::lifecycle::support::files(&holdfast.objects());
    files.retain(|path| path.to_string_lossy().contains("/shared/"));
    files
}

pub(crate) async fn backups_outlive_those_they_share_with(kind: EngineKind) -> Result<()> {
    let Some(holdfast) = holdfast_for(kind, "shared").await? else { return Ok(()) };
    let mut random = seed::generator(&format!("backups of {kind} that share"));
    let mut trial = Trial::start(&holdfast, kind, 2, Duration::from_millis(50)).await?;
    let of_first = blobs(&holdfast).len();
    trial.database.open().await?.fill(FILLED).await?;
    let soaks = std::env::var("HOLDFAST_SOAK").as_deref() == Ok("1");
    let mut made = Vec::new();
    for _ in 0..if soaks { BACKUPS_OF_A_SOAK } else { BACKUPS } {
        let began = Timestamp::now();
        let backup = service::back_up(&trial.client, trial.source, 120).await?;
        made.push((backup.id.clone(), (began, Timestamp::now())));
    }
    trial.stop_writing().await?;
    let mut sizes = Vec::new();
    for (id, _) in &made {
        let path = service::path(trial.source, &format!("/backups/{id}"));
        sizes.push(trial.client.get(&path).await?["size_bytes"].as_u64().context("its size")?);
    }
    println!("{kind}: {sizes:?} bytes, {} blobs", blobs(&holdfast).len());
    ensure!(sizes[0] > FILLED && sizes[1..].iter().all(|size| size * SMALL < sizes[0]), "{sizes:?}");

    made.shuffle(&mut random);
    while let Some((gone, _)) = made.pop() {
        trial.client.delete(&service::path(trial.source, &format!("/backups/{gone}"))).await?;
        wait_for("its manifest is gone", 90, || async {
            let files = crate::lifecycle::support::files(&holdfast.objects());
            let is_there = |path: &PathBuf| path.to_string_lossy().contains(&format!("/manifest/{gone}"));
            Ok((!files.iter().any(is_there)).then_some(()))
        })
        .await?;
        println!("{kind}: {gone} is gone, {} blobs are left", blobs(&holdfast).len());
        if let Some((kept, made_in)) = made.last()
            && (soaks || made.len() == 1 || random.random_ratio(1, 3))
        {
            trial.exact_backup("after another was deleted", kept, *made_in).await?;
        }
    }
    wait_for("only the first backup's blobs are left", 60, || async {
        Ok((blobs(&holdfast).len() == of_first).then_some(()))
    })
    .await
}

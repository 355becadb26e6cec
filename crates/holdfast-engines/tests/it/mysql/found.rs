//! What MySQL's own tests (`suite`) found, as small as it goes: each comes back from a dump and from the log.

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;

use crate::mysql::reading::{reading, same};
use crate::mysql::rig::{archived, base, engines};

/// A dump holds them.
const HELD: &[&str] = &[
    // Once loaded, the column says its character set too.
    "CREATE TABLE collated (id INT PRIMARY KEY, a CHAR(10)) COLLATE utf8mb4_bin",
    "CREATE TABLE wide (id INT PRIMARY KEY, a CHAR(10)) COLLATE utf8mb3_unicode_ci",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_suite_found_comes_back_from_a_dump_and_from_the_log() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let (server, archive, _follower) = archived(&engines).await?;
    let empty = base(&server, &archive).await?;
    let mut app = server.tenant("app").await?;
    for statement in HELD {
        app.query_drop(*statement).await.context(*statement)?;
    }
    app.disconnect().await?;
    let expected = reading(&server).await?;
    let base = base(&server, &archive).await?;
    ensure!(base.facts.instead.is_none(), "{:?}", base.facts.instead);
    let at = archive.catch_up().await?;
    let (copy, _) = server.restored(&engines, &base, None, &archive).await.context("restore the base")?;
    same(&expected, &reading(&copy).await?, true).context("the copy of the base")?;
    let (copy, _) = server.restored(&engines, &empty, Some(at), &archive).await.context("replay")?;
    same(&expected, &reading(&copy).await?, false).context("the copy of the log")
}

//! Indices of all kinds, restored and read as a whole.

use anyhow::{Context as _, Result, ensure};

use crate::opensearch::rig::{Server, VERSION};
use crate::streams::same;

#[tokio::test(flavor = "multi_thread")]
async fn indices_of_all_kinds_come_back() -> Result<()> {
    let Some(source) = Server::start(VERSION).await? else { return Ok(()) };
    source.tenant("fill").await.context("fill")?;
    let base = source.backup().await?;
    let before = source.tenant("read").await?;
    source.tenant("change").await.context("change")?;
    let later = source.backup_after(&base).await?;
    let after = source.tenant("read").await?;
    ensure!(before != after, "the change shows");
    drop(source);

    let (copy, restored) = Server::restore(&base, VERSION).await?;
    println!("{}", restored.position);
    same(&copy.tenant("read").await?, &before).context("a copy")?;
    drop(copy);
    let (copy, _) = Server::restore(&later, VERSION).await?;
    same(&copy.tenant("read").await?, &after).context("a later one")?;
    // And a copy of the copy.
    let again = copy.backup().await?;
    drop(copy);
    let (second, _) = Server::restore(&again, VERSION).await?;
    same(&second.tenant("read").await?, &after).context("a copy's copy")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_any_index_comes_back() -> Result<()> {
    let Some(source) = Server::start(VERSION).await? else { return Ok(()) };
    let base = source.backup().await?;
    let (copy, _) = Server::restore(&base, VERSION).await?;
    same(&copy.tenant("read").await?, &source.tenant("read").await?)
}

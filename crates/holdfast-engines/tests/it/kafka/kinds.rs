//! Topics of all kinds, restored and read as a whole.

use anyhow::{Context as _, Result, ensure};

use crate::kafka::groups;
use crate::kafka::rig::{Server, versions};
use crate::streams::same;

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_all_kinds_come_back() -> Result<()> {
    for &version in versions() {
        let Some(source) = Server::start(version).await? else { return Ok(()) };
        source.tenant("fill").await.context("fill")?;
        // Older ones do not know of any.
        let sets_groups = version == "4.1";
        if sets_groups {
            groups::set(&source).await.context("settings of groups")?;
        }
        let base = source.backup().await?;
        let before = source.tenant("read").await?;
        source.tenant("change").await.context("change")?;
        let later = source.backup().await?;
        let after = source.tenant("read").await?;
        ensure!(before != after, "the change shows");

        let (copy, restored) = Server::restore(&base, version).await?;
        println!("{version}: {}", restored.position);
        same(&copy.tenant("read").await?, &before).with_context(|| format!("a copy by {version}"))?;
        let (later_copy, _) = Server::restore(&later, version).await?;
        same(&later_copy.tenant("read").await?, &after)
            .with_context(|| format!("a later one by {version}"))?;
        // And a copy of the copy, in which groups and producers go on as they do in the source.
        let again = later_copy.backup().await?;
        drop((copy, later_copy));
        let (second, _) = Server::restore(&again, version).await?;
        same(&second.tenant("read").await?, &after).with_context(|| format!("a copy's copy by {version}"))?;
        if sets_groups {
            let (found, expected) = (groups::read(&second).await?, groups::read(&source).await?);
            ensure!(found == expected, "{found:?} instead of {expected:?}");
        }
        let (found, at_source) = (second.tenant("resume").await?, source.tenant("resume").await?);
        ensure!(found.as_object().is_some_and(|found| found.len() == 2), "{found}");
        same(&found, &at_source)?;
    }
    Ok(())
}

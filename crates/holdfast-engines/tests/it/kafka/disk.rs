//! A disk that is about to be full.

use anyhow::{Result, ensure};
use holdfast_engines::{DiskGuard as _, Driver as _};

use crate::kafka::rig::{Server, versions};

const REFUSED: &str = "TOPIC_AUTHORIZATION_FAILED";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_over_restarts() -> Result<()> {
    for &version in versions() {
        let Some(server) = Server::start(version).await? else { return Ok(()) };
        let (driver, instance) = (&server.driver, &server.instance);
        let note = async |answer: &str, there: i64| {
            let told = server.tenant("note").await?;
            anyhow::ensure!(
                told["answer"] == answer && told["there"] == there,
                "{version}: {told}, not {answer}"
            );
            anyhow::Ok(())
        };
        note("done", 1).await?;
        driver.set_read_only(instance, true).await?;
        driver.set_read_only(instance, true).await?; // as after a crash in the middle
        note(REFUSED, 1).await?;
        driver.stop(instance, 60).await?;
        driver.start(instance).await?;
        ensure!(driver.is_read_only(instance), "{version}: the restart forgot it");
        note(REFUSED, 1).await?;
        // A copy has a disk of its own.
        let (copy, _) = Server::restore(&server.backup().await?, version).await?;
        ensure!(copy.tenant("note").await?["answer"] == "done", "{version}: the copy refuses writes");
        driver.set_read_only(instance, false).await?;
        driver.set_read_only(instance, false).await?;
        note("done", 2).await?;
    }
    Ok(())
}

//! A disk that is about to be full.

use anyhow::{Result, ensure};
use holdfast_engines::{DiskGuard as _, Driver as _};

use crate::opensearch::rig::{Server, VERSION};
use crate::streams::users;

const REFUSED: &str = "cluster_block_exception";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_documents_over_restarts() -> Result<()> {
    let Some(server) = Server::start(VERSION).await? else { return Ok(()) };
    let (driver, instance) = (&server.driver, &server.instance);
    let note = async |answer: &str, there: i64| {
        let told = server.tenant("note").await?;
        anyhow::ensure!(told["answer"] == answer && told["there"] == there, "{told}, not {answer}");
        anyhow::Ok(())
    };
    note("done", 1).await?;
    driver.set_read_only(instance, true).await?;
    driver.set_read_only(instance, true).await?; // as after a crash in the middle
    note(REFUSED, 1).await?;
    driver.stop(instance, 60).await?;
    driver.start(instance).await?;
    ensure!(driver.is_read_only(instance), "the restart forgot it");
    let user = users().remove(0);
    driver.set_password(instance, &user).await?;
    note(REFUSED, 1).await?;
    // A copy has a disk of its own.
    let first = server.backup().await?;
    let (copy, _) = Server::restore(&server.backup_after(&first).await?, VERSION).await?;
    note(REFUSED, 1).await?; // so it does after both
    ensure!(copy.tenant("note").await?["answer"] == "done", "the copy refuses writes");
    drop(copy);
    driver.set_read_only(instance, false).await?;
    driver.set_read_only(instance, false).await?;
    note("done", 2).await
}

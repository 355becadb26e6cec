//! A folder that a restore left half copied can be stopped, and so removed, like any other.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use holdfast_engines::postgresql::Postgresql;
use holdfast_engines::{Driver, Instance};
use holdfast_testkit::holdfast;

#[tokio::test]
async fn an_instance_whose_copy_was_cut_off_counts_as_stopped() -> Result<()> {
    let Some(engines) = holdfast::engines() else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    std::fs::create_dir(&data)?;
    // The source's settings came before PG_VERSION, and name files that only the source's user can read.
    std::fs::write(data.join("postgresql.conf"), "include '/nowhere/postgresql.conf'\n")?;
    let instance = Instance {
        folder: folder.path().to_owned(),
        stanza: "hf-0".to_owned(),
        version: "17".to_owned(),
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: 1,
        run_as: None,
        memory_mib: 64,
        max_connections: 10,
        allowed_cidrs: Vec::new(),
        repository: None,
    };
    let driver = Postgresql::new(engines);
    driver.stop(&instance, 5).await.context("stop what never ran")?;
    Ok(())
}

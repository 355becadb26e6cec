//! The port speaks TLS and nothing else, with a certificate of the instance's own.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use anyhow::{Result, ensure};
use bson::doc;
use holdfast_engines::Instance;
use mongodb::Client;

use super::world::{World, tenant};

/// Asks for nothing that a password is needed for.
async fn answers(instance: &Instance, parameters: &str) -> Result<bool> {
    let address = format!(
        "mongodb://127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=2000{parameters}",
        instance.port
    );
    let client = Client::with_uri_str(address).await?;
    Ok(client.database("admin").run_command(doc! { "hello": 1 }).await.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_speaks_tls_alone_with_a_certificate_of_the_instances_own() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let (one, other) = (world.create("one").await?, world.create("other").await?);
    let pinned = |instance: &Instance| {
        let file = instance.folder.join("conf/server.crt").to_string_lossy().replace('/', "%2F");
        format!("&tls=true&tlsCAFile={file}")
    };
    tenant(&one).await?.database("d").run_command(doc! { "ping": 1 }).await?;
    ensure!(answers(&one, &pinned(&one)).await?, "its own certificate is refused");
    ensure!(
        answers(&one, "&tls=true&tlsAllowInvalidCertificates=true").await?,
        "as the connection string says"
    );
    ensure!(!answers(&one, &pinned(&other)).await?, "another instance's certificate passes for its own");
    ensure!(!answers(&one, "&tls=true").await?, "nobody signed it");
    ensure!(!answers(&one, "&tls=false").await?, "it answers without TLS");
    ensure!(answers(&one, &pinned(&one)).await?, "whoever came without TLS left it unwell");
    for name in ["server.key", "server.pem"] {
        let found = one.folder.join("conf").join(name).metadata()?;
        let (mode, group) = one.run_as.as_ref().map_or((0o600, found.gid()), |user| (0o640, user.gid));
        ensure!(found.permissions().mode() & 0o777 == mode && found.gid() == group, "{name}: {found:?}");
    }
    world.end().await
}

//! What a tenant may not do.

use anyhow::{Context as _, Result, ensure};

use holdfast_engines::Driver as _;

use crate::opensearch::rig::{PASSWORD, Server, VERSION};
use crate::streams::{same, users};

#[tokio::test(flavor = "multi_thread")]
async fn tenants_use_their_indices_and_nothing_else() -> Result<()> {
    let Some(server) = Server::start(VERSION).await? else { return Ok(()) };
    server.backup().await?; // there is a repository, and a snapshot in it
    for (user, may) in [("app_user", &["an index"][..]), ("reader", &[])] {
        let told = server.client(user, PASSWORD, "trespass").await.with_context(|| user.to_owned())?;
        let told = told.as_object().context("what it was told")?;
        ensure!(told.len() >= 15, "{told:?}");
        for (what, answer) in told {
            let answer = answer.as_str().unwrap_or_default();
            let good = match may.contains(&what.as_str()) {
                true => answer == "done",
                false => ["security_exception", "403"].contains(&answer),
            };
            ensure!(good, "{user}, {what}: {answer}");
        }
    }
    for (user, password) in [("app_user", "wrong"), ("nobody", PASSWORD), ("admin", "admin")] {
        ensure!(server.client(user, password, "note").await?["answer"] == "401", "{user} came in");
    }
    // What keeps a backup from being whole is named.
    server.tenant("nowhere").await?;
    let error = server.backup().await.err().context("a backup of an index that has no shards")?;
    println!("{error:#}");
    ensure!(format!("{error:#}").contains("nowhere"), "{error:#}");
    // What nobody may look at is in it all the same.
    server.tenant("somewhere").await?;
    ensure!(server.driver.database_bytes(&server.instance).await? > 0, "its size cannot be told");
    let (copy, _) = Server::restore(&server.backup().await?, VERSION).await?;
    for one in [&server, &copy] {
        one.tenant("frank").await?;
    }
    same(&copy.tenant("read").await?, &server.tenant("read").await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_owner_sweeps_away_the_service_works() -> Result<()> {
    let Some(server) = Server::start(VERSION).await? else { return Ok(()) };
    let told = server.tenant("sweep").await?;
    ensure!(
        told.as_array().is_some_and(|told| told.iter().all(|told| told == "security_exception")),
        "{told}"
    );
    server.driver.stop(&server.instance, 60).await?;
    server.driver.start(&server.instance).await?;
    let base = server.backup().await?;
    let (copy, _) = Server::restore(&base, VERSION).await?;
    same(&copy.tenant("read").await?, &server.tenant("read").await?)?;
    // Rights and users go on as before, in both.
    for one in [&server, &copy] {
        one.driver.set_password(&one.instance, &users().remove(0)).await?;
        ensure!(one.client("app_user", "wrong", "note").await?["answer"] == "401");
    }
    Ok(())
}

//! From where a service's users come in, and by which database their clients look for them.

use anyhow::{Result, ensure};
use bson::doc;
use holdfast_engines::{DiskGuard as _, Driver as _, Instance, ProgressSink};
use holdfast_testkit::wait_for;
use mongodb::Client;

use super::world::{PASSWORD, World, users};

/// As clients do whose strings name a database and no `authSource` (the public command line, among others).
async fn logged_in(instance: &Instance, parameters: &str) -> Result<Client> {
    let password = PASSWORD.replace(' ', "%20").replace('\'', "%27");
    let client = Client::with_uri_str(format!(
        "mongodb://app_user:{password}@127.0.0.1:{}/defaultdb?directConnection=true&tls=true&tlsAllowInvalidCertificates=true\
         &serverSelectionTimeoutMS=3000{parameters}",
        instance.port
    ))
    .await?;
    count(&client).await?;
    Ok(client)
}

async fn count(client: &Client) -> Result<u64> {
    Ok(client.database("defaultdb").collection::<bson::Document>("orders").count_documents(doc! {}).await?)
}

async fn admitted(instance: &Instance) -> [bool; 2] {
    [logged_in(instance, "").await.is_ok(), logged_in(instance, "&authSource=admin").await.is_ok()]
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_in_from_the_networks_that_are_allowed_alone() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let mut instance = world.plan("closed")?;
    instance.allowed_cidrs = vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()];
    world.driver.create(&instance, &users(), &ProgressSink::default()).await?;
    ensure!(admitted(&instance).await == [false, false], "from a network that is not allowed");

    instance.allowed_cidrs = vec!["10.0.0.0/8".to_owned(), "127.0.0.0/8".to_owned()];
    world.driver.apply_settings(&instance).await?;
    ensure!(admitted(&instance).await == [true, true], "from one that is");
    let open = logged_in(&instance, "").await?;
    open.database("defaultdb").collection("orders").insert_one(doc! { "_id": 1 }).await?;

    // Whoever is in is put out, also while nobody may write.
    world.driver.set_read_only(&instance, true).await?;
    ensure!(
        open.database("defaultdb").collection("orders").insert_one(doc! { "_id": 2 }).await.is_err(),
        "the right to write was taken from the user of defaultdb too"
    );
    instance.allowed_cidrs = vec!["10.0.0.0/8".to_owned()];
    world.driver.apply_settings(&instance).await?;
    wait_for("an open session is refused", 30, || async { Ok(count(&open).await.is_err().then_some(())) })
        .await?;
    ensure!(admitted(&instance).await == [false, false], "from a network that is not allowed any more");
    world.driver.set_read_only(&instance, false).await?;
    ensure!(admitted(&instance).await == [false, false], "rights to write say nothing of networks");

    // The agent's own ways in stay, and a copy is for its own networks.
    let base = world.backup(&instance).await?;
    let (mut copy, _) = world.restore("copy", &base, None).await?;
    ensure!(admitted(&copy).await == [true, true], "a copy that lets in everybody");
    copy.allowed_cidrs = vec!["10.0.0.0/8".to_owned()];
    world.driver.apply_settings(&copy).await?;
    ensure!(admitted(&copy).await == [false, false], "a copy that does not");
    copy.allowed_cidrs = Vec::new();
    world.driver.apply_settings(&copy).await?;
    let client = logged_in(&copy, "").await?;
    ensure!(count(&client).await? == 1, "what was written is there");
    client.database("defaultdb").collection("orders").insert_one(doc! { "_id": 3 }).await?;
    world.end().await
}

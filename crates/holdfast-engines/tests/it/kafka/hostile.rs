//! What a tenant may not do.

use anyhow::{Context as _, Result, ensure};

use std::net::{Ipv4Addr, TcpStream};

use holdfast_engines::Driver as _;

use crate::kafka::rig::{PASSWORD, Server, versions};

/// What the server says to somebody who has no right, or is not who he says.
const REFUSALS: [&str; 5] = [
    "CLUSTER_AUTHORIZATION_FAILED",
    "TOPIC_AUTHORIZATION_FAILED",
    "_AUTHENTICATION",
    "SASL_AUTHENTICATION_FAILED",
    "INVALID_REQUEST", // a name that it keeps for itself
];

#[tokio::test(flavor = "multi_thread")]
async fn tenants_use_their_topics_and_nothing_else() -> Result<()> {
    for &version in versions() {
        let Some(server) = Server::start(version).await? else { return Ok(()) };
        for (user, may) in [("app_user", &["a topic"][..]), ("reader", &[])] {
            let told = server.client(user, PASSWORD, "trespass").await?;
            let told = told.as_object().context("what it was told")?;
            ensure!(told.len() >= 12, "{told:?}");
            for (what, answer) in told {
                let answer = answer.as_str().unwrap_or_default();
                let good =
                    if may.contains(&what.as_str()) { answer == "done" } else { REFUSALS.contains(&answer) };
                ensure!(good, "{version}, {user}, {what}: {answer}");
            }
        }
        ensure!(server.client("app_user", "wrong", "read").await.is_err(), "a wrong password");
    }
    Ok(())
}

/// A user who takes all connections leaves the agent's.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_the_door_does_not_keep_the_agent_out() -> Result<()> {
    let Some(server) = Server::start("4.1").await? else { return Ok(()) };
    ensure!(server.tenant("note").await?["answer"] == "done", "a tenant writes");
    let limit = u32::from(u16::try_from(server.instance.max_connections)?);
    let at = (Ipv4Addr::LOCALHOST, server.instance.port);
    let crowd = (0..limit + 20).map(|_| TcpStream::connect(at));
    let crowd: Vec<TcpStream> = crowd.collect::<Result<_, _>>()?;
    let made = server.backup().await.context("a backup beside a crowd")?;
    ensure!(made.made.is_some_and(|made| made.facts["topics"] == 1), "the topic is in it");
    server.driver.probe(&server.instance).await.context("a probe beside a crowd")?;
    drop(crowd);
    ensure!(server.tenant("note").await?["answer"] == "done", "a tenant writes again");
    Ok(())
}

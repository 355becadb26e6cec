//! PostgreSQL databases by chance: statements before a backup, behind it and behind an instant; what is restored to the backup and to
//! the instant holds what the source held, as PostgreSQL's own dumps tell.

mod grammar;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use holdfast_testkit::cases::{self, Case, Cases};
use holdfast_testkit::client::text;
use holdfast_testkit::ledger::connect;
use holdfast_testkit::{Client, Holdfast, holdfast};
use jiff::Timestamp;
use rand::rngs::StdRng;
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::BINARY;
use crate::dumps::{self, dumped};

const CASES: Cases<3> = Cases {
    name: "any_database_comes_back",
    seed: 14_798_842_679_393_264_640,
    count: 1,
    parts: ["before the backup", "after it", "behind the instant"],
};
/// The service's, and one that the statements begin with.
const DATABASES: [&str; 2] = ["defaultdb", "d b"];

fn case(random: &mut StdRng) -> Case<3> {
    let before = [grammar::beginning(random), grammar::statements(random)].concat();
    Case([before, grammar::statements(random), grammar::statements(random)])
}

#[tokio::test(flavor = "multi_thread")]
async fn any_database_comes_back() -> Result<()> {
    let Some(engines) = holdfast::engines() else { return Ok(()) };
    let holdfast = Holdfast::start(BINARY, "generated").await?;
    let client = holdfast.client();
    CASES.all_hold(case, async |case| tried(&client, &engines, case).await).await
}

async fn tried(client: &Client, engines: &Path, Case([before, after, behind]): &Case<3>) -> Result<()> {
    let unique = rand::random::<u32>();
    let id = client.create(&format!("source-{unique}")).await?;
    client.wait_first_backup(&id).await?;
    let url = client.connection_string(&id).await?;
    connect(&url).await?.batch_execute(&format!("CREATE DATABASE \"{}\"", DATABASES[1])).await?;
    run(&url, before).await?;
    let of_backup = reading(engines, &url).await?;
    let backup = client.trigger(&id).await?;
    client.wait_backup(&id, &backup, 120).await?;
    run(&url, after).await?;
    let of_point = reading(engines, &url).await?;
    let point = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    tokio::time::sleep(Duration::from_millis(5)).await;
    run(&url, behind).await?;

    let path = format!("/managed-services/{id}/backups/{backup}/restore");
    let asked = client.post(&path, json!({ "target_service_name": format!("backup-{unique}") })).await?;
    let copy = text(&asked, "service_id")?;
    same(client, engines, &copy, &of_backup).await.context("the copy of the backup")?;
    let copy = client.restore_to(&id, &point.to_string(), &format!("point-{unique}")).await?;
    same(client, engines, &copy, &of_point).await.context("the copy of the instant")?;
    client.delete(&format!("/managed-services/{id}")).await
}

/// Leaves no transaction open. Statements may fail; the server may not.
async fn run(url: &str, statements: &[String]) -> Result<()> {
    let mut sessions = Vec::new();
    for database in DATABASES {
        sessions.push(connect(&of(url, database)).await?);
    }
    let mut made = 0;
    for line in statements {
        let (database, statement) = line.split_once(' ').context("where and what")?;
        let session = &sessions[database.parse::<usize>()?];
        match session.batch_execute(statement).await {
            Ok(()) => made += 1,
            Err(error) => {
                let refused = error.as_db_error().with_context(|| format!("{error:#}: {statement}"))?;
                cases::refused(refused.message(), statement);
                if *refused.code() == SqlState::IN_FAILED_SQL_TRANSACTION {
                    session.batch_execute("ROLLBACK").await?;
                }
            }
        }
    }
    println!("{made} of {} statements", statements.len());
    for session in sessions {
        session.batch_execute("COMMIT").await?;
    }
    Ok(())
}

fn of(url: &str, database: &str) -> String {
    url.replace("/defaultdb?", &format!("/{}?", database.replace(' ', "%20")))
}

/// Everything, line by line.
async fn reading(engines: &Path, url: &str) -> Result<Vec<String>> {
    let mut lines = dumped(engines, "pg_dumpall", &["--globals-only", "--no-role-passwords"], url).await?;
    for database in DATABASES {
        lines.extend(dumped(engines, "pg_dump", &["--create"], &of(url, database)).await?);
    }
    Ok(lines)
}

async fn same(client: &Client, engines: &Path, copy: &str, expected: &[String]) -> Result<()> {
    client.wait_running(copy, 120).await?;
    let found = reading(engines, &client.connection_string(copy).await?).await?;
    client.delete(&format!("/managed-services/{copy}")).await?;
    dumps::same(expected, &found)
}

//! Databases by chance: statements before a base and after it; the copies of the base, and of the end, hold what the source held.
//! What fails is made as small as it goes before it is told.

mod grammar;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::cases::{self, Case, Cases};
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;

use crate::mysql::reading::{reading, same};
use crate::mysql::rig::{Server, archived, base, engines};

const CASES: Cases<2> = Cases {
    name: "any_database_comes_back",
    seed: 749_242_261_740_091_287,
    count: 2,
    parts: ["before the base", "after it"],
};

fn case(random: &mut StdRng) -> Case<2> {
    let before = [grammar::beginning(random), grammar::statements(random)].concat();
    Case([before, grammar::statements(random)])
}

#[tokio::test(flavor = "multi_thread")]
async fn any_database_comes_back() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    CASES.all_hold(case, async |case| tried(&engines, case).await).await
}

async fn tried(engines: &Path, Case([before, after]): &Case<2>) -> Result<()> {
    let (server, archive, _follower) = archived(engines).await?;
    run(&server, before).await?;
    let of_base = reading(&server).await?;
    let base = base(&server, &archive).await.context("back up")?;
    if let Some(instead) = &base.facts.instead {
        println!("by {}: {}", instead.method, instead.reason);
    }
    run(&server, after).await?;
    let of_end = reading(&server).await?;
    let at = archive.catch_up().await?;
    ensure!(archive.state().begins.len() == 1, "the archive has a gap: {:?}", archive.state().errors);
    let (copy, _) = server.restored(engines, &base, None, &archive).await.context("restore the base")?;
    // What was given to rows that were then refused is in no page: a physical copy, like a server after a crash, gives it again.
    let counters = base.facts.instead.is_none();
    same(&of_base, &reading(&copy).await?, counters).context("the copy of the base")?;
    drop(copy);
    let (copy, _) = server.restored(engines, &base, Some(at), &archive).await.context("restore the end")?;
    same(&of_end, &reading(&copy).await?, false).context("the copy of the end")
}

/// Ends with nothing open. Statements may fail; the server may not.
async fn run(server: &Server, statements: &[String]) -> Result<()> {
    let mut app = server.tenant("app").await?;
    let (mut made, mut hides) = (0, false);
    for statement in statements {
        // The server logs no histogram of a table that a temporary one hides (docs/engines/mysql.md).
        hides |= statement.starts_with("CREATE TEMPORARY");
        if hides && statement.contains("UPDATE HISTOGRAM") {
            continue;
        }
        match app.query_drop(statement).await {
            Ok(()) => made += 1,
            Err(mysql_async::Error::Server(refused)) => {
                cases::refused(&refused.to_string(), statement);
            }
            Err(error) => return Err(error).with_context(|| statement.clone()),
        }
    }
    println!("{made} of {} statements", statements.len());
    app.query_drop("COMMIT").await?;
    app.disconnect().await?;
    Ok(())
}

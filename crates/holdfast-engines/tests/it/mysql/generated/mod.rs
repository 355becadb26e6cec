//! Databases by chance: statements before a base and after it; the copies of the base, and of the end, hold what the source held.
//! What fails is made as small as it goes before it is told.

mod grammar;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use rand::rngs::StdRng;

use crate::mysql::reading::{reading, same};
use crate::mysql::rig::{Server, archived, base, engines};

/// `HOLDFAST_SEED` asks for another; soaks do.
const SEED: u64 = 749_242_261_740_091_287;
/// `HOLDFAST_CASES` asks for more.
const CASES: u32 = 2;
/// How long a smaller case is looked for.
const SHRINKING: Duration = Duration::from_secs(120);

#[derive(Clone)]
struct Case {
    before: Vec<String>,
    after: Vec<String>,
}

impl Case {
    fn random(random: &mut StdRng) -> Self {
        let before = [grammar::beginning(random), grammar::statements(random)].concat();
        Self { before, after: grammar::statements(random) }
    }

    fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }

    fn without(&self, from: usize, count: usize) -> Self {
        let all =
            self.before.iter().map(|text| (true, text)).chain(self.after.iter().map(|text| (false, text)));
        let mut left = Self { before: Vec::new(), after: Vec::new() };
        for (at, (before, text)) in all.enumerate() {
            if !(from..from + count).contains(&at) {
                let list = if before { &mut left.before } else { &mut left.after };
                list.push(text.clone());
            }
        }
        left
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_database_comes_back() -> Result<()> {
    let Some(engines) = engines() else { return Ok(()) };
    let mut random = holdfast_testkit::seed::generator_or("any_database_comes_back", SEED);
    let cases = std::env::var("HOLDFAST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    for number in 1..=cases {
        let case = Case::random(&mut random);
        if let Err(error) = tried(&engines, &case).await {
            println!("case {number}: {error:#}");
            let (case, error) = smaller(&engines, case, error).await;
            println!("before the base:\n  {}", case.before.join(";\n  "));
            println!("after it:\n  {}", case.after.join(";\n  "));
            return Err(error.context(format!("case {number}")));
        }
    }
    Ok(())
}

/// Takes statements out as long as the case still fails, many first.
async fn smaller(engines: &Path, mut case: Case, mut error: anyhow::Error) -> (Case, anyhow::Error) {
    let began = Instant::now();
    let mut count = case.len() / 2;
    while count > 0 {
        let mut from = 0;
        while from < case.len() {
            if began.elapsed() > shrinking() {
                return (case, error);
            }
            let left = case.without(from, count);
            match tried(engines, &left).await {
                Err(still) => (case, error) = (left, still),
                Ok(()) => from += count,
            }
        }
        count /= 2;
    }
    (case, error)
}

fn shrinking() -> Duration {
    std::env::var("HOLDFAST_SHRINK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .map_or(SHRINKING, Duration::from_secs)
}

async fn tried(engines: &Path, case: &Case) -> Result<()> {
    let (server, archive, _follower) = archived(engines).await?;
    run(&server, &case.before).await?;
    let of_base = reading(&server).await?;
    let base = base(&server, &archive).await.context("back up")?;
    if let Some(instead) = &base.facts.instead {
        println!("by {}: {}", instead.method, instead.reason);
    }
    run(&server, &case.after).await?;
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
    let mut made = 0;
    for statement in statements {
        match app.query_drop(statement).await {
            Ok(()) => made += 1,
            Err(mysql_async::Error::Server(refused)) => {
                if std::env::var_os("HOLDFAST_REFUSALS").is_some() {
                    println!("{refused}: {statement}");
                }
            }
            Err(error) => return Err(error).with_context(|| statement.clone()),
        }
    }
    println!("{made} of {} statements", statements.len());
    app.query_drop("COMMIT").await?;
    app.disconnect().await?;
    Ok(())
}

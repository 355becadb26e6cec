//! Databases by chance: commands before a base, while it is taken and after it; the copies of a base, and of the end, hold what the
//! source held. What fails is made as small as it goes before it is told.

mod grammar;
mod reading;
mod text;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bson::{Document, RawDocumentBuf};
use holdfast_core::Timestamp;
use holdfast_engines::{Driver as _, Instance};
use holdfast_testkit::cases::{self, Case, Cases};
use mongodb::error::ErrorKind;
use mongodb::{Client, ClientSession};
use rand::rngs::StdRng;

use self::reading::{ROLES, Reading, USERS, reading};
use super::world::{Archive, World, owner, tenant};

const CASES: Cases<3> = Cases {
    name: "any_database_comes_back",
    seed: 6,
    count: 2,
    parts: ["before the base", "while it is taken", "after it"],
};
/// No command of a case takes so long.
const HANGS: Duration = Duration::from_secs(60);

fn case(random: &mut StdRng) -> Case<3> {
    let before = [grammar::beginning(random), grammar::commands(random)].concat();
    let mut during = grammar::commands(random);
    // A base has the accounts of some moment while it is taken.
    during.retain(|command| !command.starts_with("root "));
    Case([before, during, grammar::commands(random)])
}

#[tokio::test(flavor = "multi_thread")]
async fn any_database_comes_back() -> Result<()> {
    match World::new()? {
        Some(_) => CASES.all_hold(case, tried).await,
        None => Ok(()),
    }
}

/// One base is taken while nothing happens, and restored to its own point; another while much does, and restored to the end.
async fn tried(Case([before, during, after]): &Case<3>) -> Result<()> {
    let world = World::new()?.context("an engine")?;
    let source = world.create("source").await?;
    never_expire(&source).await?;
    let archive = Archive::default();
    let following = Following(archive.follow(&world, &source));
    archive.wait("the log to begin", |all| !all.begun.is_empty()).await?;
    let mut user = User::new(&source).await?;

    user.run(before).await?;
    let of_base = reading(&source).await?;
    let quiet = world.backup(&source).await.context("back up")?;
    let (ran, busy) = tokio::join!(user.run(during), world.backup(&source));
    ran?;
    user.run(after).await?;
    user.commit().await?;
    let mut of_end = reading(&source).await?;
    // Changes to accounts behind a base are not replayed.
    for accounts in [USERS, ROLES] {
        of_end.insert(accounts.to_owned(), of_base[accounts].clone());
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    let at = Timestamp::now();
    archive.wait_for(at).await?;
    drop(following);
    ensure!(archive.with(|all| all.begun.len()) == 1, "the archive has a gap");
    world.driver.stop(&source, 20).await?;

    let (copy, _) = world.restore("of-base", &quiet, None).await.context("the base")?;
    never_expire(&copy).await?;
    same(&of_base, &reading(&copy).await?).context("the copy of the base")?;
    world.driver.stop(&copy, 20).await?;
    let base = or_earlier(busy, quiet)?;
    let (copy, _) = world.restore("of-end", &base, Some((at, &archive))).await.context("the end")?;
    never_expire(&copy).await?;
    same(&of_end, &reading(&copy).await?).context("the copy of the end")?;
    world.end().await
}

/// Ends also when a case fails.
struct Following(tokio::task::JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A base that cannot be taken while collections get other names is tried again: here the one from before takes its place.
fn or_earlier<T>(busy: Result<T>, quiet: T) -> Result<T> {
    match busy {
        Err(error) if format!("{error:#}").contains("a collection was renamed meanwhile") => {
            println!("{error:#}");
            Ok(quiet)
        }
        base => base.context("back up meanwhile"),
    }
}

/// Deadlines act on a copy as on any server, once it is open.
async fn never_expire(instance: &Instance) -> Result<()> {
    let off = bson::doc! { "setParameter": 1, "ttlMonitorEnabled": false };
    owner(instance).await?.database("admin").run_command(off).await?;
    Ok(())
}

/// Whoever makes the databases: one after the other, as a tenant or as root.
struct User {
    tenant: Client,
    root: Client,
    transaction: ClientSession,
    open: bool,
    retrying: ClientSession,
    retried: i64,
}

impl User {
    async fn new(instance: &Instance) -> Result<Self> {
        let (tenant, root) = (tenant(instance).await?, owner(instance).await?);
        let (transaction, retrying) = (tenant.start_session().await?, tenant.start_session().await?);
        Ok(Self { tenant, root, transaction, open: false, retrying, retried: 0 })
    }

    /// Commands may fail; the server may not. A transaction may stay open.
    async fn run(&mut self, commands: &[String]) -> Result<()> {
        let mut made = 0;
        for command in commands {
            let done = tokio::time::timeout(HANGS, self.one(command)).await;
            match done.with_context(|| format!("hangs: {command}"))?.with_context(|| command.clone())? {
                None => made += 1,
                Some(refused) => cases::refused(&refused, command),
            }
        }
        println!("{made} of {} commands", commands.len());
        Ok(())
    }

    /// What the server has against it.
    async fn one(&mut self, line: &str) -> Result<Option<String>> {
        match line {
            "begin" => {
                self.commit().await?;
                self.open = true;
                return refusal(self.transaction.start_transaction().await.map(|()| Document::new()));
            }
            "commit" => return self.commit().await,
            "abort" if !std::mem::take(&mut self.open) => return Ok(None),
            "abort" => return refusal(self.transaction.abort_transaction().await.map(|()| Document::new())),
            _ => {}
        }
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().context("who, where and what");
        let (who, database, command) = (part()?, part()?, text::document(part()?)?);
        self.command(who, database, command).await
    }

    async fn command(
        &mut self,
        who: &str,
        database: &str,
        mut command: RawDocumentBuf,
    ) -> Result<Option<String>> {
        let name = command.iter().next().context("a command")??.0.as_str().to_owned();
        // Others would wait for the transaction.
        if who != "root" && !grammar::IN_TRANSACTIONS.contains(&name.as_str()) {
            self.commit().await?;
        }
        let client = if who == "root" { &self.root } else { &self.tenant };
        let db = client.database(database);
        refusal(match who {
            "root" => db.run_raw_command(command).await,
            _ if self.open => db.run_raw_command(command).session(&mut self.transaction).await,
            "retry" => {
                self.retried += 1;
                command.append(bson::raw::cstr!("txnNumber"), self.retried);
                db.run_raw_command(command).session(&mut self.retrying).await
            }
            _ => db.run_raw_command(command).await,
        })
    }

    async fn commit(&mut self) -> Result<Option<String>> {
        if !std::mem::take(&mut self.open) {
            return Ok(None);
        }
        refusal(self.transaction.commit_transaction().await.map(|()| Document::new()))
    }
}

/// What the server answers; an error if it does not.
fn refusal(answer: mongodb::error::Result<Document>) -> Result<Option<String>> {
    match answer {
        Ok(answer) => Ok(answer.get_array("writeErrors").ok().map(|errors| format!("{errors:?}"))),
        Err(error) => match error.kind.as_ref() {
            ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::Authentication { .. } => Err(error.into()),
            ErrorKind::Command(error) => Ok(Some(error.message.clone())),
            other => Ok(Some(other.to_string())),
        },
    }
}

fn same(source: &Reading, copy: &Reading) -> Result<()> {
    let names: std::collections::BTreeSet<&String> = source.keys().chain(copy.keys()).collect();
    let none = Vec::new();
    for name in names {
        let (of_source, of_copy) = (source.get(name).unwrap_or(&none), copy.get(name).unwrap_or(&none));
        let untold = of_source.iter().any(|one| one == reading::UNTOLD);
        if of_source != of_copy && !untold {
            let only = |here: &[Vec<u8>], there: &[Vec<u8>]| -> Vec<String> {
                here.iter().filter(|one| !there.contains(one)).take(3).map(|one| shown(one)).collect()
            };
            let (missing, extra) = (only(of_source, of_copy), only(of_copy, of_source));
            bail!(
                "{name}: {} documents and {}; missing {missing:#?}, instead {extra:#?}",
                of_source.len(),
                of_copy.len()
            );
        }
    }
    Ok(())
}

fn shown(document: &[u8]) -> String {
    match bson::deserialize_from_slice::<Document>(document) {
        Ok(parsed) => format!("{parsed}").chars().take(1500).collect(),
        Err(_) => document.escape_ascii().to_string(),
    }
}

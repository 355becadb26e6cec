//! A restore holds exactly what clients were told was committed at the restore point: nothing lost, nothing extra.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_testkit::ledger::{Ledger, Writer, connect, rows};
use holdfast_testkit::{Client, Holdfast, holdfast, seed};
use jiff::{SignedDuration, Timestamp};
use rand::Rng;

const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");

/// Restores to `point`, judges, and removes the copy again.
async fn check(client: &Client, ledger: &Ledger, source: &str, what: &str, point: Timestamp) -> Result<()> {
    let copy = restore(client, source, what, point).await?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge(&found, point).ensure_exact(&format!("{what} {point}"))?;
    client.delete(&format!("/managed-services/{copy}")).await
}

async fn restore(client: &Client, source: &str, what: &str, point: Timestamp) -> Result<String> {
    let name = format!("r-{}-{:06x}", what.replace(' ', "-"), rand::random::<u32>() & 0xff_ffff);
    let copy = client.restore_to(source, &point.to_string(), &name).await?;
    let service =
        client.wait_running(&copy, 180).await.with_context(|| format!("{what}: restore to {point}"))?;
    assert_eq!(service["restored_from"]["restore_point"], point.to_string(), "the instant reached is told");
    Ok(copy)
}

fn between(random: &mut impl Rng, from: Timestamp, to: Timestamp) -> Timestamp {
    let micros = random.random_range(from.as_microsecond()..to.as_microsecond());
    Timestamp::from_microsecond(micros).expect("between two timestamps")
}

/// A point of whole microseconds, PostgreSQL's unit.
fn later(point: Timestamp, micros: i64) -> Timestamp {
    let point = point.checked_add(SignedDuration::from_micros(micros)).expect("in range");
    Timestamp::from_microsecond(point.as_microsecond()).expect("in range")
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_are_exact_at_any_instant() -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    let mut random = seed::generator("restores_are_exact_at_any_instant");
    let holdfast = Holdfast::start(BINARY, "exactness").await?;
    let client = holdfast.client();
    let source = client.create("ledger").await?;
    client.wait_first_backup(&source).await?;
    let url = client.connection_string(&source).await?;

    // A busy stretch, an idle one, and a busy one with a backup inside.
    let busy_from = Timestamp::now();
    let writer = Writer::start(&url, Ledger::default(), 1).await?;
    let ledger = writer.ledger.clone();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let busy_to = Timestamp::now();
    writer.pause(true);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let idle_from = later(busy_to, 500_000);
    let idle_to = Timestamp::now();
    writer.pause(false);
    let backup_from = Timestamp::now();
    let backup = client.trigger(&source).await?;
    client.wait_backup(&source, &backup, 120).await?;
    let backup_to = Timestamp::now();

    for round in 0..3 {
        check(
            &client,
            &ledger,
            &source,
            &format!("random {round}"),
            between(&mut random, busy_from, busy_to),
        )
        .await?;
    }
    check(&client, &ledger, &source, "idle", between(&mut random, idle_from, idle_to)).await?;
    check(&client, &ledger, &source, "during a backup", between(&mut random, backup_from, backup_to)).await?;
    at_a_commits_own_microsecond(&client, &source, &url, &ledger).await?;
    let recent = later(Timestamp::now(), -2_000_000);
    check(&client, &ledger, &source, "two seconds ago", recent).await?;
    let since_backup = between(&mut random, backup_to, Timestamp::now());
    check(&client, &ledger, &source, "after the backup", since_backup).await?;

    second_generation(&client, &source, &ledger, recent).await?;
    from_a_backup(&client, &source, &ledger, &backup, (backup_from, backup_to)).await?;
    writer.stop().await?;
    Ok(())
}

/// One microsecond before a commit's own stamp it is not there; at the stamp and after it, it is.
async fn at_a_commits_own_microsecond(
    client: &Client,
    source: &str,
    url: &str,
    ledger: &Ledger,
) -> Result<()> {
    let entries = ledger.entries();
    let number = entries[entries.len() / 2].number;
    let database = connect(url).await?;
    let row = database
        .query_one(
            "SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM ledger WHERE number = $1 LIMIT 1",
            &[&number],
        )
        .await?;
    let stamp = Timestamp::from_microsecond(row.get(0))?;
    for offset in [-1, 0, 1] {
        let point = later(stamp, offset);
        let what = format!("commit {offset:+} us");
        let copy =
            restore(client, source, &what.replace('+', "plus").replace("-1", "minus 1"), point).await?;
        let found = rows(&client.connection_string(&copy).await?).await?;
        ledger.judge(&found, point).ensure_exact(&format!("{what} {point}"))?;
        assert_eq!(found.contains_key(&number), offset >= 0, "{what}: commit {number} stamped {stamp}");
        client.delete(&format!("/managed-services/{copy}")).await?;
    }
    Ok(())
}

/// A restored service is a service: it goes on, and is itself restored to any second.
async fn second_generation(client: &Client, source: &str, ledger: &Ledger, point: Timestamp) -> Result<()> {
    let child = restore(client, source, "parent", point).await?;
    client.wait_first_backup(&child).await?;
    let url = client.connection_string(&child).await?;
    let inherited = rows(&url).await?;
    let writer = Writer::start(&url, Ledger::default(), 1_000_000).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let inside = later(Timestamp::now(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let own = writer.ledger.clone();
    writer.stop().await?;

    let grandchild = restore(client, &child, "child", inside).await?;
    let mut found = rows(&client.connection_string(&grandchild).await?).await?;
    for (number, parts) in &inherited {
        assert_eq!(found.remove(number), Some(*parts), "inherited transaction {number}");
    }
    own.judge(&found, inside).ensure_exact(&format!("second generation {inside}"))?;
    // The source never noticed.
    let still = rows(&client.connection_string(source).await?).await?;
    assert!(
        ledger
            .entries()
            .iter()
            .filter(|e| e.acknowledged_at.is_some_and(|at| at < point))
            .all(|e| still.contains_key(&e.number))
    );
    assert!(still.keys().all(|number| *number < 1_000_000), "a restored service wrote into its source");
    client.delete(&format!("/managed-services/{grandchild}")).await?;
    client.delete(&format!("/managed-services/{child}")).await
}

/// A restore of a backup holds the state at its own consistent point, which lies inside the time that it took.
async fn from_a_backup(
    client: &Client,
    source: &str,
    ledger: &Ledger,
    backup: &str,
    (from, to): (Timestamp, Timestamp),
) -> Result<()> {
    let body = serde_json::json!({"target_service_name": "r-of-a-backup"});
    let answer = client.post(&format!("/managed-services/{source}/backups/{backup}/restore"), body).await?;
    let copy = holdfast_testkit::client::text(&answer, "service_id")?;
    client.wait_running(&copy, 180).await?;
    let found = rows(&client.connection_string(&copy).await?).await?;
    ledger.judge_between(&found, from, to).ensure_exact("restore of a backup")?;
    client.delete(&format!("/managed-services/{copy}")).await
}

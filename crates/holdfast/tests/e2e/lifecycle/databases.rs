//! Databases as their owners call and copy them: the backup that says `completed` has all of them, or fails and says why.

use anyhow::{Context as _, Result, ensure};
use holdfast_testkit::client::text;
use holdfast_testkit::{Client, Holdfast, wait_for};
use serde_json::json;

use super::support::{BULK, execute, start, value, value_at};

/// What names may look like in a list of files by lines, keys and JSON.
const NAMES: [&str; 9] =
    ["a=b", "[db]", "q\"uote", " blank ", "tab\t", "back\\slash", "#hash", "naïve ✓", "{\"id\":1}"];
const ALL: &str = "SELECT string_agg(datname, E'\\n' ORDER BY datname COLLATE \"C\") FROM pg_database \
                   WHERE NOT datistemplate AND datname <> 'postgres'";
/// All extensions that a tenant may make.
const EXTEND: &str = "DO $$ DECLARE e text; BEGIN \
     FOR e IN SELECT DISTINCT name FROM pg_available_extension_versions WHERE trusted AND NOT installed LOOP \
         EXECUTE format('CREATE EXTENSION %I', e); END LOOP; END $$";
const EXTENSIONS: &str = "SELECT string_agg(extname || ' ' || extversion, ', ' ORDER BY extname) || ' ' || length(uuid_generate_v4()::text) \
                          FROM pg_extension";

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_any_name_come_back_or_are_refused() -> Result<()> {
    let Some(holdfast) = start("names").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("odd").await?;
    client.wait_first_backup(&id).await?;
    for name in NAMES {
        execute(&client, &id, &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\""))).await?;
    }
    execute(&client, &id, EXTEND).await?;
    let extensions = value(&client, &id, EXTENSIONS).await?;
    for expected in ["hstore", "pg_trgm", "pgcrypto", "uuid-ossp 1.1", " 36"] {
        ensure!(extensions.contains(expected), "{expected} is not in {extensions}");
    }
    execute(&client, &id, "CREATE DATABASE \"two\nlines\"").await?;
    let refused = ended(&client, &id, "failed").await?;
    let why = text(&refused, "error_message")?;
    ensure!(why.contains("line break") && why.contains("two\\nlines") && why.contains("rename"), "{why}");
    execute(&client, &id, "ALTER DATABASE \"two\nlines\" RENAME TO \"one line\"").await?;
    let expected = value(&client, &id, ALL).await?;
    ensure!(expected.lines().count() == NAMES.len() + 2, "{expected}");
    let backup = text(&ended(&client, &id, "completed").await?, "id")?;
    let copy = restored(&client, &id, &backup, "odd-again").await?;
    let found = value(&client, &copy, ALL).await?;
    ensure!(found == expected, "{found}\nthere were: {expected}");
    let found = value(&client, &copy, EXTENSIONS).await?;
    ensure!(found == extensions, "{found}\nthere were: {extensions}");
    Ok(())
}

/// The tenant renames the database that was made for it, and copies another file by file while a backup is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_database_is_led_to_and_one_copied_by_files_is_whole() -> Result<()> {
    let Some(holdfast) = start("renamed").await? else { return Ok(()) };
    let client = holdfast.client();
    let id = client.create("shop").await?;
    client.wait_first_backup(&id).await?;
    let fill = "CREATE TABLE t (n int PRIMARY KEY, s text); INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 50000) g";
    execute(&client, &id, "CREATE DATABASE y").await?;
    execute(&client, &id, BULK).await?;
    let y = client.connection_string(&id).await?.replace("/defaultdb?", "/y?");
    holdfast_testkit::ledger::connect(&y).await?.batch_execute(fill).await?;
    let rename = "ALTER DATABASE defaultdb RENAME TO prod";
    holdfast_testkit::ledger::connect(&y).await?.batch_execute(rename).await?;
    led_to_prod(&client, &id).await?;

    let backup = backup_that_meets_a_copy_by_files(&holdfast, &client, &id, &y).await?;

    let copy = restored(&client, &id, &backup, "shop-again").await?;
    led_to_prod(&client, &copy).await?;
    ensure!(value(&client, &copy, ALL).await? == "prod\nx\ny", "{}", value(&client, &copy, ALL).await?);
    let of_copy = client.connection_string(&copy).await?;
    for (database, expected) in [("x", "50000"), ("y", "100000")] {
        let url = of_copy.replace("/prod?", &format!("/{database}?"));
        let found = value_at(&url, "SELECT count(*)::text FROM t").await?;
        ensure!(found == expected, "{database}: {found} rows");
        let by_index = "SELECT count(*)::text FROM generate_series(1, 100000) g \
                        WHERE EXISTS (SELECT FROM t WHERE n = g AND s = md5(g::text))";
        let url = format!(
            "{url}&options=-c%20enable_seqscan%3Doff%20-c%20enable_hashjoin%3Doff%20-c%20enable_mergejoin%3Doff"
        );
        let found = value_at(&url, by_index).await?;
        ensure!(found == expected, "{database}: {found} rows by index");
    }
    Ok(())
}

/// `x` is made of `y` by files while the backup is made, and `y` goes on; where the first one was too quick for that, at another
/// backup. It takes the number of a database that was there when the backup began.
async fn backup_that_meets_a_copy_by_files(
    holdfast: &Holdfast,
    client: &Client,
    id: &str,
    y: &str,
) -> Result<String> {
    const BACKUPS: usize = 5;
    for _ in 0..BACKUPS {
        execute(client, id, "DROP DATABASE IF EXISTS x").await?;
        execute(client, id, "CREATE DATABASE x").await?;
        let number = value(client, id, "SELECT oid::text FROM pg_database WHERE datname = 'x'").await?;
        let backup = client.trigger(id).await?;
        let path = format!("/managed-services/{id}/backups/{backup}");
        wait_for("files are being copied", 60, || async {
            let found = client.get(&path).await?;
            let is_late = found["status"] == "completed" || found["progress"]["phase"] == "copying files";
            Ok(is_late.then_some(()))
        })
        .await?;
        execute(client, id, "DROP DATABASE x").await?;
        let again = format!("CREATE DATABASE x TEMPLATE y STRATEGY file_copy OID {number}");
        execute(client, id, &again).await?;
        let more = "INSERT INTO t SELECT g, md5(g::text) FROM generate_series(50001, 100000) g ON CONFLICT DO NOTHING";
        holdfast_testkit::ledger::connect(y).await?.batch_execute(more).await?;
        client.wait_backup(id, &backup, 180).await?;
        if holdfast.log().contains("the backup is made again") {
            return Ok(backup);
        }
        holdfast_testkit::ledger::connect(y).await?.batch_execute("DELETE FROM t WHERE n > 50000").await?;
    }
    anyhow::bail!("the copy fell outside of {BACKUPS} backups")
}

async fn led_to_prod(client: &Client, id: &str) -> Result<()> {
    wait_for("the connection string leads to prod", 10, || async {
        Ok(client.connection_string(id).await?.contains("/prod?").then_some(()))
    })
    .await
}

/// A new backup, once it has ended like this.
async fn ended(client: &Client, id: &str, status: &str) -> Result<serde_json::Value> {
    let backup = client.trigger(id).await?;
    wait_for(&format!("the backup is {status}"), 60, || async {
        let found = client.get(&format!("/managed-services/{id}/backups/{backup}")).await?;
        let has_ended = found["status"] == "completed" || found["status"] == "failed";
        ensure!(!has_ended || found["status"] == status, "{found}");
        Ok(has_ended.then_some(found))
    })
    .await
}

async fn restored(client: &Client, id: &str, backup: &str, name: &str) -> Result<String> {
    let path = format!("/managed-services/{id}/backups/{backup}/restore");
    let copy = text(&client.post(&path, json!({ "target_service_name": name })).await?, "service_id")?;
    client.wait_running(&copy, 120).await.context("the restore")?;
    Ok(copy)
}

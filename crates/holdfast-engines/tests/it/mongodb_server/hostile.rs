//! What a tenant puts in the agent's way, and users and roles that somebody made to be taken for others: nothing of it runs,
//! nobody gets more rights in a copy, and the base comes back.
//!
//! JavaScript cannot write in this server; all of a tenant's that is here never ends, so whatever read it would not end either.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use bson::{Bson, Document, doc};
use futures::TryStreamExt as _;
use holdfast_core::Timestamp;
use holdfast_engines::{Driver as _, Instance, UserSpec};
use mongodb::Client;

use super::strange::without_text;
use super::world::{Archive, PASSWORD, World, connect, owner, tenant, users};

const ENDLESS: &str = "function () { while (true) {} }";
const UNAUTHORIZED: i32 = 13;
const NEW_PASSWORD: &str = "one that nobody has seen";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_tenants_runs_and_nobody_gains_rights_in_a_copy() -> Result<()> {
    let Some(world) = World::new()? else { return Ok(()) };
    let source = world.create("source").await?;
    let archive = Archive::default();
    let following = archive.follow(&world, &source);
    archive.wait("the log to begin", |all| !all.begun.is_empty()).await?;
    let client = tenant(&source).await?;
    namesakes(&owner(&source).await?).await?;
    refused(&client).await?;
    lay_traps(&client, "early").await?;
    passwords_are_in_no_profile(&world, &source, &client).await?;

    let stop = Arc::new(AtomicBool::new(false));
    fill(&client).await?;
    let busy = tokio::spawn(make_anew(client.clone(), Arc::clone(&stop)));
    let base = world.backup(&source).await?;
    stop.store(true, Ordering::Relaxed);
    ensure!(busy.await?? > 20, "it was too slow to be met twice");
    lay_traps(&client, "late").await?;
    client.database("early").collection::<Document>("kept").insert_one(doc! { "_id": 2 }).await?;
    world.driver.probe(&source).await?;
    ensure!(world.driver.database_bytes(&source).await? > 0, "it has a size");
    let expected = rights(&source).await?;
    let at = Timestamp::now();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    archive.wait_for(Timestamp::now()).await?;
    following.abort();

    let log_of_early = written_as_log(&source, "early").await?;
    for (name, to, documents) in [("of-base", None, 1), ("at-instant", Some((at, &archive)), 2)] {
        let (copy, _) = world.restore(name, &base, to).await?;
        same_rights(&copy, &expected).await.context(name)?;
        ensure!(written_as_log(&copy, "early").await? == log_of_early, "{name}");
        if to.is_some() {
            ensure!(written_as_log(&copy, "late").await? == written_as_log(&source, "late").await?, "{name}");
        }
        let kept = tenant(&copy).await?.database("early").collection::<Document>("kept");
        ensure!(kept.count_documents(doc! {}).await? == documents, "{name}");
        world.driver.stop(&copy, 20).await?;
    }
    same_rights(&source, &expected).await.context("the source")?;
    world.end().await
}

/// Users and roles called as the agent's, and with more in them than names; made with all rights, as a server may have come by them
/// that was no service of ours before.
async fn namesakes(owner: &Client) -> Result<()> {
    let all = doc! { "resource": { "db": "", "collection": "" }, "actions": ["find"] };
    let users = doc! { "resource": { "db": "admin", "collection": "system.users" }, "actions": ["find"] };
    let code = Bson::JavaScriptCode(ENDLESS.to_owned());
    for (database, command) in [
        ("admin", doc! { "createRole": "holdfast_backup", "privileges": [users], "roles": [] }),
        ("admin", doc! { "createRole": "holdfast", "privileges": [all], "roles": ["holdfast_backup"] }),
        (
            "other",
            doc! { "createRole": "root", "privileges": [], "roles": [{ "role": "read", "db": "other" }] },
        ),
        (
            "other",
            doc! { "createUser": "holdfast", "pwd": PASSWORD, "roles": ["root"], "customData": { "$where": code } },
        ),
        (
            "other",
            doc! { "createUser": "holdfast_restore", "pwd": PASSWORD, "roles": [{ "role": "holdfast", "db": "admin" }] },
        ),
        (
            "other",
            doc! { "createUser": "{\"$gt\": \"\"}", "pwd": PASSWORD, "roles": [], "customData": { "roles": ["root"] } },
        ),
        ("other", doc! { "createUser": "two\nlines $(id)", "pwd": PASSWORD, "roles": ["readWrite"] }),
    ] {
        owner.database(database).run_command(command.clone()).await.with_context(|| command.to_string())?;
    }
    let latin =
        doc! { "createUser": "latin", "pwd": PASSWORD, "roles": [], "customData": { "name": "MARK" } };
    owner
        .database("other")
        .run_raw_command(without_text(&latin)?)
        .await
        .context("customData that is no UTF-8")?;
    Ok(())
}

/// What would put a tenant in the agent's place.
async fn refused(client: &Client) -> Result<()> {
    let to_users = |stage: &str| doc! { stage: { "db": "admin", "coll": "system.users" } };
    for (database, command) in [
        ("admin", doc! { "find": "system.users" }),
        ("admin", doc! { "insert": "system.users", "documents": [{ "_id": 1 }] }),
        ("admin", doc! { "insert": "system.roles", "documents": [{ "_id": 1 }] }),
        ("admin", doc! { "create": "view", "viewOn": "system.users", "pipeline": [] }),
        ("admin", doc! { "collMod": "system.users", "validator": { "a": 1 } }),
        ("admin", doc! { "drop": "system.users" }),
        ("admin", doc! { "planCacheSetFilter": "system.users", "query": {}, "indexes": [] }),
        ("admin", doc! { "renameCollection": "early.kept", "to": "admin.system.users", "dropTarget": true }),
        ("admin", doc! { "applyOps": [{ "op": "i", "ns": "admin.system.users", "o": { "_id": 1 } }] }),
        ("early", doc! { "aggregate": "kept", "pipeline": [to_users("$out")], "cursor": {} }),
        (
            "early",
            doc! { "insert": "system.views", "documents": [{ "_id": "early.v", "viewOn": "kept", "pipeline": [] }] },
        ),
        ("local", doc! { "insert": "oplog.rs", "documents": [{ "_id": 1 }] }),
        ("config", doc! { "insert": "transactions", "documents": [{ "_id": 1 }] }),
        ("admin", doc! { "appendOplogNote": 1, "data": { "a": 1 } }),
        ("admin", doc! { "setParameter": 1, "ttlMonitorEnabled": false }),
        ("admin", doc! { "createUser": "holdfast", "pwd": "x", "roles": [] }),
        ("other", doc! { "createRole": "mine", "privileges": [], "roles": [] }),
        ("admin", doc! { "updateUser": "app_user", "roles": ["root"] }),
        ("admin", doc! { "killAllSessions": [] }),
        ("admin", doc! { "fsync": 1, "lock": true }),
    ] {
        let answer = client.database(database).run_command(command.clone()).await;
        let code = answer.as_ref().err().map(|error| match &*error.kind {
            mongodb::error::ErrorKind::Command(error) => error.code,
            _ => 0,
        });
        ensure!(code == Some(UNAUTHORIZED), "{command}: {answer:?}");
    }
    Ok(())
}

async fn lay_traps(client: &Client, database: &str) -> Result<()> {
    let endless = doc! { "$function": { "body": ENDLESS, "args": [], "lang": "js" } };
    let code = Bson::JavaScriptCode(ENDLESS.to_owned());
    let db = client.database(database);
    db.collection("kept").insert_one(doc! { "_id": 1, "$where": &code, "code": &code }).await?;
    for command in [
        doc! { "create": "endless", "viewOn": "kept", "pipeline": [{ "$match": { "$expr": &endless } }] },
        doc! { "create": "of view", "viewOn": "endless", "pipeline": [{ "$addFields": { "a": &endless } }] },
        doc! { "create": "usersInfo", "viewOn": "endless", "pipeline": [] },
        doc! { "create": "oplog.rs" },
        doc! { "create": "system.buckets.none" },
        doc! { "insert": "system.buckets.none", "documents": [{ "_id": 1, "meta": &code }] },
        doc! { "insert": "system.js", "documents": [{ "_id": "print", "value": &code }, { "_id": "equals", "value": &code }] },
        doc! { "create": "checked", "validator": { "$expr": { "$eq": ["$a", { "$literal": &endless }] } }, "validationAction": "warn" },
        doc! { "applyOps": [{ "op": "i", "ns": format!("{database}.checked"), "o": { "_id": 1, "x": 1 } }] },
        doc! { "profile": 2 },
    ] {
        db.run_command(command.clone()).await.with_context(|| command.to_string())?;
    }
    // Entries of a tenant's own wording: the server leaves out what has no place in the document.
    for change in [
        doc! { "$set": { "x.y": 1, "a": 1 } },
        doc! { "$v": 1, "$unset": { "x.y": true, "gone": true } },
        doc! { "$inc": { "n": 2 } },
        doc! { "$push": { "l": 1 }, "$mul": { "n": 3 } },
        doc! { "$v": 2, "diff": { "sx": { "i": { "y": 1 } }, "sl": { "a": true, "l": 7 } } },
        doc! { "$v": 2, "diff": { "i": { "b": 1 }, "s": { "i": { "y": 1 } } } },
    ] {
        let entry = doc! { "op": "u", "ns": format!("{database}.checked"), "o2": { "_id": 1 }, "o": change };
        db.run_command(doc! { "applyOps": [&entry] }).await.with_context(|| entry.to_string())?;
    }
    let admin = client.database("admin");
    for name in ["tempusers", "holdfast_tempUsersCollection_", "system.js"] {
        let any = doc! { "_id": format!("{database} {name}"), "user": "boss", "db": "admin", "value": &code, "roles": [{ "role": "root", "db": "admin" }] };
        admin.collection::<Document>(name).insert_one(any).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}

async fn written_as_log(instance: &Instance, database: &str) -> Result<Vec<Document>> {
    let client = owner(instance).await?;
    let checked = client.database(database).collection::<Document>("checked");
    Ok(checked.find(doc! {}).await?.try_collect().await?)
}

/// The server keeps what runs in `admin` for a tenant to read, if the tenant asks for it: salted keys of users, no passwords.
async fn passwords_are_in_no_profile(world: &World, source: &Instance, client: &Client) -> Result<()> {
    let admin = client.database("admin");
    admin.run_command(doc! { "profile": 2 }).await?;
    let user = |password: &str| UserSpec { password: password.to_owned(), ..users().remove(0) };
    world.driver.set_password(source, &user(NEW_PASSWORD)).await?;
    world.driver.set_password(source, &user(PASSWORD)).await?;
    world.driver.apply_settings(source).await?;
    let profile = tenant(source).await?.database("admin").collection::<Document>("system.profile");
    let seen: Vec<Document> = profile.find(doc! {}).await?.try_collect().await?;
    let text = format!("{seen:?}");
    ensure!(text.contains("app_user"), "the profile has nothing of it: {text}");
    ensure!(!text.contains(NEW_PASSWORD) && !text.contains(PASSWORD), "a password is in it");
    tenant(source).await?.database("admin").run_command(doc! { "profile": 0 }).await?;
    Ok(())
}

/// A collection that the tenant has the server read as it lies.
async fn fill(client: &Client) -> Result<()> {
    let db = client.database("early");
    let read = db.collection::<Document>("read");
    for from in (0..30_000).step_by(10_000) {
        read.insert_many((from..from + 10_000).map(|n| doc! { "_id": n, "x": "y".repeat(500) })).await?;
    }
    let index = doc! { "key": { "none": 1 }, "name": "none", "sparse": true };
    db.run_command(doc! { "createIndexes": "read", "indexes": [index] }).await?;
    db.run_command(doc! { "planCacheSetFilter": "read", "query": {}, "indexes": ["none"] }).await?;
    Ok(())
}

/// Its first documents are removed and made again: they lie behind all others then.
async fn make_anew(client: Client, stop: Arc<AtomicBool>) -> Result<u32> {
    let read = client.database("early").collection::<Document>("read");
    let mut anew = 0;
    while !stop.load(Ordering::Relaxed) {
        for id in 0..20 {
            read.delete_one(doc! { "_id": id }).await?;
            read.insert_one(doc! { "_id": id, "n": anew }).await?;
            anew += 1;
        }
    }
    Ok(anew)
}

/// The server tells rights in any order.
fn sorted(value: Bson) -> Bson {
    match value {
        Bson::Array(all) => {
            let mut all: Vec<Bson> = all.into_iter().map(sorted).collect();
            all.sort_by_key(ToString::to_string);
            Bson::Array(all)
        }
        Bson::Document(fields) => {
            Bson::Document(fields.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        other => other,
    }
}

/// By user or role, all that it may do, as the server works it out.
async fn rights(instance: &Instance) -> Result<BTreeMap<String, Bson>> {
    let owner = owner(instance).await?;
    let admin = owner.database("admin");
    let mut all = BTreeMap::new();
    let users = doc! { "usersInfo": { "forAllDBs": true }, "showCustomData": false };
    let users = admin.run_command(users).await?;
    for user in users.get_array("users")?.iter().filter_map(Bson::as_document) {
        let (name, home) = (user.get_str("user")?, user.get_str("db")?);
        let is_text = name != "latin"; // what that one has is no UTF-8
        let info = doc! { "usersInfo": { "user": name, "db": home }, "showPrivileges": true, "showCustomData": is_text };
        let mut found =
            admin.run_command(info).await?.get_array("users")?[0].as_document().context("a user")?.clone();
        found.remove("userId");
        all.insert(format!("user {home}.{name}"), sorted(found.into()));
    }
    for home in ["admin", "other", "early", "defaultdb"] {
        let info = doc! { "rolesInfo": 1, "showPrivileges": true };
        for role in owner.database(home).run_command(info).await?.get_array("roles")?.iter() {
            let role = role.as_document().context("a role")?;
            all.insert(format!("role {home}.{}", role.get_str("role")?), sorted(role.clone().into()));
        }
    }
    ensure!(all.len() == 3 + 2 * 2 + 5 + 3, "{:?}", all.keys());
    Ok(all)
}

async fn same_rights(instance: &Instance, expected: &BTreeMap<String, Bson>) -> Result<()> {
    let found = rights(instance).await?;
    for name in expected.keys().chain(found.keys()) {
        let (before, now) = (expected.get(name), found.get(name));
        ensure!(before == now, "{name}: {now:?}, it was {before:?}");
    }
    // The agent's users are their names in `admin`, and nobody else's password opens them.
    for name in ["holdfast", "holdfast_backup", "holdfast_restore"] {
        let one = connect(instance, name, PASSWORD).await?;
        ensure!(one.database("admin").run_command(doc! { "usersInfo": 1 }).await.is_err(), "{name} is open");
    }
    Ok(())
}

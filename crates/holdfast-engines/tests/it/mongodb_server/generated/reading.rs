//! All that a server holds, read without the driver, in the server's own bytes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use bson::raw::{RawArray, RawArrayBuf, RawBsonRef, cstr};
use bson::{RawDocumentBuf, doc};
use futures::TryStreamExt as _;
use holdfast_engines::Instance;
use mongodb::{Client, Database};

use crate::mongodb_server::world::owner;

/// In place of what the source cannot tell.
pub(super) const UNTOLD: &[u8] = b"untold";

/// What belongs to the service itself: its passwords are a copy's own.
const SERVICE: [&str; 5] = ["admin", "app_user", "holdfast", "holdfast_backup", "holdfast_restore"];
pub(super) const USERS: &str = "users";
pub(super) const ROLES: &str = "roles";

/// Name of what was read, and its documents.
pub(super) type Reading = BTreeMap<String, Vec<Vec<u8>>>;

pub(super) async fn reading(instance: &Instance) -> Result<Reading> {
    let client = owner(instance).await?;
    let mut seen = Reading::new();
    for name in client.list_database_names().await? {
        if !matches!(name.as_str(), "local" | "config") {
            database(&client.database(&name), &mut seen).await.with_context(|| name)?;
        }
    }
    accounts(&client, &mut seen).await?;
    Ok(seen)
}

async fn database(db: &Database, seen: &mut Reading) -> Result<()> {
    let all = documents(db, doc! { "listCollections": 1 }).await?;
    let series = all.iter().filter(|listed| listed.get_str("type").is_ok_and(|kind| kind == "timeseries"));
    let series: Vec<&str> = series.filter_map(|listed| listed.get_str("name").ok()).collect();
    for listed in &all {
        let name = listed.get_str("name")?;
        let own = ["system.users", "system.roles", "system.version", "system.keys"];
        // What is listed of a view is all of it; where views are kept outlasts them.
        if name == "system.views" || db.name() == "admin" && own.contains(&name) {
            continue;
        }
        // What is left of a time series that could not be made: nobody can use it.
        if name.strip_prefix("system.buckets.").is_some_and(|of| !series.contains(&of)) {
            continue;
        }
        let what = format!("{}.{name}", db.name());
        let kind = listed.get_str("type")?;
        seen.insert(what.clone(), vec![described(listed)?]);
        if kind == "view" {
            continue;
        }
        // Beside such a rest the server lists the indexes of the rest.
        let rest = format!("system.buckets.{name}");
        let beside_rest =
            kind != "timeseries" && all.iter().any(|one| one.get_str("name").is_ok_and(|name| name == rest));
        if beside_rest {
            seen.insert(format!("{what}: indexes"), vec![UNTOLD.to_vec()]);
        } else if !name.starts_with("system.buckets.") {
            let indexes = documents(db, doc! { "listIndexes": name }).await;
            let indexes = indexes.with_context(|| format!("indexes of {what}"))?;
            let indexes = indexes
                .into_iter()
                .map(|index| if db.name() == "admin" { in_admin(&index) } else { Ok(index) });
            seen.insert(format!("{what}: indexes"), sorted(indexes.collect::<Result<_>>()?));
        }
        let capped = listed.get_document("options")?.get_bool("capped").unwrap_or(false);
        let natural = doc! { "find": name, "sort": { "$natural": 1 } };
        let find = if kind == "timeseries" {
            doc! { "find": name }
        } else {
            natural
        };
        let found = documents(db, find).await.context(what.clone())?;
        let found = if capped { bytes(found) } else { sorted(found) };
        seen.insert(format!("{what}: documents"), found);
    }
    Ok(())
}

/// Without what no copy has there (`docs/engines/mongodb.md`, "Limits").
fn in_admin(index: &RawDocumentBuf) -> Result<RawDocumentBuf> {
    let mut all = RawDocumentBuf::new();
    for part in index {
        let (name, value) = part?;
        if name != "prepareUnique" {
            all.append(name, value);
        }
    }
    Ok(all)
}

/// Without the UUID: a copy has its own.
fn described(listed: &RawDocumentBuf) -> Result<Vec<u8>> {
    let mut all = RawDocumentBuf::new();
    for (name, value) in [
        (cstr!("type"), listed.get("type")?),
        (cstr!("options"), listed.get("options")?),
        (cstr!("idIndex"), listed.get("idIndex")?),
    ] {
        if let Some(value) = value {
            all.append(name, value);
        }
    }
    Ok(all.into_bytes())
}

async fn accounts(client: &Client, seen: &mut Reading) -> Result<()> {
    let admin = client.database("admin");
    for (collection, name) in [("system.users", USERS), ("system.roles", ROLES)] {
        let found = documents(&admin, doc! { "find": collection }).await?;
        let found = found.iter().map(without_passwords).collect::<Result<_>>()?;
        seen.insert(name.to_owned(), sorted(found));
    }
    Ok(())
}

fn without_passwords(account: &RawDocumentBuf) -> Result<RawDocumentBuf> {
    let service = account.get_str("user").is_ok_and(|user| SERVICE.contains(&user));
    let mut all = RawDocumentBuf::new();
    for field in account {
        let (name, value) = field?;
        match (name.as_str(), value) {
            ("credentials" | "userId", _) if service => {}
            ("roles", RawBsonRef::Array(roles)) => all.append(name, in_order(roles)?),
            _ => all.append(name, value),
        }
    }
    Ok(all)
}

/// The roles of an account are a set, which the server writes down in any order.
fn in_order(roles: &RawArray) -> Result<RawArrayBuf> {
    let mut all = Vec::new();
    for role in roles {
        all.push(role?.as_document().context("a role")?.to_owned());
    }
    all.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(RawArrayBuf::from_iter(all))
}

/// By `_id` where they have one, or else by all that they are.
fn sorted(mut found: Vec<RawDocumentBuf>) -> Vec<Vec<u8>> {
    found.sort_by_cached_key(|one| (id(one), one.as_bytes().to_vec()));
    bytes(found)
}

fn id(document: &RawDocumentBuf) -> Vec<u8> {
    let mut one = RawDocumentBuf::new();
    one.append(cstr!("_id"), document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null));
    one.into_bytes()
}

fn bytes(found: Vec<RawDocumentBuf>) -> Vec<Vec<u8>> {
    found.into_iter().map(RawDocumentBuf::into_bytes).collect()
}

async fn documents(db: &Database, command: bson::Document) -> Result<Vec<RawDocumentBuf>> {
    let mut cursor = db.run_cursor_command(command).batch().await?;
    let mut all = Vec::new();
    while let Some(batch) = cursor.try_next().await? {
        for document in batch.doc_slices()? {
            all.push(document?.as_document().context("a document")?.to_owned());
        }
    }
    Ok(all)
}

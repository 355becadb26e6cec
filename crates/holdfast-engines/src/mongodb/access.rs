//! Takes the right to write from everybody but the agent, and gives it back: against a full disk, and before a stop.
//!
//! The server has no switch for it that lasts, so users get other roles meanwhile. What they had is kept in a file before it
//! is taken, so that nothing is lost at whatever moment the agent dies.

use std::path::PathBuf;

use bson::{Bson, Document, doc};
use serde::{Deserialize, Serialize};

use super::Mongodb;
use super::client::{USER_NOT_FOUND, admin, is_code};
use super::config::Account;
use crate::files;
use crate::{EngineError, Instance, Paths, Result};

/// Why users may not write, and what roles they had.
#[derive(Serialize, Deserialize, Default)]
struct Held {
    /// Against a full disk, until that is over; otherwise until the next start.
    read_only: bool,
    /// Name and roles.
    users: Vec<(String, Bson)>,
}

fn path(instance: &Instance) -> PathBuf {
    Paths(&instance.folder).conf().join("held.json")
}

fn read(instance: &Instance) -> Option<Held> {
    serde_json::from_slice(&std::fs::read(path(instance)).ok()?).ok()
}

fn write(instance: &Instance, held: &Held) -> Result<()> {
    files::write_secret(&path(instance), &serde_json::to_vec(held).expect("names and roles"))
}

pub(super) fn is_held(instance: &Instance) -> bool {
    path(instance).exists()
}

pub(super) fn is_read_only(instance: &Instance) -> bool {
    read(instance).is_some_and(|held| held.read_only)
}

/// Lets nobody write; may be repeated.
pub(super) async fn hold(driver: &Mongodb, instance: &Instance, read_only: bool) -> Result<()> {
    let client = driver.clients.get(instance, Account::Admin)?;
    let mut held = read(instance).unwrap_or_default();
    held.read_only |= read_only;
    let info = admin(&client, doc! { "usersInfo": 1 }, "list the users").await?;
    let users = info.get_array("users").map(Vec::as_slice).unwrap_or_default();
    for user in users.iter().filter_map(Bson::as_document) {
        let name = user.get_str("user").unwrap_or_default();
        if Account::is_ours(name) || held.users.iter().any(|(known, _)| known == name) {
            continue;
        }
        held.users.push((name.to_owned(), user.get("roles").cloned().unwrap_or(Bson::Array(Vec::new()))));
    }
    write(instance, &held)?;
    for (name, _) in &held.users {
        set_roles(driver, instance, name, doc! { "role": "readAnyDatabase", "db": "admin" }.into()).await?;
    }
    Ok(())
}

/// Gives everybody back what was taken.
pub(super) async fn release(driver: &Mongodb, instance: &Instance) -> Result<()> {
    let Some(held) = read(instance) else { return Ok(()) };
    for (name, roles) in held.users {
        set_roles(driver, instance, &name, roles).await?;
    }
    std::fs::remove_file(path(instance)).map_err(EngineError::io("end the instance's read-only mode"))
}

/// After a start: what was taken for a stop comes back; what was taken for a full disk does not.
pub(super) async fn after_start(driver: &Mongodb, instance: &Instance) -> Result<()> {
    if is_held(instance) && !is_read_only(instance) {
        release(driver, instance).await?;
    }
    Ok(())
}

async fn set_roles(driver: &Mongodb, instance: &Instance, name: &str, roles: Bson) -> Result<()> {
    let roles = match roles {
        Bson::Array(roles) => roles,
        one => vec![one],
    };
    let client = driver.clients.get(instance, Account::Admin)?;
    let command: Document = doc! { "updateUser": name, "roles": roles };
    match client.database("admin").run_command(command).await {
        Err(error) if !is_code(&error, &[USER_NOT_FOUND]) => {
            Err(EngineError::mongo(format!("change the rights of {name}"))(error))
        }
        _ => Ok(()), // who is gone has no rights
    }
}

//! Who may do what for now: from which networks users may come, and whether they may write.
//!
//! The right to write is taken from everybody but the agent, and given back, against a full disk and before a stop.
//! The server has no switch for it that lasts, so users get other roles meanwhile. What they had is kept in a file before it
//! is taken, so that nothing is lost at whatever moment the agent dies.

use std::path::PathBuf;

use bson::{Bson, Document, doc, rawdoc};
use serde::{Deserialize, Serialize};

use super::Mongodb;
use super::client::{self, USER_NOT_FOUND, is_code, restrictions, roles};
use super::config::Account;
use crate::files;
use crate::{EngineError, Instance, Paths, Result};

/// Why users may not write, and what roles they had.
#[derive(Serialize, Deserialize, Default)]
struct Held {
    /// Against a full disk, until that is over; otherwise until the next start.
    read_only: bool,
    /// Name and roles of those who are known in `admin`.
    users: Vec<(String, Bson)>,
    /// Of the others: home, name and roles.
    #[serde(default)]
    elsewhere: Vec<(String, String, Bson)>,
}

impl Held {
    fn knows(&self, user: &User) -> bool {
        self.users.iter().any(|(name, _)| user.home == "admin" && user.name == *name)
            || self.elsewhere.iter().any(|(home, name, _)| user.home == *home && user.name == *name)
    }

    fn add(&mut self, user: User) {
        match &*user.home {
            "admin" => self.users.push((user.name, user.roles)),
            _ => self.elsewhere.push((user.home, user.name, user.roles)),
        }
    }

    fn all(self) -> impl Iterator<Item = User> {
        let here = self.users.into_iter().map(|(name, roles)| User { home: "admin".to_owned(), name, roles });
        here.chain(self.elsewhere.into_iter().map(|(home, name, roles)| User { home, name, roles }))
    }
}

/// A tenant's user, and the database that knows it.
struct User {
    home: String,
    name: String,
    roles: Bson,
}

/// All users but the agent's.
async fn tenants(driver: &Mongodb, instance: &Instance) -> Result<Vec<User>> {
    let client = driver.clients.get(instance, Account::Admin)?;
    let doing = "list the users";
    let command = rawdoc! { "usersInfo": { "forAllDBs": true } };
    // What else is kept with a user (`customData`) may be no UTF-8, and is not looked at.
    let answer = client::answer(&client, "admin", command, doing).await?;
    let broken = |what: &dyn std::fmt::Display| EngineError::Unexpected {
        doing: doing.to_owned(),
        what: format!("{what}: names of users and roles must be UTF-8"),
    };
    let mut users = Vec::new();
    for user in answer.get_array("users").map_err(|error| broken(&error))? {
        let user =
            user.ok().and_then(|user| user.as_document()).ok_or_else(|| broken(&"it is no document"))?;
        let text = |field: &str| user.get_str(field).map(str::to_owned).map_err(|error| broken(&error));
        let roles = match user.get("roles").map_err(|error| broken(&error))? {
            Some(roles) => Bson::try_from(roles).map_err(|error| broken(&error))?,
            None => Bson::Array(Vec::new()),
        };
        users.push(User { home: text("db")?, name: text("user")?, roles });
    }
    users.retain(|user| user.home != "admin" || !Account::is_ours(&user.name));
    Ok(users)
}

/// Lets users in from the instance's networks, and from nowhere else.
pub(super) async fn restrict(driver: &Mongodb, instance: &Instance) -> Result<()> {
    for user in tenants(driver, instance).await? {
        let networks = doc! { "authenticationRestrictions": restrictions(instance) };
        change(driver, instance, &user, networks).await?;
    }
    Ok(())
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
    let mut held = read(instance).unwrap_or_default();
    held.read_only |= read_only;
    for user in tenants(driver, instance).await? {
        if !held.knows(&user) {
            held.add(user);
        }
    }
    write(instance, &held)?;
    let reads = Bson::Array(roles(&["readAnyDatabase"]));
    for user in held.all() {
        change(driver, instance, &user, doc! { "roles": reads.clone() }).await?;
    }
    Ok(())
}

/// Gives everybody back what was taken.
pub(super) async fn release(driver: &Mongodb, instance: &Instance) -> Result<()> {
    let Some(held) = read(instance) else { return Ok(()) };
    for user in held.all() {
        let roles = match &user.roles {
            Bson::Array(roles) => roles.clone(),
            one => vec![one.clone()],
        };
        change(driver, instance, &user, doc! { "roles": roles }).await?;
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

async fn change(driver: &Mongodb, instance: &Instance, user: &User, what: Document) -> Result<()> {
    let client = driver.clients.get(instance, Account::Admin)?;
    let mut command = doc! { "updateUser": &user.name };
    command.extend(what);
    match client.database(&user.home).run_command(command).await {
        Err(error) if !is_code(&error, &[USER_NOT_FOUND]) => {
            Err(EngineError::client(format!("change the rights of {}", user.name))(error))
        }
        _ => Ok(()), // who is gone has no rights
    }
}

//! Users of an instance. The agent's list is the truth; the server's own file is written from it, and the server may only
//! read it.
//!
//! The agent comes as `default`, the server's first user, with a password that nobody else has and by the socket. It keeps
//! all rights: the server replays its own log as this user, and releases before 9.1 drop transactions that it may not run
//! (`valkey.md`: seen on 8.0.1). A client without a name meets its password.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::client::{self, ask};
use super::config::{ACL, Own, hex, path};
use crate::{EngineError, Instance, Result, UserSpec, files};

/// A user of the tenant's. No password: what the server keeps is a hash, and so do we.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct User {
    pub username: String,
    pub role: String,
    pub password_sha256: String,
}

/// What a user with this role may not do, whatever else: read or write the server's configuration, users or log (`CONFIG`,
/// `ACL`, `BGREWRITEAOF`, `SHUTDOWN`, `DEBUG`, `MODULE`, `REPLICAOF`, `MONITOR` and the like, all in the server's own
/// category `@admin`), and `MIGRATE`, which makes it connect elsewhere; step through scripts, which crashes the server (9.1.2), or wait
/// for its file to be on the disk, which this server never tells (`appendfsync no`: the archive reads the file). Of `@dangerous` the rest is given back: what
/// concerns only keys.
const TENANT: &str = "+@all -@admin -@dangerous +keys +sort +sort_ro +flushall +flushdb +swapdb +restore +info +role +client|list -script|debug -waitaof";
const READER: &str = "+@read +@connection +@transaction +@pubsub +@fast -@write -@admin -@dangerous +keys +sort_ro +info +role -waitaof";
/// Laid over every tenant while the disk is full.
const NO_WRITES: &str = "-@write";

const USERS: &str = "users.json";
/// There while writes are refused.
const READ_ONLY: &str = "read-only";

type Lock = Arc<tokio::sync::Mutex<()>>;

/// By an instance's folder. Held from reading its users until the server has them as they were written.
static CHANGING: LazyLock<Mutex<HashMap<PathBuf, Lock>>> = LazyLock::new(Mutex::default);

/// One change of an instance's users at a time; a server that hangs holds up its own alone.
pub(super) async fn lock(instance: &Instance) -> tokio::sync::OwnedMutexGuard<()> {
    let lock = {
        let mut all = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|folder, lock| *folder == instance.folder || Arc::strong_count(lock) > 1);
        Arc::clone(all.entry(instance.folder.clone()).or_default())
    };
    lock.lock_owned().await
}

/// Names that the server would take for more than a name, or that are the agent's.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if name.is_empty() || name == "default" || !name.chars().all(plain) {
        return Err(EngineError::Unexpected {
            doing: format!("make the user {name:?}"),
            what: "a name has no blanks, and default is taken".to_owned(),
        });
    }
    Ok(())
}

impl User {
    pub(super) fn of(spec: &UserSpec) -> Result<Self> {
        check_name(&spec.username)?;
        let password_sha256 = hex(&Sha256::digest(spec.password.as_bytes()));
        Ok(Self { username: spec.username.clone(), role: spec.role.clone(), password_sha256 })
    }

    /// The rules that follow the user's name, in `ACL SETUSER` and in the server's file.
    fn rules(&self, read_only: bool) -> Vec<String> {
        let commands = if self.role.to_ascii_lowercase().starts_with("read") && !self.role.contains("rite") {
            READER
        } else {
            TENANT
        };
        let mut rules =
            vec!["on".to_owned(), format!("#{}", self.password_sha256), "~*".to_owned(), "&*".to_owned()];
        rules.extend(commands.split(' ').map(str::to_owned));
        rules.extend(read_only.then(|| NO_WRITES.to_owned()));
        rules
    }
}

pub(super) fn read(instance: &Instance) -> Result<Vec<User>> {
    let path = path(instance, USERS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(EngineError::io(format!("read {}", path.display()))(error)),
    };
    serde_json::from_slice(&text).map_err(|error| EngineError::Unexpected {
        doing: format!("read {}", path.display()),
        what: error.to_string(),
    })
}

/// Writes the list and the server's file; the server takes it at its next start. Who has read the list before holds the
/// [`lock`].
pub(super) fn write(instance: &Instance, users: &[User]) -> Result<()> {
    write_with(instance, users, is_read_only(instance))
}

pub(super) fn write_with(instance: &Instance, users: &[User], read_only: bool) -> Result<()> {
    let text = serde_json::to_vec_pretty(users).expect("it has only string keys");
    files::write_secret(&path(instance, USERS), &text)?;
    let own = Own::read(instance)?;
    let mut acl = format!("user default on #{} ~* &* +@all\n", hex(&Sha256::digest(own.password.as_bytes())));
    for user in users {
        acl += &format!("user {} reset {}\n", user.username, user.rules(read_only).join(" "));
    }
    files::write_readable(&path(instance, ACL), acl.as_bytes(), instance.run_as.as_ref())
}

/// Adds users, or gives those that are there new passwords, on disk and in the running server.
pub(super) async fn put(instance: &Instance, specs: &[UserSpec]) -> Result<()> {
    let _changing = lock(instance).await;
    let mut users = read(instance)?;
    for spec in specs {
        let mut user = User::of(spec)?;
        match users.iter_mut().find(|known| known.username == user.username) {
            Some(known) => {
                if user.role.is_empty() {
                    user.role.clone_from(&known.role);
                }
                *known = user;
            }
            None => users.push(user),
        }
    }
    write(instance, &users)?;
    let mut client = client::connect(instance).await?;
    tell(instance, &mut client, &users).await
}

/// Makes the running server take the users as they are on disk. Their connections stay.
pub(super) async fn tell(
    instance: &Instance,
    client: &mut MultiplexedConnection,
    users: &[User],
) -> Result<()> {
    tell_with(client, users, is_read_only(instance)).await
}

pub(super) async fn tell_with(
    client: &mut MultiplexedConnection,
    users: &[User],
    read_only: bool,
) -> Result<()> {
    for user in users {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(&user.username).arg("reset").arg(user.rules(read_only));
        ask::<()>(client, &command, "set the rights of a user").await?;
    }
    Ok(())
}

/// There while writes are refused.
pub(super) fn mark(instance: &Instance) -> PathBuf {
    path(instance, READ_ONLY)
}

/// Whether writes are refused at the moment; also known after a restart of the agent.
pub(super) fn is_read_only(instance: &Instance) -> bool {
    mark(instance).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_more_than_names_are_refused() {
        for name in ["", "default", "a b", "x\nuser evil on nopass ~* +@all", "tab\t"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        check_name("app_user").expect("a plain name");
    }

    #[test]
    fn a_password_is_kept_as_its_hash_alone() {
        let spec = UserSpec { username: "app".into(), role: "admin".into(), password: "secret".into() };
        let user = User::of(&spec).expect("a plain name");
        assert!(!format!("{user:?} {:?}", user.rules(false)).contains("secret"));
        assert_eq!(user.rules(true).last().map(String::as_str), Some("-@write"));
    }
}

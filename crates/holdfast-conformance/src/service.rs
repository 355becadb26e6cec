//! Services of a run: made, waited for, restored and, whatever happens, removed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_api::backup::{Backup, BackupList, BackupStatus, BackupType, TriggeredBackup};
use holdfast_api::restore::{Pitr, StartedRestore};
use holdfast_api::service::{Service, ServiceList, ServiceStatus};
use holdfast_api::user::{Credentials, DatabaseUserList};
use holdfast_core::engine::EngineKind;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::control::{Control, Method, ask};
use crate::engines::Database;
use crate::error::{ConformanceError, Result};

const LOOK: Duration = Duration::from_millis(150);
/// How long a removal may wait for what is under way.
const REMOVAL_SECONDS: u64 = 120;
/// A request that was cut off has arrived by then, or never will.
const CUT_OFF: Duration = Duration::from_secs(3);
/// Both are told to a restore that is not possible; only one of them says that it never will be.
const NOT_NOW: u16 = 409;
const GONE: u16 = 404;

/// What a run has made and must remove.
#[derive(Default)]
pub struct Made(Mutex<List>);

#[derive(Default)]
struct List {
    services: Vec<Uuid>,
    /// Names of services that were asked for and not answered for: a run may be ended in between.
    asked: Vec<String>,
}

impl Made {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: Uuid) {
        self.list().services.push(id);
    }

    fn forget(&self, id: Uuid) {
        self.list().services.retain(|other| *other != id);
    }

    #[must_use]
    pub fn services(&self) -> Vec<Uuid> {
        self.list().services.clone()
    }

    /// Whether there is nothing to remove, nor may be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let list = self.list();
        list.services.is_empty() && list.asked.is_empty()
    }

    /// Makes a service of this name by `asking`, which tells its id.
    async fn make(&self, name: &str, asking: impl Future<Output = Result<Uuid>>) -> Result<Uuid> {
        self.list().asked.push(name.to_owned());
        let made = asking.await;
        match &made {
            Ok(id) => self.note(*id),
            Err(ConformanceError::Refused { .. }) => {}
            Err(_) => return made, // it may have been made all the same
        }
        self.list().asked.retain(|other| other != name);
        made
    }

    /// Looks for what was asked for and not answered for. A request that was cut off may still arrive meanwhile.
    async fn find_asked(&self, control: &dyn Control) -> Result<()> {
        let began = Instant::now();
        while !self.list().asked.is_empty() && began.elapsed() < CUT_OFF {
            let found: ServiceList = ask(control, Method::Get, "/managed-services", None).await?;
            for service in found.services {
                let mut list = self.list();
                if let Some(at) = list.asked.iter().position(|name| *name == service.name) {
                    list.asked.swap_remove(at);
                    list.services.push(service.id);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Deletes every service that is left, copies first, and the backups on demand. Automated backups go when they expire.
    ///
    /// # Errors
    /// The first that could not be removed; the others have been tried too.
    pub async fn remove(&self, control: &dyn Control) -> Result<()> {
        let mut first_error = self.find_asked(control).await;
        for id in self.services().into_iter().rev() {
            let removed = remove(control, id).await;
            match removed {
                Ok(()) => self.forget(id),
                Err(error) if first_error.is_ok() => first_error = Err(error),
                Err(_) => {}
            }
        }
        first_error
    }
}

/// Waits until `look` gives something.
///
/// # Errors
/// `TooLate`; what `look` says.
pub async fn wait_for<T, F>(what: &str, seconds: u64, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(ConformanceError::TooLate { what: what.to_owned(), seconds });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A path of the API below a service.
#[must_use]
pub fn path(id: Uuid, rest: &str) -> String {
    format!("/managed-services/{id}{rest}")
}

/// Asks for a service.
///
/// # Errors
/// What the API says, as in all that follow.
pub async fn create(control: &dyn Control, made: &Made, body: Value) -> Result<Uuid> {
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    let asking = async {
        let service: Service = ask(control, Method::Post, "/managed-services", Some(body)).await?;
        Ok(service.id)
    };
    made.make(&name, asking).await
}

/// # Errors
/// `Failed`, with its message; `TooLate`.
pub async fn wait_running(control: &dyn Control, id: Uuid, seconds: u64) -> Result<Service> {
    wait_for(&format!("service {id} runs"), seconds, || async {
        let service: Service = ask(control, Method::Get, &path(id, ""), None).await?;
        match service.status {
            ServiceStatus::Running => Ok(Some(service)),
            ServiceStatus::Failed | ServiceStatus::Error => Err(ConformanceError::Failed {
                what: format!("service {}", service.name),
                why: service.status_message.unwrap_or_else(|| "it failed".to_owned()),
            }),
            _ => Ok(None),
        }
    })
    .await
}

/// The tenant's way in.
///
/// # Errors
/// As above; `Broken` without a user.
pub async fn database(
    control: &dyn Control,
    kind: EngineKind,
    id: Uuid,
    space: &'static str,
) -> Result<Database> {
    let users: DatabaseUserList = ask(control, Method::Get, &path(id, "/database-users"), None).await?;
    let Some(user) = users.users.into_iter().next() else {
        return Err(ConformanceError::broken(format!("service {id}"), "it has no database user"));
    };
    let reveal = path(id, &format!("/database-users/{}/reveal-password", user.username));
    let told: Credentials = ask(control, Method::Post, &reveal, Some(json!({}))).await?;
    Ok(Database { kind, login: crate::Login::of(kind, told), space })
}

/// Newest first.
///
/// # Errors
/// As above.
pub async fn backups(control: &dyn Control, id: Uuid) -> Result<Vec<Backup>> {
    Ok(ask::<BackupList>(control, Method::Get, &path(id, "/backups"), None).await?.backups)
}

/// Waits for the service's first completed backup, which provisioning and restores ask for by themselves.
///
/// # Errors
/// `Failed`, with its message; `TooLate`.
pub async fn wait_first_backup(control: &dyn Control, id: Uuid, seconds: u64) -> Result<Backup> {
    wait_for("the first backup is completed", seconds, || async {
        let found = backups(control, id).await?;
        finished(found.into_iter().next_back())
    })
    .await
}

fn finished(backup: Option<Backup>) -> Result<Option<Backup>> {
    match backup {
        Some(backup) if backup.status == BackupStatus::Completed => Ok(Some(backup)),
        Some(backup) if backup.status == BackupStatus::Failed => Err(ConformanceError::Failed {
            what: format!("backup {}", backup.id),
            why: backup.error_message.unwrap_or_else(|| "it failed".to_owned()),
        }),
        _ => Ok(None),
    }
}

/// Takes a backup on demand, from the request to its end.
///
/// # Errors
/// `Failed`, with its message; `TooLate`.
pub async fn back_up(control: &dyn Control, id: Uuid, seconds: u64) -> Result<Backup> {
    let usual = "";
    back_up_by(control, id, usual, seconds).await
}

/// As [`back_up`], by one of the engine's methods.
///
/// # Errors
/// As there.
pub async fn back_up_by(control: &dyn Control, id: Uuid, method: &str, seconds: u64) -> Result<Backup> {
    let body = json!({"backup_type": "manual", "label": "conformance check", "backup_method": method});
    let asked: TriggeredBackup = ask(control, Method::Post, &path(id, "/backups"), Some(body)).await?;
    let one = path(id, &format!("/backups/{}", asked.backup_id));
    wait_for(&format!("backup {} is completed", asked.backup_id), seconds, || async {
        finished(Some(ask(control, Method::Get, &one, None).await?))
    })
    .await
}

/// What a restore starts from.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    Point(Timestamp),
    Backup(&'a str),
}

/// Restores into a new service and waits until it runs.
///
/// # Errors
/// `Failed`, with its message; `TooLate`.
pub async fn restore(
    control: &dyn Control,
    made: &Made,
    source: Uuid,
    from: From<'_>,
    name: &str,
    seconds: u64,
) -> Result<Service> {
    let (path, body) = match from {
        From::Point(point) => (
            path(source, "/backups/restore"),
            json!({"restore_point": point.to_string(), "target_service_name": name}),
        ),
        From::Backup(backup) => {
            (path(source, &format!("/backups/{backup}/restore")), json!({"target_service_name": name}))
        }
    };
    let asking = async {
        let started: StartedRestore = ask(control, Method::Post, &path, Some(body)).await?;
        Ok(started.service_id)
    };
    let copy = made.make(name, asking).await?;
    wait_running(control, copy, seconds).await
}

/// The recovery window.
///
/// # Errors
/// As above.
pub async fn pitr(control: &dyn Control, id: Uuid) -> Result<Pitr> {
    ask(control, Method::Get, &path(id, "/pitr"), None).await
}

/// Removes a copy that has been looked at.
///
/// # Errors
/// `Failed`, with its message; `TooLate`.
pub async fn remove_copy(control: &dyn Control, made: &Made, id: Uuid) -> Result<()> {
    remove(control, id).await?;
    made.forget(id);
    Ok(())
}

async fn remove(control: &dyn Control, id: Uuid) -> Result<()> {
    delete(control, &path(id, "")).await?;
    // Its backups outlive it.
    let backups = match backups(control, id).await {
        Ok(backups) => backups,
        Err(ConformanceError::Refused { status: GONE, .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    for backup in backups {
        if backup.backup_type == BackupType::Manual {
            delete(control, &path(id, &format!("/backups/{}", backup.id))).await?;
        }
    }
    Ok(())
}

/// Deletes; waits for what is still under way; what is gone already is fine.
async fn delete(control: &dyn Control, path: &str) -> Result<()> {
    wait_for(&format!("DELETE {path}"), REMOVAL_SECONDS, || async {
        match ask::<Option<Value>>(control, Method::Delete, path, None).await {
            Ok(_) | Err(ConformanceError::Refused { status: GONE, .. }) => Ok(Some(())),
            Err(ConformanceError::Refused { status: NOT_NOW, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

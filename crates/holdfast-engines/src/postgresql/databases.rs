//! What databases a backup meets: names that its tool cannot hold, and new ones that were copied file by file.
//!
//! `CREATE DATABASE … STRATEGY file_copy` logs no pages, only that a folder was copied. Where a base backup is under way, recovery
//! copies the folder as it is then, with changes that came to the template later (PostgreSQL 17, 25.3.7).

use std::collections::HashSet;

use super::Postgresql;
use super::position::format_lsn;
use super::sql::{Name, connect};
use crate::exec::{self, ProcessSpec};
use crate::{EngineError, Instance, Paths, Result, ToolBackup};

const READ_SECONDS: u64 = 600;

/// The databases that there are: each by its number, that of its tablespace, and the transaction that made its row. Whoever makes
/// a database may ask for the number of one that is gone (`CREATE DATABASE … OID`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Databases(HashSet<(u32, u32, String)>);

/// Looks which there are.
///
/// # Errors
/// `Unfit` where one has a line break in its name: pgBackRest writes names into lines of its list of files, and cannot read such a list.
pub(super) async fn look(instance: &Instance) -> Result<Databases> {
    let doing = "look at the databases";
    let client = connect(instance, "postgres").await?;
    let rows = client
        .query("SELECT oid, dattablespace, xmin::text, datname FROM pg_database", &[])
        .await
        .map_err(EngineError::client(doing))?;
    let mut found = HashSet::new();
    for row in rows {
        let Name(name) = row.get(3);
        if name.contains(['\n', '\r']) {
            let what = format!(
                "database {name:?} has a line break in its name, which the backup's tool cannot hold; rename it"
            );
            return Err(EngineError::Unfit { doing: doing.to_owned(), what });
        }
        found.insert((row.get(0), row.get(1), row.get(2)));
    }
    Ok(Databases(found))
}

impl Postgresql {
    /// Whether a database was copied file by file while the backup was made; also where the log that tells is not at hand any
    /// more. Databases that were created page by page, as PostgreSQL does by itself, are no reason.
    pub(super) async fn copied_by_files(
        &self,
        instance: &Instance,
        before: &Databases,
        backup: &ToolBackup,
    ) -> Result<bool> {
        if look(instance).await?.0.is_subset(&before.0) {
            return Ok(false);
        }
        let spec = ProcessSpec::new(self.program(instance, "pg_waldump")?, &instance.folder)
            .args([format!("--path={}", Paths(&instance.folder).data().join("pg_wal").display())])
            .args([format!("--timeline={}", backup.start.timeline), "--rmgr=Database".to_owned()])
            .args([format!("--start={}", format_lsn(backup.start.offset))])
            .args([format!("--end={}", format_lsn(backup.stop.offset))])
            .run_as(instance.run_as.as_ref())
            .timeout_seconds(READ_SECONDS);
        let mut by_files = false;
        let read = exec::run_lines(spec, |line| by_files |= line.contains("CREATE_FILE_COPY")).await;
        Ok(by_files || read.is_err())
    }
}

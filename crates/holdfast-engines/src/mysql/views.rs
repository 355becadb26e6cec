//! Views that cannot be read any more: a table or column of theirs is gone, or their definer. `mysqldump` ends at the first one,
//! so a database with any is copied otherwise. Dumps of before 2026-12 left them out, and a restore of one makes views in their
//! place that cannot be read either: statements of the log that drop or replace them find them.

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::sql::{identifier, rows, run, text};
use crate::Result;

const DOING: &str = "look for views that cannot be read";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BrokenView {
    pub database: String,
    pub name: String,
    /// As the server has it.
    pub definition: String,
}

impl BrokenView {
    /// The option with which `mysqldump` leaves it out.
    pub(super) fn left_out(&self) -> String {
        format!("--ignore-table={}.{}", self.database, self.name)
    }
}

/// Database and name of each. The caller holds the backup lock.
pub(super) async fn broken(conn: &mut Conn) -> Result<Vec<(String, String)>> {
    let query = "SELECT table_schema AS db, table_name AS name FROM information_schema.views \
        WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY 1, 2";
    let mut broken = Vec::new();
    for row in rows(conn, DOING, query).await? {
        let (database, name) = (text(&row, "db"), text(&row, "name"));
        let view = format!("{}.{}", identifier(&database), identifier(&name));
        // As mysqldump asks. A partition that is gone only the second misses.
        for asked in ["SHOW FIELDS FROM", "SHOW CREATE TABLE"] {
            if rows(conn, DOING, &format!("{asked} {view}")).await.is_err() {
                broken.push((database, name));
                break;
            }
        }
    }
    Ok(broken)
}

/// Views in their place, of a table that is gone.
pub(super) async fn make_broken(conn: &mut Conn, views: &[BrokenView]) -> Result<()> {
    let doing = "make the views that could not be read";
    for BrokenView { database, name, .. } in views {
        let stub = format!("{}.{}", identifier(database), identifier("holdfast_gone"));
        run(conn, doing, format!("CREATE TABLE {stub} (gone INT PRIMARY KEY)")).await?;
        // What a tenant may put in the table's place must not run with the agent's rights.
        let view = format!(
            "CREATE DEFINER = 'nobody'@'nowhere.invalid' SQL SECURITY INVOKER VIEW {}.{} AS SELECT gone FROM {stub}",
            identifier(database),
            identifier(name)
        );
        run(conn, doing, view).await?;
        run(conn, doing, format!("DROP TABLE {stub}")).await?;
    }
    Ok(())
}

//! Views that cannot be read any more: a table or column of theirs is gone, or their definer. `mysqldump` ends at the first one,
//! so it is told to leave them out, and a restore makes views in their place that cannot be read either: statements of the log
//! that drop or replace them find them. What they said is kept with the backup, for people.

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

/// The caller holds the backup lock.
pub(super) async fn broken(conn: &mut Conn) -> Result<Vec<BrokenView>> {
    let query = "SELECT table_schema AS db, table_name AS name, view_definition AS definition FROM information_schema.views \
        WHERE table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY 1, 2";
    let mut broken = Vec::new();
    for row in rows(conn, DOING, query).await? {
        let (database, name) = (text(&row, "db"), text(&row, "name"));
        let fields = format!("SHOW FIELDS FROM {}.{}", identifier(&database), identifier(&name));
        // As mysqldump asks.
        if let Err(error) = rows(conn, DOING, &fields).await {
            tracing::info!(database, name, error = %crate::error::whole(&error), "a view cannot be read; the backup keeps its text");
            broken.push(BrokenView { database, name, definition: text(&row, "definition") });
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
        let view =
            format!("CREATE VIEW {}.{} AS SELECT gone FROM {stub}", identifier(database), identifier(name));
        run(conn, doing, view).await?;
        run(conn, doing, format!("DROP TABLE {stub}")).await?;
    }
    Ok(())
}

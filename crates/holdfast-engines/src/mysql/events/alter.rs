//! Gives an event a status, and leaves it all else that it has.

use mysql_async::prelude::{AsQuery, Queryable as _};
use mysql_async::{Conn, Row};

use crate::mysql::sql::{identifier, literal, rows, run, text};
use crate::{EngineError, Result};

/// What [`status`] wants to know of events.
pub(super) fn listed(which: &str) -> String {
    format!(
        "SELECT event_schema AS db, event_name AS name, status AS status, definer AS definer, character_set_client AS client, \
         collation_connection AS connection, database_collation AS database_collation FROM information_schema.events WHERE {which}"
    )
}

/// Gives the event of a row of [`listed`] a status. The server takes its definer, its character sets and its database's collation
/// from the session and the database of that moment, so these have the event's. The inner error is the server's refusal.
pub(super) async fn status(conn: &mut Conn, doing: &str, row: &Row, status: &str) -> Result<Result<()>> {
    let database = Database::of(conn, doing, row).await?;
    database.fit(conn, doing).await?;
    let altered = alter(conn, doing, row, status).await;
    database.put_back(conn, doing).await?;
    Ok(altered)
}

async fn alter(conn: &mut Conn, doing: &str, row: &Row, status: &str) -> Result<()> {
    let definer = text(row, "definer");
    let (user, host) = definer.rsplit_once('@').unwrap_or((&*definer, "%"));
    let statement = format!(
        "ALTER DEFINER = {}@{} EVENT {}.{} {status}",
        literal(user),
        literal(host),
        identifier(&text(row, "db")),
        identifier(&text(row, "name"))
    );
    let (client, connection) = (text(row, "client"), text(row, "connection"));
    match written(conn, doing, &statement, &client).await? {
        Some(bytes) => query(conn, doing, bytes, &client, &connection).await,
        // It does not run: better another character set for its text than an event that starts by itself.
        None if status == "DISABLE" => query(conn, doing, statement, "utf8mb4", "utf8mb4_bin").await,
        None => Err(EngineError::Unfit {
            doing: doing.to_owned(),
            what: format!("its character set, {client}, cannot say its name or its definer's"),
        }),
    }
}

/// The statement in a client's character set, if it says the same there. In `swe7` a letter has a backslash's byte, and would undo
/// the quotes.
async fn written(conn: &mut Conn, doing: &str, statement: &str, client: &str) -> Result<Option<Vec<u8>>> {
    const OF_MANY_BYTES: [&str; 11] = [
        "big5", "cp932", "eucjpms", "euckr", "gb18030", "gb2312", "gbk", "sjis", "ujis", "utf8mb3", "utf8mb4",
    ];
    let client = identifier(client);
    let query = format!(
        "SELECT HEX(s) AS written, HEX(CONVERT(s USING utf8mb4)) AS back FROM (SELECT CONVERT({} USING {client}) AS s) AS t",
        literal(statement)
    );
    let found = rows(conn, doing, &query).await?;
    let of =
        |column: &str| found.first().and_then(|row| hex::decode(text(row, column)).ok()).unwrap_or_default();
    let (written, back) = (of("written"), of("back"));
    let ascii = |bytes: &[u8]| bytes.iter().copied().filter(u8::is_ascii).collect::<Vec<u8>>();
    let is_plain =
        OF_MANY_BYTES.contains(&client.trim_matches('`')) || ascii(&written) == ascii(statement.as_bytes());
    Ok((is_plain && back == statement.as_bytes()).then_some(written))
}

async fn query(
    conn: &mut Conn,
    doing: &str,
    statement: impl AsQuery + 'static,
    client: &str,
    connection: &str,
) -> Result<()> {
    let session = format!(
        "SET character_set_client = {}, collation_connection = {}",
        literal(client),
        literal(connection)
    );
    run(conn, doing, session).await?;
    let altered = conn.query_drop(statement).await;
    run(conn, doing, "SET NAMES utf8mb4").await?; // plain letters in every character set of clients
    altered.map_err(EngineError::client(doing))
}

/// What stands in the way of an event's change in its database.
struct Database {
    name: String,
    /// The database's collation and the event's, where they differ: the database was altered since.
    collations: Option<(String, String)>,
    is_read_only: bool,
}

impl Database {
    async fn of(conn: &mut Conn, doing: &str, row: &Row) -> Result<Self> {
        let name = text(row, "db");
        let query = format!(
            "SELECT s.default_collation_name AS collation, COALESCE(e.options, '') AS options FROM information_schema.schemata s \
             LEFT JOIN information_schema.schemata_extensions e USING (schema_name) WHERE s.schema_name = {}",
            literal(&name)
        );
        let found = rows(conn, doing, &query).await?;
        let of = |column: &str| found.first().map(|row| text(row, column)).unwrap_or_default();
        let (own, events) = (of("collation"), text(row, "database_collation"));
        Ok(Self {
            name: identifier(&name),
            is_read_only: of("options").contains("READ ONLY=1"),
            collations: (own != events).then_some((own, events)),
        })
    }

    async fn fit(&self, conn: &mut Conn, doing: &str) -> Result<()> {
        if self.is_read_only {
            run(conn, doing, format!("ALTER DATABASE {} READ ONLY = 0", self.name)).await?;
        }
        self.collate(conn, doing, |(_, events)| events).await
    }

    async fn put_back(&self, conn: &mut Conn, doing: &str) -> Result<()> {
        self.collate(conn, doing, |(own, _)| own).await?;
        if self.is_read_only {
            run(conn, doing, format!("ALTER DATABASE {} READ ONLY = 1", self.name)).await?;
        }
        Ok(())
    }

    async fn collate(
        &self,
        conn: &mut Conn,
        doing: &str,
        which: impl Fn(&(String, String)) -> &String,
    ) -> Result<()> {
        let Some(collations) = &self.collations else { return Ok(()) };
        run(conn, doing, format!("ALTER DATABASE {} COLLATE {}", self.name, identifier(which(collations))))
            .await
    }
}

//! Whether scheduled events are to run after a replay: the applier disables each event that it makes or alters, and only the
//! statements in the log tell whether it was to run (MySQL 9.7 manual, "Replication of Invoked Features").

mod alter;
mod statement;

use std::collections::BTreeMap;

use mysql_async::Conn;

use self::alter::listed;
use self::statement::Statement;
use super::sql::{rows, text};
use crate::Result;

/// Database and name, the latter in small letters: the server takes `Nightly` and `nightly` for one event.
type Event = (String, String);

fn named(database: String, name: &str) -> Event {
    (database, name.to_lowercase())
}

/// Whether an event runs, and if not, why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Enabled,
    Disabled,
    DisabledOnReplica,
}

impl Status {
    fn clause(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLE",
            Self::Disabled => "DISABLE",
            Self::DisabledOnReplica => "DISABLE ON REPLICA",
        }
    }
}

/// The events that there are, from those of a base on, statement by statement of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EventStatus(BTreeMap<Event, Status>);

impl EventStatus {
    /// Those of a server into which a base was loaded.
    pub(super) async fn of(conn: &mut Conn) -> Result<Self> {
        let rows = rows(conn, "list the events of the base", &listed("TRUE")).await?;
        let events = rows.iter().map(|row| {
            let status = match &*text(row, "status") {
                "ENABLED" => Status::Enabled,
                "DISABLED" => Status::Disabled,
                _ => Status::DisabledOnReplica,
            };
            (named(text(row, "db"), &text(row, "name")), status)
        });
        Ok(Self(events.collect()))
    }

    /// Whether the bytes of a statement's event may be one about scheduled events; cheap, and true too often.
    pub(super) fn may_concern(bytes: &[u8]) -> bool {
        let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
        has(b"EVENT") || has(b"DATABASE") || has(b"SCHEMA")
    }

    /// Takes a statement that was executed in `database`.
    pub(super) fn see(&mut self, database: &str, statement: &str) {
        let statement = Statement::new(statement);
        let is_drop = statement.word(0) == "DROP";
        if is_drop && ["DATABASE", "SCHEMA"].contains(&&*statement.word(1)) {
            let dropped = statement.part(statement.behind_conditions(2));
            self.0.retain(|(database, _), _| Some(database) != dropped.as_ref());
            return;
        }
        let Some(at) = (1..statement.len()).find(|at| statement.word(*at) == "EVENT") else { return };
        let name_at = statement.behind_conditions(at + 1);
        let Some((event, at)) = statement.name(name_at, database) else { return };
        match &*statement.word(0) {
            "CREATE" if statement.is_conditional(name_at) && self.0.contains_key(&event) => {}
            "CREATE" => {
                let status = statement.status(at).unwrap_or(Status::Enabled);
                self.0.insert(event, status);
            }
            "ALTER" => {
                let Some(before) = self.0.remove(&event) else { return };
                let name = statement.new_name(at, database).unwrap_or(event);
                self.0.insert(name, statement.status(at).unwrap_or(before));
            }
            "DROP" => drop(self.0.remove(&event)),
            _ => {}
        }
    }

    /// Gives the events that replay disabled the status that they had, each with the definer that it has.
    pub(super) async fn apply(&self, conn: &mut Conn) -> Result<()> {
        let doing = "enable the events";
        for row in rows(conn, doing, &listed("status NOT IN ('ENABLED', 'DISABLED')")).await? {
            let event = named(text(&row, "db"), &text(&row, "name"));
            let status = self.0.get(&event).copied().unwrap_or(Status::Enabled);
            if status == Status::DisabledOnReplica {
                continue;
            }
            if let Err(error) = alter::status(conn, doing, &row, status.clause()).await? {
                // Its time has passed: it would not run any more on the source either.
                tracing::info!(%error, db = event.0, event = event.1, "an event stays disabled");
            }
        }
        Ok(())
    }
}

/// Events that were to run once, at an instant that has passed since, would run as soon as the copy starts, on data that is not
/// of that instant. They are there, and disabled.
pub(super) async fn disable_passed(conn: &mut Conn) -> Result<()> {
    let doing = "disable events whose time has passed";
    // There are no zones by name here, so all are offsets.
    let passed = "event_type = 'ONE TIME' AND status = 'ENABLED' \
        AND COALESCE(CONVERT_TZ(execute_at, REPLACE(time_zone, 'SYSTEM', '+00:00'), '+00:00'), execute_at) <= UTC_TIMESTAMP()";
    for row in rows(conn, doing, &listed(passed)).await? {
        tracing::info!(
            db = text(&row, "db"),
            event = text(&row, "name"),
            "an event whose time has passed is disabled"
        );
        alter::status(conn, doing, &row, "DISABLE").await??;
    }
    Ok(())
}

/// A second since 1970 that is before the time of every event that has one, and before the end of every other, in any zone;
/// `None` without such events.
pub(super) async fn before_all(conn: &mut Conn) -> Result<Option<i64>> {
    const DAY_SECONDS: i64 = 86_400;
    let query = "SELECT UNIX_TIMESTAMP(MIN(COALESCE(execute_at, ends))) AS first FROM information_schema.events \
        WHERE COALESCE(execute_at, ends) IS NOT NULL HAVING first IS NOT NULL";
    let found = rows(conn, "look at the times of events", query).await?;
    Ok(found.first().and_then(|row| text(row, "first").parse::<i64>().ok()).map(|first| first - DAY_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    use Status::{Disabled, DisabledOnReplica, Enabled};

    const MAKE: &str = "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO x";
    const MAKE_DISABLED: &str = "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO x";

    #[test]
    fn the_last_statement_tells_whether_an_event_runs() {
        let rows: [(&[&str], Option<Status>); 17] = [
            (&["CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1"], Some(Enabled)),
            (
                &["CREATE DEFINER=`u`@`%` EVENT `e` ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1"],
                Some(Disabled),
            ),
            (
                &[
                    "create event if not exists d.e on schedule at now() comment 'DISABLE' do begin set @x = 'DISABLE'; end",
                ],
                Some(Enabled),
            ),
            (
                &[
                    "CREATE /*!50117 DEFINER=`EVENT`@`%`*/ /*!50106 EVENT `d`.`e` ON SCHEDULE EVERY 1 DAY DISABLE */ DO x",
                ],
                Some(Disabled),
            ),
            (&["CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE ON SLAVE DO x"], Some(DisabledOnReplica)),
            (&[MAKE, "ALTER EVENT E DISABLE"], Some(Disabled)),
            (&[MAKE, "ALTER EVENT E DISABLE ON REPLICA"], Some(DisabledOnReplica)),
            (&[MAKE_DISABLED, "ALTER EVENT d.e ENABLE"], Some(Enabled)),
            (&[MAKE_DISABLED, "ALTER EVENT e COMMENT 'ENABLE'"], Some(Disabled)),
            (
                &["CREATE EVENT o ON SCHEDULE EVERY 1 DAY DISABLE DO x", "ALTER EVENT o RENAME TO e"],
                Some(Disabled),
            ),
            (&["ALTER EVENT in_BASE RENAME TO e"], Some(DisabledOnReplica)),
            (&["ALTER EVENT in_BASE ENABLE", "ALTER EVENT in_base RENAME TO d.e"], Some(Enabled)),
            (&[MAKE, "DROP EVENT IF EXISTS e"], None),
            (&[MAKE, "DROP DATABASE IF EXISTS `d`"], None),
            (&[MAKE, "DROP SCHEMA other"], Some(Enabled)),
            (&[MAKE, "CREATE EVENT IF NOT EXISTS e ON SCHEDULE EVERY 1 DAY DISABLE DO x"], Some(Enabled)),
            (&["INSERT INTO event VALUES ('DISABLE')"], None),
        ];
        for (statements, expected) in rows {
            let mut status = EventStatus::default();
            status.0.insert(named("d".to_owned(), "In_base"), DisabledOnReplica);
            statements.iter().for_each(|statement| status.see("d", statement));
            assert_eq!(status.0.get(&named("d".to_owned(), "E")).copied(), expected, "{statements:?}");
        }
    }
}

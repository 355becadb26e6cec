//! All that a server holds, read without the driver: text in its own bytes, floats in binary, the dictionary row by row.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value};

use crate::mysql::rig::Server;

const OWN: &str = "('mysql', 'sys', 'information_schema', 'performance_schema')";

/// Tables of the dictionary, which of their columns name the database, and columns that tell of this server or of when it was
/// asked. `CREATED` and the like: `mysqldump` does not keep them.
const DICTIONARY: &[(&str, &str, &[&str])] = &[
    ("schemata", "schema_name", &[]),
    (
        "tables",
        "table_schema",
        &[
            "TABLE_ROWS",
            "AVG_ROW_LENGTH",
            "DATA_LENGTH",
            "MAX_DATA_LENGTH",
            "INDEX_LENGTH",
            "DATA_FREE",
            "CREATE_TIME",
            "UPDATE_TIME",
            "AUTO_INCREMENT", // read from SHOW CREATE TABLE
        ],
    ),
    ("columns", "table_schema", &[]),
    ("statistics", "table_schema", &["CARDINALITY"]),
    ("table_constraints", "table_schema", &[]),
    ("key_column_usage", "table_schema", &[]),
    ("check_constraints", "constraint_schema", &[]),
    // Of several keys that serve, any.
    ("referential_constraints", "constraint_schema", &["UNIQUE_CONSTRAINT_NAME"]),
    (
        "partitions",
        "table_schema",
        &[
            "TABLE_ROWS",
            "AVG_ROW_LENGTH",
            "DATA_LENGTH",
            "MAX_DATA_LENGTH",
            "INDEX_LENGTH",
            "DATA_FREE",
            "CREATE_TIME",
            "UPDATE_TIME",
            "CHECK_TIME",
        ],
    ),
    ("st_geometry_columns", "table_schema", &[]),
    ("views", "table_schema", &[]),
    ("triggers", "trigger_schema", &["CREATED"]),
    ("routines", "routine_schema", &["CREATED", "LAST_ALTERED"]),
    ("parameters", "specific_schema", &[]),
    ("events", "event_schema", &["CREATED", "LAST_ALTERED", "LAST_EXECUTED", "ORIGINATOR"]),
];

/// Types, and what their columns tell of how they were made: a default as it was written, in that session's time zone (SHOW CREATE
/// TABLE says which instant it is), and the width that `CREATE TABLE … SELECT` found, which no statement can say.
const UNTOLD: &[(&str, &str)] =
    &[("timestamp", "COLUMN_DEFAULT"), ("double", "NUMERIC_PRECISION"), ("float", "NUMERIC_PRECISION")];

/// Tables of accounts and rights, and columns as above. The passwords of the service's own accounts are a copy's own.
const RIGHTS: &[(&str, &[&str])] = &[
    ("user", &["password_last_changed"]),
    ("db", &[]),
    ("tables_priv", &["Timestamp", "Grantor"]),
    ("columns_priv", &["Timestamp"]),
    ("procs_priv", &["Timestamp", "Grantor"]),
    ("proxies_priv", &["Timestamp"]),
    ("role_edges", &[]),
    ("default_roles", &[]),
    ("global_grants", &[]),
];

/// Name of what was read, and its rows.
pub(super) type Reading = BTreeMap<String, Vec<String>>;

pub(super) async fn reading(server: &Server) -> Result<Reading> {
    let mut conn = server.root().await?;
    conn.query_drop(
        "SET NAMES binary, SESSION sql_mode = '', information_schema_stats_expiry = 0, time_zone = '+00:00'",
    )
    .await?;
    let mut seen = Reading::new();
    for (table, schema, hidden) in DICTIONARY {
        let query = format!("SELECT * FROM information_schema.{table} WHERE {schema} NOT IN {OWN}");
        seen.insert((*table).to_owned(), rows(&mut conn, &query, hidden).await?);
    }
    for (table, hidden) in RIGHTS {
        let query = format!("SELECT * FROM mysql.{table}");
        seen.insert(format!("mysql.{table}"), rows(&mut conn, &query, hidden).await?);
    }
    let histograms = "SELECT schema_name, table_name, column_name, JSON_REMOVE(histogram, _utf8mb4'$.\"last-updated\"') AS histogram \
        FROM information_schema.column_statistics";
    seen.insert("histograms".to_owned(), rows(&mut conn, histograms, &[]).await?);
    tables(&mut conn, &mut seen).await?;
    Ok(seen)
}

async fn tables(conn: &mut Conn, seen: &mut Reading) -> Result<()> {
    let query = format!(
        "SELECT CONCAT('`', REPLACE(table_schema, '`', '``'), '`.`', REPLACE(table_name, '`', '``'), '`'), table_type \
         FROM information_schema.tables WHERE table_schema NOT IN {OWN}"
    );
    let found: Vec<(Vec<u8>, String)> = conn.query(query).await?;
    for (name, kind) in found {
        let name = String::from_utf8(name)?;
        let made = match rows(conn, &format!("SHOW CREATE TABLE {name}"), &[]).await {
            Ok(made) => made.iter().map(|text| without_charset(text)).collect(),
            Err(error) => vec![format!("{error:#}")], // of a view whose tables are gone
        };
        seen.insert(format!("{name} as made"), made);
        if kind == "BASE TABLE" {
            let columns = columns(conn, &name).await?;
            let content = rows(conn, &format!("SELECT {columns} FROM {name}"), &[]).await;
            // Of a table without its file.
            seen.insert(name, content.unwrap_or_else(|error| vec![format!("{error:#}")]));
        }
    }
    Ok(())
}

/// Whether a column's character set and collation are written down depends on how it was made, not on what it is; `columns` has what it is.
fn without_charset(made: &str) -> String {
    [" CHARACTER SET ", " COLLATE "].into_iter().fold(made.to_owned(), |made, clause| {
        let mut parts = made.split(clause);
        let head = parts.next().unwrap_or_default().to_owned();
        parts.fold(head, |text, part| text + part.find([' ', ',', '\n']).map_or("", |end| &part[end..]))
    })
}

/// Those that `*` leaves out too, and what JSON takes up: another type of a value may have the same text.
async fn columns(conn: &mut Conn, table: &str) -> Result<String> {
    let found: Vec<Row> = conn.query(format!("SHOW FULL COLUMNS FROM {table}")).await?;
    let names = found.iter().map(|row| {
        let name = row.get::<Vec<u8>, _>(0).unwrap_or_default();
        let name = format!("`{}`", String::from_utf8_lossy(&name).replace('`', "``"));
        match row.get::<Vec<u8>, _>(1).as_deref() {
            Some(b"json") => format!("{name}, JSON_STORAGE_SIZE(JSON_EXTRACT({name}, '$'))"),
            _ => name,
        }
    });
    Ok(names.collect::<Vec<_>>().join(", "))
}

/// Sorted.
async fn rows(conn: &mut Conn, query: &str, hidden: &[&str]) -> Result<Vec<String>> {
    let found: Vec<Row> = conn.exec(query, ()).await.with_context(|| query.to_owned())?;
    let mut lines: Vec<String> = found.into_iter().map(|row| line(row, hidden)).collect();
    lines.sort();
    Ok(lines)
}

fn line(row: Row, hidden: &[&str]) -> String {
    let columns = row.columns();
    let cells = columns.iter().zip(row.unwrap());
    let cells: Vec<(String, String)> =
        cells.map(|(column, value)| (column.name_str().into_owned(), value)).map(plain).collect();
    let of = |name: &str| cells.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let own = of("User").is_some_and(|user| ["\"app\"", "\"reader\"", "\"root\""].contains(&user));
    let told = |name: &str| !(hidden.contains(&name) || own && name == "authentication_string");
    let of_type =
        of("DATA_TYPE").and_then(|kind| UNTOLD.iter().find(|(known, _)| kind == format!("\"{known}\"")));
    // `CREATE TABLE … SELECT` leaves out the text of a default that is an expression, until the table is made anew (9.7.4); SHOW CREATE
    // TABLE has it.
    let computed = of("EXTRA").is_some_and(|extra| extra.contains("DEFAULT_GENERATED"));
    let told = |name: &str| {
        let of_default = computed && name == "COLUMN_DEFAULT";
        told(name) && !of_default && of_type.is_none_or(|(_, untold)| name != *untold)
    };
    let seen = cells.iter().filter(|(name, _)| told(name));
    seen.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Restrictions of an account are a set, which the server writes down in any order; a decimal in JSON may have zeros at its end.
fn plain((name, value): (String, Value)) -> (String, String) {
    let parsed = match &value {
        Value::Bytes(bytes) if ["User_attributes", "histogram"].contains(&&*name) => {
            serde_json::from_slice(bytes).ok()
        }
        _ => None,
    };
    let Some(serde_json::Value::Object(mut attributes)) = parsed else {
        let text = shown(&value);
        // Loaded, an expression may have other parentheses, and names of columns in the case that they have.
        let text = match name.as_str() {
            "VIEW_DEFINITION" => text.replace(['(', ')'], ""),
            "COLUMN_DEFAULT" if text.starts_with("\"(") => text.to_lowercase(),
            // Of a literal that is compared with bytes the dictionary names the bytes, once it is loaded; SHOW CREATE TABLE has it as it was.
            "GENERATION_EXPRESSION" => text.replace("_utf8mb4", "_binary"),
            _ => text,
        };
        return (name, text);
    };
    if let Some(restrictions) = attributes.get_mut("Restrictions").and_then(serde_json::Value::as_array_mut) {
        restrictions.sort_by_key(ToString::to_string);
    }
    (name, serde_json::Value::Object(attributes).to_string())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Value::Float(number) => format!("f32:{:08x}", number.to_bits()),
        Value::Double(number) => format!("f64:{:016x} {number}", number.to_bits()),
        other => format!("{other:?}"),
    }
}

/// `counters`: those of `AUTO_INCREMENT` count.
pub(super) fn same(source: &Reading, copy: &Reading, counters: bool) -> Result<()> {
    let plain = |lines: Option<&Vec<String>>| -> Vec<String> {
        let lines = lines.cloned().unwrap_or_default();
        lines.into_iter().map(|line| if counters { line } else { without_counter(&line) }).collect()
    };
    let mut names: Vec<&String> = source.keys().chain(copy.keys()).collect();
    names.sort();
    names.dedup();
    let mut differences = Vec::new();
    for name in names {
        let (of_source, of_copy) = (plain(source.get(name)), plain(copy.get(name)));
        if of_source != of_copy {
            let missing: Vec<_> = of_source.iter().filter(|line| !of_copy.contains(line)).take(3).collect();
            let extra: Vec<_> = of_copy.iter().filter(|line| !of_source.contains(line)).take(3).collect();
            differences.push(format!(
                "{name}: {} rows and {}; missing {missing:#?}, instead {extra:#?}",
                of_source.len(),
                of_copy.len()
            ));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// Numbers that were given to rows that were never committed are given again behind a replay: the log does not have them.
fn without_counter(line: &str) -> String {
    let Some((head, tail)) = line.split_once(" AUTO_INCREMENT=") else { return line.to_owned() };
    format!("{head}{}", tail.trim_start_matches(|digit: char| digit.is_ascii_digit()))
}

//! A fingerprint of everything in a server but its rows: tables with columns, indexes, keys and partitions, views, routines,
//! triggers, events, and the accounts with their rights (R24). Two servers with the same have the same.

use futures::TryStreamExt as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value};
use sha2::{Digest, Sha256};

use super::log::hexadecimal;
use crate::{EngineError, Result};

const DOING: &str = "read the schema";

/// Table of the information schema, its column with the database's name, columns, and what rows are ordered by. Nothing
/// that changes as rows do.
const PARTS: [(&str, &str, &str); 10] = [
    ("tables", "table_schema", "table_name, table_type, engine, row_format, table_collation, table_comment"),
    (
        "columns",
        "table_schema",
        "table_name, ordinal_position, column_name, column_default, is_nullable, column_type, character_set_name, \
         collation_name, extra, generation_expression, srs_id, column_comment",
    ),
    (
        "statistics",
        "table_schema",
        "table_name, index_name, seq_in_index, column_name, collation, sub_part, non_unique, index_type, is_visible, expression",
    ),
    ("table_constraints", "table_schema", "table_name, constraint_name, constraint_type, enforced"),
    (
        "key_column_usage",
        "table_schema",
        "table_name, constraint_name, ordinal_position, column_name, referenced_table_schema, referenced_table_name, referenced_column_name",
    ),
    (
        "partitions",
        "table_schema",
        "table_name, partition_name, subpartition_name, partition_method, partition_expression, partition_description",
    ),
    ("views", "table_schema", "table_name, view_definition, check_option, definer, security_type"),
    (
        "routines",
        "routine_schema",
        "routine_name, routine_type, dtd_identifier, routine_definition, is_deterministic, sql_data_access, security_type, sql_mode, definer",
    ),
    (
        "triggers",
        "trigger_schema",
        "trigger_name, event_manipulation, event_object_table, action_order, action_statement, action_timing, sql_mode, definer",
    ),
    (
        "events",
        "event_schema",
        "event_name, definer, event_definition, event_type, execute_at, interval_value, interval_field, starts, ends, status, on_completion",
    ),
];

/// `accounts` in a form that is the same for the same accounts. The caller holds the backup lock, or nobody else is there.
pub(super) async fn fingerprint(conn: &mut Conn, accounts: &[u8]) -> Result<String> {
    let mut hash = Sha256::new();
    for (table, database, columns) in PARTS {
        let query = format!(
            "SELECT {database}, {columns} FROM information_schema.{table} \
             WHERE {database} NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY {database}, {columns}"
        );
        let rows = conn.query_stream::<Row, _>(query).await.map_err(EngineError::client(DOING))?;
        let hashed = rows.try_fold(hash, async |mut hash, row| {
            row.unwrap().iter().for_each(|value| add(&mut hash, value));
            Ok(hash)
        });
        hash = hashed.await.map_err(EngineError::client(DOING))?;
        hash.update(table);
    }
    hash.update(accounts);
    Ok(format!("sha256:{}", hexadecimal(&hash.finalize())))
}

/// The value with its length, so that no two rows read alike.
fn add(hash: &mut Sha256, value: &Value) {
    let bytes = match value {
        Value::NULL => return hash.update([0]),
        Value::Bytes(bytes) => bytes.clone(),
        other => other.as_sql(true).into_bytes(),
    };
    hash.update([1]);
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

//! Statements by chance. Many fail, as people's do; what counts is what the server has made of the others.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// `{x}` becomes a member of the pool `x`, or another form of this kind.
const STATEMENTS: &[(u32, &str)] = &[
    (2, "CREATE DATABASE {d} CHARACTER SET {charset}"),
    (1, "ALTER DATABASE {d} CHARACTER SET {charset}"),
    (1, "DROP DATABASE {other}"),
    (1, "USE {d}"),
    (1, "SET SESSION sql_mode = '{mode}'"),
    (1, "SET SESSION time_zone = '{zone}'"),
    (1, "SET SESSION foreign_key_checks = {bit}"),
    (1, "SET SESSION character_set_client = {clients}, collation_connection = utf8mb4_0900_ai_ci"),
    (
        14,
        "CREATE TABLE {table} (id {key} PRIMARY KEY, `a` {column}, `b` {column}, {c} {column}{more}) {options}",
    ),
    (3, "CREATE TABLE {table} ({c} {column}, {c} {column}) {options}"),
    (2, "CREATE TABLE {table} (id {int}, {c} {int}, PRIMARY KEY (id)) PARTITION BY {partition}"),
    (1, "CREATE TABLE {table} LIKE {table}"),
    (2, "CREATE TABLE {table} AS SELECT * FROM {table}"),
    (1, "CREATE TEMPORARY TABLE {table} (id INT PRIMARY KEY, {c} {column})"),
    (1, "CREATE TABLE {table} (id INT PRIMARY KEY, {c} {unheld})"),
    (3, "ALTER TABLE {table} ADD COLUMN {c} {column} {place}"),
    (2, "ALTER TABLE {table} DROP COLUMN {c}"),
    (2, "ALTER TABLE {table} MODIFY {c} {column}"),
    (1, "ALTER TABLE {table} CHANGE {c} {c} {column}"),
    (1, "ALTER TABLE {table} RENAME COLUMN {c} TO {c}"),
    (1, "ALTER TABLE {table} ALTER {c} SET DEFAULT {value}"),
    (1, "ALTER TABLE {table} ALTER {c} SET INVISIBLE"),
    (4, "ALTER TABLE {table} ADD {indexed} {name} ({part}) {visible}"),
    (1, "ALTER TABLE {table} ADD UNIQUE {name} ({part}, {part})"),
    (2, "ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY ({c}) REFERENCES {table} (id) {action}"),
    (2, "ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition}) {enforced}"),
    (1, "ALTER TABLE {table} DROP INDEX {name}"),
    (1, "ALTER TABLE {table} DROP CONSTRAINT {name}"),
    (1, "ALTER TABLE {table} AUTO_INCREMENT = {number}"),
    (1, "ALTER TABLE {table} CONVERT TO CHARACTER SET {charset}"),
    (1, "ALTER TABLE {table} COMMENT = '{comment}', {rowformat}"),
    (1, "ALTER TABLE {table} ADD PARTITION (PARTITION {name} VALUES LESS THAN (MAXVALUE))"),
    (1, "ALTER TABLE {table} REMOVE PARTITIONING"),
    (1, "ALTER TABLE {table} FORCE"),
    (2, "ANALYZE TABLE {table} UPDATE HISTOGRAM ON {c} WITH 4 BUCKETS"),
    (2, "RENAME TABLE {table} TO {table}"),
    (1, "RENAME TABLE {table} TO `swap`, {table} TO {table}"),
    (1, "DROP TABLE {table}"),
    (1, "DROP TABLE IF EXISTS {table}, {table}"),
    (1, "TRUNCATE TABLE {table}"),
    (16, "INSERT IGNORE INTO {table} (id, {c}) VALUES ({number}, {value}), ({number}, {value})"),
    (8, "INSERT IGNORE INTO {table} ({c}, {c}) VALUES ({value}, {value}), ({value}, {value})"),
    (4, "INSERT IGNORE INTO {table} VALUES ()"),
    (3, "INSERT IGNORE INTO {table} ({c}) SELECT {c} FROM {table} AS s LIMIT 20"),
    (3, "REPLACE INTO {table} (id, {c}) VALUES ({number}, {value})"),
    (3, "INSERT INTO {table} (id, {c}) VALUES ({number}, {value}) ON DUPLICATE KEY UPDATE {c} = {value}"),
    (5, "UPDATE IGNORE {table} SET {c} = {value} WHERE {condition}"),
    (2, "UPDATE IGNORE {table} SET id = id + {number} ORDER BY id DESC LIMIT 2"),
    (2, "DELETE FROM {table} WHERE {condition} LIMIT 3"),
    (3, "START TRANSACTION"),
    (1, "SAVEPOINT {name}"),
    (1, "ROLLBACK TO {name}"),
    (3, "COMMIT"),
    (1, "ROLLBACK"),
    (3, "CREATE VIEW {table} AS SELECT id, {c} FROM {table}"),
    (
        1,
        "CREATE ALGORITHM = {algorithm} SQL SECURITY INVOKER VIEW {table} (x, `y y`) AS SELECT id, '{comment}' FROM {table} WHERE {condition} WITH CHECK OPTION",
    ),
    (1, "DROP VIEW {table}"),
    (2, "CREATE TRIGGER {name} {when} ON {table} FOR EACH ROW SET NEW.{c} = {value}"),
    (
        1,
        "CREATE TRIGGER {name} AFTER INSERT ON {table} FOR EACH ROW INSERT IGNORE INTO {table} (id) VALUES (NEW.id + 1000)",
    ),
    (1, "DROP TRIGGER {name}"),
    (
        2,
        "CREATE PROCEDURE {name}(IN {c} {type}) COMMENT '{comment}' BEGIN DECLARE x {type}; SET x = {value}; /* {comment} */ INSERT IGNORE INTO {table} (id) VALUES ({number}); END",
    ),
    (2, "CREATE FUNCTION {name}({c} {type}) RETURNS {type} {determinism} RETURN {value}"),
    (1, "CALL {name}({value})"),
    (1, "ALTER PROCEDURE {name} COMMENT '{comment}'"),
    (1, "DROP FUNCTION {name}"),
    (
        2,
        "CREATE EVENT {name} ON SCHEDULE {schedule} {status} COMMENT '{comment}' DO INSERT IGNORE INTO {table} (id) VALUES ({number})",
    ),
    (1, "ALTER EVENT {name} {status}"),
    (1, "ALTER EVENT {name} RENAME TO {name}"),
    (1, "DROP EVENT {name}"),
    (2, "CREATE USER {user} IDENTIFIED BY '{comment}' {account}"),
    (1, "CREATE ROLE {user}"),
    (1, "ALTER USER {user} {account}"),
    (1, "ALTER USER {user} IDENTIFIED BY '{comment}' RETAIN CURRENT PASSWORD"),
    (1, "RENAME USER {user} TO {user}"),
    (1, "DROP USER {user}"),
    (2, "GRANT {right} ON {table} TO {user} {grantable}"),
    (1, "GRANT {right} ON {d}.* TO {user}"),
    (1, "GRANT {right} ON *.* TO {user}"),
    (2, "GRANT {right} ({c}), UPDATE ({c}) ON {table} TO {user}"),
    (1, "GRANT EXECUTE ON PROCEDURE {name} TO {user}"),
    (1, "CREATE TABLE {table} (id INT PRIMARY KEY) AS SELECT {c} FROM {table}"),
    (1, "GRANT {user} TO {user} WITH ADMIN OPTION"),
    (1, "SET DEFAULT ROLE ALL TO {user}"),
    (1, "REVOKE {right} ON {table} FROM {user}"),
    (1, "REVOKE {right} ON {d}.* FROM {user}"),
];

fn pool(name: &str) -> &'static [&'static str] {
    match name {
        "d" => &["defaultdb", "`d.b`", "`d%_`", "`q``'\"\\`", "`ß;--`"],
        // `defaultdb` is in every copy: the connection string leads to it.
        "other" => &["`d.b`", "`d%_`", "`q``'\"\\`"],
        "table" => &["{t}", "{t}", "{t}", "{t}", "{t}", "{t}", "{t}", "{d}.{t}"],
        "t" => &["`t`", "`T`", "`a.b`", "`x``y`", "`-- %s`", "`new\nline`", "`tä#P#p0`"],
        "c" => &["`a`", "`a`", "`b`", "`c`", "`q``;`", "`ä%`"],
        "name" => &["`n`", "`m`", "`N n`", "`x``;;`", "`ö.%`"],
        "user" => &["'u'@'%'", "'U'@'10.%'", "'q\\'`\"'@'localhost'", "'r'@'%'", "''@'h'", "'a@b'@'::1'"],
        "charset" => &[
            "utf8mb4",
            "latin1",
            "utf8mb3",
            "utf16",
            "ascii",
            "binary",
            "utf8mb4 COLLATE utf8mb4_bin",
            "utf8mb4 COLLATE utf8mb4_de_pb_0900_ai_ci",
        ],
        "clients" => &["utf8mb4", "utf8mb4", "utf8mb4", "latin1", "cp1251"],
        "mode" => &[
            "",
            "ANSI_QUOTES",
            "STRICT_ALL_TABLES",
            "NO_BACKSLASH_ESCAPES",
            "NO_ZERO_DATE,STRICT_TRANS_TABLES",
            "PAD_CHAR_TO_FULL_LENGTH",
            "NO_AUTO_VALUE_ON_ZERO",
            "PIPES_AS_CONCAT,ONLY_FULL_GROUP_BY",
            "TRADITIONAL",
            "IGNORE_SPACE,REAL_AS_FLOAT",
        ],
        "zone" => &["+00:00", "-11:30", "+14:00", "SYSTEM"],
        "bit" => &["0", "1"],
        "key" => &[
            "INT AUTO_INCREMENT",
            "BIGINT UNSIGNED AUTO_INCREMENT",
            "SMALLINT",
            "VARCHAR(40)",
            "DECIMAL(20, 3)",
            "VARBINARY(30)",
            "DOUBLE",
        ],
        "int" => &["TINYINT", "INT", "BIGINT UNSIGNED", "SMALLINT ZEROFILL", "MEDIUMINT"],
        "type" => &[
            "{int}",
            "INT",
            "DECIMAL(65, 30)",
            "DECIMAL(9)",
            "DOUBLE",
            "BIT(1)",
            "BIT(64)",
            "CHAR(20)",
            "VARCHAR(300)",
            "VARCHAR(20) CHARACTER SET {charset}",
            "TEXT",
            "LONGTEXT CHARACTER SET latin1",
            "TINYBLOB",
            "LONGBLOB",
            "BINARY(7)",
            "VARBINARY(200)",
            "DATE",
            "DATETIME(6)",
            "DATETIME",
            "TIMESTAMP(3) NULL",
            "TIMESTAMP NULL",
            "TIME(2)",
            "YEAR",
            "JSON",
            "ENUM('', 'x', 'ä', 'it''s')",
            "SET('p', 'q', 'ü')",
            "GEOMETRY",
            "POINT SRID 4326",
            "VECTOR(3)",
            "BOOL",
        ],
        "unheld" => &[
            "INT",
            "INT",
            "INT",
            "INT",
            "INT",
            "INT",
            "INT",
            "INT",
            "FLOAT",
            "VARCHAR(20) CHARACTER SET gbk",
            "ENUM('😀')",
            "TEXT CHARACTER SET sjis",
        ],
        "column" => &[
            "{type}",
            "{type}",
            "{type}",
            "{type}",
            "{type} DEFAULT {value}",
            "{type} DEFAULT ({value})",
            "{type} COMMENT '{comment}'",
            "{type} INVISIBLE",
            "{type} GENERATED ALWAYS AS ({expression}) VIRTUAL",
            "{type} GENERATED ALWAYS AS ({expression}) STORED",
            "TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)",
            "{type} NOT NULL DEFAULT {value}",
            "CHAR(36) DEFAULT (UUID())",
            "INT DEFAULT (RAND() * 1000)",
            "{type} STORAGE DISK COLUMN_FORMAT DYNAMIC",
        ],
        "expression" => &[
            "id + 1",
            "CONCAT(id, '{comment}')",
            "JSON_OBJECT('k', id)",
            "id * 0.1e0",
            "HEX({c})",
            "NULLIF({c}, {value})",
            "ROUND(id / 3, 5)",
        ],
        "more" => &[
            "",
            "",
            "",
            ", KEY ({part})",
            ", UNIQUE ({part})",
            ", KEY ((CAST({c} AS CHAR(20))))",
            ", CHECK ({condition})",
            ", INDEX {name} ({part} DESC, id)",
        ],
        "part" => &["{c}", "{c}", "{c} DESC", "{c}(3)", "id"],
        "indexed" => &["INDEX", "INDEX", "UNIQUE", "FULLTEXT", "SPATIAL"],
        "visible" => &["", "INVISIBLE", "COMMENT '{comment}'"],
        "options" => &[
            "",
            "",
            "",
            "",
            "CHARACTER SET {charset}",
            "COMMENT '{comment}'",
            "AUTO_INCREMENT = {number}",
            "{rowformat}",
            "MAX_ROWS = 7 STATS_PERSISTENT = 0 PACK_KEYS = 1",
            "COMPRESSION = 'zlib'",
            "AVG_ROW_LENGTH = 5 CHECKSUM = 1",
        ],
        "rowformat" => {
            &["ROW_FORMAT = COMPRESSED KEY_BLOCK_SIZE = 8", "ROW_FORMAT = REDUNDANT", "ROW_FORMAT = DYNAMIC"]
        }
        "partition" => &[
            "HASH (id) PARTITIONS 3",
            "KEY () PARTITIONS 2",
            "LINEAR HASH (id + 1)",
            "RANGE (id) (PARTITION {name} VALUES LESS THAN (10) COMMENT '{comment}', PARTITION p1 VALUES LESS THAN (100))",
            "LIST COLUMNS (id) (PARTITION p0 VALUES IN (0, 1, 2), PARTITION p1 VALUES IN (3, 255))",
            "RANGE (id) SUBPARTITION BY HASH (id) SUBPARTITIONS 2 (PARTITION p0 VALUES LESS THAN (50), PARTITION {name} VALUES LESS THAN MAXVALUE)",
        ],
        "place" => &["", "FIRST", "AFTER id", "AFTER {c}"],
        "action" => &["", "ON DELETE CASCADE", "ON DELETE SET NULL ON UPDATE CASCADE", "ON UPDATE NO ACTION"],
        "enforced" => &["", "NOT ENFORCED"],
        "condition" => &[
            "id > {number}",
            "{c} IS NULL",
            "{c} <> {value}",
            "{c} LIKE '%\\_{comment}%'",
            "{c} = _utf8mb4'ä'",
            "1",
        ],
        "number" => &["0", "1", "2", "3", "7", "12", "50", "99", "255", "-1", "65000", "1.5"],
        "value" => &[
            "NULL",
            "{number}",
            "'{comment}'",
            "'{comment}'",
            "'{comment}'",
            "X'00ff0a0d1a275c22'",
            "0xC3A4",
            "''",
            "'  '",
            "'x'",
            "1e300",
            "-0.0",
            "0.1",
            "123456789012345678901234567890.123456789",
            "18446744073709551615",
            "'2026-11-29 01:02:03.987654'",
            "'0000-00-00'",
            "'2024-02-29'",
            "'-838:59:59'",
            "TRUE",
            "b'1011'",
            "'{\"k\": [1, null, \"ä\\\\u0000\"]}'",
            "CURRENT_TIMESTAMP",
            "REPEAT('ab\\n', 700)",
            "REPEAT('ö', 90)",
            "ST_GeomFromText('POINT(1 2)', 4326)",
            "ST_GeomFromText('LINESTRING(0 0, 1 1.5)')",
            "STRING_TO_VECTOR('[1, -2.5, 1e-3]')",
            "JSON_ARRAY(1, 'x', NULL, TRUE)",
            "UUID()",
            "RAND()",
            "NOW(6)",
            "'😀'",
            "2026",
            "(1 + 2)",
            "JSON_OBJECT('d', DATE'2026-01-01', 't', TIME'01:02:03')",
        ],
        "comment" => &[
            "",
            "c",
            "it\\'s",
            "a\\\\b",
            "ä;; -- x",
            "*/ /* x",
            "%s%n",
            "new\\nline",
            "\\0nul",
            "`b`",
            "\\\"q\\\"",
            "DELIMITER ;;",
        ],
        "algorithm" => &["MERGE", "TEMPTABLE", "UNDEFINED"],
        "when" => &["BEFORE INSERT", "BEFORE UPDATE", "BEFORE INSERT"],
        "determinism" => {
            &["DETERMINISTIC", "NOT DETERMINISTIC NO SQL", "READS SQL DATA SQL SECURITY INVOKER"]
        }
        "schedule" => &[
            "EVERY 1 DAY STARTS '2037-01-01 00:00:00'",
            "AT '2037-05-05 05:05:05'",
            "EVERY '1:30' DAY_HOUR STARTS '2036-02-29 12:00:00' ENDS '2037-12-31 00:00:00'",
        ],
        "status" => &[
            "ENABLE",
            "DISABLE",
            "DISABLE ON REPLICA",
            "ON COMPLETION PRESERVE",
            "ON COMPLETION PRESERVE DISABLE",
        ],
        "account" => &[
            "",
            "",
            "ACCOUNT LOCK",
            "REQUIRE SSL",
            "REQUIRE SUBJECT '{comment}'",
            "PASSWORD EXPIRE INTERVAL 30 DAY",
            "PASSWORD EXPIRE",
            "FAILED_LOGIN_ATTEMPTS 3 PASSWORD_LOCK_TIME UNBOUNDED",
            "WITH MAX_USER_CONNECTIONS 7",
            "COMMENT '{comment}'",
            "ATTRIBUTE '{\"a\": \"{comment}\"}'",
            "PASSWORD HISTORY 2 PASSWORD REUSE INTERVAL 4 DAY",
            "PASSWORD REQUIRE CURRENT",
        ],
        "right" => {
            &["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "REFERENCES", "ALL PRIVILEGES", "SHOW VIEW"]
        }
        "grantable" => &["", "WITH GRANT OPTION"],
        _ => &[],
    }
}

/// One statement.
pub(super) fn statement(random: &mut StdRng) -> String {
    let (_, text) = STATEMENTS.choose_weighted(random, |(weight, _)| *weight).expect("there are some");
    filled(text, random)
}

fn filled(text: &str, random: &mut StdRng) -> String {
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('{') {
        done.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find('}').map(|end| (&rest[1..end], end + 1));
        match end.map(|(name, end)| (pool(name).choose(random), end)) {
            Some((Some(choice), end)) => {
                done.push_str(&filled(choice, random));
                rest = &rest[end..];
            }
            _ => {
                done.push('{'); // of JSON
                rest = &rest[1..];
            }
        }
    }
    done.push_str(rest);
    done
}

/// What the others are about.
pub(super) fn beginning(random: &mut StdRng) -> Vec<String> {
    let mut made = Vec::new();
    for name in pool("d").iter().skip(1).take(3) {
        made.push(format!("CREATE DATABASE {name}"));
    }
    for user in pool("user") {
        made.push(filled(&format!("CREATE USER {user} IDENTIFIED BY 'x' {{account}}"), random));
    }
    let table = STATEMENTS.iter().find(|(_, text)| text.starts_with("CREATE TABLE")).expect("one").1;
    made.extend((0..12).map(|_| filled(table, random)));
    made
}

/// Between 40 and 120.
pub(super) fn statements(random: &mut StdRng) -> Vec<String> {
    let count = random.random_range(40..120);
    (0..count).map(|_| statement(random)).collect()
}

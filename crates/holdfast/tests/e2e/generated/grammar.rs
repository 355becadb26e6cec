//! Statements by chance. Many fail, as people's do; what counts is what the server has made of the others.

use holdfast_testkit::grammar::Grammar;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::DATABASES;

const GRAMMAR: Grammar = Grammar { statements: STATEMENTS, pool };
const STATEMENTS: &[(u32, &str)] = &[
    (2, "CREATE SCHEMA IF NOT EXISTS {s}"),
    (1, "DROP SCHEMA {s} CASCADE"),
    (1, "ALTER SCHEMA {s} RENAME TO {s}"),
    (
        12,
        "CREATE TABLE {t} (id {key} PRIMARY KEY, n {numeric}, s {textual}, x {filled}, \"y y\" {filled} {constraint})",
    ),
    (2, "CREATE TABLE {t} (LIKE {t} INCLUDING ALL)"),
    (2, "CREATE TABLE {t} AS SELECT * FROM {t}"),
    (2, "CREATE TABLE {t} (id int NOT NULL, n numeric, s text) PARTITION BY {partition} (id)"),
    (2, "CREATE TABLE {t} PARTITION OF {t} {bounds}"),
    (1, "CREATE TABLE {t} (extra text DEFAULT '{text}') INHERITS ({t})"),
    (1, "CREATE TEMPORARY TABLE {t} (id int)"),
    (3, "ALTER TABLE {t} ADD COLUMN {c} {filled}"),
    (2, "ALTER TABLE {t} DROP COLUMN {c} CASCADE"),
    (2, "ALTER TABLE {t} ALTER n TYPE {numeric}"),
    (2, "ALTER TABLE {t} ALTER s TYPE {textual}"),
    (1, "ALTER TABLE {t} RENAME COLUMN {c} TO {c}"),
    (2, "ALTER TABLE {t} RENAME TO {plain}"),
    (1, "ALTER TABLE {t} SET SCHEMA {s}"),
    (1, "ALTER TABLE {t} ALTER s SET STORAGE {storage}, ALTER n SET STATISTICS 77"),
    (2, "ALTER TABLE {t} ADD CONSTRAINT {c} {constraint2}"),
    (1, "ALTER TABLE {t} DETACH PARTITION {t}"),
    (1, "ALTER TABLE {t} SET (fillfactor = 55, autovacuum_enabled = off)"),
    (1, "ALTER TABLE {t} REPLICA IDENTITY FULL, ENABLE ROW LEVEL SECURITY"),
    (1, "ALTER TABLE {t} CLUSTER ON {c}"),
    (2, "CREATE POLICY {c} ON {t} USING (n > {number}) WITH CHECK (s <> '{text}')"),
    (4, "CREATE {unique} INDEX {c} ON {t} {method}"),
    (1, "CREATE INDEX CONCURRENTLY {c} ON {t} (n, s)"),
    (1, "REINDEX TABLE {t}"),
    (1, "DROP INDEX {c}"),
    (2, "CREATE STATISTICS {c} ON n, s FROM {t}"),
    (1, "CREATE SEQUENCE {c} INCREMENT {number} START 5 CYCLE MAXVALUE 70"),
    (2, "SELECT nextval('{c}')"),
    (1, "ALTER SEQUENCE {c} AS smallint OWNED BY {t}.n"),
    (
        16,
        "INSERT INTO {t} (id, n, s) VALUES ({number}, {number}, '{text}'), ({number}, NULL, '{text}') ON CONFLICT DO NOTHING",
    ),
    (
        6,
        "INSERT INTO {t} (id, s) SELECT g, '{text}' || repeat('{text}', g) FROM generate_series({number}, {number}) g ON CONFLICT DO NOTHING",
    ),
    (3, "INSERT INTO {t} DEFAULT VALUES"),
    (4, "UPDATE {t} SET n = n + {number}, s = '{text}' WHERE id % 2 = 0"),
    (2, "DELETE FROM {t} WHERE n IS NULL"),
    (1, "TRUNCATE {t} RESTART IDENTITY CASCADE"),
    (2, "DROP TABLE {t} CASCADE"),
    (1, "VACUUM (FULL, ANALYZE) {t}"),
    (3, "BEGIN"),
    (2, "SAVEPOINT {c}"),
    (1, "ROLLBACK TO {c}"),
    (3, "COMMIT"),
    (1, "ROLLBACK"),
    (3, "CREATE OR REPLACE VIEW {t} AS SELECT id, n, '{text}' AS fixed FROM {t}"),
    (1, "CREATE RECURSIVE VIEW {c} (i) AS VALUES (1) UNION ALL SELECT i + 1 FROM {c} WHERE i < 5"),
    (2, "CREATE MATERIALIZED VIEW {t} AS SELECT id, random() AS r, now() AS at FROM {t}"),
    (1, "REFRESH MATERIALIZED VIEW {t}"),
    (1, "CREATE RULE {c} AS ON DELETE TO {t} DO INSTEAD NOTHING"),
    (
        2,
        "CREATE OR REPLACE FUNCTION {f}() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN NEW.s := '{text}' || NEW.n; RETURN NEW; END $x$",
    ),
    (2, "CREATE TRIGGER {c} BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {f}()"),
    (1, "ALTER TABLE {t} DISABLE TRIGGER {c}"),
    (
        2,
        "CREATE OR REPLACE FUNCTION {f}(a int, VARIADIC b text[]) RETURNS SETOF text {volatility} AS $$ SELECT '{text}' $$ LANGUAGE sql",
    ),
    (1, "CREATE PROCEDURE {f}(INOUT a numeric) LANGUAGE sql BEGIN ATOMIC SELECT a + {number}; END"),
    (1, "CREATE AGGREGATE {c} (numeric) (SFUNC = numeric_add, STYPE = numeric, INITCOND = '{number}')"),
    (1, "CREATE OPERATOR ==> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq, COMMUTATOR = OPERATOR(==>))"),
    (1, "CREATE CAST (mood AS int) WITH INOUT AS ASSIGNMENT"),
    (2, "CREATE TYPE mood AS ENUM ('sad', '{text}')"),
    (1, "ALTER TYPE mood ADD VALUE '{text}' BEFORE 'sad'"),
    (1, "CREATE TYPE pair AS (a int, b text COLLATE \"C\")"),
    (1, "CREATE TYPE span AS RANGE (subtype = float8)"),
    (1, "CREATE DOMAIN small AS int DEFAULT 3 CHECK (VALUE < 100)"),
    (1, "CREATE COLLATION {c} (provider = builtin, locale = 'C.UTF-8')"),
    (1, "CREATE TEXT SEARCH CONFIGURATION {c} (COPY = pg_catalog.german)"),
    (1, "CREATE EXTENSION IF NOT EXISTS {extension}"),
    (1, "DROP EXTENSION {extension} CASCADE"),
    (3, "COMMENT ON {commented} IS '{text}'"),
    (2, "SELECT lo_from_bytea({number}, decode('00ff0a5c27', 'hex'))"),
    (1, "SELECT lo_put({number}, 100000, 'x')"),
    (1, "SELECT lo_unlink({number})"),
    (2, "CREATE ROLE {r} {attributes}"),
    (1, "ALTER ROLE {r} {attributes}"),
    (1, "ALTER ROLE {r} IN DATABASE \"d b\" SET search_path = {s}, public"),
    (1, "ALTER ROLE {r} RENAME TO {r}"),
    (1, "DROP ROLE {r}"),
    (2, "GRANT {r} TO {r} WITH ADMIN TRUE, INHERIT FALSE"),
    (3, "GRANT {right} ON {t} TO {r} WITH GRANT OPTION"),
    (1, "GRANT SELECT (n), UPDATE (s) ON {t} TO {r}"),
    (1, "GRANT USAGE, CREATE ON SCHEMA {s} TO {r}"),
    (1, "REVOKE {right} ON {t} FROM {r} CASCADE"),
    (1, "ALTER DEFAULT PRIVILEGES IN SCHEMA {s} GRANT SELECT ON TABLES TO {r}"),
    (1, "ALTER DATABASE \"d b\" SET statement_timeout = '7min'"),
    (1, "ALTER DATABASE \"d b\" CONNECTION LIMIT 9"),
    (1, "CREATE PUBLICATION {c} FOR TABLE {t} WHERE (n > 1)"),
    (1, "SELECT pg_switch_wal()"),
    (1, "CREATE DATABASE {c} TEMPLATE template0"),
    (1, "DROP DATABASE {c}"),
];

fn pool(name: &str) -> &'static [&'static str] {
    match name {
        "s" => &["public", "\"s 1\"", "\"Ü.%\"", "\"quo\"\"te'\""],
        "t" => &[
            "t",
            "\"T\"",
            "\"a.b\"",
            "\"s 1\".t",
            "\"Ü.%\".\"new\nline\"",
            "part",
            "\"quo\"\"te'\".\"\\x\"",
            "u",
        ],
        "plain" => &["t", "\"T\"", "\"a.b\"", "\"new\nline\"", "part", "u"],
        "c" => &["n", "s", "x", "\"y y\"", "\"C-c\"", "\"$$\"", "\"é;--\""],
        "f" => &["f", "\"F f\"", "\"s 1\".\"$x$\""],
        "r" => &["r", "\"R r\"", "\"it's\"", "\"ü\"\"\""],
        "key" => &[
            "int",
            "bigint",
            "smallint",
            "numeric",
            "serial",
            "int GENERATED ALWAYS AS IDENTITY",
            "int GENERATED BY DEFAULT AS IDENTITY (START 7)",
        ],
        "numeric" => &["int", "bigint", "smallint", "numeric", "numeric(20,5)", "real", "float8"],
        "textual" => &[
            "text",
            "varchar(60)",
            "text COLLATE \"C\"",
            "text COMPRESSION pglz",
            "text NOT NULL DEFAULT '{text}'",
        ],
        "filled" => &[
            "timestamptz DEFAULT clock_timestamp()",
            "uuid DEFAULT gen_random_uuid()",
            "float8 DEFAULT random()",
            "float4 DEFAULT '-0'",
            "float8 DEFAULT 'NaN'",
            "numeric DEFAULT 'Infinity'",
            "bytea DEFAULT decode('00ff5c270a', 'hex')",
            "int[] DEFAULT '{1,NULL,3}'",
            "text[] DEFAULT ARRAY['{text}', NULL, '']",
            "jsonb DEFAULT '{\"k\": [1.10, null, \"ä\"], \"k2\": 1e400}'",
            "json DEFAULT '{\"b\":1, \"a\" : 2,  \"b\":3}'",
            "date DEFAULT '-infinity'",
            "timestamp DEFAULT '4714-11-24 00:00:00 BC'",
            "interval DEFAULT '-1 year 2 mons -3 days 04:05:06.789'",
            "timetz DEFAULT '24:00:00+15:59'",
            "inet DEFAULT '::1/64'",
            "bit(5) DEFAULT B'10101'",
            "tsvector DEFAULT 'fat:2B cat:3'::tsvector",
            "int4multirange DEFAULT '{[1,5), [8,)}'",
            "tstzrange DEFAULT tstzrange(now(), NULL)",
            "polygon DEFAULT '((0,0),(1.5,1),(1e-300,2))'",
            "\"char\" DEFAULT 'x'",
            "money DEFAULT 1.5",
            "mood",
            "pair DEFAULT ROW(1, '{text}')",
            "small",
            "span DEFAULT '[1.5,2)'",
            "hstore DEFAULT 'a=>1'",
            "numeric GENERATED ALWAYS AS (id * 2) STORED",
        ],
        "constraint" => &[
            "",
            "",
            ", UNIQUE (n, s)",
            ", CHECK (n IS DISTINCT FROM 13)",
            ", EXCLUDE USING btree (n WITH =)",
        ],
        "constraint2" => &[
            "CHECK (s <> '{text}') NOT VALID",
            "UNIQUE NULLS NOT DISTINCT (s)",
            "FOREIGN KEY (id) REFERENCES {t} (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
            "FOREIGN KEY (n) REFERENCES {t} (id) NOT VALID",
        ],
        "partition" => &["RANGE", "LIST", "HASH"],
        "bounds" => &[
            "DEFAULT",
            "FOR VALUES FROM (1) TO (10)",
            "FOR VALUES FROM (10) TO (MAXVALUE) PARTITION BY HASH (n)",
            "FOR VALUES IN (1, 2, NULL)",
            "FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        ],
        "storage" => &["EXTERNAL", "MAIN", "PLAIN"],
        "unique" => &["", "UNIQUE"],
        "method" => &[
            "(n)",
            "(s DESC NULLS LAST) INCLUDE (n)",
            "(lower(s))",
            "(n) WHERE s <> '{text}'",
            "USING hash (s)",
            "USING brin (n)",
            "USING gin (to_tsvector('simple', s))",
            "(s COLLATE \"C\" text_pattern_ops)",
        ],
        "number" => &["0", "1", "2", "3", "7", "12", "50", "-1"],
        "text" => &[
            "",
            "a",
            "it''s",
            "\\\\.",
            "\\.",
            "ä ö",
            "😀",
            "$$",
            "; DROP TABLE t; --",
            "new\nline",
            "tab\t",
            "\"q\"",
            "0",
        ],
        "volatility" => &[
            "IMMUTABLE PARALLEL SAFE",
            "STABLE SECURITY DEFINER SET search_path = pg_catalog",
            "VOLATILE COST 7 ROWS 9",
        ],
        "extension" => &["hstore", "pg_trgm", "citext", "\"uuid-ossp\"", "pgcrypto", "btree_gist"],
        "commented" => &[
            "TABLE {t}",
            "COLUMN {t}.{c}",
            "SCHEMA {s}",
            "ROLE {r}",
            "DATABASE \"d b\"",
            "INDEX {c}",
            "TYPE mood",
            "VIEW {t}",
        ],
        "attributes" => &[
            "",
            "LOGIN PASSWORD '{text}'",
            "CREATEDB CONNECTION LIMIT 3",
            "NOINHERIT VALID UNTIL '2037-01-01'",
        ],
        "right" => &["SELECT", "INSERT, UPDATE", "ALL", "TRUNCATE", "REFERENCES, TRIGGER, MAINTAIN"],
        _ => &[],
    }
}

/// Each with the number of its database.
fn placed(random: &mut StdRng, statements: Vec<String>) -> Vec<(usize, String)> {
    statements.into_iter().map(|text| (random.random_range(0..DATABASES.len()), text)).collect()
}

/// What the others are about.
pub(super) fn beginning(random: &mut StdRng) -> Vec<(usize, String)> {
    let mut made = Vec::new();
    for database in 0..DATABASES.len() {
        for start in ["CREATE SCHEMA", "CREATE TYPE", "CREATE DOMAIN", "CREATE EXTENSION", "CREATE ROLE"] {
            let all = STATEMENTS.iter().filter(|(_, text)| text.starts_with(start));
            made.extend(all.map(|(_, text)| (database, GRAMMAR.filled(text, random))));
        }
        let table = STATEMENTS.iter().find(|(_, text)| text.starts_with("CREATE TABLE")).expect("one").1;
        made.extend((0..12).map(|_| (database, GRAMMAR.filled(table, random))));
    }
    made
}

pub(super) fn statements(random: &mut StdRng) -> Vec<(usize, String)> {
    let statements = GRAMMAR.statements(random, 80..200);
    placed(random, statements)
}

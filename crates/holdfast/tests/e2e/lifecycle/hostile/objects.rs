//! What a tenant can put in the way, in statements.

/// What a program that ran would have made.
pub(super) const WAS_HERE: &str = "/tmp/hostile-was-here";

/// What the agent, pgBackRest and PostgreSQL's own tools call in `postgres`: each gets a namesake that springs the trap and then
/// does the same.
const FUNCTIONS: &str = "pg_last_committed_xact pg_current_wal_insert_lsn pg_walfile_name pg_switch_wal pg_logical_emit_message \
     pg_reload_conf pg_conf_load_time pg_is_in_recovery pg_database_size pg_terminate_backend pg_blocking_pids pg_backend_pid \
     pg_backup_start pg_backup_stop pg_create_restore_point pg_try_advisory_lock current_setting set_config clock_timestamp";

/// What they read.
const RELATIONS: &str =
    "pg_database pg_settings pg_roles pg_stat_activity pg_stat_database pg_stat_archiver pg_tablespace";

/// Names that a shell, a list of lines or a statement would take for more.
pub(super) const NAMES: &[&str] = &[
    "$(touch /tmp/hostile-was-here)",
    "x'; ALTER ROLE app_user SUPERUSER; --",
    "x\"; ALTER ROLE app_user SUPERUSER; --",
    "`touch /tmp/hostile-was-here`",
    "--set=evil",
    "/etc/passwd",
    "../../../conf/x",
    "%p %f",
    "\\! id",
    "{\"a\":1}",
];

/// Whoever runs this leaves a row, and makes the tenant a superuser if it can. To run once in each database, as its owner.
const TRAP: &str = r"
    CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil, public TO PUBLIC;
    CREATE TABLE evil.traces (what text, session_user_ text, current_user_ text);
    GRANT ALL ON evil.traces TO PUBLIC;
    CREATE FUNCTION evil.spring(what text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog AS $$
    BEGIN
        INSERT INTO evil.traces VALUES (what, session_user, current_user);
        BEGIN ALTER ROLE app_user SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
        BEGIN COPY (SELECT 1) TO PROGRAM 'touch /tmp/hostile-was-here'; EXCEPTION WHEN OTHERS THEN NULL; END;
        RETURN true;
    END $$;
    CREATE FUNCTION evil.lie(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN PERFORM evil.spring('an expression'); RETURN n; END $$;
    CREATE FUNCTION evil.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring('a trigger'); RETURN NEW; END $$;
    CREATE FUNCTION evil.same(name, text) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN PERFORM evil.spring('an operator'); RETURN true; END $$;
    CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.same);
    CREATE OPERATOR evil.<> (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.same);
    CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.same);
    CREATE TYPE evil.t AS (n integer);
    CREATE FUNCTION evil.as_t(text) RETURNS evil.t LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.spring('a cast'); RETURN NULL; END $$;
    CREATE CAST (text AS evil.t) WITH FUNCTION evil.as_t(text) AS IMPLICIT;
    CREATE DOMAIN evil.d AS integer CHECK (evil.lie(VALUE) IS DISTINCT FROM 0);
    CREATE TABLE evil.busy (n integer DEFAULT evil.lie(1) CHECK (evil.lie(n) IS NOT NULL), d evil.d,
        twice integer GENERATED ALWAYS AS (evil.lie(n)) STORED) WITH (autovacuum_analyze_threshold = 1);
    CREATE INDEX ON evil.busy (evil.lie(n)) WHERE evil.lie(n) > 0;
    CREATE STATISTICS evil.s ON evil.lie(n), n FROM evil.busy;
    CREATE TRIGGER each AFTER INSERT ON evil.busy FOR EACH STATEMENT EXECUTE FUNCTION evil.fire();
    CREATE RULE also AS ON UPDATE TO evil.busy DO ALSO SELECT evil.spring('a rule');
    ALTER TABLE evil.busy ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON evil.busy USING (evil.lie(n) IS NOT NULL);
    CREATE MATERIALIZED VIEW evil.m AS SELECT evil.lie(1) AS n;
    INSERT INTO evil.busy SELECT generate_series(1, 100);
    COMMENT ON SCHEMA evil IS '''; ALTER ROLE app_user SUPERUSER; --';
";

/// Makes the namesakes.
const NAMESAKES: &str = r"
    DO $do$ DECLARE space text; f record; relation text; BEGIN
        FOREACH space IN ARRAY ARRAY['evil', 'public'] LOOP
            FOR f IN SELECT proname, pg_get_function_arguments(oid) AS arguments, pg_get_function_result(oid) AS result,
                (SELECT string_agg('$' || n, ', ' ORDER BY n) FROM generate_series(1, pronargs) n) AS given
                FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (string_to_array('FUNCTIONS', ' '))
            LOOP
                EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE sql AS %L', space, f.proname, f.arguments, f.result,
                    format('SELECT evil.spring(%L); SELECT * FROM pg_catalog.%I(%s)', f.proname, f.proname, f.given));
            END LOOP;
            FOREACH relation IN ARRAY string_to_array('RELATIONS', ' ') LOOP
                EXECUTE format('CREATE VIEW %I.%I AS SELECT * FROM pg_catalog.%I WHERE evil.spring(%L)', space, relation, relation, relation);
            END LOOP;
        END LOOP;
    END $do$";

/// All of it.
pub(super) fn trap() -> String {
    TRAP.to_owned() + &NAMESAKES.replace("FUNCTIONS", FUNCTIONS).replace("RELATIONS", RELATIONS)
}

/// Where the traps would be looked for first.
pub(super) const PATHS: &[&str] = &[
    "ALTER ROLE app_user SET search_path = evil, public, pg_catalog",
    "ALTER DATABASE defaultdb SET search_path = evil, public, pg_catalog",
    "ALTER ROLE ALL IN DATABASE defaultdb SET search_path = evil, public, pg_catalog",
    "ALTER DATABASE x SET local_preload_libraries = 'x'",
    "ALTER DATABASE x SET role = postgres",
    "ALTER DATABASE x SET default_transaction_read_only = on",
    "ALTER DATABASE x IS_TEMPLATE true",
    "GRANT CONNECT ON DATABASE postgres TO app_user", // with a warning that nothing was granted
];

/// What would put a trap before the agent, or an account of more rights beside it. Each is refused for want of rights.
pub(super) const REFUSED: &[&str] = &[
    "ALTER ROLE postgres SET search_path = evil",
    "ALTER ROLE postgres IN DATABASE defaultdb SET search_path = evil",
    "ALTER ROLE ALL SET search_path = evil",
    "ALTER ROLE app_user SET session_preload_libraries = 'x'",
    "ALTER ROLE app_user NOLOGIN",
    "ALTER ROLE app_user VALID UNTIL '2001-01-01'",
    "ALTER ROLE app_user CONNECTION LIMIT 0",
    "ALTER ROLE admin PASSWORD 'x'",
    "DROP ROLE admin",
    "GRANT admin TO app_user",
    "GRANT postgres TO app_user",
    "GRANT pg_monitor TO app_user",
    "CREATE ROLE r IN ROLE postgres",
    "COMMENT ON ROLE postgres IS 'x'",
    "ALTER DATABASE postgres SET search_path = evil",
    "ALTER DATABASE template1 SET search_path = evil",
    "ALTER DATABASE template1 IS_TEMPLATE false",
    "COMMENT ON DATABASE postgres IS 'x'",
    "CREATE DATABASE stolen TEMPLATE postgres",
    "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION evil.fire()",
    "CREATE TABLESPACE t LOCATION '/tmp'",
    "CREATE PUBLICATION p FOR ALL TABLES",
    "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p",
    "SELECT pg_catalog.pg_create_logical_replication_slot('s', 'test_decoding')",
    "SELECT pg_catalog.pg_create_physical_replication_slot('s')",
    "SELECT pg_catalog.pg_create_restore_point('x')",
    "SELECT pg_catalog.pg_backup_start('x')",
    "SELECT pg_catalog.pg_promote()",
    "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename OPERATOR(pg_catalog.=) 'postgres'",
    "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename OPERATOR(pg_catalog.=) 'postgres'",
    "SELECT pg_catalog.pg_stat_reset_shared('archiver')",
    "CREATE FUNCTION pg_catalog.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE TRIGGER t BEFORE INSERT ON pg_catalog.pg_authid EXECUTE FUNCTION evil.fire()",
    "CREATE RULE r AS ON SELECT TO pg_catalog.pg_database DO INSTEAD SELECT 1",
    "CREATE INDEX ON pg_catalog.pg_database (evil.lie(1))",
    "CREATE STATISTICS s ON oid, datname FROM pg_catalog.pg_database",
    "SET session_replication_role = replica",
    "LOAD 'auto_explain'",
    "CREATE EXTENSION dblink",
    "CREATE LANGUAGE plpython3u",
    "COPY evil.traces FROM PROGRAM 'id'",
];

/// The same where every new database comes from. Nothing but [`LEFT_IN_TEMPLATE`] stays there.
pub(super) const REFUSED_IN_TEMPLATE: &[&str] = &[
    "CREATE TABLE t ()",
    "CREATE TEMPORARY TABLE t ()",
    "CREATE SCHEMA s",
    "CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION hstore",
    "CREATE PUBLICATION p",
    "CREATE EVENT TRIGGER e ON login EXECUTE FUNCTION f()",
];
pub(super) const LEFT_IN_TEMPLATE: &[&str] =
    &["SELECT lo_from_bytea(0, 'left')", "ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC"];

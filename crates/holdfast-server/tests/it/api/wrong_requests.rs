//! The wrong requests of `bad_input`: method, path, credentials, body, and the status and text that they deserve.
//! `{running}` and the like stand for ids of `bad_input`'s platform.

use crate::api::harness::{MAX_BODY_BYTES, PASSWORD, basic};

/// What is sent as the body.
#[derive(Clone)]
pub(crate) enum Sent {
    Nothing,
    Text(String),
    Bytes(Vec<u8>),
    /// In pieces, without a length.
    Chunks(Vec<Vec<u8>>),
    /// Breaks off.
    Broken,
}

pub(crate) struct Row {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) authorization: Option<Vec<u8>>,
    pub(crate) header: Option<(&'static str, Vec<u8>)>,
    pub(crate) body: Sent,
    pub(crate) status: u16,
    pub(crate) part: String,
}

/// A row with good credentials.
fn row(method: &'static str, path: &str, body: Sent, status: u16, part: &str) -> Row {
    Row {
        method,
        path: path.to_owned(),
        authorization: Some(basic("admin", PASSWORD).into_bytes()),
        header: None,
        body,
        status,
        part: part.to_owned(),
    }
}

fn json(text: &str) -> Sent {
    Sent::Text(text.to_owned())
}

const CREATE: &str = "/managed-services";
const NAME_RULE: &str = "must be 3 to 63 characters of lower-case letters, digits and hyphens, and start and end with a \
                         letter or digit";

/// A create body with one field set to this JSON.
fn create_with(field: &str, value: &str) -> Sent {
    let mut fields =
        vec![("name", "\"new-one\""), ("database_type", "\"postgresql\""), ("plan_name", "\"tier-1\"")];
    fields.retain(|(name, _)| *name != field);
    fields.push((field, value));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    Sent::Text(format!("{{{}}}", fields.join(",")))
}

pub(crate) fn bodies_that_are_no_objects() -> Vec<Row> {
    let deep = "[".repeat(5000);
    let deep_object = format!("{{\"labels\":{}", "{\"a\":".repeat(200));
    let all: Vec<(Sent, u16, &str)> = vec![
        (json("{"), 400, "the body is no valid JSON: EOF while parsing an object"),
        (json("{\"name\":\"abc\""), 400, "the body is no valid JSON: EOF while parsing an object"),
        (json("{\"name\" \"abc\"}"), 400, "the body is no valid JSON: expected `:`"),
        (json("{'name':'abc'}"), 400, "the body is no valid JSON: key must be a string"),
        (json("{\"name\":\"abc\",}"), 400, "the body is no valid JSON: trailing comma"),
        (json("{} {}"), 400, "the body is no valid JSON: trailing characters"),
        (json("{\"name\":NaN}"), 400, "the body is no valid JSON: expected value"),
        (json("[]"), 400, "the body must be a JSON object"),
        (json("[\"a\",\"postgresql\",\"tier-1\"]"), 400, "the body must be a JSON object"),
        (json("null"), 400, "name is required"),
        (json("\"name\""), 400, "the body must be a JSON object"),
        (json("17"), 400, "the body must be a JSON object"),
        (json("true"), 400, "the body must be a JSON object"),
        (json("name=abc&database_type=postgresql"), 400, "the body is no valid JSON: expected ident"),
        (json("<service/>"), 400, "the body is no valid JSON: expected value"),
        (json("\u{feff}{}"), 400, "the body is no valid JSON: expected value"),
        (json(&deep), 400, "the body is no valid JSON: EOF while parsing a list"),
        (json(&deep_object), 400, "labels.a: invalid type: map, expected a string"),
        (Sent::Bytes(b"\xff\xfe{\0}\0".to_vec()), 400, "the body is not UTF-8"),
        (Sent::Bytes(b"{\"name\":\"a\xffc\"}".to_vec()), 400, "the body is not UTF-8"),
        (Sent::Bytes(b"{\"unknown\":\"\xc3\x28\"}".to_vec()), 400, "the body is not UTF-8"),
        (Sent::Bytes(b"\0".to_vec()), 400, "the body is no valid JSON: expected value"),
        (json("{\"name\":\"\\ud800\"}"), 400, "the body is no valid JSON: unexpected end of hex escape"),
        (json("{\"name\":\"a\nb\"}"), 400, "the body is no valid JSON: control character"),
        (
            Sent::Chunks(vec![b"{\"na".to_vec(), b"me\":".to_vec(), b"1}".to_vec()]),
            400,
            "name: invalid type: integer `1`",
        ),
        (Sent::Chunks(vec![vec![b' '; 1024]; 100]), 413, "the body is too large"),
        (Sent::Bytes(vec![b'{'; MAX_BODY_BYTES + 1]), 413, "the body is too large"),
        (json(&format!("{{\"name\":\"{}\"}}", "x".repeat(10 * 1024 * 1024))), 413, "the body is too large"),
        (Sent::Broken, 400, "the body could not be read to its end"),
    ];
    all.into_iter().map(|(body, status, part)| row("POST", CREATE, body, status, part)).collect()
}

pub(crate) fn services_that_cannot_be() -> Vec<Row> {
    let name = format!("name {NAME_RULE}");
    let name = name.as_str();
    let long = format!("\"{}\"", "x".repeat(64));
    let longer_label = format!("\"{}\"", "x".repeat(201));
    let many = format!("[{}]", vec!["\"10.0.0.0/8\""; 257].join(","));
    let labels: Vec<String> = (0..65).map(|n| format!("\"l{n}\":\"x\"")).collect();
    let labels = format!("{{{}}}", labels.join(","));
    let all: Vec<(&str, &str, &str)> = vec![
        ("name", "null", "name is required"),
        ("name", "\"\"", "name is required"),
        ("name", "\"ab\"", name),
        ("name", &long, name),
        ("name", "\"-abc\"", name),
        ("name", "\"abc-\"", name),
        ("name", "\"My-Service\"", name),
        ("name", "\"my service\"", name),
        ("name", "\"abc\\n\"", name),
        ("name", "\"abc\\u0000\"", name),
        ("name", "\"'; drop table services; --\"", name),
        ("name", "\"../../etc/passwd\"", name),
        ("name", "\"$(reboot)\"", name),
        ("name", "\"`reboot`\"", name),
        ("name", "\"a%2e%2e\"", name),
        ("name", "\"<script>alert(1)</script>\"", name),
        ("name", "\"größe\"", name),
        ("name", "\"база-данных\"", name),
        ("name", "\"🐘🐘🐘\"", name),
        ("name", "\"\\u202ecba\"", name),
        ("name", "\"ａｂｃ\"", name),
        ("name", "42", "name: invalid type: integer `42`, expected a string"),
        ("name", "[\"abc\"]", "name: invalid type: sequence, expected a string"),
        ("name", "{\"$ne\":null}", "name: invalid type: map, expected a string"),
        ("name", "true", "name: invalid type: boolean `true`, expected a string"),
        ("database_type", "null", "database_type is required"),
        ("database_type", "\"oracle\"", "unknown database_type \"oracle\"; known: postgresql, mysql"),
        ("database_type", "\"postgresql\\u0000\"", "unknown database_type \"postgresql\\0\""),
        ("plan_name", "null", "plan_name is required"),
        ("plan_name", "\"tier-0\"", "unknown plan_name \"tier-0\"; known: tier-1 to tier-16"),
        ("plan_name", "\"tier-17\"", "unknown plan_name \"tier-17\"; known: tier-1 to tier-16"),
        ("plan_name", "\"Tier-1\"", "unknown plan_name \"Tier-1\"; known: tier-1 to tier-16"),
        ("plan_name", "1", "plan_name: invalid type: integer `1`, expected a string"),
        ("version", "\"9\"", "unknown version \"9\" of postgresql; available: 17, 18"),
        ("version", "\"17.1\"", "unknown version \"17.1\" of postgresql; available: 17, 18"),
        ("version", "17", "version: invalid type: integer `17`, expected a string"),
        ("zone", "\"nowhere\"", "unknown zone \"nowhere\"; a zone looks like se-sto1"),
        ("zone", "\"se-sto1/..\"", "unknown zone \"se-sto1/..\"; a zone looks like se-sto1"),
        ("zone", "\"SE-STO1\"", "unknown zone \"SE-STO1\"; a zone looks like se-sto1"),
        ("storage_size_gb", "9", "storage_size_gb must be between 10 and 16384"),
        ("storage_size_gb", "16385", "storage_size_gb must be between 10 and 16384"),
        ("storage_size_gb", "0", "storage_size_gb must be between 10 and 16384"),
        ("storage_size_gb", "-1", "storage_size_gb: invalid value: integer `-1`, expected u32"),
        ("storage_size_gb", "50.5", "storage_size_gb: invalid type: floating point `50.5`, expected u32"),
        ("storage_size_gb", "\"50\"", "storage_size_gb: invalid type: string \"50\", expected u32"),
        (
            "storage_size_gb",
            "4294967296",
            "storage_size_gb: invalid value: integer `4294967296`, expected u32",
        ),
        ("storage_size_gb", "99999999999999999999999", "storage_size_gb: invalid type: floating point"),
        ("storage_size_gb", "1e999", "the body is no valid JSON: number out of range"),
        ("storage_tier", "\"fast\"", "unknown storage_tier \"fast\"; known: maxiops, standard"),
        ("node_count", "0", "node_count must be between 1 and 9"),
        ("node_count", "10", "node_count must be between 1 and 9"),
        (
            "auto_failover_enabled",
            "\"yes\"",
            "auto_failover_enabled: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "auto_failover_enabled",
            "1",
            "auto_failover_enabled: invalid type: integer `1`, expected a boolean",
        ),
        ("replication_mode", "\"later\"", "unknown replication_mode \"later\"; known: async, sync"),
        (
            "allowed_cidrs",
            "\"10.0.0.0/8\"",
            "allowed_cidrs: invalid type: string \"10.0.0.0/8\", expected a sequence",
        ),
        (
            "allowed_cidrs",
            "[\"10.0.0.0/8\",7]",
            "allowed_cidrs[1]: invalid type: integer `7`, expected a string",
        ),
        ("allowed_cidrs", "[null]", "allowed_cidrs[0]: invalid type: null, expected a string"),
        ("allowed_cidrs", "[\"10.0.0.1\"]", "allowed_cidrs[0]: \"10.0.0.1\" is no network in CIDR notation"),
        (
            "allowed_cidrs",
            "[\"0.0.0.0/0\",\"10.0.0.0/33\"]",
            "allowed_cidrs[1]: \"10.0.0.0/33\" is no network",
        ),
        (
            "allowed_cidrs",
            "[\"10.0.0.0/8 trust\\nhost all all 0.0.0.0/0\"]",
            "is no network in CIDR notation",
        ),
        ("allowed_cidrs", "[\"::/129\"]", "allowed_cidrs[0]: \"::/129\" is no network in CIDR notation"),
        ("allowed_cidrs", &many, "allowed_cidrs must be at most 256"),
        ("maintenance_window", "\"whenever\"", "maintenance_window must look like sun:03:00-sun:05:00"),
        (
            "maintenance_window",
            "{\"day\":\"sun\"}",
            "maintenance_window: invalid type: map, expected a string",
        ),
        ("labels", "[]", "labels: invalid type: sequence, expected a map"),
        ("labels", "{\"a\":1}", "labels.a: invalid type: integer `1`, expected a string"),
        ("labels", "{\"\":\"x\"}", "labels must not have an empty name"),
        ("labels", "{\"a\":\"x\\u0000\"}", "labels must not hold control characters"),
        ("labels", &labels, "labels must be at most 64"),
        (
            "preset",
            "\"agent-postgresql-rag\"",
            "unknown preset \"agent-postgresql-rag\"; this server has none",
        ),
        ("ttl_hours", "0", "ttl_hours must be between 1 and 720"),
        ("ttl_hours", "721", "ttl_hours must be between 1 and 720"),
        ("agent_purpose", &longer_label, "agent_purpose must be at most 200 characters long"),
        ("agent_framework", "\"\\u001b[31m\"", "agent_framework must not hold control characters"),
    ];
    let mut rows: Vec<Row> = (all.into_iter())
        .map(|(field, value, part)| row("POST", CREATE, create_with(field, value), 400, part))
        .collect();
    rows.push(row("POST", CREATE, Sent::Nothing, 400, "name is required"));
    rows.push(row("POST", "/managed-services/", json("{}"), 400, "name is required"));
    let twice = r#"{"name":"abc","name":"abd","database_type":"postgresql","plan_name":"tier-1"}"#;
    rows.push(row("POST", CREATE, json(twice), 400, "duplicate field `name`"));
    rows.push(row(
        "POST",
        CREATE,
        create_with("name", "\"running\""),
        409,
        "a service named \"running\" exists already",
    ));
    rows
}

pub(crate) fn credentials() -> Vec<Row> {
    let required = "credentials are required: HTTP Basic";
    let no_basic = "the Authorization header is no HTTP Basic";
    let wrong = "wrong user or password";
    let all: Vec<(Option<Vec<u8>>, &str)> = vec![
        (None, required),
        (Some(basic("admin", "wrong").into_bytes()), wrong),
        (Some(basic("admin", "").into_bytes()), wrong),
        (Some(basic("", PASSWORD).into_bytes()), wrong),
        (Some(basic("root", PASSWORD).into_bytes()), wrong),
        (Some(basic("admin' or '1'='1", PASSWORD).into_bytes()), wrong),
        (Some(basic("admin", &"x".repeat(2000)).into_bytes()), wrong),
        (Some(basic("admin", &"x".repeat(5000)).into_bytes()), no_basic),
        (Some(b"Basic".to_vec()), no_basic),
        (Some(b"Basic ".to_vec()), no_basic),
        (Some(b"Basic !!!!".to_vec()), no_basic),
        (Some(b"Basic YWRtaW4=".to_vec()), no_basic), // "admin", no colon
        (Some(b"Bearer fdb_live_abc".to_vec()), no_basic),
        (Some(b"Digest username=\"admin\"".to_vec()), no_basic),
        (Some(b"\xff\xfe\xfd\xfc\xfb\xfa\xf9".to_vec()), no_basic),
    ];
    let mut rows: Vec<Row> = (all.into_iter())
        .map(|(authorization, part)| Row { authorization, ..row("GET", CREATE, Sent::Nothing, 401, part) })
        .collect();
    // Whatever else is wrong, strangers learn nothing of it.
    for (method, path) in [
        ("POST", "/managed-services"),
        ("DELETE", "/managed-services/{running}"),
        ("DELETE", "/managed-services/no-id"),
        ("POST", "/managed-services/{running}/backups/restore"),
        ("POST", "/managed-services/{running}/database-users/app_user/reveal-password"),
        ("GET", "/jobs"),
        ("GET", "/auth/me"),
    ] {
        rows.push(Row { authorization: None, ..row(method, path, json("{"), 401, required) });
    }
    for bad in [&b"no-such-org"[..], b"00000000-0000-0000-0000-000000000000", b"\xff\xff", b"' or 1=1"] {
        let part = "X-Active-Org-ID names no organization that you are a member of";
        for (method, path) in [("GET", CREATE), ("POST", CREATE)] {
            let header = Some(("x-active-org-id", bad.to_vec()));
            rows.push(Row { header, ..row(method, path, create_with("zone", "null"), 403, part) });
        }
    }
    rows
}

pub(crate) fn addresses() -> Vec<Row> {
    let no_service = "no such service";
    let none = "there is nothing at this path";
    let method = "this path does not take that method";
    let unknown = "00000000-0000-4000-8000-000000000000";
    let all: Vec<(&'static str, String, u16, &str)> = vec![
        ("GET", format!("/managed-services/{unknown}"), 404, no_service),
        ("GET", "/managed-services/running".to_owned(), 404, no_service),
        ("GET", "/managed-services/{RUNNING}".to_owned(), 404, no_service),
        ("GET", "/managed-services/%00".to_owned(), 404, no_service),
        ("GET", "/managed-services/%ff%fe".to_owned(), 404, no_service),
        ("GET", "/managed-services/..%2f..%2fetc%2fpasswd".to_owned(), 404, no_service),
        ("GET", "/managed-services/'%20or%20'1'='1".to_owned(), 404, no_service),
        ("GET", "/managed-services/%F0%9F%90%98".to_owned(), 404, no_service),
        ("GET", format!("/managed-services/{}", "x".repeat(5000)), 404, no_service),
        ("GET", "/managed-services/{deleted}".to_owned(), 404, no_service),
        ("PATCH", format!("/managed-services/{unknown}"), 404, no_service),
        ("DELETE", format!("/managed-services/{unknown}"), 404, no_service),
        ("DELETE", "/managed-services/{deleted}".to_owned(), 404, no_service),
        ("POST", format!("/managed-services/{unknown}/stop"), 404, no_service),
        ("POST", format!("/managed-services/{unknown}/backups"), 404, no_service),
        ("POST", "/managed-services/{deleted}/backups".to_owned(), 404, no_service),
        ("GET", format!("/managed-services/{unknown}/metrics"), 404, no_service),
        ("GET", format!("/managed-services/{unknown}/database-users"), 404, no_service),
        ("GET", format!("/managed-services/{unknown}/jobs"), 404, no_service),
        ("GET", "/managed-services/{running}/backups/bkp_aaaaaaaaaaaaaaaa".to_owned(), 404, "no such backup"),
        ("GET", "/managed-services/{running}/backups/nothing".to_owned(), 404, "no such backup"),
        ("GET", "/managed-services/{running}/backups/bkp_..%2f..%2f..%2fx".to_owned(), 404, "no such backup"),
        ("GET", "/managed-services/{pending}/backups/{manual}".to_owned(), 404, "no such backup"),
        ("DELETE", "/managed-services/{pending}/backups/{manual}".to_owned(), 404, "no such backup"),
        (
            "DELETE",
            "/managed-services/{running}/backups/bkp_aaaaaaaaaaaaaaaa".to_owned(),
            404,
            "no such backup",
        ),
        ("GET", "/jobs/nothing".to_owned(), 404, "no such job"),
        ("GET", format!("/jobs/{unknown}"), 404, "no such job"),
        ("GET", "/jobs?service_id=nothing".to_owned(), 400, "service_id is no service id"),
        ("GET", "/organizations/nothing".to_owned(), 404, "no such organization"),
        ("GET", "/organizations/%ff".to_owned(), 404, "no such organization"),
        ("GET", "/database-versions?type=oracle".to_owned(), 400, "type: unknown database_type \"oracle\""),
        ("GET", "/database-versions?type=%ff".to_owned(), 400, "type: unknown database_type"),
        ("GET", "/managed-services?limit=-1".to_owned(), 400, "the query cannot be read"),
        ("GET", "/managed-services?offset=x".to_owned(), 400, "the query cannot be read"),
        ("GET", "/nothing".to_owned(), 404, none),
        ("GET", "/".to_owned(), 404, none),
        ("GET", "/managed-services/{running}/nothing".to_owned(), 404, none),
        ("GET", "/managed-services//".to_owned(), 404, none),
        ("GET", "/managed-services/{running}/../{running}".to_owned(), 404, none),
        ("PUT", "/managed-services".to_owned(), 405, method),
        ("DELETE", "/managed-services".to_owned(), 405, method),
        ("POST", "/managed-services/{running}".to_owned(), 405, method),
        ("GET", "/managed-services/{running}/stop".to_owned(), 405, method),
        ("PATCH", "/managed-services/{running}/backups/{manual}".to_owned(), 405, method),
        ("POST", "/health".to_owned(), 405, method),
        ("POST", "/keys".to_owned(), 405, method),
        ("DELETE", "/keys".to_owned(), 405, method),
        ("GET", "/keys/rotate".to_owned(), 405, method),
        ("GET", "/keys/1".to_owned(), 404, none),
        ("DELETE", "/openapi.json".to_owned(), 405, method),
        ("TRACE", "/managed-services".to_owned(), 405, method),
        ("BREW", "/managed-services".to_owned(), 405, method),
    ];
    all.into_iter().map(|(m, path, status, part)| row(m, &path, Sent::Nothing, status, part)).collect()
}

pub(crate) fn changes_and_backups() -> Vec<Row> {
    let patch = "/managed-services/{running}";
    let backups = "/managed-services/{running}/backups";
    let label = format!("{{\"label\":\"{}\"}}", "ü".repeat(201));
    let all: Vec<(&'static str, &str, &str, u16, &str)> = vec![
        ("PATCH", patch, r#"{"name":"X"}"#, 400, "name must be 3 to 63 characters"),
        ("PATCH", patch, r#"{"name":"pending"}"#, 409, "a service named \"pending\" exists already"),
        (
            "PATCH",
            patch,
            r#"{"storage_size_gb":99}"#,
            400,
            "storage_size_gb may only grow: it is 100, 99 was asked for",
        ),
        ("PATCH", patch, r#"{"storage_size_gb":20000}"#, 400, "storage_size_gb must be between 10 and 16384"),
        ("PATCH", patch, r#"{"plan_name":"huge"}"#, 400, "unknown plan_name \"huge\""),
        (
            "PATCH",
            patch,
            r#"{"plan_name":"tier-3","allowed_cidrs":["x"]}"#,
            400,
            "allowed_cidrs[0]: \"x\" is no network",
        ),
        ("PATCH", patch, r#"{"maintenance_window":"sun"}"#, 400, "maintenance_window must look like"),
        ("PATCH", patch, "[]", 400, "the body must be a JSON object"),
        ("PATCH", patch, "{", 400, "the body is no valid JSON"),
        (
            "POST",
            "/managed-services/{pending}/stop",
            "",
            409,
            "the service is pending; only a running one can be stopped",
        ),
        (
            "POST",
            "/managed-services/{stopped}/stop",
            "",
            409,
            "the service is stopped; only a running one can be stopped",
        ),
        (
            "POST",
            "/managed-services/{running}/start",
            "",
            409,
            "the service is running; only a stopped one can be started",
        ),
        (
            "POST",
            backups,
            r#"{"backup_type":"automated"}"#,
            400,
            "only the scheduler makes automated backups",
        ),
        (
            "POST",
            backups,
            r#"{"backup_type":"differential"}"#,
            400,
            "unknown backup_type \"differential\"; known: manual",
        ),
        (
            "POST",
            backups,
            r#"{"backup_type":7}"#,
            400,
            "backup_type: invalid type: integer `7`, expected a string",
        ),
        ("POST", backups, r#"{"retention_days":0}"#, 400, "retention_days must be between 1 and 365"),
        ("POST", backups, r#"{"retention_days":366}"#, 400, "retention_days must be between 1 and 365"),
        (
            "POST",
            backups,
            r#"{"retention_days":7.5}"#,
            400,
            "retention_days: invalid type: floating point `7.5`",
        ),
        ("POST", backups, r#"{"retention_days":"7"}"#, 400, "retention_days: invalid type: string \"7\""),
        ("POST", backups, &label, 400, "label must be at most 200 characters long"),
        ("POST", backups, r#"{"label":"a\u0000b"}"#, 400, "label must not hold control characters"),
        ("POST", backups, r#"{"label":"\u202egnp.exe"}"#, 400, "label must not hold control characters"),
        (
            "POST",
            backups,
            r#"{"backup_method":"mysqldump"}"#,
            400,
            "backups of postgresql are made with pgbackrest",
        ),
        ("POST", backups, "{]", 400, "the body is no valid JSON"),
        (
            "POST",
            "/managed-services/{kafka}/backups",
            r#"{"backup_type":"pitr"}"#,
            400,
            "kafka has no point-in-time recovery",
        ),
        (
            "POST",
            "/managed-services/{kafka}/backups",
            r#"{"backup_type":"incremental"}"#,
            400,
            "kafka has no incremental backups",
        ),
        (
            "POST",
            "/managed-services/{pending}/backups",
            "",
            409,
            "the service is pending; only a running one can be backed up",
        ),
        (
            "POST",
            "/managed-services/{stopped}/backups",
            "{}",
            409,
            "the service is stopped; only a running one can be backed up",
        ),
        ("POST", "/managed-services/{busy}/backups", "{}", 409, "is still under way; wait for it to end"),
        (
            "DELETE",
            "/managed-services/{running}/backups/{auto}",
            "",
            409,
            "automated backups cannot be deleted, they expire",
        ),
        ("DELETE", "/managed-services/{busy}/backups/{busy_backup}", "", 409, "is still being made"),
        (
            "POST",
            "/managed-services/{pending}/database-users/app_user/reveal-password",
            "",
            409,
            "the service is pending",
        ),
        (
            "POST",
            "/managed-services/{stopped}/database-users/app_user/reset-password",
            "",
            409,
            "the service is stopped",
        ),
        (
            "POST",
            "/managed-services/{running}/database-users/nobody/reveal-password",
            "",
            404,
            "no such database user",
        ),
        (
            "POST",
            "/managed-services/{running}/database-users/nobody/reset-password",
            "",
            404,
            "no such database user",
        ),
        (
            "POST",
            "/managed-services/{running}/database-users/%ff/reveal-password",
            "",
            404,
            "no such database user",
        ),
        (
            "POST",
            "/managed-services/{running}/database-users/'%20or%201=1/reveal-password",
            "",
            404,
            "no such database user",
        ),
    ];
    all.into_iter()
        .map(|(method, path, body, status, part)| row(method, path, json(body), status, part))
        .collect()
}

pub(crate) fn restores() -> Vec<Row> {
    let point = "/managed-services/{running}/backups/restore";
    let from = "/managed-services/{running}/backups/{manual}/restore";
    let no_time = "is no RFC 3339 time with an offset, like 2026-03-15T14:30:00Z; the recovery window is 20";
    let mut rows = Vec::new();
    for text in [
        "now",
        "yesterday",
        "1773585000",
        "2026-03-15",
        "2026-03-15T14:30:00",
        "2026-03-15 14:30:00Z",
        "2026-02-30T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-03-15T25:00:00Z",
        "2016-12-31T23:59:60Z",
        "10000-01-01T00:00:00Z",
        "+010000-01-01T00:00:00Z",
        "2026-03-15T14:30:00+99:00",
        "2026-03-15T14:30:00Zjunk",
        "'; drop table jobs; --",
        "2026-03-15T14:30:0\u{661}Z",
    ] {
        let body = serde_json::json!({"restore_point": text, "target_service_name": "restored"}).to_string();
        rows.push(row("POST", point, Sent::Text(body), 400, no_time));
    }
    let with = |rest: &str| json(&format!("{{\"target_service_name\":\"restored\"{rest}}}"));
    let is = |text: &str| with(&format!(",\"restore_point\":\"{text}\""));
    let window = "restore_point is required; the recovery window is 20";
    let all: Vec<(&str, Sent, u16, &str)> = vec![
        (point, with(""), 400, window),
        (point, with(",\"restore_point\":null"), 400, window),
        (point, with(",\"restore_point\":\"\""), 400, window),
        (
            point,
            with(",\"restore_point\":1773585000"),
            400,
            "restore_point: invalid type: integer `1773585000`",
        ),
        (
            point,
            with(",\"restore_point\":\"{now}\",\"restore_point\":\"{now}\""),
            400,
            "duplicate field `restore_point`",
        ),
        (point, is("9999-12-30T00:00:00Z"), 400, "restore point 9999-12-30T00:00:00Z lies in the future"),
        (
            point,
            is("2000-01-01T00:00:00Z"),
            400,
            "restore point 2000-01-01T00:00:00Z lies before the recovery window (20",
        ),
        (point, is("0000-01-01T00:00:00Z"), 400, "lies before the recovery window (20"),
        (point, json("{\"restore_point\":\"{now}\"}"), 400, "target_service_name is required"),
        (point, Sent::Nothing, 400, "target_service_name is required"),
        (
            point,
            json(r#"{"restore_point":"{now}","target_service_name":"A b"}"#),
            400,
            "target_service_name must be 3 to 63",
        ),
        (
            point,
            json(r#"{"restore_point":"{now}","target_service_name":"../up"}"#),
            400,
            "target_service_name must be 3 to 63",
        ),
        (
            point,
            json(r#"{"restore_point":"{now}","target_service_name":"running"}"#),
            409,
            "a service named \"running\" exists already",
        ),
        (point, with(",\"restore_point\":\"{now}\",\"plan_name\":\"x\""), 400, "unknown plan_name \"x\""),
        (point, with(",\"restore_point\":\"{now}\",\"zone\":\"x\""), 400, "unknown zone \"x\""),
        ("/managed-services/{stopped}/backups/restore", is("{now}"), 400, "the recovery window is empty"),
        (
            "/managed-services/{kafka}/backups/restore",
            is("{now}"),
            400,
            "kafka has no point-in-time recovery; restore one of",
        ),
        (
            "/managed-services/00000000-0000-4000-8000-000000000000/backups/restore",
            is("{now}"),
            404,
            "no such service",
        ),
        (from, Sent::Nothing, 400, "target_service_name is required"),
        (
            from,
            json(r#"{"target_service_name":"ok","plan_name":"tier-1"}"#),
            400,
            "target_service_name must be 3 to 63",
        ),
        (
            from,
            json(r#"{"target_service_name":"running"}"#),
            409,
            "a service named \"running\" exists already",
        ),
        (from, with(",\"zone\":\"../../x\""), 400, "unknown zone \"../../x\""),
        (from, with(",\"plan_name\":[]"), 400, "plan_name: invalid type: sequence, expected a string"),
        ("/managed-services/{running}/backups/bkp_aaaaaaaaaaaaaaaa/restore", with(""), 404, "no such backup"),
        ("/managed-services/{running}/backups/latest/restore", with(""), 404, "no such backup"),
        ("/managed-services/{pending}/backups/{manual}/restore", with(""), 404, "no such backup"),
        (
            "/managed-services/{running}/backups/{failed}/restore",
            with(""),
            409,
            "cannot be restored: it failed",
        ),
        (
            "/managed-services/{busy}/backups/{busy_backup}/restore",
            with(""),
            409,
            "cannot be restored: it has not started yet",
        ),
    ];
    rows.extend(all.into_iter().map(|(path, body, status, part)| row("POST", path, body, status, part)));
    rows
}

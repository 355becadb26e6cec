//! Wrong requests, one a row: the status, the text, and that nothing changed.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, header};
use holdfast_core::backup::{BackupStatus, BackupType};
use holdfast_core::engine::EngineKind;
use holdfast_core::service::ServiceStatus;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::api::harness::{PASSWORD, Platform, basic, platform};
use crate::api::wrong_requests::{self as rows, Row, Sent};

/// A platform, and what the placeholders in paths and bodies stand for.
async fn platform_with_everything() -> (Platform, Vec<(&'static str, String)>) {
    let p = platform().await;
    let pg = EngineKind::Postgresql;
    let running = p.service("running", pg, ServiceStatus::Running).await;
    let pending = p.service("pending", pg, ServiceStatus::Pending).await;
    let stopped = p.service("stopped", pg, ServiceStatus::Stopped).await;
    let busy = p.service("busy", pg, ServiceStatus::Running).await;
    let kafka = p.service("kafka", EngineKind::Kafka, ServiceStatus::Running).await;
    let deleted = p.service("deleted", pg, ServiceStatus::Deleting).await;
    let auto = p.backup(&running, BackupType::Automated, BackupStatus::Completed, 60).await;
    let manual = p.backup(&running, BackupType::Manual, BackupStatus::Completed, 30).await;
    let failed = p.backup(&running, BackupType::Manual, BackupStatus::Failed, 20).await;
    let busy_backup = p.backup(&busy, BackupType::Manual, BackupStatus::Pending, 5).await;
    p.user(&running, "app_user", "secret", 0).await;
    let names = vec![
        ("{running}", running.id.to_string()),
        ("{RUNNING}", running.id.to_string().to_uppercase()),
        ("{pending}", pending.id.to_string()),
        ("{stopped}", stopped.id.to_string()),
        ("{busy}", busy.id.to_string()),
        ("{kafka}", kafka.id.to_string()),
        ("{deleted}", deleted.id.to_string()),
        ("{auto}", auto.to_string()),
        ("{manual}", manual.to_string()),
        ("{failed}", failed.to_string()),
        ("{busy_backup}", busy_backup.to_string()),
        ("{now}", crate::api::harness::minutes_ago(10).to_string()),
    ];
    (p, names)
}

fn filled(text: &str, names: &[(&str, String)]) -> String {
    names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

fn body(sent: &Sent, names: &[(&str, String)]) -> Body {
    match sent {
        Sent::Nothing => Body::empty(),
        Sent::Text(text) => Body::from(filled(text, names)),
        Sent::Bytes(bytes) => Body::from(bytes.clone()),
        Sent::Chunks(chunks) => {
            let chunks = chunks.clone().into_iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk)));
            Body::from_stream(futures::stream::iter(chunks))
        }
        Sent::Broken => {
            let pieces = [Ok(Bytes::from_static(b"{\"na")), Err(std::io::Error::other("the line is cut"))];
            Body::from_stream(futures::stream::iter(pieces))
        }
    }
}

async fn check(rows: Vec<Row>) {
    let (p, names) = platform_with_everything().await;
    let before = p.everything().await;
    let count = rows.len();
    for (n, row) in rows.into_iter().enumerate() {
        let path = filled(&row.path, &names);
        let what =
            format!("row {n} of {count}: {} {path} (expected {} {:?})", row.method, row.status, row.part);
        let mut request = Request::builder().method(row.method).uri(&path);
        if let Some(value) = &row.authorization {
            request = request.header(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        if let Some((name, value)) = &row.header {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let answer = p.send(request.body(body(&row.body, &names)).unwrap()).await;
        assert_eq!(answer.status.as_u16(), row.status, "{what}: {}", String::from_utf8_lossy(&answer.bytes));
        let text = answer.error(row.status);
        assert!(text.contains(&row.part), "{what}: {text:?}");
        assert!(text.chars().count() <= 501, "{what}: a text of {} characters", text.chars().count());
        assert!(answer.headers.contains_key("x-request-id"), "{what}: no request id");
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json", "{what}");
        assert_eq!(answer.headers.contains_key(header::WWW_AUTHENTICATE), row.status == 401, "{what}");
        assert_eq!(answer.headers.contains_key(header::ALLOW), row.status == 405, "{what}");
        assert_eq!(p.everything().await, before, "{what}: something changed");
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_objects_are_refused() {
    check(rows::bodies_that_are_no_objects()).await;
}

#[tokio::test]
async fn services_that_cannot_be_are_refused() {
    check(rows::services_that_cannot_be()).await;
}

#[tokio::test]
async fn strangers_are_refused() {
    check(rows::credentials()).await;
}

#[tokio::test]
async fn addresses_of_nothing_are_refused() {
    check(rows::addresses()).await;
}

#[tokio::test]
async fn changes_and_backups_that_cannot_be_are_refused() {
    check(rows::changes_and_backups()).await;
}

#[tokio::test]
async fn restores_that_cannot_be_are_refused() {
    check(rows::restores()).await;
}

/// Half of the bodies look like JSON, so that they get past the parser.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|s| serde_json::Value::from(s).to_string()),
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{\"a\":{}}".to_owned()),
    ];
    let field = prop::sample::select(vec![
        "name",
        "database_type",
        "plan_name",
        "version",
        "zone",
        "storage_size_gb",
        "allowed_cidrs",
        "labels",
        "ttl_hours",
        "backup_type",
        "label",
        "retention_days",
        "restore_point",
        "target_service_name",
        "x",
    ]);
    let object = prop::collection::vec((field, value), 0..6).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..300), object]
}

#[test]
fn no_body_whatever_makes_the_server_fail() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (p, names) = runtime.block_on(platform_with_everything());
    let targets = [
        ("POST", "/managed-services"),
        ("PATCH", "/managed-services/{running}"),
        ("POST", "/managed-services/{running}/backups"),
        ("POST", "/managed-services/{running}/backups/restore"),
        ("POST", "/managed-services/{running}/backups/{manual}/restore"),
        ("POST", "/managed-services/{stopped}/start"),
    ];
    let strategy = (prop::sample::select(targets.to_vec()), any_body());
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&strategy, |((method, path), bytes)| {
            let answer = runtime.block_on(p.call(method, &filled(path, &names), bytes));
            prop_assert!(answer.status.as_u16() < 500, "{}", answer.status);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&answer.bytes).is_ok());
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[tokio::test]
async fn random_paths_and_headers_never_make_the_server_fail() {
    use rand::{Rng as _, SeedableRng as _};
    let seed: u64 = rand::random();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let p = platform().await;
    for _ in 0..500 {
        let alphabet = b"abz09-_.~%/?#[]@!$&'()*+,;=:\"<>\\^`{|} \t\x7f";
        let tail: Vec<u8> = (0..random.random_range(0..40))
            .map(|_| alphabet[random.random_range(0..alphabet.len())])
            .collect();
        let path = [&b"/managed-services/"[..], &tail].concat();
        let Ok(uri) = axum::http::Uri::try_from(path.as_slice()) else { continue };
        let header: Vec<u8> =
            (0..random.random_range(0..60)).map(|_| random.random_range(32..=255)).collect();
        let mut request = Request::builder().method("GET").uri(uri);
        request = request.header(header::AUTHORIZATION, basic("admin", PASSWORD));
        for name in ["x-active-org-id", "x-request-id", "content-type", "accept"] {
            if let Ok(value) = HeaderValue::from_bytes(&header) {
                request = request.header(name, value);
            }
        }
        let answer = p.send(request.body(Body::empty()).unwrap()).await;
        let path = String::from_utf8_lossy(&path);
        assert!(answer.status.as_u16() < 500, "seed {seed}, {path:?}: {}", answer.status);
    }
}

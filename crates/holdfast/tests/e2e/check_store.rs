//! `holdfast check store` against a real bucket, good and bad, and a folder: what it says, what it leaves, how it ends; and
//! `holdfast serve`, which refuses what cannot be used.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use holdfast_testkit::s3::BUCKET;
use holdfast_testkit::{Fault, Proxy, S3Server};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::BINARY;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// What a row of `--output json` says of a check.
    fn row(&self, check: &str) -> (String, String) {
        let report: Value =
            serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}{}", self.out, self.err));
        let rows = report["checks"].as_array().expect("rows");
        let row =
            rows.iter().find(|row| row["check"] == check).unwrap_or_else(|| panic!("no {check}: {report:#}"));
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        assert!(row["outcome"] != "failed" || !text("next").is_empty(), "{row:#} does not say what to do");
        (text("outcome"), text("cause"))
    }

    #[track_caller]
    fn has(&self, rows: &[(&str, &str)]) {
        for (check, outcome) in rows {
            assert_eq!(self.row(check).0, *outcome, "{check}: {}", self.out);
        }
    }
}

async fn holdfast(arguments: &[&str], environment: &[(&str, String)]) -> Ran {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::null()).env_remove("HOLDFAST_CONFIG");
    command.envs(environment.iter().map(|(name, value)| (*name, value)));
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let Output { status, stdout, stderr } = ran.expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: status.code().expect("it ended by itself"), out: text(stdout), err: text(stderr) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_told_good_or_bad() {
    let Some(server) = S3Server::start().await.expect("the server starts") else { return };
    let identity = server.identity().await.expect("an identity");
    let proxy = Proxy::start(server.port()).await.expect("the proxy starts");
    let url = format!("s3://{BUCKET}/checked");
    let environment = identity.environment(proxy.port());
    let check = async || holdfast(&["check", "store", &url, "-o", "json"], &environment).await;

    let ran = holdfast(&["check", "store", &url], &environment).await;
    println!("{}{}", ran.out, ran.err);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let ran = check().await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let good = [
        "reachable",
        "credentials",
        "clock",
        "write",
        "read back",
        "encryption",
        "create-only put",
        "ranged read",
    ];
    let more = [
        "listing",
        "names",
        "checksums",
        "multipart",
        "create-only multipart",
        "unfinished uploads",
        "delete",
    ];
    ran.has(&good.map(|check| (check, "ok")));
    ran.has(&more.map(|check| (check, "ok")));
    assert!(
        server.object_names("checked").await.expect("listed").is_empty(),
        "the check left something behind"
    );

    proxy.inject(Fault::Unconditional);
    let ran = check().await;
    assert_eq!(ran.code, 1);
    ran.has(&[("create-only put", "failed"), ("create-only multipart", "failed"), ("encryption", "ok")]);
    proxy.heal();

    proxy.inject(Fault::Unencrypted);
    let ran = check().await;
    assert_eq!(ran.code, 1);
    ran.has(&[("encryption", "failed"), ("create-only put", "ok")]);
    let elsewhere = format!("{url}?encryption=elsewhere");
    let ran = holdfast(&["check", "store", &elsewhere, "-o", "json"], &environment).await;
    assert_eq!(ran.code, 0, "{}", ran.out);
    ran.has(&[("encryption", "not_needed")]);
    proxy.heal();

    proxy.inject(Fault::WrongClock);
    let ran = check().await;
    assert_eq!((ran.code, ran.row("clock")), (1, ("failed".to_owned(), "store_clock".to_owned())));
    proxy.heal();

    let ran = holdfast(&["check", "store", "s3://no-such-bucket/x", "-o", "json"], &environment).await;
    assert_eq!(ran.code, 1);
    println!("{}", ran.out);

    proxy.go_away().await;
    let ran = check().await;
    assert_eq!((ran.code, ran.row("reachable")), (1, ("failed".to_owned(), "store_unreachable".to_owned())));
    proxy.come_back().await.expect("back");

    server.revoke(&identity).await.expect("revoked");
    let ran = check().await;
    assert_eq!(
        (ran.code, ran.row("credentials")),
        (1, ("failed".to_owned(), "store_credentials".to_owned()))
    );
    assert!(
        server.object_names("checked").await.expect("listed").is_empty(),
        "a check left something behind"
    );
}

#[tokio::test]
async fn a_folder_is_told_good_or_bad() {
    let folder = tempfile::tempdir().expect("a folder");
    let there = folder.path().join("there");
    std::fs::create_dir(&there).expect("made");
    for (path, name) in [(there.clone(), "there"), (folder.path().join("not/yet/there"), "not there")] {
        let ran =
            holdfast(&["check", "store", &format!("file://{}", path.display()), "-o", "json"], &[]).await;
        assert_eq!(ran.code, 0, "{name}: {}{}", ran.out, ran.err);
        ran.has(
            &["write", "read back", "create-only put", "ranged read", "names", "listing", "flush", "delete"]
                .map(|c| (c, "ok")),
        );
    }
    assert!(!folder.path().join("not").exists(), "the check left folders behind");
    assert_eq!(std::fs::read_dir(&there).expect("readable").count(), 1, "more than .writing is left");

    std::fs::write(folder.path().join("file"), "no folder").expect("written");
    for (url, code) in [(format!("file://{}/file/x", folder.path().display()), 1), ("ftp://x".to_owned(), 2)]
    {
        let ran = holdfast(&["check", "store", &url], &[]).await;
        assert_eq!(ran.code, code, "{url}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains("holdfast: "), "{}", ran.err);
    }
    let ran = holdfast(&["check", "store", "--url", "http://x"], &[]).await;
    assert_eq!(ran.code, 2, "{}", ran.err);
}

/// A server that is started on a store that cannot hold what it must hold would find out at the first backup.
#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_a_store_that_cannot_be_used() {
    let Some(server) = S3Server::start().await.expect("the server starts") else { return };
    let identity = server.identity().await.expect("an identity");
    let proxy = Proxy::start(server.port()).await.expect("the proxy starts");
    let data = tempfile::tempdir().expect("a folder");
    let mut environment = identity.environment(proxy.port());
    environment.extend([
        ("HOLDFAST_DATA", data.path().join("data").display().to_string()),
        ("HOLDFAST_LISTEN", "127.0.0.1:0".to_owned()),
        ("HOLDFAST_STORE_URL", format!("s3://{BUCKET}/served")),
        ("HOLDFAST_ADMIN_PASSWORD", "correct horse".to_owned()),
        ("HOLDFAST_AGENT", "none".to_owned()),
    ]);
    for (fault, said) in [
        (Fault::Unconditional, "create-only put: a second writer replaces the object"),
        (Fault::Unencrypted, "encryption: AES-256 was asked for"),
        (Fault::WrongClock, "20 minutes behind"),
        (Fault::Forbidden, "docs/object-stores.md"),
    ] {
        proxy.inject(fault);
        let ran = tokio::time::timeout(Duration::from_secs(60), holdfast(&["serve"], &environment)).await;
        let ran = ran.unwrap_or_else(|_| panic!("{fault:?}: it serves"));
        assert_eq!(ran.code, 1, "{fault:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(said), "{fault:?}: {}", ran.err);
        proxy.heal();
    }

    // One that is away is no reason to keep databases down.
    proxy.go_away().await;
    let mut command = tokio::process::Command::new(BINARY);
    command.arg("serve").envs(environment).env_remove("HOLDFAST_CONFIG").stdin(Stdio::null());
    let mut serve = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the binary starts");
    let mut lines = BufReader::new(serve.stdout.take().expect("piped")).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await.expect("UTF-8") {
            if line.contains("listening on") {
                return true;
            }
        }
        false
    };
    let listening = tokio::time::timeout(Duration::from_secs(60), listening).await;
    assert_eq!(listening, Ok(true), "it does not serve while the store is away");
    serve.kill().await.expect("it was alive");
}

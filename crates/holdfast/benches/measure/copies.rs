//! Backup and restore of a large database through Holdfast, against PostgreSQL and pgBackRest alone: the same programs, the same
//! settings, the same kind of store, turn by turn. And what memory it took.

use anyhow::{Context, Result};
use holdfast_testkit::memory::{Watch, peak_mib};
use holdfast_testkit::{Client, Holdfast, holdfast};
use serde_json::json;

use crate::alone::{Alone, Repository};
use crate::pgbench::Database;
use crate::report::table;
use crate::restores::{Took, database_bytes, quiet, remove, took};
use crate::s3::Server;
use crate::timed::{ratio, shown};
use crate::{BINARY, Size};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Where {
    Folder,
    S3,
}

#[derive(Default)]
struct Times {
    backups: (Vec<f64>, Vec<f64>),
    restores: (Vec<Took>, Vec<(f64, f64)>),
}

pub(crate) async fn measure(size: &Size, at: Where) -> Result<String> {
    let name = if at == Where::S3 { "on S3" } else { "in a folder" };
    println!("backup and restore {name}");
    let engines = holdfast::engines().context("no engines")?;
    let cache = engines.parent().context("the engines' folder has a parent")?.join("run");
    std::fs::create_dir_all(&cache)?;
    let server = match at {
        Where::S3 => Some(Server::start(&engines, &cache).await?),
        Where::Folder => None,
    };
    let environment = server.as_ref().map(Server::environment).unwrap_or_default();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let watch = Watch::start("pgbackrest");
    let holdfast = Holdfast::start_with(BINARY, "bench", &environment).await?;
    let client = holdfast.client();
    let source = client.create("source").await?;
    let url = client.connection_string(&source).await?;
    let folder = cache.join(format!("alone-{}", std::process::id()));
    let repository = server.as_ref().map_or(Repository::Folder, Server::repository);
    let mut alone = Alone::start(&engines, folder, &url, &repository).await?;
    Database::of(&url)?.fill(&engines, size.scale).await?;
    alone.database().fill(&engines, size.scale).await?;
    // One each that is not counted: it waits for the log of the filling, and fills the caches.
    quiet(&client).await?;
    back_up(&client, &source).await?;
    alone.backup().await?;

    let mut times = Times::default();
    let mut newest = String::new();
    for pair in 0..size.pairs {
        // Who goes second finds what the first one left to be written.
        for ours in [pair % 2 == 0, pair % 2 != 0] {
            if ours {
                let (backup, seconds) = back_up(&client, &source).await?;
                newest = backup;
                times.backups.0.push(seconds);
            } else {
                times.backups.1.push(alone.backup().await?);
            }
        }
        println!("  backup: {:.2} s, alone {:.2} s", times.backups.0[pair], times.backups.1[pair]);
    }
    for pair in 0..size.pairs {
        for ours in [pair % 2 == 0, pair % 2 != 0] {
            if ours {
                times.restores.0.push(restore(&client, &source, &newest, pair).await?);
            } else {
                times.restores.1.push(alone.restore(&url).await?);
            }
        }
        println!("  restore: {:.2} s, alone {:.2} s", times.restores.0[pair].total, times.restores.1[pair].1);
    }
    let peaks = [holdfast.serve_pid(), holdfast.agent_pid()].map(|pid| pid.and_then(peak_mib).unwrap_or(0));
    let bytes = database_bytes(&alone.database().url).await?;
    Ok(section(name, bytes, &times, peaks, watch.peak_mib()))
}

async fn back_up(client: &Client, source: &str) -> Result<(String, f64)> {
    let answer =
        client.post(&format!("/managed-services/{source}/backups"), json!({"backup_type": "full"})).await?;
    let backup = holdfast_testkit::client::text(&answer, "backup_id")?;
    client.wait_backup(source, &backup, 3600).await?;
    Ok((backup, took(client, source, "backup").await?.total))
}

async fn restore(client: &Client, source: &str, backup: &str, pair: usize) -> Result<Took> {
    let body = json!({"target_service_name": format!("copy-{pair}")});
    let answer = client.post(&format!("/managed-services/{source}/backups/{backup}/restore"), body).await?;
    let copy = holdfast_testkit::client::text(&answer, "service_id")?;
    let took = took(client, &copy, "restore").await?;
    remove(client, &copy).await?;
    Ok(took)
}

fn section(name: &str, bytes: i64, times: &Times, peaks: [u64; 2], pgbackrest: u64) -> String {
    let (ours, theirs) = &times.backups;
    let total: Vec<f64> = times.restores.0.iter().map(|took| took.total).collect();
    let files = |took: &[Took]| {
        took.iter()
            .map(|took| took.phase("copying files") + took.phase("writing to disk"))
            .collect::<Vec<_>>()
    };
    let ours_copied = files(&times.restores.0);
    let (copied, ready): (Vec<f64>, Vec<f64>) = times.restores.1.iter().copied().unzip();
    let row = |what: &str, ours: &[f64], theirs: &[f64]| {
        vec![what.to_owned(), shown(ours), shown(theirs), ratio(ours, theirs)]
    };
    let rows = [
        row("full backup, until it is `completed`", ours, theirs),
        row("restore of a backup: the files, on disk", &ours_copied, &copied),
        row("restore of a backup, until the database takes writes", &total, &ready),
    ];
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let gibibytes = bytes as f64 / f64::from(1 << 30);
    format!(
        "## Backup and restore {name}\n\npgbench, {gibibytes:.2} GiB. Alone: the same pgBackRest with the same settings (zstd 3, AES-256-CBC, bundles, two \
         processes), {}.\nTarget: at most 1.05.\n\n{}\n\
         Peak memory meanwhile (resident, backups and restores together; bound 256 MiB each): `serve` {} MiB, `agent` {} MiB; all pgBackRest\n\
         processes of both sides together at most {pgbackrest} MiB.\n",
        if name == "on S3" {
            "straight to the same SeaweedFS over TLS (Holdfast: TLS to the gateway, HTTP to the store)"
        } else {
            "its repository in a folder of the same disk"
        },
        table(&["seconds", "Holdfast", "pgBackRest alone", "ratio"], &rows),
        peaks[0],
        peaks[1],
    )
}

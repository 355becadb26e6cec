//! Where the seconds of a restore go, for three sizes of database.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use holdfast_testkit::{Client, Holdfast, holdfast};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pgbench::Database;
use crate::report::table;
use crate::timed::{median, shown};
use crate::{BINARY, Size};

/// Seconds of a finished job, in all and by phase in order.
pub(crate) struct Took {
    pub(crate) total: f64,
    pub(crate) phases: Vec<(String, f64)>,
}

/// Waits until the newest job of this kind has ended well and tells its times.
pub(crate) async fn took(client: &Client, service: &str, kind: &str) -> Result<Took> {
    let job = holdfast_testkit::wait_for(&format!("the {kind} has ended"), 3600, || async {
        let jobs = client.get(&format!("/managed-services/{service}/jobs")).await?;
        let newest =
            jobs["jobs"].as_array().and_then(|jobs| jobs.iter().find(|job| job["kind"] == kind)).cloned();
        let Some(job) = newest else { return Ok(None) };
        anyhow::ensure!(job["status"] != "failed", "{kind}: {}", job["error_message"]);
        Ok((job["status"] == "completed").then_some(job))
    })
    .await?;
    let at = |field: &str| -> Result<Timestamp> { Ok(job[field].as_str().context("a time")?.parse()?) };
    let total = at("finished_at")?.duration_since(at("created_at")?).as_secs_f64();
    let steps = job["steps"].as_array().cloned().unwrap_or_default();
    let phases = steps.iter().flat_map(|step| step["phases"].as_array().cloned().unwrap_or_default());
    let phases = phases.map(|phase: Value| {
        (phase["name"].as_str().unwrap_or_default().to_owned(), phase["seconds"].as_f64().unwrap_or(f64::NAN))
    });
    Ok(Took { total, phases: phases.collect() })
}

/// Deletes a service and waits until nothing of it is under way.
pub(crate) async fn remove(client: &Client, service: &str) -> Result<()> {
    client.delete(&format!("/managed-services/{service}")).await?;
    quiet(client).await
}

/// Waits until no job is under way.
pub(crate) async fn quiet(client: &Client) -> Result<()> {
    holdfast_testkit::wait_for("all jobs have ended", 600, || async {
        let jobs = client.get("/jobs").await?;
        let open = |job: &Value| job["status"] == "queued" || job["status"] == "running";
        Ok((!jobs["jobs"].as_array().is_some_and(|jobs| jobs.iter().any(open))).then_some(()))
    })
    .await
}

pub(crate) async fn measure(size: &Size) -> Result<String> {
    println!("restores by phase");
    let engines = holdfast::engines().context("no engines")?;
    let holdfast = Holdfast::start(BINARY, "bench").await?;
    let client = holdfast.client();
    let mut columns = Vec::new();
    for (scale, tries) in [(0, 5), (size.middle_scale, 3), (size.scale, 2)] {
        let source = client.create(&format!("source-{scale}")).await?;
        let url = client.connection_string(&source).await?;
        if scale > 0 {
            Database::of(&url)?.fill(&engines, scale).await?;
        }
        quiet(&client).await?;
        let backup = client.trigger(&source).await?;
        client.wait_backup(&source, &backup, 1800).await?;
        let bytes = database_bytes(&url).await?;
        let mut all = Vec::new();
        for n in 0..tries {
            let body = json!({"target_service_name": format!("copy-{scale}-{n}"), "restore_point": Timestamp::now()});
            let answer = client.post(&format!("/managed-services/{source}/backups/restore"), body).await?;
            let copy = holdfast_testkit::client::text(&answer, "service_id")?;
            let took = took(&client, &copy, "restore").await?;
            println!("  scale {scale}: {:.2} s", took.total);
            all.push(took);
            remove(&client, &copy).await?;
        }
        remove(&client, &source).await?;
        columns.push((format!("{} MB", bytes / 1_000_000), all));
    }
    Ok(section(&columns))
}

/// Of all databases together.
pub(crate) async fn database_bytes(url: &str) -> Result<i64> {
    let client = holdfast_testkit::ledger::connect(url).await?;
    Ok(client.query_one("SELECT sum(pg_database_size(oid))::bigint FROM pg_database", &[]).await?.get(0))
}

fn section(columns: &[(String, Vec<Took>)]) -> String {
    let names: Vec<&String> = columns
        .iter()
        .flat_map(|(_, all)| all.first())
        .max_by_key(|took| took.phases.len())
        .map(|took| took.phases.iter().map(|(name, _)| name).collect())
        .unwrap_or_default();
    let mut rows = Vec::new();
    for name in names {
        let cell = |all: &Vec<Took>| {
            format!("{:.2}", median(&all.iter().map(|took| took.phase(name)).collect::<Vec<_>>()))
        };
        rows.push(std::iter::once(name.clone()).chain(columns.iter().map(|(_, all)| cell(all))).collect());
    }
    let rest = |took: &Took| took.total - took.phases.iter().map(|(_, seconds)| seconds).sum::<f64>();
    let row = |name: &str, of: &dyn Fn(&Vec<Took>) -> String| {
        std::iter::once(name.to_owned()).chain(columns.iter().map(|(_, all)| of(all))).collect::<Vec<_>>()
    };
    rows.push(row("between the steps", &|all| {
        format!("{:.2}", median(&all.iter().map(rest).collect::<Vec<_>>()))
    }));
    rows.push(row("**in all**", &|all| shown(&all.iter().map(|took| took.total).collect::<Vec<_>>())));
    let mut header = vec!["phase, seconds"];
    header.extend(columns.iter().map(|(name, _)| name.as_str()));
    format!(
        "## Restores by phase\n\nA restore to the present instant, from the request until the service runs; the first backup of the new service is \
         not in it.\nThe empty database is PostgreSQL's own 20 MB. Any restore tells its phases: `holdfast jobs get ID --steps`.\n\n{}",
        table(&header, &rows)
    )
}

impl Took {
    /// Of all phases with this name together.
    pub(crate) fn phase(&self, name: &str) -> f64 {
        self.phases.iter().filter(|(other, _)| other == name).map(|(_, seconds)| seconds).sum()
    }
}

/// Medians of the phases of several jobs, in order, as a sentence's end.
pub(crate) fn by_phase(all: &[Took]) -> String {
    let mut names: Vec<&String> =
        all.iter().flat_map(|took| took.phases.iter().map(|(name, _)| name)).collect();
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let shown = names.iter().map(|name| {
        format!("{name} {:.1}", median(&all.iter().map(|took| took.phase(name)).collect::<Vec<_>>()))
    });
    shown.collect::<Vec<_>>().join(", ")
}

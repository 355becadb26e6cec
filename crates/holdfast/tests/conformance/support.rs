//! A whole Holdfast for a test of one engine.

use anyhow::{Result, ensure};
use holdfast_conformance::{Made, Plan, Watch, scenario};
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{Holdfast, holdfast, seed};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_holdfast");
const RESTORES: usize = 10;

/// Prints.
pub(crate) struct Printed;

impl Watch for Printed {
    fn phase(&self, what: &str) {
        println!("- {what}");
    }

    fn found(&self, what: &str) {
        println!("    {what}");
    }
}

/// The whole suite, as `holdfast check engine` runs it.
pub(crate) async fn keeps_every_promise(kind: EngineKind) -> Result<()> {
    if holdfast::engines().is_none() {
        return Ok(());
    }
    ensure!(kind.capability().available, "there is no driver for {kind}");
    let mut random = seed::generator(&format!("conformance of {kind}"));
    let holdfast = Holdfast::start(BINARY, &format!("conf-{kind}")).await?;
    let client = holdfast.client();
    let plan = Plan { restores: RESTORES, ..Plan::named(format!("conf-{kind}")) };
    let made = Made::default();
    let report = scenario::run(&client, kind, &plan, &made, &mut random, &Printed).await?;
    ensure!(report.restores.len() >= RESTORES + 6, "{} restores", report.restores.len());
    println!("{}", serde_json::to_string(&report)?);
    made.remove(&client).await?;
    ensure!(client.get("/managed-services").await?["total"] == 0, "services are left");
    Ok(())
}

//! What is lost, in seconds, when the host is lost with its disk: each engine under load, every process killed at once, the folders
//! deleted, and a new control plane made from the bucket.

use anyhow::Result;
use holdfast_core::engine::EngineKind;
use holdfast_testkit::{lost, seed};

use crate::report::table;
use crate::timed::{median, shown};
use crate::{BINARY, Size};

const RUNS: usize = 3;

pub(crate) async fn measure(_size: &Size) -> Result<String> {
    println!("the host lost with its disk");
    let mut random = seed::generator("lost");
    let mut rows = Vec::new();
    for kind in EngineKind::ALL.into_iter().filter(|kind| is_measured(*kind)) {
        let (mut seconds, mut back, mut writes, mut all) = (Vec::new(), Vec::new(), 0, 0);
        for _ in 0..RUNS {
            let loss = Box::pin(lost::lose(BINARY, kind, &mut random)).await?;
            println!("  {kind}: {:.2} s, {} of {} writes", loss.seconds, loss.writes, loss.acknowledged);
            seconds.push(loss.seconds);
            back.push(loss.back_after_seconds);
            (writes, all) = (writes + loss.writes, all + loss.acknowledged);
        }
        rows.push(vec![
            kind.to_string(),
            shown(&seconds),
            format!("{writes} of {all}"),
            format!("{:.1}", median(&back)),
        ]);
    }
    Ok(format!(
        "## The host lost with its disk\n\nFour writers; every process killed at once, data folder and instances deleted; `holdfast rebuild` from the bucket and \
         the recovery\nkit, and a restore to the last instant that the bucket has, which is judged: up to there nothing is missing. {RUNS} runs an engine.\n\n{}",
        table(
            &["engine", "lost, seconds", "acknowledged writes lost", "seconds until the copy takes writes"],
            &rows
        )
    ))
}

/// Engines with a driver and a log.
pub(crate) fn is_measured(kind: EngineKind) -> bool {
    kind.capability().available && kind.capability().point_in_time
}

//! What a PostgreSQL server holds as its own dumps tell, line by line: a reading that shares no code with the driver.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, bail, ensure};
use tokio::process::Command;

/// What `tool` (`pg_dump`, `pg_dumpall`) writes of the database that `connection` leads to.
pub(crate) async fn dumped(
    engines: &Path,
    tool: &str,
    arguments: &[&str],
    connection: &str,
) -> Result<Vec<String>> {
    let output = Command::new(engines.join("postgresql-17/bin").join(tool))
        .args(arguments)
        .arg(format!("--dbname={connection}"))
        .stdin(Stdio::null())
        .output()
        .await?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{tool}: {}: {told}", output.status);
    let text = output.stdout.escape_ascii().to_string();
    Ok(text.split("\\n").filter(|line| !is_of_this_dump(line)).map(without_place).collect())
}

/// A key by which a dump fences its own commands off, made anew each time.
fn is_of_this_dump(line: &str) -> bool {
    line.starts_with("\\\\restrict ") || line.starts_with("\\\\unrestrict ")
}

/// The log runs ahead of a sequence by up to 32 numbers, which a recovery skips (PostgreSQL 17, `SEQ_LOG_VALS`). The line is the end
/// of a `setval`; a name may have begun on the line before.
fn without_place(line: &str) -> String {
    let place = ["true);", "false);"].iter().find_map(|end| line.strip_suffix(end)?.strip_suffix(", "));
    let sequence = place.and_then(|place| place.rsplit_once(", ")).filter(|(name, number)| {
        name.ends_with("\\'") && number.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())
    });
    sequence.map_or_else(|| line.to_owned(), |(name, _)| format!("{name} of any number"))
}

/// # Errors
/// At the first line that differs, with those around it.
pub(crate) fn same(expected: &[String], found: &[String]) -> Result<()> {
    let Some(at) = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at)) else {
        return Ok(());
    };
    let around =
        |lines: &[String]| lines[at.saturating_sub(3).min(lines.len())..(at + 3).min(lines.len())].join("\n");
    bail!("line {at} differs; there was:\n{}\nthere is:\n{}", around(expected), around(found))
}

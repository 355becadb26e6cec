//! What the server does without writing it to its log: a base that is made later has it, and the log behind an older one has not
//! (`docs/engines/valkey.md`).

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use holdfast_core::Timestamp;
use holdfast_testkit::valkey::{reading, same};
use jiff::SignedDuration;

use crate::valkey::generated::words;
use crate::valkey::harness::{Archive, Server};
use crate::valkey::wire::{Answer, Wire};

/// What the log has first, and the command that it does not have, which makes its key or changes it.
const UNLOGGED: &[(&str, &str)] = &[
    ("SET a x", "EVAL 'redis.set_repl(redis.REPL_NONE) redis.call(\"APPEND\", KEYS[1], 1)' 1 a"),
    ("SET b x", "EVAL 'redis.set_repl(redis.REPL_REPLICA) redis.call(\"APPEND\", KEYS[1], 1)' 1 b"),
    (
        "FUNCTION LOAD '#!lua name=lib\\nserver.register_function(\"f\", function(keys) server.set_repl(server.REPL_NONE) server.call(\"APPEND\", keys[1], 1) end)'",
        "FCALL f 1 c",
    ),
    ("SET d x", "BITFIELD d OVERFLOW FAIL INCRBY u8 #3 1000"),
    ("XGROUP CREATE e g 0 MKSTREAM", "XAUTOCLAIM e g consumer 0 0"),
    ("XGROUP CREATE f g 0 MKSTREAM", "XREADGROUP GROUP g consumer STREAMS f >"),
    (
        "EVAL 'redis.call(\"XADD\", KEYS[1], \"1-1\", \"f\", \"v\") redis.call(\"XGROUP\", \"CREATE\", KEYS[1], \"g\", 0) redis.call(\"XREADGROUP\", \"GROUP\", \"g\", \"c\", \"STREAMS\", KEYS[1], \">\")' 1 i",
        "XREADGROUP GROUP g c STREAMS i 0",
    ),
    ("XGROUP CREATE h g 0 MKSTREAM", "XCLAIM h g consumer 0 1-1"),
];

async fn all(tenant: &mut Wire, lines: impl Iterator<Item = &str>) -> Result<()> {
    for line in lines {
        if let Answer::Refused(why) = tenant.ask(&words(line, b"")).await? {
            bail!("{line}: {why}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_not_logged_comes_with_a_base_alone() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let empty = server.backup().await?;
    let mut tenant = Wire::connect(&server).await?;
    all(&mut tenant, UNLOGGED.iter().map(|(logged, _)| *logged)).await?;
    let logged = reading(server.agent().await?).await?;
    all(&mut tenant, UNLOGGED.iter().map(|(_, unlogged)| *unlogged)).await?;
    let held = reading(server.agent().await?).await?;
    let full = server.backup().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let end = Timestamp::now();
    archive.caught_up().await?;
    reader.abort();
    let any = SignedDuration::ZERO..SignedDuration::from_secs(60);
    for (base, target, expected, seen) in
        [(&full, None, &held, true), (&full, Some(end), &held, true), (&empty, Some(end), &logged, false)]
    {
        let (copy, _) = Server::restore(base, &archive, target).await?;
        let compared = same(expected, &reading(copy.agent().await?).await?, any.clone(), seen);
        copy.stop().await?;
        compared.with_context(|| format!("{target:?}"))?;
    }
    ensure!(logged.unlike(&held) == UNLOGGED.len(), "the server logs some of them: {}", logged.unlike(&held));
    server.stop().await
}

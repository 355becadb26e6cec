//! The log in the archive is the server's, byte for byte, whatever happens meanwhile.

use holdfast_engines::{DiskGuard as _, Driver, LogDriver as _};
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_engines::valkey::aof::begin_line;
use holdfast_testkit::{seed, wait_for};
use rand::Rng;

use crate::valkey::harness::{Archive, Server, Writer};

/// What the archive should hold: every file that was ever written to, each behind its line.
fn expected(server: &Server) -> Result<Vec<u8>> {
    let mut files: Vec<u64> = std::fs::read_dir(server.kept())?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".incr")?.parse().ok())
        .collect();
    files.sort_unstable();
    ensure!(files.windows(2).all(|pair| pair[1] == pair[0] + 1), "a file is missing: {files:?}");
    let mut all = Vec::new();
    for seq in files {
        all.extend(begin_line(seq).as_bytes());
        all.extend(std::fs::read(server.kept().join(format!("{seq}.incr")))?);
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_byte_is_archived_once_though_the_reader_is_killed_and_the_log_rewritten() -> Result<()> {
    let mut random = seed::generator("valkey follow");
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let mut reader = archive.follow(&server);
    archive.caught_up().await?;
    let writer = Writer::start(&server).await?;
    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..400))).await;
        reader.abort();
        let _ = reader.await; // it was aborted
        // While nobody reads, the log is rewritten, and what it held is removed.
        if round % 2 == 0 {
            server.backup().await?;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
        reader = archive.follow(&server);
        if round % 2 == 1 {
            server.backup().await?;
        }
    }
    let entries = writer.stop().await?;
    archive.caught_up().await?;
    reader.abort();
    ensure!(archive.lock().begins == [None], "{:?}", archive.lock().begins);
    let (found, expected) = (archive.bytes(), expected(&server)?);
    ensure!(found == expected, "{} bytes in the archive, {} were written", found.len(), expected.len());
    let segments = archive.lock().segments.len();
    println!("{} transactions, {} bytes in {segments} pieces, 6 files", entries.len(), found.len());
    for pair in archive.lock().segments.windows(2) {
        ensure!(pair[0].to == pair[1].from);
    }

    // What is archived may go; nothing else does.
    let before = server.driver.log_on_disk(&server.instance)?;
    ensure!(before.waiting_bytes == before.total_bytes && before.total_bytes > 0, "{before:?}");
    let cursor = archive.lock().cursor.clone().context("there is one")?;
    server.driver.release_log(&server.instance, &cursor).await?;
    let after = server.driver.log_on_disk(&server.instance)?;
    ensure!(after.waiting_bytes == 0 && after.total_bytes < before.total_bytes, "{after:?}");
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_crash_tears_off_is_no_gap_and_what_is_lost_is() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    let mut client = server.client().await?;
    redis::cmd("SET").arg("a").arg(1).query_async::<()>(&mut client).await?;
    archive.caught_up().await?;
    reader.abort();

    // The server dies in the middle of a transaction that it writes.
    server.driver.stop(&server.instance, 20).await?;
    assert!(holdfast_testkit::ports::is_free(server.instance.port), "what was stopped has its port");
    let live = server.aof().join("appendonly.aof.1.incr.aof");
    let mut file = std::fs::OpenOptions::new().append(true).open(&live)?;
    let second = holdfast_core::Timestamp::now().as_second();
    write!(file, "#TS:{second}\r\n*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$4\r\ntorn\r\n$3\r\nval")?;
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    server.driver.start(&server.instance).await?;
    let mut client = server.client().await?;
    redis::cmd("SET").arg("b").arg(2).query_async::<()>(&mut client).await?;
    archive.caught_up().await?;
    ensure!(archive.lock().begins == [None], "{:?}", archive.lock().begins);
    ensure!(archive.bytes() == expected(&server)?, "the torn end does not stand in the archive");
    reader.abort();

    // The host dies and its disk never saw the last write.
    server.driver.stop(&server.instance, 20).await?;
    assert!(holdfast_testkit::ports::is_free(server.instance.port), "what was stopped has its port");
    let length = std::fs::metadata(&live)?.len();
    std::fs::OpenOptions::new().write(true).open(&live)?.set_len(length - 27)?;
    server.driver.start(&server.instance).await?;
    let reader = archive.follow(&server);
    begun_anew(&archive, "lost writes").await?;
    let mut client = server.client().await?;
    redis::cmd("SET").arg("c").arg("3".repeat(100)).query_async::<()>(&mut client).await?;
    archive.caught_up().await?;
    reader.abort();

    // The same, and as much was written again before anybody looked.
    server.driver.stop(&server.instance, 20).await?;
    assert!(holdfast_testkit::ports::is_free(server.instance.port), "what was stopped has its port");
    let length = std::fs::metadata(&live)?.len();
    std::fs::OpenOptions::new().write(true).open(&live)?.set_len(length - 127)?;
    server.driver.start(&server.instance).await?;
    let mut client = server.client().await?;
    redis::cmd("SET").arg("d").arg("4".repeat(300)).query_async::<()>(&mut client).await?;
    let reader = archive.follow(&server);
    begun_anew(&archive, "is not the one").await?;
    archive.caught_up().await?;
    ensure!(archive.bytes() == expected(&server)?);
    reader.abort();

    // Kept log is given up.
    server.backup().await?;
    redis::cmd("SET").arg("e").arg(5).query_async::<()>(&mut client).await?;
    let dropped = server.driver.drop_waiting_log(&server.instance).await?;
    ensure!(dropped > 0);
    let reader = archive.follow(&server);
    begun_anew(&archive, "was removed").await?;
    archive.caught_up().await?;
    reader.abort();
    ensure!(String::from_utf8_lossy(&archive.bytes()).contains("$1\r\ne\r\n"));
    server.stop().await
}

/// Waits until the archive's last beginning has a cause with these words.
async fn begun_anew(archive: &Archive, words: &str) -> Result<()> {
    wait_for(words, 30, || async {
        let last = archive.lock().begins.last().cloned().flatten();
        Ok(last.filter(|cause| cause.contains(words)).map(drop))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_value_larger_than_a_piece_and_a_transaction_larger_than_memory_should_hold_come_whole()
-> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let mut client = server.client().await?;
    redis::cmd("SET").arg("big").arg(vec![7_u8; 5 << 20]).query_async::<()>(&mut client).await?;
    let mut many = redis::pipe();
    many.atomic();
    for number in 0..30_u8 {
        many.cmd("SET").arg(format!("part:{number}")).arg(vec![number; 1 << 20]).ignore();
    }
    many.query_async::<()>(&mut client).await?;
    redis::cmd("SET").arg("after").arg(1).query_async::<()>(&mut client).await?;
    archive.caught_up().await?;
    let (found, expected) = (archive.bytes(), expected(&server)?);
    let differs = found.iter().zip(&expected).position(|(one, other)| one != other);
    ensure!(found == expected, "{} of {} bytes, differing from {differs:?} on", found.len(), expected.len());
    let largest = archive.lock().segments.iter().map(|segment| segment.bytes.len()).max();
    ensure!(largest.is_some_and(|bytes| bytes <= 9 << 20), "{largest:?}");
    reader.abort();
    server.stop().await
}

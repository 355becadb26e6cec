//! Restores hold exactly what clients were told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_core::Timestamp;
use holdfast_core::engine::TimeUnit;
use holdfast_engines::EngineError;
use holdfast_engines::exec::{self, ProcessSpec};
use holdfast_engines::valkey::aof::begin_line;
use holdfast_testkit::{holdfast, seed};
use rand::Rng;
use redis::aio::MultiplexedConnection;

use crate::valkey::harness::{Archive, Server, Writer, judge};

/// Deadlines that a script's numbers cannot hold, and the last that they can, about.
const FAR: [(&str, i64); 3] = [("end", i64::MAX), ("beyond", (1 << 53) + 1), ("edge", (1 << 53) - 1)];

/// One of each kind that the server has, in several databases, with and without deadlines.
async fn fill(client: &mut MultiplexedConnection) -> Result<()> {
    let mut all = redis::pipe();
    all.cmd("SET").arg("brief").arg("1").arg("PX").arg(3000).ignore();
    all.cmd("SET").arg("forever").arg("1").ignore();
    all.cmd("SET").arg("day").arg("1").arg("EX").arg(86400).ignore();
    for (key, at) in FAR {
        all.cmd("SET").arg(key).arg("1").ignore();
        all.cmd("PEXPIREAT").arg(key).arg(at).ignore();
    }
    all.cmd("HSET").arg("hash").arg("a").arg(1).arg("b").arg(2).ignore();
    all.cmd("HPEXPIRE").arg("hash").arg(3000).arg("FIELDS").arg(1).arg("a").ignore();
    all.cmd("RPUSH").arg("list").arg("a").arg("b").ignore();
    all.cmd("SADD").arg("set").arg("a").arg("b").ignore();
    all.cmd("ZADD").arg("zset").arg(1.5).arg("a").ignore();
    all.cmd("PFADD").arg("hll").arg("a").arg("b").ignore();
    all.cmd("XADD").arg("stream").arg("*").arg("f").arg("v").ignore();
    all.cmd("XGROUP").arg("CREATE").arg("stream").arg("group").arg("0").ignore();
    all.cmd("XREADGROUP").arg("GROUP").arg("group").arg("me").arg("STREAMS").arg("stream").arg(">").ignore();
    let code = "#!lua name=lib\nserver.register_function('answer', function() return 42 end)";
    all.cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(code).ignore();
    all.cmd("SELECT").arg(9).ignore();
    all.cmd("SET").arg("elsewhere").arg("1").arg("PX").arg(3000).ignore();
    all.cmd("SELECT").arg(0).ignore();
    all.query_async::<()>(client).await?;
    Ok(())
}

/// That what was alive is alive, and lives as long as it had left.
async fn check_filled(server: &Server) -> Result<()> {
    let mut client = server.client().await?;
    let mut left =
        async |key: &str| -> Result<i64> { Ok(redis::cmd("PTTL").arg(key).query_async(&mut client).await?) };
    let (brief, forever, day) = (left("brief").await?, left("forever").await?, left("day").await?);
    ensure!((1..=5000).contains(&brief), "brief lives for {brief} ms");
    ensure!(forever == -1 && (86_000_000..=86_402_000).contains(&day), "{forever} {day}");
    for (key, at) in FAR {
        let found: i64 = redis::cmd("PEXPIRETIME").arg(key).query_async(&mut client).await?;
        ensure!(found == at, "{key} is to go at {found}");
    }
    let field: Vec<i64> = redis::cmd("HPTTL")
        .arg("hash")
        .arg("FIELDS")
        .arg(2)
        .arg("a")
        .arg("b")
        .query_async(&mut client)
        .await?;
    ensure!((1..=5000).contains(&field[0]) && field[1] == -1, "{field:?}");
    let pending: Vec<redis::Value> =
        redis::cmd("XPENDING").arg("stream").arg("group").query_async(&mut client).await?;
    ensure!(pending.first() == Some(&redis::Value::Int(1)), "{pending:?}");
    let answer: i64 = redis::cmd("FCALL").arg("answer").arg(0).query_async(&mut client).await?;
    let count: i64 = redis::cmd("PFCOUNT").arg("hll").query_async(&mut client).await?;
    let list: i64 = redis::cmd("LLEN").arg("list").query_async(&mut client).await?;
    let set: i64 = redis::cmd("SCARD").arg("set").query_async(&mut client).await?;
    let score: f64 = redis::cmd("ZSCORE").arg("zset").arg("a").query_async(&mut client).await?;
    ensure!((answer, count, list, set) == (42, 2, 2, 2) && (score - 1.5).abs() < 0.001);
    redis::cmd("SELECT").arg(9).query_async::<()>(&mut client).await?;
    let elsewhere: i64 = redis::cmd("PTTL").arg("elsewhere").query_async(&mut client).await?;
    ensure!((1..=5000).contains(&elsewhere), "elsewhere lives for {elsewhere} ms");
    // Nothing of what keeps the clock still is left.
    tokio::time::sleep(Duration::from_millis(6000)).await;
    let gone: i64 = redis::cmd("EXISTS").arg("elsewhere").query_async(&mut client).await?;
    ensure!(gone == 0, "deadlines come");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restores_go_to_any_second_and_to_a_backup() -> Result<()> {
    let mut random = seed::generator("valkey restore");
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let writer = Writer::start(&server).await?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let base = server.backup().await?;
    let made = base.made.clone().context("it was made")?;
    let from = made.consistent_at;
    let seq = made.facts["seq"].as_u64().context("it is a number")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.backup().await?; // the log is rewritten on the way
    tokio::time::sleep(Duration::from_secs(3)).await;
    let entries = writer.stop().await?;
    let to = Timestamp::now();
    archive.caught_up().await?;

    for _ in 0..3 {
        let micros = random.random_range(from.as_microsecond()..to.as_microsecond());
        let point = Timestamp::from_microsecond(micros)?;
        let (copy, restored) = Server::restore(&base, &archive, Some(point)).await?;
        ensure!(restored.reached == TimeUnit::Second.floor(point));
        let found = judge(&copy, &entries, restored.reached).await?;
        println!("restored to {point}: {found} of {} entries", entries.len());
        oracle(&copy, &archive, seq, restored.reached).await?;
        copy.stop().await?;
    }
    let at: Timestamp = serde_json::from_value(made.facts["at"].clone())?;
    let (copy, restored) = Server::restore(&base, &archive, None).await?;
    ensure!(restored.reached == at && at <= made.consistent_at);
    judge(&copy, &entries, at).await?;
    // The users came with it: one with the new service's password, one with its old one.
    copy.client_as("second", "other").await?;

    // The copy is a service of its own: it goes on, restarts, and is itself restored.
    let own = Archive::default();
    let own_reader = own.follow(&copy);
    let second = copy.backup().await?;
    let mut client = copy.client().await?;
    redis::cmd("SET").arg("second generation").arg(1).query_async::<()>(&mut client).await?;
    let after = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(1))?;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    own.caught_up().await?;
    let (grandchild, _) = Server::restore(&second, &own, Some(after)).await?;
    let mut client = grandchild.client().await?;
    let value: i64 = redis::cmd("GET").arg("second generation").query_async(&mut client).await?;
    let last: i64 = redis::cmd("GET").arg("last").query_async(&mut client).await?;
    ensure!(value == 1 && last > 0);
    own_reader.abort();
    reader.abort();
    for server in [grandchild, copy, server] {
        server.stop().await?;
    }
    Ok(())
}

/// The server's own tool cuts the archived log where we do.
async fn oracle(copy: &Server, archive: &Archive, seq: u64, reached: Timestamp) -> Result<()> {
    let engines = holdfast::engines().context("engines are there")?;
    let folder = tempfile::tempdir()?;
    let theirs = folder.path().join("log.aof");
    let ours = std::fs::read(copy.aof().join("appendonly.aof.1.incr.aof"))?;
    let whole = archive.bytes();
    let begin = begin_line(seq);
    let start = whole.windows(begin.len()).position(|window| window == begin.as_bytes());
    std::fs::write(&theirs, &whole[start.context("the base's log is in the archive")? + begin.len()..])?;
    // It keeps all of the second that it is given.
    let script = folder.path().join("cut");
    let tool = engines.join("valkey-9.1/bin/valkey-check-aof");
    let command = format!(
        "echo y | '{}' --truncate-to-timestamp {} '{}'",
        tool.display(),
        reached.as_second() - 1,
        theirs.display()
    );
    std::fs::write(&script, command)?;
    exec::run(ProcessSpec::new("/bin/sh", folder.path()).args([&script])).await?;
    ensure!(std::fs::read(&theirs)? == ours, "the server's tool cuts elsewhere");
    // Its check of a whole folder takes no base of its own release (9.1.2), so that is checked by itself.
    let base = copy.aof().join("appendonly.aof.1.base.rdb");
    let check = ProcessSpec::new(tool.with_file_name("valkey-check-rdb"), folder.path()).args([base]);
    exec::run(check).await.map(drop).context("the server's tool finds the base sound")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_alive_at_the_point_is_alive_in_the_copy() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let mut client = server.client().await?;
    // In the log.
    let base = server.backup().await?;
    fill(&mut client).await?;
    let filled = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(1))?;
    // In a base.
    let full = server.backup().await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    archive.caught_up().await?;
    let gone: i64 = redis::cmd("EXISTS").arg("brief").query_async(&mut client).await?;
    ensure!(gone == 0, "it is past its deadline in the source");

    for (base, point) in [(&base, Some(filled)), (&full, None)] {
        let (copy, _) = Server::restore(base, &archive, point).await?;
        check_filled(&copy).await?;
        // Also after it has read its own log again.
        use holdfast_engines::Driver;
        let mut before = copy.client().await?;
        let digest = async |client: &mut MultiplexedConnection| -> Result<i64> {
            Ok(redis::cmd("PEXPIRETIME").arg("day").query_async(client).await?)
        };
        let day = digest(&mut before).await?;
        copy.driver.stop(&copy.instance, 20).await?;
        copy.driver.start(&copy.instance).await?;
        ensure!(digest(&mut copy.client().await?).await? == day, "deadlines are moved once");
        copy.stop().await?;
    }
    // A second later than the deadline, it is not there.
    let late = filled.checked_add(jiff::SignedDuration::from_secs(3))?;
    let (copy, _) = Server::restore(&base, &archive, Some(late)).await?;
    let mut client = copy.client().await?;
    let brief: i64 = redis::cmd("EXISTS").arg("brief").query_async(&mut client).await?;
    ensure!(brief == 0);
    copy.stop().await?;
    reader.abort();
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_log_without_its_end_and_a_changed_base_are_refused() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let mut client = server.client().await?;
    redis::cmd("SET").arg("k").arg("v").query_async::<()>(&mut client).await?;
    let mut base = server.backup().await?;
    archive.caught_up().await?;
    reader.abort();

    let later = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(3600))?;
    let error = Server::restore(&base, &archive, Some(later)).await.err().context("the log ends before")?;
    ensure!(matches!(error.downcast_ref(), Some(EngineError::Hole { .. })), "{error}");

    let made = base.made.as_mut().context("it was made")?;
    made.facts["fingerprint"]["databases"]["0"]["keys"] = 2.into();
    let error = Server::restore(&base, &archive, None).await.err().context("a key is missing")?;
    ensure!(error.to_string().contains("fingerprint"), "{error}");
    let made = base.made.as_mut().context("it was made")?;
    made.facts["version"] = "99.0.0".into();
    let error = Server::restore(&base, &archive, None).await.err().context("the server is older")?;
    ensure!(matches!(error.downcast_ref(), Some(EngineError::Unfit { .. })), "{error}");
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_base_holds_nothing_newer_than_it_says_though_the_server_was_slow() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let writer = Writer::start(&server).await?;
    // Longer than the server keeps writes waiting.
    let between = server.hold_up("BGREWRITEAOF", Duration::from_millis(3500))?;
    let base = server.backup().await?;
    between.abort();
    let entries = writer.stop().await?;
    reader.abort();
    let at: Timestamp =
        serde_json::from_value(base.made.as_ref().context("it was made")?.facts["at"].clone())?;
    let (copy, _) = Server::restore(&base, &archive, None).await?;
    judge(&copy, &entries, at).await?;
    copy.stop().await?;
    server.cut_off(false)?;
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_past_its_deadline_at_the_point_does_not_come_back() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let mut client = server.client().await?;
    let base = server.backup().await?;
    // As it is between a deadline and the server's next look for what is past its own.
    let mut agent = server.agent().await?;
    redis::cmd("DEBUG").arg("SET-ACTIVE-EXPIRE").arg(0).query_async::<()>(&mut agent).await?;
    let mut all = redis::pipe();
    all.cmd("SET").arg("past").arg("1").arg("PX").arg(100).ignore();
    for hash in ["hash", "only"] {
        all.cmd("HSET").arg(hash).arg("a").arg(1).ignore();
        all.cmd("HPEXPIRE").arg(hash).arg(100).arg("FIELDS").arg(1).arg("a").ignore();
    }
    all.cmd("HSET").arg("hash").arg("b").arg(2).ignore();
    all.query_async::<()>(&mut client).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let filled = Timestamp::now().checked_add(jiff::SignedDuration::from_secs(1))?;
    let full = server.backup().await?;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    archive.caught_up().await?;
    reader.abort();

    for (base, point) in [(&full, None), (&base, Some(filled))] {
        let (copy, _) = Server::restore(base, &archive, point).await?;
        let mut client = copy.client().await?;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await?;
        let fields: Vec<String> = redis::cmd("HKEYS").arg("hash").query_async(&mut client).await?;
        ensure!(keys == ["hash"] && fields == ["b"], "{point:?}: {keys:?} {fields:?}");
        copy.stop().await?;
    }
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_with_nothing_in_it_does_not_stop_a_restore() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let mut client = server.client().await?;
    let mut all = redis::pipe();
    all.cmd("SET").arg("k").arg("v").ignore();
    // Copied between their deadline and the server's next look for what is past its own.
    for copy in ["copy", "brief"] {
        all.cmd("HSET").arg("hash").arg("a").arg(1).ignore();
        all.cmd("HPEXPIRE").arg("hash").arg(1).arg("FIELDS").arg(1).arg("a").ignore();
        all.cmd("BLPOP").arg("none").arg("0.01").ignore();
        all.cmd("COPY").arg("hash").arg(copy).ignore();
        all.cmd("DEL").arg("hash").ignore();
    }
    all.cmd("EXPIRE").arg("brief").arg(1000).ignore();
    let mut agent = server.agent().await?;
    redis::cmd("DEBUG").arg("SET-ACTIVE-EXPIRE").arg(0).query_async::<()>(&mut agent).await?;
    all.query_async::<()>(&mut client).await?;
    let keys: i64 = redis::cmd("EXISTS").arg("copy").arg("brief").query_async(&mut client).await?;
    ensure!(keys == 2, "the server makes no hashes without fields any more: {keys}");
    let base = server.backup().await?;
    let (copy, _) = Server::restore(&base, &Archive::default(), None).await?;
    let mut client = copy.client().await?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await?;
    ensure!(keys == ["k"], "{keys:?}");
    copy.stop().await?;
    server.stop().await
}

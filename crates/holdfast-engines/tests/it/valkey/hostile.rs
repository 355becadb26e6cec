//! What a tenant puts in the agent's way: libraries whose heads do what they can while they are loaded, functions called as
//! commands, scripts that reach for more, keys and values that look like the log. Nothing of it runs as the agent or is taken for
//! the log's own, and a copy has what its source had.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use holdfast_core::Timestamp;
use holdfast_engines::Driver as _;
use jiff::SignedDuration;

use crate::valkey::harness::{Archive, Server};
use crate::valkey::wire::{Answer, Wire};
use holdfast_testkit::valkey::{reading, same};

const UNKNOWN: &str = "Script attempted to access nonexistent global variable";
/// A head that cannot be loaded, and why: it runs in the copy too, without a limit of time, so whatever it could tell a copy by is out
/// of its reach.
const REFUSED_HEADS: &[(&str, &str)] = &[
    ("server.call('SET', 'x', 1)", UNKNOWN),
    ("server.pcall('SET', 'x', 1)", UNKNOWN),
    ("server.set_repl(0)", UNKNOWN),
    ("local at = os.clock()", UNKNOWN),
    ("local used = collectgarbage('count')", UNKNOWN),
    ("local where = tostring({})", UNKNOWN),
    ("local any = math.random()", UNKNOWN),
    ("loadstring('return 1')()", UNKNOWN),
    ("local version = server.SERVER_VERSION", UNKNOWN),
    ("while true do end", "timeout"),
    ("server.register_function('a b', function() end)", "can only contain letters"),
];

/// Heads that can: they take long, and call functions as commands of the agent's are called.
const HEADS: &[&str] = &[
    "local n = 0 while n < 300000 do n = n + 1 end server.register_function('slow', function() return 1 end)",
    "for n = 1, 200 do server.register_function('f' .. n, function() return server.call('FLUSHALL') end) end",
    "local names = {'scan', 'get', 'eval', 'info', 'shutdown', 'unlink', 'pexpireat', 'acl', 'config', 'debug', 'select', 'multi'} \
     for n = 1, 12 do server.register_function(names[n], function() return server.call('FLUSHALL') end) end",
];

/// What scripts of a tenant's may not do, as the tenant may not.
const REFUSED_CALLS: &[&str] = &[
    "'ACL', 'SETUSER', 'app_user', '+@all'",
    "'ACL', 'LIST'",
    "'CONFIG', 'SET', 'appendonly', 'no'",
    "'CONFIG', 'GET', '*'",
    "'DEBUG', 'SLEEP', '0'",
    "'BGREWRITEAOF'",
    "'CLIENT', 'PAUSE', '1'",
    "'CLIENT', 'IMPORT-SOURCE', 'ON'",
    "'FUNCTION', 'FLUSH'",
    "'MODULE', 'LIST'",
    "'SHUTDOWN', 'NOSAVE'",
    "'REPLICAOF', 'NO', 'ONE'",
    "'MIGRATE', '127.0.0.1', '1', 'k', '0', '10'",
    "'AUTH', 'default', 'x'",
];

/// As bytes of the log, or of a list of files.
const LIKE_THE_LOG: &[&str] = &[
    "*3\r\n$3\r\nSET\r\n$4\r\nevil\r\n$1\r\nx\r\n",
    "\r\n#TS:1\r\n",
    "#TS:4000000000\r\n",
    "#HF:incr=1\r\n",
    "$-1\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "REDIS0011\u{fa}",
    "VALKEY080",
    "file appendonly.aof.1.base.rdb seq 1 type b\n",
    "../../conf/users.acl",
    "user evil on nopass ~* &* +@all",
    "",
    "\0",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_a_tenants_runs_as_the_agent_or_passes_for_the_log() -> Result<()> {
    let Some(server) = Server::start().await? else { return Ok(()) };
    let archive = Archive::default();
    let reader = archive.follow(&server);
    archive.caught_up().await?;
    let mut tenant = Wire::connect(&server).await?;
    refused(&mut tenant).await?;
    lay(&mut tenant, "early").await?;
    server.driver.probe(&server.instance).await?;
    ensure!(server.driver.database_bytes(&server.instance).await? > 0, "it has a size");
    let held = reading(server.agent().await?).await?;
    let base = server.backup().await?;
    lay(&mut tenant, "late").await?;
    let end_of_all = reading(server.agent().await?).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let end = Timestamp::now();
    archive.caught_up().await?;
    reader.abort();
    let any = SignedDuration::ZERO..SignedDuration::from_secs(60);
    for (target, expected) in [(None, &held), (Some(end), &end_of_all)] {
        let (copy, _) = Server::restore(&base, &archive, target).await?;
        let compared = same(expected, &reading(copy.agent().await?).await?, any.clone(), true);
        copy.stop().await?;
        compared.with_context(|| format!("{target:?}"))?;
    }
    stops_though_a_script_never_ends(server).await
}

fn library(name: &str, head: &str) -> Vec<Vec<u8>> {
    let text = format!("#!lua name={name}\n{head}");
    ["FUNCTION", "LOAD", "REPLACE", &text].map(|word| word.as_bytes().to_vec()).into()
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

async fn refused(tenant: &mut Wire) -> Result<()> {
    for (head, why) in REFUSED_HEADS {
        match tenant.ask(&library("refused", head)).await.context(*head)? {
            Answer::Refused(text) => ensure!(text.contains(why), "{head}: {text}"),
            _ => anyhow::bail!("{head} was loaded"),
        }
    }
    for call in REFUSED_CALLS {
        let answer =
            tenant.ask(&words(&["EVAL", &format!("return redis.call({call})"), "0"])).await.context(*call)?;
        ensure!(matches!(answer, Answer::Refused(_)), "{call} ran");
    }
    Ok(())
}

async fn lay(tenant: &mut Wire, when: &str) -> Result<()> {
    let mut all: Vec<_> =
        HEADS.iter().enumerate().map(|(n, head)| library(&format!("lib{n}"), head)).collect();
    all.push(library(
        &format!("only_{when}"),
        &format!("server.register_function('of_{when}', function() end)"),
    ));
    all.push(words(&[
        "EVAL",
        "redis.log(redis.LOG_WARNING, ARGV[1])",
        "0",
        "x\n1:M 1 Jan 2026 # empty keys skipped: 1000",
    ]));
    all.push(words(&["SELECT", "3"]));
    for text in LIKE_THE_LOG {
        let key = format!("{when}{text}");
        all.push(words(&["SET", &key, text]));
        all.push(words(&["SET", text, when]));
        all.push(words(&["HSET", &format!("{key} hash"), text, text]));
        all.push(words(&["XADD", &format!("{key} stream"), "*", text, text]));
        all.push(words(&["PUBLISH", text, text]));
        all.push(words(&["EVAL", "return redis.call('APPEND', KEYS[1], ARGV[1])", "1", &key, text]));
        all.push(words(&["CLIENT", "SETNAME", "x"]));
    }
    all.push(words(&["SELECT", "0"]));
    for one in all {
        let what = || one.concat().escape_ascii().to_string();
        if let Answer::Refused(why) = tenant.ask(&one).await.with_context(what)? {
            anyhow::bail!("{}: {why}", what());
        }
    }
    Ok(())
}

/// A script that has written cannot be ended by anybody.
async fn stops_though_a_script_never_ends(server: Server) -> Result<()> {
    let mut tenant = Wire::connect(&server).await?;
    ensure!(
        !matches!(tenant.ask(&words(&["SET", "acknowledged", "x"])).await?, Answer::Refused(_)),
        "written"
    );
    let script = "redis.call('SET', KEYS[1], 'written') while true do end";
    let endless =
        tokio::spawn(async move { tenant.ask(&words(&["EVAL", script, "1", "by a script"])).await.is_ok() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    server.driver.stop(&server.instance, 4).await?;
    ensure!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    ensure!(!endless.await.is_ok_and(|answered| answered), "it ended");
    server.driver.start(&server.instance).await?;
    // Nobody was told that the script had written.
    let mut client = server.client().await?;
    let found: bool = redis::cmd("EXISTS").arg("acknowledged").query_async(&mut client).await?;
    ensure!(found, "what was acknowledged is gone");
    server.stop().await
}

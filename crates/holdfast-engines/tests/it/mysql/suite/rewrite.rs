//! What is changed in a test of the server's own so that a tenant can run it, and so that something of it stays.

use std::sync::LazyLock;

use rand::Rng as _;
use rand::rngs::StdRng;
use regex::bytes::{Captures, Regex};

/// The account that runs them, and its password: `connect` of mysqltest takes no password with quotes.
pub(super) const USER: &str = "app";
pub(super) const PASSWORD: &str = "suite";

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern")
}

static CONNECT: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"(?im)^([ \t]*(?:--)?[ \t]*connect[ \t]*\()([^)\n]*)\)"));
static ROOT: LazyLock<Regex> = LazyLock::new(|| compiled(r#"(?i)(['"`]?)root['"`]?@['"`]?localhost['"`]?"#));
static HOST: LazyLock<Regex> = LazyLock::new(|| compiled(r#"(?i)@['"`]?localhost['"`]?"#));
/// Whether a statement fails is nobody's matter.
static ERROR: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"(?im)^[ \t]*(?:--)?[ \t]*(?:error[ \t]|enable_abort_on_error)[^\n]*$"));
static ENGINE: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"(?i)(engine[ \t]*=?[ \t]*)['`]?(?:myisam|memory|heap|csv|archive|blackhole|merge|mrg_myisam)\b['`]?",
    )
});
static OWN: LazyLock<Regex> = LazyLock::new(|| compiled(r"\btest\.([\w`*$])|(?im)^([ \t]*use[ \t]+)test\b"));
static DROP: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"(?i)^[ \t]*drop[ \t]+(table|view|procedure|function|event|trigger|user|role|index|library)[ \t]+(if[ \t]+exists[ \t]+)?([^;]*);[ \t]*$",
    )
});
static SLEEP: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"(?im)^[ \t]*(?:--)?[ \t]*(?:real_)?sleep[ \t][^\n]*$"));
static PLAIN: LazyLock<Regex> = LazyLock::new(|| compiled(r"^[\w`$]+$"));

/// For a tenant at `port`: its own account where the suite is `root`, InnoDB where it asks for another engine, and the
/// database `own` in place of `test`.
pub(super) fn for_a_tenant(text: &[u8], own: &str, port: u16) -> Vec<u8> {
    let text = CONNECT.replace_all(text, |found: &Captures<'_>| {
        [&found[1], connection(&String::from_utf8_lossy(&found[2]), own, port).as_bytes(), b")"].concat()
    });
    let text = ROOT.replace_all(&text, |_: &Captures<'_>| format!("'{USER}'@'%'").into_bytes());
    let text = HOST.replace_all(&text, &b"@'%'"[..]);
    let text = SLEEP.replace_all(&text, &b""[..]);
    let text = ENGINE.replace_all(&text, &b"${1}InnoDB"[..]);
    let text = OWN.replace_all(&text, |found: &Captures<'_>| match found.get(1) {
        Some(next) => [own.as_bytes(), b".", next.as_bytes()].concat(),
        None => [&found[2], own.as_bytes()].concat(),
    });
    text.into_owned()
}

/// `name, host, user, password, database, port, socket, options`.
fn connection(arguments: &str, own: &str, port: u16) -> String {
    let given: Vec<&str> = arguments.split(',').map(str::trim).collect();
    let of = |at: usize| given.get(at).copied().unwrap_or_default();
    let (user, password) = if of(2) == "root" { (USER, PASSWORD) } else { (of(2), of(3)) };
    let database = if of(4).is_empty() || of(4) == "test" { own } else { of(4) };
    format!("{},127.0.0.1,{user},{password},{database},{port}", of(0))
}

/// Whatever a statement is expected to fail with, the test goes on.
pub(super) fn without_errors(text: &[u8]) -> Vec<u8> {
    ERROR.replace_all(text, &b""[..]).into_owned()
}

/// Leaves out the last `DROP` of a name, and renames tables in place of others, by chance.
pub(super) fn with_less_cleaning(text: &[u8], random: &mut StdRng) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let mut made = Vec::new();
    let mut after_error = false;
    for (at, line) in lines.iter().enumerate() {
        let dropped = DROP.captures(line).filter(|found| !after_error && found.get(2).is_none());
        let kept = dropped.and_then(|found| instead(&found, &lines[at + 1..], at, random));
        after_error =
            line.trim_ascii_start().starts_with(b"--error") || line.trim_ascii_start().starts_with(b"error");
        made.extend_from_slice(kept.as_deref().unwrap_or(line));
        made.push(b'\n');
    }
    made
}

/// What stands in the place of a `DROP`; `None` where it stays.
fn instead(found: &Captures<'_>, later: &[&[u8]], at: usize, random: &mut StdRng) -> Option<Vec<u8>> {
    let kind = String::from_utf8_lossy(&found[1]).to_ascii_lowercase();
    let names = String::from_utf8_lossy(&found[3]).into_owned();
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    if !names.iter().all(|name| PLAIN.is_match(name.as_bytes())) {
        return None;
    }
    if !names.iter().any(|name| is_made(name, later)) {
        return random.random_bool(0.9).then(Vec::new);
    }
    (kind == "table" && random.random_bool(0.5)).then(|| {
        let renamed = |name: &&str| format!("{name} TO `{}_{at}`", name.trim_matches('`'));
        format!("RENAME TABLE {};", names.iter().map(renamed).collect::<Vec<_>>().join(", ")).into_bytes()
    })
}

fn is_made(name: &str, later: &[&[u8]]) -> bool {
    let name = name.trim_matches('`').to_ascii_lowercase();
    later.iter().any(|line| {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        line.contains(&name) && (line.contains("create") || line.contains("source"))
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn a_tenant_connects_as_itself_and_to_its_own_database() {
        let rewritten =
            |text: &str| String::from_utf8(for_a_tenant(text.as_bytes(), "own", 7)).expect("text");
        let rows = [
            ("connect (con1, localhost, root,,);", "connect (con1,127.0.0.1,app,suite,own,7);"),
            ("--connect(a,localhost,u,pw,db1)", "--connect(a,127.0.0.1,u,pw,db1,7)"),
            ("create definer='root'@'localhost' view v", "create definer='app'@'%' view v"),
            ("create table t1 (a int) engine=MyISAM;", "create table t1 (a int) engine=InnoDB;"),
            ("create user u1@localhost, 'u2'@`localhost`", "create user u1@'%', 'u2'@'%'"),
            ("--sleep 3\nselect sleep(1);", "\nselect sleep(1);"),
            ("use test;\nselect * from test.t1, latest.t;", "use own;\nselect * from own.t1, latest.t;"),
        ];
        for (text, expected) in rows {
            assert_eq!(rewritten(text), expected);
        }
    }

    #[test]
    fn what_is_made_again_is_dropped_or_renamed_and_the_last_stays() {
        let text = b"create table t1 (a int);\ndrop table t1;\ncreate table t1 (b int);\n--error 1051\ndrop table t9;\ndrop table t1;";
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let made = with_less_cleaning(text, &mut StdRng::seed_from_u64(seed));
            seen.insert(String::from_utf8(made).expect("text"));
        }
        let renamed = "create table t1 (a int);\nRENAME TABLE t1 TO `t1_1`;\ncreate table t1 (b int);\n--error 1051\ndrop table t9;\n\n";
        assert!(seen.contains(renamed), "{seen:?}");
        let untouched = |made: &String| made.matches("drop table t1;").count() == 2;
        assert!(seen.iter().any(|made| made.contains("drop table t1;") && !untouched(made)), "{seen:?}");
    }
}

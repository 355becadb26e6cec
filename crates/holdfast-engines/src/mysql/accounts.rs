//! The users that Holdfast makes for a tenant, and from where they may come.
//!
//! MySQL's accounts name a user *and* its host, and a host may be an IPv4 network. So a user has one account for each
//! allowed network, and always one for all hosts, which is locked where only some networks are allowed: definers keep
//! their account, whatever the list. Accounts of networks that are no longer allowed are locked too: of two accounts that
//! fit, the server takes the one with the longer mask (MySQL 9.7 manual, "Access Control, Stage 1").
//! Accounts that a tenant makes by itself have the hosts that it gives them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use holdfast_core::engine::lets_in_everybody;
use mysql_async::Conn;

use super::sql::{literal, rows, run, text};
use crate::{EngineError, Instance, Paths, Result, UserSpec, files};

/// Marks the accounts that are Holdfast's own, for people, and for instances of before 2026-12; holds the user's role. A tenant can
/// change it, so the agent goes by its own file.
const MARK: &str = "holdfast_role";
const ANYWHERE: &str = "%";
/// In the instance's folder of settings, which only the agent writes.
const KNOWN: &str = "users.json";

const READ: &str = "SELECT, SHOW DATABASES, SHOW VIEW, EXECUTE";
const WRITE: &str = "SELECT, SHOW DATABASES, SHOW VIEW, EXECUTE, INSERT, UPDATE, DELETE, CREATE, DROP, REFERENCES, INDEX, ALTER, \
    CREATE TEMPORARY TABLES, LOCK TABLES, CREATE VIEW, CREATE ROUTINE, ALTER ROUTINE, EVENT, TRIGGER";
/// Of databases that belong to the server, a tenant sees what everybody may see.
const CLOSED: [&str; 2] = ["mysql", "sys"];

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: u32,
    bits: u32,
}

impl Network {
    fn parse(cidr: &str) -> Option<Self> {
        let (address, bits) = cidr.trim().split_once('/').unwrap_or((cidr.trim(), "32"));
        let address: Ipv4Addr = address.parse().ok()?;
        let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
        Some(Self { address: u32::from(address) & mask(bits), bits })
    }

    fn of_host(host: &str) -> Option<Self> {
        let (address, netmask) = host.split_once('/').unwrap_or((host, "255.255.255.255"));
        let (address, netmask): (Ipv4Addr, Ipv4Addr) = (address.parse().ok()?, netmask.parse().ok()?);
        Some(Self { address: u32::from(address), bits: u32::from(netmask).leading_ones() })
    }

    fn contains(self, other: Self) -> bool {
        self.bits <= other.bits && other.address & mask(self.bits) == self.address
    }

    fn host(self) -> String {
        match self.bits {
            0 => ANYWHERE.to_owned(),
            32 => Ipv4Addr::from(self.address).to_string(),
            bits => format!("{}/{}", Ipv4Addr::from(self.address), Ipv4Addr::from(mask(bits))),
        }
    }
}

fn mask(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

/// The allowed networks; empty: all.
fn networks(cidrs: &[String]) -> Result<Vec<Network>> {
    if lets_in_everybody(cidrs) {
        return Ok(Vec::new());
    }
    let parse = |cidr: &String| {
        Network::parse(cidr).ok_or_else(|| EngineError::Unexpected {
            doing: "restrict who may connect".to_owned(),
            what: format!("{cidr} is no IPv4 network, and MySQL knows no others"),
        })
    };
    cidrs.iter().map(parse).collect()
}

fn is_open(host: &str, allowed: &[Network]) -> bool {
    allowed.is_empty()
        || Network::of_host(host)
            .is_some_and(|network| allowed.iter().any(|allowed| allowed.contains(network)))
}

/// The default database and the tenant's users, with passwords, rights and hosts as given. Idempotent, so that a repeated
/// step finds its own work.
pub(super) async fn make_tenant(conn: &mut Conn, instance: &Instance, users: &[UserSpec]) -> Result<()> {
    remember(conn, instance, users).await?;
    for user in users {
        ensure(conn, instance, user).await?;
        give_password(conn, instance, user).await?; // also to those that a tenant made under the name
    }
    restrict(conn, instance).await
}

/// The service's users by name, with their roles: what is theirs in the server is found by this alone.
type Known = BTreeMap<String, String>;

/// `None` for an instance of before 2026-12, until its users are written down.
fn known(instance: &Instance) -> Result<Option<Known>> {
    let file = Paths(&instance.folder).conf().join(KNOWN);
    let doing = || format!("read {}", file.display());
    match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| EngineError::Unexpected { doing: doing(), what: error.to_string() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::io(doing())(error)),
    }
}

/// Writes users down, beside those that are known.
async fn remember(conn: &mut Conn, instance: &Instance, users: &[UserSpec]) -> Result<()> {
    let mut all: Known = own(conn, instance).await?.into_iter().map(|own| (own.name, own.role)).collect();
    all.extend(known(instance)?.unwrap_or_default());
    all.extend(users.iter().map(|user| (user.username.clone(), user.role.clone())));
    let text = serde_json::to_vec(&all).expect("names");
    files::write_secret(&Paths(&instance.folder).conf().join(KNOWN), &text)
}

pub(super) async fn make_default_database(conn: &mut Conn) -> Result<()> {
    run(conn, "create the default database", "CREATE DATABASE IF NOT EXISTS defaultdb").await
}

async fn ensure(conn: &mut Conn, instance: &Instance, user: &UserSpec) -> Result<()> {
    let mut hosts: Vec<String> = networks(&instance.allowed_cidrs)?.into_iter().map(Network::host).collect();
    hosts.push(ANYWHERE.to_owned());
    for host in hosts {
        let account = account(&user.username, &host);
        let doing = format!("make user {}", user.username);
        let attribute = literal(&format!("{{\"{MARK}\": \"{}\"}}", user.role));
        let create = format!("CREATE USER IF NOT EXISTS {account} IDENTIFIED BY {}", literal(&user.password));
        run(conn, &doing, create).await?;
        let alter =
            format!("ALTER USER {account} IDENTIFIED BY {} ATTRIBUTE {attribute}", literal(&user.password));
        run(conn, &doing, alter).await?;
        grant(conn, &user.role, &account, &doing).await?;
    }
    Ok(())
}

async fn grant(conn: &mut Conn, role: &str, account: &str, doing: &str) -> Result<()> {
    let (rights, option) = match role {
        "admin" => (format!("{WRITE}, PROCESS, CREATE USER, CREATE ROLE, DROP ROLE"), " WITH GRANT OPTION"),
        "readonly" => (READ.to_owned(), ""),
        _ => (WRITE.to_owned(), ""),
    };
    run(conn, doing, format!("GRANT {rights} ON *.* TO {account}{option}")).await?;
    if role == "admin" {
        let dynamic = "ROLE_ADMIN, SHOW_ROUTINE, XA_RECOVER_ADMIN";
        run(conn, doing, format!("GRANT {dynamic} ON *.* TO {account} WITH GRANT OPTION")).await?;
    }
    for database in CLOSED {
        let rights = rights_on_databases(&rights);
        run(conn, doing, format!("REVOKE {rights} ON {database}.* FROM {account}")).await?;
    }
    Ok(())
}

/// Those of `rights` that a database can be taken out of.
fn rights_on_databases(rights: &str) -> String {
    const SERVER_WIDE: [&str; 5] = ["SHOW DATABASES", "PROCESS", "CREATE USER", "CREATE ROLE", "DROP ROLE"];
    let rights: Vec<&str> =
        rights.split(',').map(str::trim).filter(|right| !SERVER_WIDE.contains(right)).collect();
    rights.join(", ")
}

/// Gives all accounts of the user's name a new password; makes them where there is none any more.
pub(super) async fn set_password(conn: &mut Conn, instance: &Instance, user: &UserSpec) -> Result<()> {
    remember(conn, instance, std::slice::from_ref(user)).await?;
    if give_password(conn, instance, user).await? == 0 {
        ensure(conn, instance, user).await?;
    }
    restrict(conn, instance).await
}

/// Returns how many accounts there are.
async fn give_password(conn: &mut Conn, instance: &Instance, user: &UserSpec) -> Result<usize> {
    let doing = format!("set the password of {}", user.username);
    let mut accounts = own(conn, instance).await?;
    accounts.retain(|own| own.name == user.username);
    for Own { name, host, .. } in &accounts {
        let account = account(name, host);
        run(conn, &doing, format!("ALTER USER {account} IDENTIFIED BY {}", literal(&user.password))).await?;
        // A second one that was kept is no way in either.
        run(conn, &doing, format!("ALTER USER {account} DISCARD OLD PASSWORD")).await?;
    }
    Ok(accounts.len())
}

/// Opens the accounts of allowed networks, making those that are missing, and locks the others.
pub(super) async fn restrict(conn: &mut Conn, instance: &Instance) -> Result<()> {
    let allowed = networks(&instance.allowed_cidrs)?;
    let doing = "restrict who may connect";
    let accounts = own(conn, instance).await?;
    for Own { name, role, .. } in accounts.iter().filter(|own| own.host == ANYWHERE) {
        for host in allowed.iter().map(|network| network.host()) {
            if !accounts.iter().any(|own| own.name == *name && own.host == host) {
                copy_account(conn, name, &host, role).await?;
            }
        }
    }
    for Own { name, host, .. } in own(conn, instance).await? {
        let lock = if is_open(&host, &allowed) { "UNLOCK" } else { "LOCK" };
        run(conn, doing, format!("ALTER USER {} ACCOUNT {lock}", account(&name, &host))).await?;
    }
    end_sessions_from_elsewhere(conn, instance, &allowed).await
}

/// The account of a user at one more host, with the password that it has.
async fn copy_account(conn: &mut Conn, name: &str, host: &str, role: &str) -> Result<()> {
    let doing = format!("make user {name}");
    let hash = format!(
        "SELECT HEX(authentication_string) AS hash FROM mysql.user WHERE user = {} AND host = '{ANYWHERE}'",
        literal(name)
    );
    let found = rows(conn, &doing, &hash).await?;
    let hash = found.first().map(|row| text(row, "hash")).unwrap_or_default();
    let account = account(name, host);
    let create = format!(
        "CREATE USER IF NOT EXISTS {account} IDENTIFIED WITH caching_sha2_password AS 0x{hash} ATTRIBUTE {}",
        literal(&format!("{{\"{MARK}\": \"{role}\"}}"))
    );
    run(conn, &doing, create).await?;
    grant(conn, role, &account, &doing).await
}

/// Sessions that are there already came before the list was as it is.
async fn end_sessions_from_elsewhere(
    conn: &mut Conn,
    instance: &Instance,
    allowed: &[Network],
) -> Result<()> {
    if allowed.is_empty() {
        return Ok(());
    }
    let doing = "end sessions of networks that are not allowed";
    let names: Vec<String> = own(conn, instance).await?.into_iter().map(|own| own.name).collect();
    let sessions = "SELECT id, user, host FROM information_schema.processlist WHERE host <> 'localhost'";
    for session in rows(conn, doing, sessions).await? {
        let from = text(&session, "host");
        let address = Network::parse(from.rsplit_once(':').map_or(&*from, |(address, _)| address));
        let welcome = address.is_some_and(|address| allowed.iter().any(|network| network.contains(address)));
        if names.contains(&text(&session, "user")) && !welcome {
            let _ = run(conn, doing, format!("KILL {}", text(&session, "id"))).await; // it may have ended
        }
    }
    Ok(())
}

/// An account of one of the service's users.
struct Own {
    name: String,
    host: String,
    role: String,
}

async fn own(conn: &mut Conn, instance: &Instance) -> Result<Vec<Own>> {
    let known = known(instance)?;
    let query = format!(
        "SELECT user AS name, host AS host, user_attributes->>'$.metadata.{MARK}' AS role FROM mysql.user ORDER BY user, host"
    );
    let mut all = Vec::new();
    for row in rows(conn, "list the users", &query).await? {
        let (name, host, marked) = (text(&row, "name"), text(&row, "host"), text(&row, "role"));
        let role = match &known {
            Some(known) => known.get(&name).cloned(),
            None => Some(marked).filter(|role| !role.is_empty()),
        };
        let Some(role) = role else { continue };
        all.push(Own { name, host, role });
    }
    Ok(all)
}

pub(super) fn account(name: &str, host: &str) -> String {
    format!("{}@{}", literal(name), literal(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_become_hosts_as_the_server_writes_them() {
        let rows = [
            ("10.0.0.0/8", Some("10.0.0.0/255.0.0.0")),
            ("10.1.2.3/8", Some("10.0.0.0/255.0.0.0")),
            ("192.168.1.7", Some("192.168.1.7")),
            ("192.168.1.7/32", Some("192.168.1.7")),
            ("0.0.0.0/0", Some("%")),
            ("10.0.0.0/33", None),
            ("2001:db8::/32", None),
            ("x", None),
        ];
        for (cidr, host) in rows {
            assert_eq!(Network::parse(cidr).map(Network::host).as_deref(), host, "{cidr}");
        }
    }

    #[test]
    fn only_accounts_within_an_allowed_network_are_open() {
        let allowed = networks(&["10.0.0.0/8".to_owned(), "192.168.1.7/32".to_owned()]).expect("IPv4");
        let rows = [
            ("%", false),
            ("10.0.0.0/255.0.0.0", true),
            ("10.2.0.0/255.255.0.0", true),
            ("8.0.0.0/252.0.0.0", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
        ];
        for (host, open) in rows {
            assert_eq!(is_open(host, &allowed), open, "{host}");
            assert!(is_open(host, &[]), "all networks are allowed");
        }
        assert!(networks(&["10.0.0.0/8".to_owned(), "0.0.0.0/0".to_owned()]).expect("IPv4").is_empty());
    }
}

//! Engine kinds and what each can do, as data: the server plans and refuses from this alone, without a driver.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

mod address;
mod cidrs;

pub use address::Endpoint;
pub use cidrs::{CidrRefusal, CidrRule, Network, check_cidrs, lets_in_everybody};

/// A kind of database that the contract knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    Postgresql,
    Mysql,
    Mongodb,
    Valkey,
    Kafka,
    Opensearch,
    Mssql,
}

/// What an engine can do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// A driver exists in this release: services of this kind can be made.
    pub available: bool,
    /// A restore point names an instant; restores reach it.
    pub point_in_time: bool,
    /// Base backups can build on an earlier one.
    pub incremental: bool,
    /// The words of `backup_method` on the wire: the engine's usual method first, then those that must be asked for.
    pub backup_methods: &'static [&'static str],
    /// Versions accepted on creation where a host can run them, oldest first.
    pub versions: &'static [&'static str],
    pub default_version: &'static str,
    /// Log is archived, and removed, in whole pieces of so many units of its offsets; 1 where any cut will do.
    pub log_piece: u64,
    /// The database that a tenant finds after provisioning.
    pub default_database: &'static str,
    /// The smallest step of time that the engine's commit stamps tell apart.
    pub unit: TimeUnit,
    /// Instances speak TLS on the port that clients are told.
    pub tls: bool,
    /// Which lists of `allowed_cidrs` it enforces.
    pub cidrs: CidrRule,
    /// The users that a service has from its provisioning on, the tenant's own first. None is a superuser.
    pub accounts: &'static [Account],
}

/// A step of time in which engines stamp commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    Microsecond,
    Millisecond,
    Second,
}

impl TimeUnit {
    #[must_use]
    pub fn microseconds(self) -> i64 {
        match self {
            Self::Microsecond => 1,
            Self::Millisecond => 1_000,
            Self::Second => 1_000_000,
        }
    }

    /// The latest instant of whole units that is not after `at`.
    #[must_use]
    pub fn floor(self, at: Timestamp) -> Timestamp {
        let micros = at.as_microsecond();
        let whole = micros - micros.rem_euclid(self.microseconds());
        Timestamp::from_microsecond(whole).unwrap_or(at)
    }
}

/// A database user of a new service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub username: &'static str,
    /// The engine's word for its rights; drivers go by it.
    pub role: &'static str,
    /// The same for people.
    pub privileges: &'static str,
}

/// `app_user` and `admin`, as clients expect them (contract, section 6).
const fn accounts(role: &'static str, privileges: &'static str) -> [Account; 2] {
    [Account { username: "app_user", role, privileges }, Account { username: "admin", role, privileges }]
}

/// PostgreSQL's default size of a WAL segment.
const WAL_SEGMENT_BYTES: u64 = 16 << 20;

impl Capability {
    /// What makes a backup when nothing else was asked for.
    #[must_use]
    pub fn usual_method(&self) -> &'static str {
        self.backup_methods.first().expect("every engine has a method")
    }
}

impl EngineKind {
    pub const ALL: [Self; 7] = [
        Self::Postgresql,
        Self::Mysql,
        Self::Mongodb,
        Self::Valkey,
        Self::Kafka,
        Self::Opensearch,
        Self::Mssql,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql",
            Self::Mysql => "mysql",
            Self::Mongodb => "mongodb",
            Self::Valkey => "valkey",
            Self::Kafka => "kafka",
            Self::Opensearch => "opensearch",
            Self::Mssql => "mssql",
        }
    }

    /// What this release can do with the engine. `available` turns true release by release.
    #[must_use]
    pub fn capability(self) -> Capability {
        let planned = |point_in_time, backup_methods, versions, default_version| Capability {
            available: false,
            point_in_time,
            incremental: false,
            backup_methods,
            versions,
            default_version,
            log_piece: 1,
            default_database: "defaultdb",
            unit: TimeUnit::Microsecond,
            tls: true,
            cidrs: CidrRule::Any,
            accounts: const { &accounts("admin", "all rights but those on the server itself") },
        };
        match self {
            Self::Postgresql => Capability {
                available: true,
                point_in_time: true,
                incremental: true,
                backup_methods: &["pgbackrest"],
                // initdb's builtin locale provider came with 17.
                versions: &["17", "18"],
                default_version: "17",
                log_piece: WAL_SEGMENT_BYTES,
                default_database: "defaultdb",
                unit: TimeUnit::Microsecond,
                tls: true,
                cidrs: CidrRule::Any,
                accounts: const { &accounts("admin", "owner of defaultdb, may create databases and roles") },
            },
            Self::Mysql => Capability {
                available: true,
                cidrs: CidrRule::Ipv4,
                accounts: const { &accounts("admin", "all rights on databases and users but the system's") },
                ..planned(true, &["mysqldump", "clone"], &["9.7"], "9.7")
            },
            Self::Mongodb => Capability {
                available: true,
                unit: TimeUnit::Millisecond,
                accounts: &[
                    Account {
                        username: "app_user",
                        role: "readWrite",
                        privileges: "reads and writes all databases but the system's",
                    },
                    Account {
                        username: "admin",
                        role: "admin",
                        privileges: "administers all databases but the system's, and watches the server",
                    },
                ],
                ..planned(true, &["mongodump"], &["6.0", "7.0", "8.0"], "7.0")
            },
            Self::Valkey => Capability {
                available: true,
                unit: TimeUnit::Second,
                default_database: "0",
                tls: false,
                cidrs: CidrRule::AllOrLoopback,
                accounts: const { &accounts("admin", "all keys, and all commands but those on the server itself") },
                // A restore holds the clock still with what came with 8.1 (`import-mode`).
                ..planned(true, &["rdb"], &["8.1", "9.0", "9.1"], "8.1")
            },
            Self::Kafka => planned(false, &["kafka_full"], &["3.6", "3.7", "3.8", "3.9", "4.0"], "3.9"),
            Self::Opensearch => planned(false, &["snapshot"], &["2"], "2"),
            Self::Mssql => Capability {
                default_database: "master",
                log_piece: WAL_SEGMENT_BYTES,
                incremental: true,
                ..planned(true, &["pgbackrest"], &["4.8"], "4.8")
            },
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no engine of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown database_type {0:?}; known: postgresql, mysql, mongodb, valkey, kafka, opensearch, mssql")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    /// Ignores case and `_`: the C# client would send `postgre_sql`.
    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        let folded: String = text.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect();
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == folded)
            .ok_or_else(|| UnknownEngine(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_parsed_from_its_own_name_and_serialised_as_it() {
        for kind in EngineKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(kind.as_str().to_uppercase().parse(), Ok(kind));
            let json = serde_json::to_string(&kind).expect("a plain enum");
            assert_eq!(json, format!("\"{kind}\""));
        }
        assert_eq!("postgre_sql".parse(), Ok(EngineKind::Postgresql));
        for bad in ["", "postgres", "redis", "my-sql"] {
            assert_eq!(bad.parse::<EngineKind>(), Err(UnknownEngine(bad.to_owned())));
        }
    }

    #[test]
    fn every_capability_offers_its_default_version() {
        for kind in EngineKind::ALL {
            let capability = kind.capability();
            assert!(capability.versions.contains(&capability.default_version), "{kind}");
            assert!(!capability.default_database.is_empty(), "{kind}");
            assert!(!capability.usual_method().is_empty(), "{kind}");
            assert_eq!(
                capability.accounts.first().map(|account| account.username),
                Some("app_user"),
                "{kind}"
            );
        }
    }

    #[test]
    fn an_instant_is_cut_to_whole_units() {
        let at: Timestamp = "2026-03-15T14:30:00.123456789Z".parse().expect("a time");
        for (unit, cut) in [
            (TimeUnit::Microsecond, "2026-03-15T14:30:00.123456Z"),
            (TimeUnit::Millisecond, "2026-03-15T14:30:00.123Z"),
            (TimeUnit::Second, "2026-03-15T14:30:00Z"),
        ] {
            assert_eq!(unit.floor(at).to_string(), cut);
            assert_eq!(unit.floor(unit.floor(at)), unit.floor(at));
        }
        let before_1970: Timestamp = "1969-12-31T23:59:59.5Z".parse().expect("a time");
        assert_eq!(TimeUnit::Second.floor(before_1970).to_string(), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn engines_without_a_log_offer_no_points_in_time() {
        let without: Vec<_> =
            EngineKind::ALL.into_iter().filter(|kind| !kind.capability().point_in_time).collect();
        assert_eq!(without, [EngineKind::Kafka, EngineKind::Opensearch]);
    }
}

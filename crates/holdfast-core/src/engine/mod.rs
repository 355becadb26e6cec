//! Engine kinds and what each can do, as data: the server plans and refuses from this alone, without a driver.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

mod address;
mod cidrs;
mod kinds;

pub use address::{Endpoint, Notation};
pub use cidrs::{CidrRefusal, CidrRule, Network, check_cidrs, lets_in_everybody};
pub use kinds::{EngineKind, WAL_SEGMENT_BYTES};

/// What an engine can do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its name for people.
    pub title: &'static str,
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
    /// The database that a tenant finds after provisioning; empty where an engine has no such thing.
    pub default_database: &'static str,
    /// The smallest step of time that the engine's commit stamps tell apart.
    pub unit: TimeUnit,
    /// Instances speak TLS on the port that clients are told.
    pub tls: bool,
    /// Which lists of `allowed_cidrs` it enforces.
    pub cidrs: CidrRule,
    /// How its connection strings read.
    pub notation: Notation,
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

impl Capability {
    /// What makes a backup when nothing else was asked for.
    #[must_use]
    pub fn usual_method(&self) -> &'static str {
        self.backup_methods.first().expect("every engine has a method")
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no engine of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown database_type {0:?}; known: {known}", known = names(", "))]
pub struct UnknownEngine(pub String);

/// The names of all kinds.
#[must_use]
pub fn names(between: &str) -> String {
    EngineKind::ALL.map(EngineKind::as_str).join(between)
}

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

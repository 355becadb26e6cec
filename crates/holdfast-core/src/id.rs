//! One newtype an identifier, so that a service's id never stands where a job's belongs.
//! All are opaque, URL-safe strings on the wire.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text given is no identifier of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind} id")]
pub struct InvalidId {
    pub kind: &'static str,
    pub text: String,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random id (UUID version 4).
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // Only the canonical spelling: one id, one text.
                match Uuid::try_parse(text) {
                    Ok(id) if id.to_string() == text => Ok(Self(id)),
                    _ => Err(InvalidId { kind: $kind, text: text.to_owned() }),
                }
            }
        }
    };
}

uuid_id!(
    /// What users name: a database service.
    ServiceId,
    "service"
);
uuid_id!(
    /// The owner of services.
    OrganizationId,
    "organization"
);
uuid_id!(
    /// One life of a service's data. A restored service starts a new one; no two share a store prefix (R16, R19).
    LineageId,
    "lineage"
);
uuid_id!(
    /// A durable unit of work.
    JobId,
    "job"
);
uuid_id!(
    /// A data key (DEK): a backup's, a log epoch's or a repository's. Never key material.
    KeyId,
    "key"
);
uuid_id!(
    /// A process that acts beside databases.
    AgentId,
    "agent"
);

/// A backup, `bkp_` and 16 of `[a-z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BackupId(String);

impl BackupId {
    const PREFIX: &str = "bkp_";
    const RANDOM_CHARS: usize = 16;

    /// A new random id: 16 characters of 36, about 82 bits.
    #[must_use]
    pub fn random() -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::from(Self::PREFIX);
        for _ in 0..Self::RANDOM_CHARS {
            text.push(char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]));
        }
        Self(text)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for BackupId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId { kind: "backup", text: text.to_owned() };
        let rest = text.strip_prefix(Self::PREFIX).ok_or_else(invalid)?;
        let well_formed = (12..=40).contains(&rest.len())
            && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if well_formed { Ok(Self(text.to_owned())) } else { Err(invalid()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_ids_round_trip_and_reject_what_could_leave_a_path() {
        for _ in 0..100 {
            let id = BackupId::random();
            assert_eq!(id.as_str().parse::<BackupId>(), Ok(id.clone()));
        }
        for bad in [
            "",
            "bkp_",
            "bkp_short",
            "bkp_abcdefghijkl/..",
            "BKP_abcdefghijkl",
            "bkp_ABCDEFGHIJKL",
            "restore",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn only_the_canonical_spelling_of_a_uuid_is_an_id() {
        let id = ServiceId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_uppercase().replace('-', "").parse::<ServiceId>().is_err());
    }
}

//! Names that users give, checked once.

use crate::size::plan;

/// Why a name or a choice was refused; the text goes to the user as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "{field} must be 3 to 63 characters of lower-case letters, digits and hyphens, and start and end with a letter or digit"
    )]
    Name { field: &'static str },
    #[error("unknown plan_name {0:?}; known: tier-1 to tier-16")]
    Plan(String),
    #[error("unknown zone {0:?}; a zone looks like se-sto1")]
    Zone(String),
}

/// A service's name: 3 to 63 of `[a-z0-9-]`, first and last no hyphen.
///
/// # Errors
/// [`NameError::Name`] with `field` when the text is anything else.
pub fn check_service_name(field: &'static str, name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    if (3..=63).contains(&bytes.len())
        && bytes.iter().all(allowed)
        && edge(bytes.first())
        && edge(bytes.last())
    {
        Ok(())
    } else {
        Err(NameError::Name { field })
    }
}

/// # Errors
/// [`NameError::Plan`] for anything but `tier-1` to `tier-16`.
pub fn check_plan(name: &str) -> Result<(), NameError> {
    plan(name).map(|_| ()).ok_or_else(|| NameError::Plan(name.to_owned()))
}

/// The zones that the contract lists; any other of the form `aa-bbbN` is accepted too.
pub const ZONES: [&str; 6] = ["se-sto1", "fi-hel1", "fi-hel2", "nl-ams1", "de-fra1", "us-nyc1"];

/// # Errors
/// [`NameError::Zone`] when the text is not of the form `aa-bbbN`.
pub fn check_zone(zone: &str) -> Result<(), NameError> {
    let shape = |bytes: &[u8]| match bytes {
        [a, b, b'-', c, d, e, n] => {
            [a, b, c, d, e].iter().all(|x| x.is_ascii_lowercase()) && n.is_ascii_digit()
        }
        _ => false,
    };
    if shape(zone.as_bytes()) { Ok(()) } else { Err(NameError::Zone(zone.to_owned())) }
}

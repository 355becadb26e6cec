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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_letters_digits_and_inner_hyphens() {
        let longest = "a".repeat(63);
        for good in ["abc", "a-b", "0a9", "my-db-1", "a--b", longest.as_str()] {
            assert_eq!(check_service_name("name", good), Ok(()), "{good:?}");
        }
        let too_long = "a".repeat(64);
        let bad = [
            "",
            "ab",
            "-ab",
            "ab-",
            "Abc",
            "a_b",
            "a.b",
            "a b",
            "a/b",
            "äbc",
            "abc\n",
            "../a",
            too_long.as_str(),
        ];
        for bad in bad {
            assert_eq!(check_service_name("name", bad), Err(NameError::Name { field: "name" }), "{bad:?}");
        }
        let refusal = check_service_name("new_name", "").expect_err("empty");
        assert!(refusal.to_string().starts_with("new_name must be 3 to 63 characters"), "{refusal}");
    }

    #[test]
    fn plans_are_the_sixteen_tiers() {
        for tier in 1..=16 {
            assert_eq!(check_plan(&format!("tier-{tier}")), Ok(()));
        }
        for bad in ["tier-0", "tier-17", "tier-01", "Tier-1", "tier-1 ", ""] {
            assert_eq!(check_plan(bad), Err(NameError::Plan(bad.to_owned())));
        }
    }

    #[test]
    fn zones_are_accepted_by_their_form() {
        for good in ZONES.into_iter().chain(["xx-yyy9"]) {
            assert_eq!(check_zone(good), Ok(()));
        }
        for bad in ["", "se-sto", "se-sto12", "SE-sto1", "sesto-1", "se_sto1", "se-sto1\n"] {
            assert_eq!(check_zone(bad), Err(NameError::Zone(bad.to_owned())));
        }
    }
}

//! Checks of single values that users give. Texts name the field and say what would do.

use std::collections::BTreeMap;

use holdfast_core::engine::{EngineKind, check_cidrs};
use jiff::Timestamp;

use super::AppError;

/// Longest label, in characters.
pub(crate) const MAX_TEXT_CHARS: usize = 200;
const MAX_CIDRS: usize = 256;
const MAX_LABELS: usize = 64;

/// A value that must be given; an empty text is none.
pub(crate) fn required<'a>(field: &str, value: Option<&'a String>) -> Result<&'a str, AppError> {
    value
        .map(String::as_str)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| AppError::invalid(format!("{field} is required")))
}

/// An integer between two bounds, both included.
pub(crate) fn within(field: &str, value: u32, low: u32, high: u32) -> Result<u32, AppError> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(AppError::invalid(format!("{field} must be between {low} and {high}")))
    }
}

/// One of a few words.
pub(crate) fn one_of(
    field: &str,
    value: Option<String>,
    words: &[&str],
    default: &str,
) -> Result<String, AppError> {
    let value = value.unwrap_or_else(|| default.to_owned());
    if words.contains(&value.as_str()) {
        Ok(value)
    } else {
        Err(AppError::invalid(format!("unknown {field} {value:?}; known: {}", words.join(", "))))
    }
}

/// A short text for people: any language, but no control characters and none that reorder what stands around them.
pub(crate) fn text(field: &str, value: &str) -> Result<(), AppError> {
    let reorders = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if value.chars().count() > MAX_TEXT_CHARS {
        Err(AppError::invalid(format!("{field} must be at most {MAX_TEXT_CHARS} characters long")))
    } else if value.chars().any(|c| c.is_control() || reorders(c)) {
        Err(AppError::invalid(format!("{field} must not hold control characters")))
    } else {
        Ok(())
    }
}

/// The same for a value that may be absent; an empty one counts as absent.
pub(crate) fn optional_text(field: &str, value: Option<String>) -> Result<Option<String>, AppError> {
    let value = value.filter(|value| !value.is_empty());
    if let Some(value) = &value {
        text(field, value)?;
    }
    Ok(value)
}

pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Result<(), AppError> {
    if labels.len() > MAX_LABELS {
        return Err(AppError::invalid(format!("labels must be at most {MAX_LABELS}")));
    }
    for (key, value) in labels {
        if key.is_empty() {
            return Err(AppError::invalid("labels must not have an empty name"));
        }
        text("labels", key)?;
        text("labels", value)?;
    }
    Ok(())
}

/// Networks in CIDR notation that the engine can enforce.
pub(crate) fn cidrs(engine: EngineKind, cidrs: &[String]) -> Result<(), AppError> {
    if cidrs.len() > MAX_CIDRS {
        return Err(AppError::invalid(format!("allowed_cidrs must be at most {MAX_CIDRS}")));
    }
    check_cidrs(engine, engine.capability().cidrs, cidrs)
        .map_err(|refusal| AppError::invalid(refusal.to_string()))
}

/// `sun:03:00-sun:05:00`.
pub(crate) fn maintenance_window(window: &str) -> Result<(), AppError> {
    let end = |text: &str| {
        let (day, time) = text.split_once(':')?;
        let (hour, minute) = time.split_once(':')?;
        let two_digits = |t: &str| t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
        let good = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].contains(&day)
            && two_digits(hour)
            && two_digits(minute)
            && hour <= "23"
            && minute <= "59";
        good.then_some(())
    };
    let good = window.split_once('-').and_then(|(from, to)| end(from).and_then(|()| end(to)));
    good.ok_or_else(|| AppError::invalid("maintenance_window must look like sun:03:00-sun:05:00"))
}

/// An instant as RFC 3339 writes it, with any offset and fraction; cut to the microseconds that the catalog keeps.
///
/// Stricter than the library's parser, which also takes other notations of ISO 8601.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (date_time, rest) = bytes.split_at_checked(19)?;
    let shaped = date_time.iter().enumerate().all(|(n, b)| match n {
        4 | 7 => *b == b'-',
        10 => matches!(b, b'T' | b't'),
        13 | 16 => *b == b':',
        _ => b.is_ascii_digit(),
    });
    let fraction_len = match rest {
        [b'.', digits @ ..] => 1 + digits.iter().take_while(|b| b.is_ascii_digit()).count(),
        _ => 0,
    };
    let offset = &rest[fraction_len..];
    let offset_shaped = match offset {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|b| b.is_ascii_digit()),
        _ => false,
    };
    // A leap second names no instant of its own in a database's clock.
    let leap = &date_time[17..] > b"59".as_slice();
    if !shaped || fraction_len == 1 || !offset_shaped || leap {
        return None;
    }
    // More than nanoseconds would be refused; finer than microseconds is cut anyway.
    let fraction = &text[19..19 + fraction_len.min(10)];
    let whole = format!("{}{fraction}{}", &text[..19], &text[19 + fraction_len..]);
    let instant: Timestamp = whole.to_ascii_uppercase().parse().ok()?;
    Timestamp::from_nanosecond(instant.as_nanosecond().div_euclid(1000) * 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_takes_any_offset_and_fraction_and_nothing_else() {
        for (good, expected) in [
            ("2026-03-15T14:30:00Z", "2026-03-15T14:30:00Z"),
            ("2026-03-15t14:30:00z", "2026-03-15T14:30:00Z"),
            ("2026-03-15T14:30:00+02:00", "2026-03-15T12:30:00Z"),
            ("2026-03-15T14:30:00-11:30", "2026-03-16T02:00:00Z"),
            ("2026-03-15T14:30:00.1Z", "2026-03-15T14:30:00.1Z"),
            ("2026-03-15T14:30:00.123456789012345Z", "2026-03-15T14:30:00.123456Z"),
            ("1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(rfc3339(good).map(|t| t.to_string()).as_deref(), Some(expected), "{good}");
        }
        for bad in [
            "",
            "now",
            "2026-03-15",
            "2026-03-15T14:30:00",
            "2026-03-15 14:30:00Z",
            "2026-03-15T14:30Z",
            "20260315T143000Z",
            "2026-02-30T00:00:00Z",
            "2026-03-15T24:00:00Z",
            "2026-06-30T23:59:60Z",
            "10000-01-01T00:00:00Z",
            "+010000-01-01T00:00:00Z",
            "2026-03-15T14:30:00.Z",
            "2026-03-15T14:30:00,5Z",
            "2026-03-15T14:30:00+2",
            "2026-03-15T14:30:00+0200",
            "2026-03-15T14:30:00Z[UTC]",
            "2026-03-15T14:30:00Z ",
            "2026-03-15T14:30:0üZ",
            "1773585000",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_maintenance_window_has_two_ends() {
        assert!(maintenance_window("sun:03:00-sun:05:00").is_ok());
        assert!(maintenance_window("mon:23:59-tue:00:00").is_ok());
        for bad in [
            "",
            "sun:03:00",
            "sun:24:00-sun:05:00",
            "sun:03:60-sun:05:00",
            "Sun:03:00-sun:05:00",
            "sun:3:00-sun:05:00",
            "x",
        ] {
            assert!(maintenance_window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_may_be_any_language_but_not_forge_their_surroundings() {
        for good in ["", "vor der Migration", "до", "🎉", "مرحبا"] {
            assert!(text("label", good).is_ok(), "{good}");
        }
        for bad in ["a\0b", "a\nb", "\u{202e}gnp.exe", "\u{1b}[31m", &"x".repeat(201)] {
            assert!(text("label", bad).is_err(), "{bad:?}");
        }
    }
}

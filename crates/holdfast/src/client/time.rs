//! What people write for an instant, and for a length of time.

use std::fmt;

use jiff::civil::{DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan as _};

const NANOS: u128 = 1_000_000_000;
/// Names of a unit, and its seconds. Months and years have no fixed length and are left out.
const UNITS: [(&[&str], u128); 5] = [
    (&["s", "sec", "secs", "second", "seconds"], 1),
    (&["m", "min", "mins", "minute", "minutes"], 60),
    (&["h", "hr", "hrs", "hour", "hours"], 3600),
    (&["d", "day", "days"], 86_400),
    (&["w", "week", "weeks"], 604_800),
];

/// An instant that somebody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub at: Timestamp,
    /// The text named a time of day but no offset; it was taken as UTC, and people must be told.
    pub assumed_utc: bool,
}

/// A text that is no instant; its `Display` names the accepted forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoTime {
    text: String,
    because: &'static str,
}

impl fmt::Display for NoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no instant: {}. Accepted: 2026-03-15T14:30:00Z, 2026-03-15T14:30:00.25+01:00, \
             \"2026-03-15 14:30\" (UTC), \"yesterday 14:30\" (UTC), \"10 minutes ago\", \"1h30m ago\", now",
            self.text, self.because
        )
    }
}

impl std::error::Error for NoTime {}

/// Reads an instant: RFC 3339 with any offset and fraction; date and time without an offset, as UTC; `today` or
/// `yesterday` with a time; `now`; a length of time and `ago`. Case and repeated spaces do not matter. What is relative
/// to `now` is cut to microseconds, never into the future.
///
/// # Errors
/// A text of no such form, or an instant that no calendar has.
pub(crate) fn parse_time(text: &str, now: Timestamp) -> Result<Asked, NoTime> {
    let fail = |because| NoTime { text: text.trim().to_owned(), because };
    let words = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    if words.is_empty() {
        return Err(fail("it is empty"));
    }
    if words == "now" {
        return Ok(Asked { at: whole_micros(now), assumed_utc: false });
    }
    if let Some(length) = words.strip_suffix("ago") {
        let length = parse_length(length).map_err(fail)?;
        let at = now.checked_sub(length).map_err(|_| fail("that is before all calendars"))?;
        return Ok(Asked { at: whole_micros(at), assumed_utc: false });
    }
    for (word, days_back) in [("yesterday", 1), ("today", 0)] {
        if let Some(time) = words.strip_prefix(word) {
            return on_day(time, days_back, now).map_err(fail);
        }
    }
    absolute(&words).map_err(fail)
}

/// `15m`, `1h30m`, `90` (seconds).
///
/// # Errors
/// A text that is no length of time.
pub(crate) fn parse_wait(text: &str) -> Result<std::time::Duration, String> {
    let all_digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let length =
        if all_digits { parse_length(&format!("{text}s")) } else { parse_length(&text.to_lowercase()) };
    let length = length.map_err(|because| format!("{because}; write 90s, 15m or 1h30m"))?;
    length.try_into().map_err(|_| "it is too long".to_owned())
}

fn whole_micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_nanosecond().div_euclid(1000) as i64).unwrap_or(at)
}

/// `14:30`, `at 14:30:05.5`, each with an offset or without, on the day that is `days_back` before today there.
fn on_day(text: &str, days_back: i32, now: Timestamp) -> Result<Asked, &'static str> {
    let text = text.trim().trim_start_matches("at ");
    let (time, offset) = split_offset(text)?;
    let zone = offset.unwrap_or(Offset::UTC);
    let time = time_of_day(time).ok_or("a time of day such as 14:30 is missing")?;
    let day = zone.to_datetime(now).date().checked_sub(days_back.days()).map_err(|_| "no such day")?;
    instant(day.to_datetime(time), zone, offset.is_none())
}

fn absolute(words: &str) -> Result<Asked, &'static str> {
    let (date, rest) = words.split_at_checked(10).ok_or("it is neither a date nor a length of time")?;
    let date = date.parse().map_err(|_| "it does not begin with a date such as 2026-03-15")?;
    let rest = rest.strip_prefix(['t', ' ']).ok_or("the time of day is missing")?;
    let (time, offset) = split_offset(rest)?;
    let time = time_of_day(time).ok_or("the time of day is none")?;
    instant(DateTime::from_parts(date, time), offset.unwrap_or(Offset::UTC), offset.is_none())
}

fn instant(at: DateTime, zone: Offset, assumed_utc: bool) -> Result<Asked, &'static str> {
    let at = TimeZone::fixed(zone).to_timestamp(at).map_err(|_| "no calendar has that instant")?;
    Ok(Asked { at, assumed_utc })
}

/// `14:30:00+01:00` into its time and its offset.
fn split_offset(text: &str) -> Result<(&str, Option<Offset>), &'static str> {
    for utc in ["z", "utc", "gmt"] {
        if let Some(time) = text.strip_suffix(utc) {
            return Ok((time.trim_end(), Some(Offset::UTC)));
        }
    }
    let Some(at) = text.find(['+', '-']) else {
        return Ok((text.trim_end(), None));
    };
    let (time, offset) = text.split_at(at);
    let (sign, digits) = offset.split_at(1);
    let parts = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() == 4 && digits.is_ascii() => digits.split_at(2),
        None => (digits, "00"),
    };
    let (hours, minutes) = two_digits(parts.0).zip(two_digits(parts.1)).ok_or(NO_OFFSET)?;
    if hours > 23 || minutes > 59 {
        return Err(NO_OFFSET);
    }
    let seconds = (hours * 60 + minutes) * 60;
    let offset = Offset::from_seconds(if sign == "-" { -seconds } else { seconds }).map_err(|_| NO_OFFSET)?;
    Ok((time.trim_end(), Some(offset)))
}

const NO_OFFSET: &str = "the offset is none; write Z or +01:00";

fn two_digits(text: &str) -> Option<i32> {
    let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// `9:05`, `14:30`, `14:30:00`, `14:30:00.123456`.
fn time_of_day(text: &str) -> Option<Time> {
    let (clock, fraction) =
        text.split_once('.').map_or((text, None), |(clock, digits)| (clock, Some(digits)));
    let parts: Vec<&str> = clock.split(':').collect();
    let (hour, minute, second) = match parts[..] {
        [hour, minute] if fraction.is_none() => (hour, minute, "00"),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let hour = if hour.len() == 1 { format!("0{hour}") } else { hour.to_owned() };
    let nanos = match fraction {
        Some(digits) => i32::try_from(fraction_nanos(digits)?).ok()?,
        None => 0,
    };
    let short = |text| two_digits(text).and_then(|number| i8::try_from(number).ok());
    Time::new(short(&hour)?, short(minute)?, short(second)?, nanos).ok()
}

/// The nanoseconds of digits behind a point; what is finer is cut.
fn fraction_nanos(digits: &str) -> Option<u128> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}")[..9].parse().ok()
}

/// `10 minutes`, `1h30m`, `an hour and 5 minutes`, `1.5 h`.
fn parse_length(text: &str) -> Result<SignedDuration, &'static str> {
    let mut total: u128 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("a length such as 10 minutes is missing");
    }
    while !rest.is_empty() {
        let (nanos_of_one, after) = number(rest)?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, seconds) = (UNITS.iter().find(|(names, _)| names.contains(&unit)))
            .ok_or("the unit is not one of seconds, minutes, hours, days, weeks")?;
        total =
            nanos_of_one.checked_mul(*seconds).and_then(|part| total.checked_add(part)).ok_or(TOO_LONG)?;
        rest = after.trim_start().trim_start_matches(',').trim_start();
        rest = rest.strip_prefix("and ").unwrap_or(rest).trim_start();
    }
    let seconds = i64::try_from(total / NANOS).map_err(|_| TOO_LONG)?;
    let nanos = i32::try_from(total % NANOS).map_err(|_| TOO_LONG)?;
    Ok(SignedDuration::new(seconds, nanos))
}

const TOO_LONG: &str = "it is too long";

/// The number at the front, in billionths, and what follows it.
fn number(text: &str) -> Result<(u128, &str), &'static str> {
    for article in ["an ", "a ", "one "] {
        if let Some(rest) = text.strip_prefix(article) {
            return Ok((NANOS, rest));
        }
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let whole: u128 = whole.parse().map_err(|_| "it is neither a date nor a length of time")?;
    let fraction = fraction_nanos(fraction).ok_or("the number is none")?;
    Ok((whole.checked_mul(NANOS).and_then(|nanos| nanos.checked_add(fraction)).ok_or(TOO_LONG)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time of this test")
    }

    fn now() -> Timestamp {
        at("2026-03-15T14:30:10.123456789Z")
    }

    #[test]
    fn instants_are_read_as_people_write_them() {
        for (text, expected) in [
            // RFC 3339, any offset and fraction
            ("2026-03-15T14:30:00Z", "2026-03-15T14:30:00Z"),
            ("2026-03-15t14:30:00z", "2026-03-15T14:30:00Z"),
            ("2026-03-15T14:30:00.123456Z", "2026-03-15T14:30:00.123456Z"),
            ("2026-03-15T14:30:00.123456789Z", "2026-03-15T14:30:00.123456789Z"),
            ("2026-03-15T14:30:00.1234567891Z", "2026-03-15T14:30:00.123456789Z"),
            ("2026-03-15T14:30:00+02:00", "2026-03-15T12:30:00Z"),
            ("2026-03-15T00:10:00+05:45", "2026-03-14T18:25:00Z"),
            ("2026-03-15 14:30:00 -0330", "2026-03-15T18:00:00Z"),
            ("2026-03-15 14:30:00+02", "2026-03-15T12:30:00Z"),
            ("  2026-03-15   14:30:00   UTC ", "2026-03-15T14:30:00Z"),
            // relative
            ("now", "2026-03-15T14:30:10.123456Z"),
            ("NOW", "2026-03-15T14:30:10.123456Z"),
            ("10 minutes ago", "2026-03-15T14:20:10.123456Z"),
            ("10 Minutes Ago", "2026-03-15T14:20:10.123456Z"),
            ("10min ago", "2026-03-15T14:20:10.123456Z"),
            ("2h ago", "2026-03-15T12:30:10.123456Z"),
            ("1h30m ago", "2026-03-15T13:00:10.123456Z"),
            ("1 hour and 30 minutes ago", "2026-03-15T13:00:10.123456Z"),
            ("1 hour, 30 minutes ago", "2026-03-15T13:00:10.123456Z"),
            ("an hour ago", "2026-03-15T13:30:10.123456Z"),
            ("a minute ago", "2026-03-15T14:29:10.123456Z"),
            ("1.5 hours ago", "2026-03-15T13:00:10.123456Z"),
            ("2.25s ago", "2026-03-15T14:30:07.873456Z"),
            ("90 seconds ago", "2026-03-15T14:28:40.123456Z"),
            ("3 days ago", "2026-03-12T14:30:10.123456Z"),
            ("1 w ago", "2026-03-08T14:30:10.123456Z"),
            ("0s ago", "2026-03-15T14:30:10.123456Z"),
            // a day with an offset is the day over there
            ("yesterday 23:30 +14:00", "2026-03-15T09:30:00Z"),
            ("today 14:30Z", "2026-03-15T14:30:00Z"),
        ] {
            let asked = parse_time(text, now()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(asked, Asked { at: at(expected), assumed_utc: false }, "{text}");
        }
    }

    #[test]
    fn what_has_no_offset_is_utc_and_says_so() {
        for (text, expected) in [
            ("2026-03-15 14:30:00", "2026-03-15T14:30:00Z"),
            ("2026-03-15T14:30", "2026-03-15T14:30:00Z"),
            ("2026-03-15 9:05", "2026-03-15T09:05:00Z"),
            ("2026-03-15 14:30:00.5", "2026-03-15T14:30:00.5Z"),
            ("2024-02-29 00:00", "2024-02-29T00:00:00Z"),
            ("yesterday 14:30", "2026-03-14T14:30:00Z"),
            ("Yesterday at 14:30:05.25", "2026-03-14T14:30:05.25Z"),
            ("today 00:00", "2026-03-15T00:00:00Z"),
        ] {
            let asked = parse_time(text, now()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(asked, Asked { at: at(expected), assumed_utc: true }, "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused_with_the_accepted_forms() {
        for text in [
            "",
            "   ",
            "soon",
            "yesterday",
            "yesterday noon",
            "14:30",
            "2026-03-15",
            "2026-02-30 10:00",
            "2026-03-15 24:00",
            "2026-03-15 14:60",
            "2026-03-15 14:30:61",
            "2026-03-15 14:30.5",
            "2026-03-15T14:30:00.Z",
            "2026-03-15T14:30:00+25:00",
            "2026-03-15T14:30:00+1:0",
            "2026-03-15T14:30:00+02:00[America/New_York]",
            "2026-03-15T14:30:00Z tomorrow",
            "03/15/2026 14:30",
            "ago",
            "minutes ago",
            "10 ago",
            "10 months ago",
            "-10 minutes ago",
            "1..5 h ago",
            "10 minutes",
            "99999999999 weeks ago",
            "999999999999999999999999999999999999999999 s ago",
            "2026-03-15é14:30",
            "gestern um 14:30",
        ] {
            let error = parse_time(text, now()).expect_err(text).to_string();
            assert!(error.contains("10 minutes ago"), "{text}: {error}");
        }
    }

    #[test]
    fn an_instant_written_out_reads_back_the_same() {
        for seconds in (-2_000_000_000i64..4_000_000_000).step_by(123_456_789) {
            let instant = Timestamp::new(seconds, 987_654_321).expect("in range");
            assert_eq!(parse_time(&instant.to_string(), now()).expect("RFC 3339").at, instant);
        }
    }

    #[test]
    fn patience_is_read_in_seconds_or_with_a_unit() {
        for (text, seconds) in [("90", 90), ("15m", 900), ("1h30m", 5400), ("2 min", 120)] {
            assert_eq!(parse_wait(text).expect(text).as_secs(), seconds, "{text}");
        }
        for text in ["", "m", "-5", "soon"] {
            assert!(parse_wait(text).is_err(), "{text}");
        }
    }
}

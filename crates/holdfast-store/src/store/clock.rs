//! How far this host's clock is away from the store's, as the `Date` of its answers shows (T17). Nothing is reckoned with
//! it: it explains refused signatures and warns before they happen.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use hyper::header::{DATE, HeaderMap};
use jiff::{SignedDuration, Timestamp};

/// Beyond this we warn. S3 refuses beyond 15 minutes.
pub(super) const SKEW_WARNING: SignedDuration = SignedDuration::from_mins(5);
const UNKNOWN: i64 = i64::MIN;

#[derive(Debug)]
pub(super) struct StoreClock {
    /// Seconds that our clock is ahead.
    ahead: AtomicI64,
    warned: AtomicBool,
}

impl Default for StoreClock {
    fn default() -> Self {
        Self { ahead: AtomicI64::new(UNKNOWN), warned: AtomicBool::new(false) }
    }
}

impl StoreClock {
    /// Takes the date of an answer that has just come.
    pub(super) fn note(&self, headers: &HeaderMap) {
        let Some(date) = date(headers) else { return };
        let ahead = Timestamp::now().duration_since(date);
        self.ahead.store(ahead.as_secs(), Ordering::Relaxed);
        let wrong = ahead.abs() > SKEW_WARNING;
        if self.warned.swap(wrong, Ordering::Relaxed) != wrong && wrong {
            tracing::warn!(
                seconds_ahead = ahead.as_secs(),
                "this host's clock is more than 5 minutes away from the object store's; beyond 15 it refuses all requests: \
                 mend time synchronisation (NTP)"
            );
        }
    }

    /// How far our clock is ahead of the store's, in whole seconds; `None` before the first answer.
    pub(super) fn ahead(&self) -> Option<SignedDuration> {
        let seconds = self.ahead.load(Ordering::Relaxed);
        (seconds != UNKNOWN).then(|| SignedDuration::from_secs(seconds))
    }
}

/// The store's own time of an answer.
pub(super) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn the_difference_is_read_from_the_date() {
        let clock = StoreClock::default();
        assert_eq!(clock.ahead(), None);
        let mut headers = HeaderMap::new();
        for (text, known) in [("yesterday", false), ("Sun, 06 Nov 1994 08:49:37 GMT", true)] {
            headers.insert(DATE, HeaderValue::from_static(text));
            clock.note(&headers);
            assert_eq!(clock.ahead().is_some(), known, "{text}");
        }
        assert!(clock.ahead().expect("known") > SignedDuration::from_hours(24 * 365));
    }
}

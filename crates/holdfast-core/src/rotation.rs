//! When the key-encryption key (KEK) is to be rotated.
//!
//! Its age is measured by the trusted time of [`crate::retention`], by which it was also stamped: a wall clock that jumps
//! ahead makes no key old, and one jump that is believed later makes one rotation due, not many, as the new key is as old
//! as the time that made it due.

use jiff::{SignedDuration, Timestamp};

/// How long after a rotation's bad end the scheduler tries again to bring it to a good one.
pub const AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// What the scheduler knows of the KEKs while no rotation is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KekState {
    /// When the newest KEK was made.
    pub created_at: Timestamp,
    /// An older one is still there: the last rotation did not come to its end.
    pub older_ones: bool,
    /// When the last rotation ended, by the wall clock.
    pub last_ended_at: Option<Timestamp>,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A new KEK, and everything wrapped by it.
    NewKek,
    /// No new one: what older ones still wrap goes to the newest.
    Leftovers,
    /// No rotation: the newest KEK was stamped by a clock that was far ahead, and would be kept for as long. Its age
    /// counts from now.
    Stamp,
}

/// What is due now. `every` is the age at which a KEK is replaced (`None`: only on command), `trusted_now` the time
/// that a jump of the clock does not push forward (`None` while none is trusted), `wall_now` the clock as it stands.
#[must_use]
pub fn due(
    state: &KekState,
    every: Option<SignedDuration>,
    trusted_now: Option<Timestamp>,
    wall_now: Timestamp,
) -> Option<Due> {
    if let Some((every, now)) = every.zip(trusted_now) {
        let age = now.duration_since(state.created_at);
        if age >= every {
            return Some(Due::NewKek);
        }
        if age < -every {
            return Some(Due::Stamp);
        }
    }
    // A wrong clock makes this one early or late: it makes no key.
    let is_again = state.last_ended_at.is_none_or(|at| wall_now.duration_since(at).abs() >= AGAIN_AFTER);
    (state.older_ones && is_again).then_some(Due::Leftovers)
}

/// When the scheduler will make the next KEK, if the clock is right.
#[must_use]
pub fn next_at(created_at: Timestamp, every: Option<SignedDuration>) -> Option<Timestamp> {
    every.and_then(|every| created_at.checked_add(every).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::{ClockReading, trusted_now};

    const EVERY: Option<SignedDuration> = Some(SignedDuration::from_hours(90 * 24));

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + day * 86_400).expect("in range")
    }

    #[test]
    fn a_key_is_replaced_when_it_is_old_and_leftovers_are_tried_again_daily() {
        let young = KekState { created_at: day(0), older_ones: false, last_ended_at: None };
        let left = KekState { older_ones: true, last_ended_at: Some(day(10)), ..young };
        let rows = [
            ("young", young, EVERY, Some(day(89)), day(89), None),
            ("old", young, EVERY, Some(day(90)), day(90), Some(Due::NewKek)),
            ("old, never by itself", young, None, Some(day(900)), day(900), None),
            ("no time is trusted yet", young, EVERY, None, day(900), None),
            ("only the wall clock is ahead", young, EVERY, Some(day(5)), day(900), None),
            ("the clock is behind", young, EVERY, Some(day(-42)), day(-42), None),
            ("it was far ahead", young, EVERY, Some(day(-400)), day(-400), Some(Due::Stamp)),
            ("leftovers, just tried", left, EVERY, Some(day(10)), day(10), None),
            ("leftovers", left, EVERY, Some(day(11)), day(11), Some(Due::Leftovers)),
            ("leftovers, nothing by itself", left, None, None, day(11), Some(Due::Leftovers)),
            ("leftovers, ended in a wrong future", left, EVERY, Some(day(1)), day(1), Some(Due::Leftovers)),
            ("old, with leftovers", left, EVERY, Some(day(90)), day(90), Some(Due::NewKek)),
        ];
        for (what, state, every, trusted, wall, expected) in rows {
            assert_eq!(due(&state, every, trusted, wall), expected, "{what}");
        }
        assert_eq!(next_at(day(0), EVERY), Some(day(90)));
        assert_eq!(next_at(day(0), None), None);
        assert_eq!(next_at(Timestamp::MAX, EVERY), None);
    }

    /// T21, and far worse: the wall clock is skewed for half of 400 days, looked at every hour.
    #[test]
    fn no_skew_makes_more_than_one_rotation_due() {
        let hour = SignedDuration::from_hours(1);
        let minutes = [90, -195, 2 * 1440, -7 * 60, 42 * 1440, 1000 * 1440, -1000 * 1440];
        for skew in minutes.map(SignedDuration::from_mins) {
            let mut reading = Some(ClockReading::confirmed(day(0)));
            let mut state = KekState { created_at: day(0), older_ones: false, last_ended_at: None };
            let mut made = Vec::new();
            for hours in 1..=400 * 24 {
                let true_now = day(0) + SignedDuration::from_hours(hours);
                let is_skewed = (50 * 24..250 * 24).contains(&hours);
                let wall = if is_skewed { true_now + skew } else { true_now };
                let (next, judgement) = trusted_now(reading, wall, Some(hour));
                reading = Some(next);
                let trusted = judgement.expiry_now();
                let is_due = due(&state, EVERY, trusted, wall);
                if is_due == Some(Due::NewKek) {
                    made.push(hours / 24);
                }
                if is_due.is_some() {
                    state.created_at = trusted.expect("nothing is due without a trusted time");
                }
            }
            // 400 days hold four periods; a step that is believed makes at most one more due.
            assert!((2..=5).contains(&made.len()), "skew {skew}: {made:?}");
            assert!(made.windows(2).all(|pair| pair[1] - pair[0] > 7), "skew {skew}: {made:?}");
        }
    }
}

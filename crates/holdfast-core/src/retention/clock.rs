//! A time that expiry can trust.
//!
//! A clock that is wrong by days must not make backups look old (skews of weeks happen: a dead battery, a bad NTP
//! source, a virtual machine resumed). So expiry never reads the wall clock directly. It reads a *trusted* time that
//! runs with the monotonic clock and is never ahead of it by more than 0.1 %:
//! - while the wall clock agrees (to a minute), the trusted time follows it;
//! - when the wall clock is behind, the trusted time goes back with it at once: that keeps things longer, never shorter;
//! - when the wall clock jumps ahead, expiry goes on by the monotonic clock alone. The new time is believed once it
//!   has held for [`HOLD`], or when [`ClockReading::confirmed`] is called (an operator, or a second clock such as the
//!   object store's, says that it is right).
//!
//! `HOLD` is as long as automated backups are kept by default: once it has passed, whatever they were before the jump
//! has truly aged that long, so that even a wrong new time drops none of them early. Downtime looks like a jump ahead
//! too, as nothing measured it: things are then kept for longer by that time, until the time has held.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Monotonic time for which a wall clock that jumped ahead must run steadily before it is believed.
pub const HOLD: SignedDuration = SignedDuration::from_hours(7 * 24);

/// How far ahead the wall clock may be before that is a jump. Smaller steps are slewed.
pub const TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// What the clock judge remembers from one reading to the next; stored in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReading {
    /// The wall clock at this reading.
    pub wall_at: Timestamp,
    /// The trusted time at this reading; `None` while no time has been trusted yet.
    pub trusted_at: Option<Timestamp>,
    /// Monotonic time for which the wall clock has run steadily.
    pub steady_for: SignedDuration,
}

/// What to make of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockJudgement {
    /// This time is not too late: expire by it.
    Trusted(Timestamp),
    /// The wall clock is ahead of what has been measured. Expire by `safe_now`, if there is one, and show the jump.
    Jumped {
        /// By how much the wall clock is ahead (zero at the very first reading).
        by: SignedDuration,
        /// The last trusted time, moved on by the monotonic clock alone.
        safe_now: Option<Timestamp>,
        /// Monotonic time until the wall clock is believed, if it stays steady.
        believed_in: SignedDuration,
    },
}

impl ClockJudgement {
    /// The time to expire by; `None`: expire nothing.
    #[must_use]
    pub fn expiry_now(self) -> Option<Timestamp> {
        match self {
            Self::Trusted(now) => Some(now),
            Self::Jumped { safe_now, .. } => safe_now,
        }
    }
}

impl ClockReading {
    /// Trusts the wall clock from here on, because somebody who knows has confirmed it.
    #[must_use]
    pub fn confirmed(wall: Timestamp) -> Self {
        Self { wall_at: wall, trusted_at: Some(wall), steady_for: SignedDuration::ZERO }
    }
}

/// The present, by the wall clock and by what has aged: a wall clock that jumped ahead makes nothing older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub wall: Timestamp,
    /// Things are as old as this time says; never ahead of `wall`.
    pub aged: Timestamp,
}

impl Now {
    /// Both times of one reading. While no time has been trusted yet, nothing has aged.
    #[must_use]
    pub fn judged(wall: Timestamp, judgement: ClockJudgement) -> Self {
        Self { wall, aged: judgement.expiry_now().unwrap_or(Timestamp::MIN).min(wall) }
    }
}

impl From<Timestamp> for Now {
    fn from(wall: Timestamp) -> Self {
        Self { wall, aged: wall }
    }
}

/// Judges the wall clock against the previous reading, and gives the reading to store for the next time.
///
/// `monotonic_elapsed` is the time since the previous reading by a clock that nobody sets and that goes on while the
/// machine sleeps (Linux: `CLOCK_BOOTTIME`); `None` when it is not known, as after a reboot. Read at least hourly: time
/// between the last reading and a crash counts as not measured.
#[must_use]
pub fn trusted_now(
    previous: Option<ClockReading>,
    wall: Timestamp,
    monotonic_elapsed: Option<SignedDuration>,
) -> (ClockReading, ClockJudgement) {
    let Some(previous) = previous else {
        let reading = ClockReading { wall_at: wall, trusted_at: None, steady_for: SignedDuration::ZERO };
        let judgement =
            ClockJudgement::Jumped { by: SignedDuration::ZERO, safe_now: None, believed_in: HOLD };
        return (reading, judgement);
    };
    let elapsed = monotonic_elapsed.unwrap_or(SignedDuration::ZERO).max(SignedDuration::ZERO);
    let step = wall.duration_since(previous.wall_at).saturating_sub(elapsed);
    let is_steady = step.abs() <= TOLERANCE;
    let steady_for =
        if is_steady { previous.steady_for.saturating_add(elapsed) } else { SignedDuration::ZERO };
    let trust = |now: Timestamp| {
        let reading = ClockReading { wall_at: wall, trusted_at: Some(now), steady_for };
        (reading, ClockJudgement::Trusted(now))
    };
    if steady_for >= HOLD {
        return trust(wall);
    }
    let measured = previous.trusted_at.map(|trusted| saturating_add(trusted, elapsed));
    if let Some(measured) = measured
        && wall <= saturating_add(measured, TOLERANCE)
    {
        return trust(wall.min(saturating_add(measured, elapsed / 1000)));
    }
    let reading = ClockReading { wall_at: wall, trusted_at: measured, steady_for };
    let judgement = ClockJudgement::Jumped {
        by: measured.map_or(SignedDuration::ZERO, |measured| wall.duration_since(measured)),
        safe_now: measured,
        believed_in: HOLD.saturating_sub(steady_for),
    };
    (reading, judgement)
}

fn saturating_add(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

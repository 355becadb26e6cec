//! The trusted time: clocks that are wrong delete nothing (T21).

use holdfast_core::Timestamp;
use holdfast_core::backup::{BackupMode, BackupType};
use holdfast_core::retention::clock::{HOLD, TOLERANCE};
use holdfast_core::retention::{ClockJudgement, ClockReading, Policy, expires_at, plan_expiry, trusted_now};
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::life::Life;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const STEP: SignedDuration = SignedDuration::from_mins(30);

/// +90 min, −195 min, +2 d, −7 h, +42 d.
const SKEWS: [SignedDuration; 5] = [
    SignedDuration::from_mins(90),
    SignedDuration::from_mins(-195),
    SignedDuration::from_hours(48),
    SignedDuration::from_hours(-7),
    SignedDuration::from_hours(42 * 24),
];

/// A machine with a clock that can be wrong.
struct Machine {
    real: Timestamp,
    skew: SignedDuration,
    reading: Option<ClockReading>,
    judgement: ClockJudgement,
}

impl Machine {
    fn new(real: Timestamp) -> Self {
        let reading = Some(ClockReading::confirmed(real));
        Self { real, skew: SignedDuration::ZERO, reading, judgement: ClockJudgement::Trusted(real) }
    }

    fn run(&mut self, time: SignedDuration) {
        self.read(time, Some(time));
    }

    fn reboot(&mut self, downtime: SignedDuration) {
        self.read(downtime, None);
    }

    fn read(&mut self, passed: SignedDuration, monotonic: Option<SignedDuration>) {
        self.real += passed;
        let (reading, judgement) = trusted_now(self.reading, self.wall(), monotonic);
        (self.reading, self.judgement) = (Some(reading), judgement);
    }

    fn wall(&self) -> Timestamp {
        self.real + self.skew
    }

    fn expiry_now(&self) -> Timestamp {
        self.judgement.expiry_now().expect("confirmed at the beginning")
    }
}

fn start() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().expect("a time")
}

#[test]
fn each_skew_lets_nothing_expire_early() {
    for skew in SKEWS {
        let mut life = Life::new();
        for _ in 0..7 {
            life.backup(BackupMode::Full, BackupType::Automated, None, false);
            life.pass(5, 1);
        }
        let mut machine = Machine::new(life.now);
        machine.skew = skew;
        let steps = HOLD.as_secs() / STEP.as_secs() - 1;
        for _ in 0..steps {
            machine.run(STEP);
            let catalog = life.catalog();
            let plan = plan_expiry(&catalog.history(), &Policy::default(), machine.expiry_now(), None, &[]);
            for id in &plan.delist {
                let backup = life.backups.iter().find(|backup| backup.id == *id).expect("known");
                let expires_at = expires_at(backup, &Policy::default()).expect("automated");
                // As many as in truth, but for the slewing: a thousandth of the time that has passed.
                assert!(machine.real + MINUTE * 12 >= expires_at, "skew {skew:#}: {id} went early");
            }
        }
        if skew.is_positive() {
            assert!(
                matches!(machine.judgement, ClockJudgement::Jumped { by, .. } if (by - skew).abs() < MINUTE * 12)
            );
        } else {
            assert_eq!(machine.judgement, ClockJudgement::Trusted(machine.wall()));
        }
    }
}

#[test]
fn a_new_time_is_believed_once_it_has_held_or_when_it_is_confirmed() {
    let mut machine = Machine::new(start());
    machine.skew = SKEWS[2];
    machine.run(MINUTE);
    let mut waited = SignedDuration::ZERO;
    while let ClockJudgement::Jumped { believed_in, .. } = machine.judgement {
        assert_eq!(believed_in, HOLD - waited);
        machine.run(STEP);
        waited += STEP;
    }
    assert_eq!((machine.judgement, waited), (ClockJudgement::Trusted(machine.wall()), HOLD));

    machine.skew = SKEWS[4];
    machine.run(MINUTE);
    assert!(matches!(machine.judgement, ClockJudgement::Jumped { .. }));
    machine.reading = Some(ClockReading::confirmed(machine.wall()));
    machine.run(MINUTE);
    assert_eq!(machine.judgement, ClockJudgement::Trusted(machine.wall()));
}

#[test]
fn the_edge_of_a_jump_is_one_minute() {
    let nanosecond = SignedDuration::from_nanos(1);
    for (skew, trusted) in
        [(TOLERANCE - nanosecond, true), (TOLERANCE, true), (TOLERANCE + nanosecond, false)]
    {
        let mut machine = Machine::new(start());
        machine.skew = skew;
        machine.run(STEP);
        assert_eq!(matches!(machine.judgement, ClockJudgement::Trusted(_)), trusted, "{skew:#}");
        assert!(machine.expiry_now() <= machine.real + STEP / 1000);
    }
}

#[test]
fn the_first_reading_of_all_is_not_trusted() {
    let (reading, judgement) = trusted_now(None, start(), None);
    assert_eq!(judgement.expiry_now(), None);
    let (reading, judgement) = trusted_now(Some(reading), start() + STEP, Some(STEP));
    assert_eq!(judgement.expiry_now(), None);
    assert_eq!(reading.trusted_at, None);
}

#[test]
fn after_downtime_expiry_goes_on_by_what_was_measured_and_catches_up() {
    let mut machine = Machine::new(start());
    machine.reboot(SignedDuration::from_hours(72));
    assert_eq!(machine.expiry_now(), start());
    for _ in 0..HOLD.as_secs() / STEP.as_secs() {
        machine.run(STEP);
    }
    assert_eq!(machine.judgement, ClockJudgement::Trusted(machine.real));
}

#[derive(Debug, Clone)]
enum Turn {
    Run(u16),
    Reboot(u16),
    Skew(usize),
    Right,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        6 => (1..200_u16).prop_map(Turn::Run),
        1 => (1..5000_u16).prop_map(Turn::Reboot),
        1 => (0..SKEWS.len()).prop_map(Turn::Skew),
        2 => Just(Turn::Right),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// However the clock jumps, as long as no wrong time holds for long enough to be believed: the time to expire by is
    /// never later than the true one, but for the slewing.
    #[test]
    fn the_trusted_time_is_never_too_late(turns in prop::collection::vec(turn(), 1..60)) {
        let mut machine = Machine::new(start());
        let (mut last_skew, mut skewed_for) = (SignedDuration::ZERO, SignedDuration::ZERO);
        let mut slewed = SignedDuration::ZERO;
        for turn in turns {
            match turn {
                Turn::Run(steps) => for _ in 0..steps {
                    // A wrong time ends before it is believed. Only readings count: what was not read did not happen.
                    if machine.skew == last_skew && skewed_for + STEP >= HOLD {
                        machine.skew = SignedDuration::ZERO;
                    }
                    skewed_for = if machine.skew == last_skew { skewed_for + STEP } else { SignedDuration::ZERO };
                    last_skew = machine.skew;
                    machine.run(STEP);
                    slewed += STEP / 1000;
                    prop_assert!(machine.expiry_now() <= machine.real + slewed, "{:?}", machine.judgement);
                },
                Turn::Reboot(minutes) => {
                    machine.reboot(MINUTE * i32::from(minutes));
                    (last_skew, skewed_for) = (machine.skew, SignedDuration::ZERO);
                }
                Turn::Skew(index) => machine.skew = SKEWS[index],
                Turn::Right => machine.skew = SignedDuration::ZERO,
            }
            prop_assert!(machine.expiry_now() <= machine.real + slewed, "{:?}", machine.judgement);
        }
        // Once the clock is right and stays so, expiry catches up.
        machine.skew = SignedDuration::ZERO;
        for _ in 0..=HOLD.as_secs() / STEP.as_secs() {
            machine.run(STEP);
        }
        prop_assert_eq!(machine.judgement, ClockJudgement::Trusted(machine.wall()));
    }
}

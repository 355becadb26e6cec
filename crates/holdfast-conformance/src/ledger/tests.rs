//! The judge itself is judged: for each way in which a restore can be wrong, it must say so.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("a time")
}

/// Writer 0: insert 1 (sent 10, acknowledged 11), transfer 2 (20, 21), update 3 (30, 31), delete of 1 as 4 (40, 41), insert 5
/// (50, never acknowledged).
fn ledger() -> Ledger {
    let acts = [
        Act::Insert,
        Act::Transfer { from: 1, to: 2, amount: 7 },
        Act::Update,
        Act::Delete { number: 1 },
        Act::Insert,
    ];
    let entries = acts.into_iter().zip(1..).map(|(act, number)| Entry {
        number,
        writer: 0,
        act,
        sent_at: at(number * 10),
        acknowledged_at: (number < 5).then(|| at(number * 10 + 1)),
    });
    Ledger(Arc::new(Mutex::new(entries.collect())))
}

fn state(rows: &[(i64, i64)], register: Option<i64>, moved: i64) -> State {
    State {
        rows: rows.iter().copied().collect(),
        registers: register.map(|value| (0, value)).into_iter().collect(),
        balances: [(1, -moved), (2, moved)].into_iter().collect(),
        ..State::default()
    }
}

#[test]
fn what_is_exact_passes_and_everything_else_is_named() {
    let none: &[i64] = &[];
    for (what, point, state, lost, extra, torn, unbalanced) in [
        ("nothing yet", 9, state(&[], None, 0), none, none, none, 0),
        ("in flight, absent", 10, state(&[], None, 0), none, none, none, 0),
        ("in flight, there", 10, state(&[(1, 2)], None, 0), none, none, none, 0),
        ("sent later, there", 9, state(&[(1, 2)], None, 0), none, &[1], none, 0),
        ("acknowledged, absent", 11, state(&[], None, 0), &[1], none, none, 0),
        ("half of it", 11, state(&[(1, 1)], None, 0), none, none, &[1], 0),
        ("a transfer", 21, state(&[(1, 2), (2, 2)], None, 7), none, none, none, 0),
        ("a transfer without its money", 21, state(&[(1, 2), (2, 2)], None, 0), none, none, none, 2),
        ("money without its transfer", 20, state(&[(1, 2)], None, 7), none, none, none, 2),
        ("an update lost", 31, state(&[(1, 2), (2, 2)], None, 7), &[3], none, none, 0),
        ("an update", 31, state(&[(1, 2), (2, 2)], Some(3), 7), none, none, none, 0),
        ("an update too early", 29, state(&[(1, 2), (2, 2)], Some(3), 7), none, &[3], none, 0),
        ("a delete lost", 41, state(&[(1, 2), (2, 2)], Some(3), 7), &[4], none, none, 0),
        ("a delete", 41, state(&[(2, 2)], Some(3), 7), none, none, none, 0),
        ("a delete in flight", 40, state(&[(2, 2)], Some(3), 7), none, none, none, 0),
        ("a delete too early", 39, state(&[(2, 2)], Some(3), 7), &[1], none, none, 0),
        ("never acknowledged, absent", 99, state(&[(2, 2)], Some(3), 7), none, none, none, 0),
        ("never acknowledged, there", 99, state(&[(2, 2), (5, 2)], Some(3), 7), none, none, none, 0),
        ("nobody wrote it", 99, state(&[(2, 2), (6, 2)], Some(3), 7), none, &[6], none, 0),
        ("a hole before what is there", 20, state(&[(2, 2)], None, 7), &[1], none, none, 0),
    ] {
        let verdict = ledger().judge(&state, at(point), at(point));
        assert_eq!((&verdict.lost[..], &verdict.extra[..]), (lost, extra), "{what}: {verdict}");
        assert_eq!((&verdict.torn[..], verdict.unbalanced.len()), (torn, unbalanced), "{what}: {verdict}");
        let is_exact = lost.len() + extra.len() + torn.len() + unbalanced == 0;
        assert_eq!(verdict.ensure_exact(what).is_ok(), is_exact, "{what}");
    }
}

#[test]
fn content_that_nobody_wrote_is_damage() {
    let exact = state(&[(1, 2), (2, 2)], Some(3), 7);
    let verdict = |change: &dyn Fn(&mut State)| {
        let mut state = exact.clone();
        change(&mut state);
        ledger().judge(&state, at(31), at(31))
    };
    assert!(verdict(&|_| ()).is_exact());
    assert_eq!(verdict(&|state| state.changed.extend([2])).changed, [2]);
    let strange = verdict(&|state| state.registers.extend([(0, 2)]));
    assert_eq!((strange.extra, strange.lost), (vec![2], vec![3]), "a value that no update wrote");
    assert_eq!(
        verdict(&|state| state.registers.extend([(0, 9)])).extra,
        [9],
        "neither did one that is later"
    );
    assert_eq!(verdict(&|state| state.registers.extend([(5, 3)])).extra, [3], "an unknown writer's");
}

/// Updates 1 to 9 of one writer, of which 4 was never acknowledged, at a time when the register says 8.
#[test]
fn a_history_that_no_writer_made_is_damage() {
    let entries = (1..10).map(|number| Entry {
        number,
        writer: 0,
        act: Act::Update,
        sent_at: at(number * 10),
        acknowledged_at: (number != 4).then(|| at(number * 10 + 1)),
    });
    let ledger = Ledger(Arc::new(Mutex::new(entries.collect())));
    for (what, times, last, is_exact) in [
        ("without the one that nobody knows", 7, &[3, 5, 6, 7, 8][..], true),
        ("with it", 8, &[4, 5, 6, 7, 8], true),
        ("with it, late", 8, &[5, 6, 7, 4, 8], true),
        ("an increment too many", 9, &[4, 5, 6, 7, 8], false),
        ("one lost", 6, &[3, 5, 6, 7, 8], false),
        ("a number pushed twice", 8, &[5, 6, 7, 8, 8], false),
        ("a number missing", 7, &[2, 3, 5, 7, 8], false),
        ("in another order", 7, &[3, 5, 7, 6, 8], false),
        ("without the last", 7, &[2, 3, 5, 6, 7], false),
        ("too long", 7, &[2, 3, 5, 6, 7, 8], false),
        ("too short", 7, &[5, 6, 7, 8], false),
        ("a number of the future", 8, &[5, 6, 7, 8, 9], false),
        ("a number that nobody wrote", 8, &[5, 6, 7, 70, 8], false),
        ("empty", 0, &[], false),
    ] {
        let history = History { times, last: last.to_vec() };
        let state = State {
            registers: [(0, 8)].into_iter().collect(),
            histories: [(0, history)].into_iter().collect(),
            ..State::default()
        };
        let verdict = ledger.judge(&state, at(81), at(81));
        assert_eq!(verdict.changed, if is_exact { vec![] } else { vec![8] }, "{what}: {verdict}");
        assert_eq!(verdict.ensure_exact(what).is_ok(), is_exact, "{what}");
    }
}

#[test]
fn a_ledger_with_too_little_of_a_kind_shows_nothing() {
    ledger().ensure_each_kind(1).expect("one of each was acknowledged");
    let error = ledger().ensure_each_kind(2).expect_err("not two");
    assert!(error.to_string().contains("\"delete\": 1"), "{error}");
    Ledger::default().ensure_each_kind(1).expect_err("nothing at all");
}

#[test]
fn an_interval_forgives_what_happened_in_it() {
    let verdict = |rows: &[(i64, i64)], from, to| ledger().judge(&state(rows, None, 0), at(from), at(to));
    assert!(verdict(&[], 5, 15).is_exact());
    assert!(verdict(&[(1, 2)], 5, 15).is_exact());
    assert_eq!(verdict(&[(1, 2)], 5, 9).extra, [1]);
    assert_eq!(verdict(&[], 11, 15).lost, [1]);
}

//! Triggers at every batch size, with and without restores: the same rows give
//! the same firings with the same identity.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use kit::{TestRow, batch, build, manners, run};
use proptest::prelude::*;

/// Key, firing time (seconds) and ordinal of each firing; one line per firing.
fn firings(text: &str, rows: &[TestRow], delay_s: f64) -> Vec<String> {
    let rows = batch(rows);
    let mut all = manners(delay_s).into_iter().map(|manner| {
        let mut lines: Vec<String> = run(text, &rows, manner)[0]
            .iter()
            .map(|line| {
                let mut words = line.split(' ');
                let time = words.next().expect("a time");
                let (key, ordinal) = (words.next().expect("a key"), words.next().expect("an ordinal"));
                format!("{key} {} {ordinal}", &time[14..19])
            })
            .collect();
        lines.dedup();
        (manner, lines)
    });
    let (_, first) = all.next().expect("a manner");
    for (manner, other) in all {
        assert_eq!(other, first, "{manner:?}");
    }
    first
}

#[test]
fn hold_per_key_in_event_time_order() {
    let text = "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nwhen = \"value > 8\"\nhold = \"10s\"\nclear_when = \"value < 7\"\n";
    // b's rows arrive out of order within the delay: 3 before 1.
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(9.0)),
        ("b", 3.0, Some(5.0)),
        ("b", 1.0, Some(9.0)),
        ("a", 6.0, Some(9.0)),
        ("b", 9.0, Some(9.0)),
        ("a", 15.0, Some(7.5)),
        ("b", 16.0, Some(9.0)),
        ("a", 17.0, Some(9.0)),
        ("b", 25.0, Some(9.0)),
        ("a", 26.0, Some(6.0)),
        ("a", 28.0, Some(9.0)),
        ("a", 45.0, Some(9.0)),
    ];
    // a: true from 0, fires at 10, 7.5 does not clear it, 6 does, true from 28, fires at 38.
    // b: false at 3, true from 9, fires at 19.
    assert_eq!(firings(text, &rows, 2.0), ["a 00:10 1", "b 00:19 1", "a 00:38 2"]);
}

const HOLD: &str = "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nwhen = \"value > 5\"\nhold = \"10s\"\n";

/// Rows of one key, in the order they come: seconds and value.
fn of_one_key(rows: &[(f64, f64)]) -> Vec<TestRow> {
    rows.iter().map(|(at, value)| ("k", *at, Some(*value))).collect()
}

/// How many rows leave by `late`.
fn late(text: &str, rows: &[TestRow]) -> usize {
    let rows = batch(rows);
    let counts: Vec<usize> =
        manners(0.0).into_iter().map(|manner| run(text, &rows, manner)[3].len()).collect();
    assert!(counts.windows(2).all(|pair| pair[0] == pair[1]), "{counts:?}");
    counts[0]
}

#[test]
fn a_row_older_than_its_keys_newest_is_late_and_judges_nothing() {
    let rows = of_one_key(&[(10.0, 1.0), (20.0, 1.0), (5.0, 9.0), (21.0, 1.0), (40.0, 1.0)]);
    assert_eq!(firings(HOLD, &rows, 0.0), [""; 0], "rows at 10, 20, 21 say false");
    assert_eq!(late(HOLD, &rows), 1);
    let rows = of_one_key(&[(10.0, 9.0), (5.0, 1.0), (21.0, 9.0), (22.0, 9.0)]);
    assert_eq!(firings(HOLD, &rows, 0.0), ["k 00:20 1"], "nothing since 10 says false");
    assert_eq!(late(HOLD, &rows), 1);
}

#[test]
fn a_key_whose_clock_is_behind_is_judged_by_its_own_time() {
    // b's clock is 8 s behind a's. b is true from 2 to 11, and from 14 on.
    let mut rows: Vec<TestRow> = Vec::new();
    for second in 0..40_u32 {
        let behind = f64::from(second);
        let high = (2..11).contains(&second) || second >= 14;
        rows.push(("a", behind + 8.0, Some(1.0)));
        rows.push(("b", behind, Some(if high { 9.0 } else { 1.0 })));
    }
    assert_eq!(firings(HOLD, &rows, 0.0), ["b 00:24 1"]);
    assert_eq!(late(HOLD, &rows), 0);
    let silence = "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nabsent_for = \"3s\"\n";
    assert_eq!(firings(silence, &rows, 0.0), [""; 0], "both give a row each second");
    // b falls silent at 4, while a goes on.
    rows.retain(|(key, at, _)| *key == "a" || *at <= 4.0);
    assert_eq!(firings(silence, &rows, 0.0), ["b 00:07 1"]);
}

#[test]
fn a_forgotten_key_begins_afresh_however_rows_are_cut() {
    let text = "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nwhen = \"value > 5\"\nforget = \"60s\"\n";
    // k stays true; other keys move event time in small steps.
    let mut rows = vec![("k", 0.0, Some(9.0)), ("k", 30.0, Some(9.0))];
    rows.extend((31..89).map(|second| ("other", f64::from(second), Some(1.0))));
    rows.push(("k", 89.0, Some(9.0)));
    assert_eq!(firings(text, &rows, 0.0), ["k 00:00 1"], "59 s after its newest row it is remembered");
    rows.extend((90..150).map(|second| ("other", f64::from(second), Some(1.0))));
    rows.push(("k", 149.0, Some(9.0)));
    assert_eq!(firings(text, &rows, 0.0), ["k 00:00 1", "k 02:29 1"], "60 s after it is not");
    let two = of_one_key(&[(0.0, 9.0), (60.0, 9.0), (61.0, 1.0)]);
    assert_eq!(firings(text, &two, 0.0), ["k 00:00 1", "k 01:00 1"], "nothing in between");
}

#[test]
fn silence_fires_once_per_silence() {
    let text = "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nabsent_for = \"10s\"\n";
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, None),
        ("b", 1.0, None),
        ("b", 9.0, None),
        ("b", 18.0, None),
        ("a", 26.0, None),
        ("b", 27.0, None),
        ("a", 40.0, None),
    ];
    assert_eq!(firings(text, &rows, 0.0), ["a 00:10 1", "a 00:36 2", "b 00:37 1"]);
}

#[test]
fn the_firing_carries_the_rows_that_caused_it() {
    let text = "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nwhen = \"value > 8\"\nhits = \"3 of 5\"\ngive = { worst = \"value\" }\n";
    let rows: Vec<TestRow> = [9.0, 1.0, 9.5, 2.0, 9.9]
        .iter()
        .enumerate()
        .map(|(at, value)| ("a", at as f64, Some(*value)))
        .collect();
    for manner in manners(0.0) {
        let lines = run(text, &batch(&rows), manner)[0].clone();
        assert_eq!(lines.len(), 5, "all five rows: {lines:?}");
        // Columns: time, key, ordinal, give.worst, then the row.
        assert!(lines[4].contains(" 9.9 a "), "{lines:?}");
    }
}

/// Firing time in seconds and value of each row that a firing carries.
fn carried(text: &str, rows: &[TestRow]) -> Vec<(String, String)> {
    let rows = batch(rows);
    let mut all = manners(0.0).into_iter().map(|manner| {
        let lines = run(text, &rows, manner)[0].clone();
        let words = |line: &String| {
            let words: Vec<&str> = line.split(' ').collect();
            // Columns: time, key, ordinal, then key, ts, value, n.
            (words[0][14..19].to_owned(), words[5].to_owned())
        };
        lines.iter().map(words).collect::<Vec<_>>()
    });
    let first = all.next().expect("a manner");
    all.for_each(|other| assert_eq!(other, first));
    first
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(time, value)| ((*time).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_counted_row_belongs_to_one_firing_only() {
    let count = |within: &str| {
        format!(
            "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nwhen = \"value > 5\"\ncount = 3\nwithin = \"{within}\"\n"
        )
    };
    let rows = of_one_key(&[(1.0, 11.0), (100.0, 12.0), (200.0, 13.0), (205.0, 14.0), (208.0, 15.0)]);
    let expected = [("03:28", "13.0"), ("03:28", "14.0"), ("03:28", "15.0")];
    assert_eq!(carried(&count("10s"), &rows), pairs(&expected), "not those too old to count");
    let rows: Vec<(f64, f64)> = (1..=9).map(|at| (f64::from(at), 10.0 + f64::from(at))).collect();
    let expected: Vec<(String, String)> =
        (1..=9).map(|at: u32| (format!("00:0{}", at.div_ceil(3) * 3), format!("{}.0", 10 + at))).collect();
    assert_eq!(carried(&count("100s"), &of_one_key(&rows)), expected);
}

#[test]
fn a_null_row_is_no_evidence_of_hits() {
    let text = "[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\nwhen = \"value > 5\"\nhits = \"3 of 4\"\n";
    let rows: Vec<TestRow> = vec![
        ("k", 1.0, Some(9.0)),
        ("k", 2.0, None),
        ("k", 3.0, Some(1.0)),
        ("k", 4.0, None),
        ("k", 5.0, None),
        ("k", 6.0, Some(8.0)),
        ("k", 7.0, Some(7.0)),
    ];
    let expected = [("00:07", "9.0"), ("00:07", "1.0"), ("00:07", "8.0"), ("00:07", "7.0")];
    assert_eq!(carried(text, &rows), pairs(&expected));
}

#[test]
fn a_row_on_which_an_expression_fails_is_rejected_alone() {
    let text = "[trigger.t]\nfrom = \"rows\"\nwhen = \"10 / n > 4\"\non = \"row\"\n";
    let rows: Vec<TestRow> = vec![("a", 0.0, Some(2.0)), ("a", 1.0, Some(0.0)), ("a", 2.0, Some(1.0))];
    for manner in manners(0.0) {
        let lines = run(text, &batch(&rows), manner);
        assert_eq!((lines[0].len(), lines[2].len()), (2, 1), "{manner:?}");
    }
}

#[test]
fn state_of_another_shape_is_refused() {
    let text = "[trigger.t]\nfrom = \"rows\"\nwhen = \"value > 8\"\n";
    let mut part = build(text);
    assert!(part.operator.restore(vec![batch(&[("a", 0.0, None)])]).is_err());
    let mut window = build(
        "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\nwindow = { kind = \"tumbling\", size = \"1s\" }\nselect = [\"count(*) AS n\"]\n",
    );
    assert!(window.operator.restore(vec![batch(&[("a", 0.0, None)])]).is_err());
    let mut filter = build("[operator.f]\ntype = \"filter\"\nfrom = \"rows\"\nwhere = \"value > 8\"\n");
    assert!(filter.operator.restore(vec![batch(&[("a", 0.0, None)])]).is_err());
}

/// Words of a trigger that remember something.
const MEMORIES: &[&str] = &[
    "when = \"value > 5\"\nhold = \"4s\"\ncooldown = \"9s\"",
    "when = \"value > 5\"\nhits = \"2 of 3\"\nclear_when = \"value < 2\"",
    "when = \"value > 5\"\ncount = 2\nwithin = \"6s\"\nhold = \"2s\"\ncooldown = \"5s\"",
    "when = \"value > 5\"\ncooldown = \"7s\"\nforget = \"8s\"",
    "absent_for = \"5s\"\ncooldown = \"8s\"\nforget = \"6s\"",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Rows come late, and one key's clock is behind: batches, snapshots and
    /// restores change neither firings nor what is late.
    #[test]
    fn late_rows_are_decided_the_same_however_rows_are_cut(
        steps in prop::collection::vec((0..3_u8, -3..4_i32, prop::option::of(0..10_u8)), 1..60),
        memory in 0..MEMORIES.len(),
        delay in 0..3_u8,
    ) {
        let text = format!("[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\n{}\n", MEMORIES[memory]);
        let mut now = 100;
        let rows: Vec<TestRow> = steps
            .iter()
            .map(|(key, step, value)| {
                now += step;
                let behind = if *key == 2 { 6 } else { 0 };
                (["a", "b", "c"][usize::from(*key)], f64::from(now - behind), value.map(f64::from))
            })
            .collect();
        let rows = batch(&rows);
        let mut all = manners(f64::from(delay)).into_iter().map(|manner| (manner, run(&text, &rows, manner)));
        let (_, first) = all.next().expect("a manner");
        for (manner, other) in all {
            prop_assert_eq!(&other, &first, "{:?}", manner);
        }
    }
}

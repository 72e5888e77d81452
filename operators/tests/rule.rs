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

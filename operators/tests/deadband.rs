//! Report by exception at every batch size, with and without restores.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use kit::{TestRow, batch, manners, run};

fn seconds(text: &str, rows: &[TestRow]) -> Vec<String> {
    let rows = batch(rows);
    let mut all = manners(0.0).into_iter().map(|manner| {
        let lines = run(text, &rows, manner)[0].clone();
        let short = lines
            .iter()
            .map(|line| format!("{} {}", &line[..1], line.split([':', '.', 'Z']).nth(2).expect("s")));
        (manner, short.collect::<Vec<String>>())
    });
    let (_, first) = all.next().expect("a manner");
    for (manner, other) in all {
        assert_eq!(other, first, "{manner:?}");
    }
    first
}

#[test]
fn small_changes_stay_and_slow_drift_goes_on() {
    let text = "[operator.d]\ntype = \"deadband\"\nfrom = \"rows\"\nkey = [\"key\"]\ncolumn = \"value\"\nabsolute = 1.0\n";
    // a: 5.0 first, 5.5 no, 6.0 yes (a whole unit from 5.0), 6.9 no, NULL yes, NULL no, 6.9 yes. b by itself.
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(5.0)),
        ("b", 1.0, Some(5.5)),
        ("a", 2.0, Some(5.5)),
        ("a", 3.0, Some(6.0)),
        ("a", 4.0, Some(6.9)),
        ("a", 5.0, None),
        ("a", 6.0, None),
        ("a", 7.0, Some(6.9)),
    ];
    assert_eq!(seconds(text, &rows), ["a 00", "b 01", "a 03", "a 05", "a 07"]);
}

#[test]
fn percent_and_the_longest_silence() {
    let text = "[operator.d]\ntype = \"deadband\"\nfrom = \"rows\"\ncolumn = \"value\"\npercent = 10\nmax_interval = \"10s\"\n";
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(100.0)),
        ("a", 1.0, Some(109.0)),
        ("a", 2.0, Some(110.0)),
        ("a", 9.0, Some(111.0)),
        ("a", 12.0, Some(111.0)),
    ];
    assert_eq!(seconds(text, &rows), ["a 00", "a 02", "a 12"]);
}

#[test]
fn no_change_goes_on_within_the_shortest_interval() {
    let text = "[operator.d]\ntype = \"deadband\"\nfrom = \"rows\"\ncolumn = \"value\"\nabsolute = 1\nmin_interval = \"5s\"\n";
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(0.0)),
        ("a", 4.0, Some(9.0)),
        ("a", 4.5, None),
        // Five seconds later it is still another value; then it has not changed since.
        ("a", 5.0, Some(9.0)),
        ("a", 9.0, Some(1.0)),
        ("a", 10.0, Some(9.0)),
        ("a", 11.0, Some(0.0)),
    ];
    assert_eq!(seconds(text, &rows), ["a 00", "a 05", "a 11"]);
}

#[test]
fn rows_are_judged_in_event_time_order() {
    let text = "[operator.d]\ntype = \"deadband\"\nfrom = \"rows\"\nkey = [\"key\"]\ncolumn = \"value\"\nabsolute = 1.0\n";
    // In order of arrival 3.0 would be a change from 1.0, and 2.9 none.
    let rows =
        batch(&[("a", 1.0, Some(1.0)), ("a", 3.0, Some(3.0)), ("a", 2.0, Some(2.9)), ("b", 5.0, None)]);
    for manner in manners(2.0) {
        let lines = run(text, &rows, manner);
        let values = lines[0].iter().map(|line| line.split(' ').nth(2).expect("a value"));
        assert_eq!(values.collect::<Vec<_>>(), ["1.0", "2.9", "-"], "{manner:?}");
        assert_eq!(lines[1], Vec::<String>::new(), "{manner:?}");
    }
    // Without a delay the row at 2 is older than one that was judged.
    for manner in manners(0.0) {
        let lines = run(text, &rows, manner);
        assert_eq!((lines[0].len(), lines[1].len()), (3, 1), "{manner:?}");
    }
}

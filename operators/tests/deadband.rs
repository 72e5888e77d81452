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

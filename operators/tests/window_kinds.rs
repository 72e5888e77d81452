//! Sessions, counted rows, states, sliding and calendar windows, in every manner
//! that must not change a result.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use kit::{TestRow, as_copies, batch, manners, run, sorted, stream};

fn window(window: &str, key: &str, select: &str) -> String {
    format!(
        "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\n{key}window = {{ {window} }}\nselect = [{select}]\n"
    )
}

/// Results and late rows, the same in every manner; times as seconds.
fn results(text: &str, delay_s: f64, rows: &[TestRow]) -> (Vec<String>, Vec<String>) {
    let rows = batch(rows);
    let mut all = manners(delay_s).into_iter().map(|manner| {
        let ports = run(text, &rows, manner);
        assert_eq!(ports[2], Vec::<String>::new());
        (manner, (sorted(ports[0].clone()), sorted(ports[1].clone())))
    });
    let (_, first) = all.next().expect("a manner");
    for (manner, other) in all {
        assert_eq!(other, first, "{manner:?}");
    }
    as_copies(&stream(), text, &rows, delay_s, &[first.0.clone(), first.1.clone(), Vec::new()]);
    let short = |lines: Vec<String>| {
        lines.iter().map(|line| line.replace("1970-01-01T00:00:", "").replace('Z', "")).collect()
    };
    (short(first.0), short(first.1))
}

const KEYED: &str = "key = [\"key\"]\n";

/// Trap 6 without its kill: the kit restores behind every batch.
#[test]
fn a_session_ends_with_silence() {
    let text = window("kind = \"session\", gap = \"10s\"", KEYED, "\"count(*) AS n\"");
    let rows = [("a", 0.0, None), ("a", 5.0, None), ("b", 8.0, None), ("c", 30.0, None), ("a", 4.0, None)];
    let (windows, late) = results(&text, 0.0, &rows);
    assert_eq!(windows, ["00 15 a 2", "08 18 b 1", "30 40 c 1"]);
    assert_eq!(late, ["a 04 - -"]);
}

#[test]
fn rows_out_of_order_make_one_session() {
    let text = window("kind = \"session\", gap = \"10s\"", "", "\"count(*) AS n\", \"sum(value) AS s\"");
    let rows = [("a", 0.0, Some(1.0)), ("a", 12.0, Some(2.0)), ("a", 6.0, Some(4.0))];
    assert_eq!(results(&text, 20.0, &rows).0, ["00 22 3 7.0"]);
    // Exactly `gap` apart are two.
    let rows = [("a", 0.0, Some(1.0)), ("a", 10.0, Some(2.0)), ("a", 19.999_999, Some(4.0))];
    assert_eq!(results(&text, 0.0, &rows).0, ["00 10 1 1.0", "10 29.999999 2 6.0"]);
    // A row behind the watermark joins the session that is open.
    let rows = [("a", 20.0, Some(1.0)), ("a", 11.0, Some(2.0)), ("a", 9.5, Some(4.0))];
    let (windows, late) = results(&text, 0.0, &rows);
    assert_eq!((windows, late), (vec!["11 30 2 3.0".to_owned()], vec!["a 09.500 4.0 4".to_owned()]));
}

#[test]
fn a_session_is_not_longer_than_its_maximum() {
    let text = window("kind = \"session\", gap = \"10s\", max = \"12s\"", KEYED, "\"count(*) AS n\"");
    let rows: Vec<TestRow> = (0..6).map(|at| ("a", f64::from(at) * 5.0, None)).collect();
    assert_eq!(results(&text, 7.0, &rows).0, ["00 12 a 3", "15 27 a 3"]);
}

#[test]
fn so_many_rows_make_a_window() {
    let rows: Vec<TestRow> =
        (0..7).map(|at| (if at == 3 { "b" } else { "a" }, f64::from(at), Some(f64::from(at)))).collect();
    let select = "\"sum(value) AS s\", \"median(value) AS m\"";
    let text = window("kind = \"count\", size = 2", KEYED, select);
    assert_eq!(results(&text, 0.0, &rows).0, ["00 01 a 1.0 0.5", "02 04 a 6.0 3.0", "05 06 a 11.0 5.5"]);
    let text = window("kind = \"count\", size = 4, slide = 2", "", select);
    assert_eq!(results(&text, 3.0, &rows).0, ["00 03 6.0 1.5", "02 05 14.0 3.5"]);
}

#[test]
fn a_sliding_window_is_of_each_row() {
    let text = window(
        "kind = \"sliding\", size = \"3s\"",
        KEYED,
        "\"sum(value) AS s\", \"max(n) AS m\", \"count(*) FILTER (WHERE value > 1) AS c\"",
    );
    let rows = [
        ("a", 0.0, Some(5.0)),
        ("a", 1.0, Some(1.0)),
        ("b", 1.0, Some(9.0)),
        ("a", 3.0, None),
        ("a", 3.5, Some(2.0)),
        ("a", 9.0, Some(3.0)),
    ];
    let (windows, _) = results(&text, 2.0, &rows);
    let windows: Vec<&str> = windows.iter().map(|line| line.split_once(' ').expect("a start").1).collect();
    let expected =
        ["00 a 5.0 5 1", "01 a 6.0 5 1", "01 b 9.0 9 1", "03.500 a 3.0 2 1", "03 a 1.0 1 0", "09 a 3.0 3 1"];
    assert_eq!(windows, expected);
}

#[test]
fn a_state_lasts_from_one_condition_to_another() {
    let text = window(
        "kind = \"state\", open = \"value > 8\", close = \"value < 5\"",
        KEYED,
        "\"count(*) AS n\", \"max(value) AS peak\"",
    );
    let rows = [
        ("a", 0.0, Some(6.0)),
        ("a", 1.0, Some(9.0)),
        ("a", 2.0, None),
        ("a", 3.0, Some(10.0)),
        ("a", 4.0, Some(4.0)),
        ("a", 5.0, Some(4.0)),
        ("a", 6.0, Some(9.0)),
    ];
    assert_eq!(results(&text, 0.0, &rows).0, ["01 04 a 4 10.0"]);
}

#[test]
fn a_day_is_that_of_its_zone() {
    let text =
        window("kind = \"calendar\", unit = \"day\", zone = \"Europe/Berlin\"", "", "\"count(*) AS n\"");
    // The clocks of 2024-03-31 go forward: the day begins at 23:00Z and ends at 22:00Z.
    let midnight = 1_711_839_600.0;
    let rows: Vec<TestRow> = (0..50).map(|hour| ("a", midnight + f64::from(hour) * 3_600.0, None)).collect();
    let windows = results(&text, 0.0, &rows).0;
    let counts: Vec<&str> = windows.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(counts, ["23", "24", "3"]);
    assert!(windows[0].starts_with("2024-03-30T23:00:00 2024-03-31T22:00:00"), "{windows:?}");
}

#[test]
fn aggregates_know_when_values_were_measured() {
    let select = "\"first(value) AS f\", \"last(value) AS l\", \"delta(n) AS d\", \"rate(value) AS r\", \"time_weighted_avg(value) AS w\", \"mode(value) AS m\"";
    let rows = [
        ("a", 8.0, Some(7.0)),
        ("a", 1.0, Some(3.0)),
        ("a", 2.0, None),
        ("a", 3.0, Some(3.0)),
        ("a", 9.0, None),
        ("b", 5.0, Some(1.0)),
    ];
    // 3 for two seconds, 3 for five.
    let expected = ["00 10 a 3.0 7.0 4 0.5714285714285714 3.0 3.0", "00 10 b 1.0 1.0 0 - 1.0 1.0"];
    for kind in ["kind = \"tumbling\", size = \"10s\"", "kind = \"hopping\", size = \"10s\", slide = \"10s\""]
    {
        assert_eq!(results(&window(kind, KEYED, select), 10.0, &rows).0, expected);
    }
    let text = window("kind = \"session\", gap = \"8s\"", KEYED, select);
    let expected = ["01 17 a 3.0 7.0 4 0.5714285714285714 3.0 3.0", "05 13 b 1.0 1.0 0 - 1.0 1.0"];
    assert_eq!(results(&text, 10.0, &rows).0, expected);
}

/// No aggregate is disturbed by snapshots, by overlapping windows, by rows that
/// share a window with others.
#[test]
fn every_aggregate_runs_in_every_kind() {
    let select = "\"count(distinct n) AS a\", \"median(value) AS b\", \"percentile_cont(value, 0.9) AS c\", \"array_agg(n ORDER BY ts) AS d\", \"first_value(value ORDER BY ts) AS e\", \"stddev(value) AS f\", \"max(key) AS g\", \"string_agg(key, ',' ORDER BY ts) AS h\", \"bool_and(value > 1) AS i\", \"count(*) FILTER (WHERE n = 2) AS j\", \"mode(key) AS k\"";
    let rows: Vec<TestRow> = (0..24)
        .map(|at| (if at % 3 == 0 { "b" } else { "a" }, f64::from(at * 7 % 24), Some(f64::from(at % 5))))
        .collect();
    for kind in [
        "kind = \"hopping\", size = \"10s\", slide = \"4s\"",
        "kind = \"session\", gap = \"3s\"",
        "kind = \"count\", size = 6, slide = 4",
        "kind = \"sliding\", size = \"6s\"",
        "kind = \"state\", open = \"n = 1\", close = \"n = 4\"",
        "kind = \"calendar\", unit = \"day\"",
    ] {
        let (windows, late) = results(&window(kind, KEYED, select), 24.0, &rows);
        assert!(!windows.is_empty(), "{kind}");
        assert!(late.is_empty(), "{kind}");
    }
}

/// Each late row is given once more with its window, for its own key only.
#[test]
fn a_late_row_corrects_its_window() {
    let text = window("kind = \"tumbling\", size = \"10s\"", KEYED, "\"count(*) AS n\"")
        + "allowed_lateness = \"20s\"\n";
    let rows = [
        ("a", 1.0, None),
        ("b", 2.0, None),
        ("a", 12.0, None),
        ("a", 3.0, None),
        ("c", 4.0, None),
        ("a", 25.0, None),
        ("b", 5.0, None),
        ("b", 31.0, None),
        ("a", 6.0, None),
    ];
    let (windows, late) = results(&text, 0.0, &rows);
    let expected = [
        "00 10 a 1 0 true",
        "00 10 a 2 1 true",
        "00 10 b 1 0 true",
        "00 10 b 2 2 true",
        "00 10 c 1 1 true",
        "10 20 a 1 0 true",
        "20 30 a 1 0 true",
        "30 40 b 1 0 true",
    ];
    assert_eq!(windows, expected);
    assert_eq!(late, ["a 06 - -"]);
    // A window that nobody had heard of is given for the first time.
    let rows = [("a", 15.0, None), ("a", 1.0, None)];
    assert_eq!(results(&text, 0.0, &rows).0, ["00 10 a 1 0 true", "10 20 a 1 0 true"]);
    // A row of two windows corrects the one and counts in the other.
    let text = window("kind = \"hopping\", size = \"10s\", slide = \"5s\"", "", "\"count(*) AS n\"")
        + "allowed_lateness = \"5s\"\n";
    let rows = [("a", 6.0, None), ("a", 12.0, None), ("a", 7.0, None), ("a", 16.0, None)];
    let expected = ["00 10 1 0 true", "00 10 2 1 true", "05 15 3 0 true", "10 20 2 0 true", "15 25 1 0 true"];
    let windows = results(&text, 0.0, &rows).0;
    assert_eq!(
        windows.iter().filter(|line| !line.starts_with("1969")).collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
}

/// What is there at each step, of rows before it, whatever batches they came in.
#[test]
fn running_results_are_those_of_their_instant() {
    let text = window("kind = \"tumbling\", size = \"10s\"", "", "\"count(*) AS n\"") + "early = \"4s\"\n";
    let rows = [
        ("a", 1.0, None),
        ("a", 3.0, None),
        ("a", 4.0, None),
        ("a", 9.0, None),
        ("a", 21.0, None),
        ("a", 35.0, None),
    ];
    let expected = [
        "00 10 2 0 false",
        "00 10 3 0 false",
        "00 10 4 0 true",
        "20 30 1 0 false",
        "20 30 1 0 true",
        // The rows end before 36 s.
        "30 40 1 0 true",
    ];
    assert_eq!(results(&text, 0.0, &rows).0, expected);
    let text = window("kind = \"calendar\", unit = \"day\"", "", "\"count(*) AS n\"") + "early = \"6h\"\n";
    let rows = [("a", 1.0, None), ("a", 21_601.0, None), ("a", 86_399.0, None), ("a", 86_401.0, None)];
    let windows = results(&text, 0.0, &rows).0;
    let ends: Vec<&str> = windows.iter().map(|line| &line[line.len() - 9..]).collect();
    assert_eq!(ends, ["1 0 false", "2 0 false", " 3 0 true", " 1 0 true"]);
}

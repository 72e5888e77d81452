//! Operators that judge rows in event-time order, at every batch size, with and
//! without snapshots and restores. What they must give is written by hand, or
//! computed from all rows at once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use kit::{TestRow, batch, build, manners, run, sorted};
use tidegate_engine::operator::Output;
use tidegate_engine::time::Time;

/// The lines of each port, which are the same in every manner.
fn ports(text: &str, rows: &[TestRow], delay_s: f64) -> Vec<Vec<String>> {
    let rows = batch(rows);
    let mut all = manners(delay_s).into_iter().map(|manner| (manner, run(text, &rows, manner)));
    let (_, first) = all.next().expect("a manner");
    for (manner, other) in all {
        for (other, first) in other.iter().zip(&first) {
            assert_eq!(sorted(other.clone()), sorted(first.clone()), "{manner:?}");
        }
    }
    kit::as_copies(&kit::stream(), text, &rows, delay_s, &first);
    first
}

/// `a 1970-01-01T00:00:07.500000Z 5.5 5 …` → `a 7.5 5.5 …`: key, seconds and
/// what else there is but the column `n`.
fn short(line: &str) -> String {
    let parts: Vec<&str> = line.split(' ').collect();
    let without_n = |(index, part): (usize, &&str)| (index != 3).then(|| seconds(part));
    parts.iter().enumerate().filter_map(without_n).collect::<Vec<_>>().join(" ")
}

/// Times in seconds, other parts as they are; whole numbers without `.0`.
fn seconds(part: &str) -> String {
    let Some(clock) = part.strip_prefix("1970-01-01T").and_then(|rest| rest.strip_suffix('Z')) else {
        return part.strip_suffix(".0").unwrap_or(part).to_owned();
    };
    let parts: Vec<f64> = clock.split(':').map(|part| part.parse().expect("a number")).collect();
    (parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]).to_string()
}

fn shorts(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| short(line)).collect()
}

fn lines(text: &str, rows: &[TestRow], delay_s: f64) -> Vec<String> {
    shorts(&ports(text, rows, delay_s)[0])
}

const DISORDERED: [TestRow; 8] = [
    ("a", 3.0, Some(3.0)),
    ("a", 1.0, Some(1.0)),
    ("b", 2.0, Some(2.0)),
    ("a", 5.0, Some(5.0)),
    ("b", 5.0, Some(5.5)),
    ("a", 4.0, None),
    ("b", 9.0, Some(9.0)),
    ("a", 7.0, Some(7.0)),
];

#[test]
fn sort_gives_event_time_order_and_what_is_too_late_for_it_apart() {
    let text = "[operator.s]\ntype = \"sort\"\nfrom = \"rows\"\n";
    let in_order = ["a 1 1", "b 2 2", "a 3 3", "a 4 -", "a 5 5", "b 5 5.5", "a 7 7", "b 9 9"];
    assert_eq!(lines(text, &DISORDERED, 2.0), in_order);
    // With a bound of its own it waits for as long itself.
    assert_eq!(lines(&format!("{text}bound = \"2s\"\n"), &DISORDERED, 0.0), in_order);
    let both = ports(text, &DISORDERED, 1.0);
    assert_eq!(shorts(&both[0]), ["b 2 2", "a 3 3", "a 4 -", "a 5 5", "b 5 5.5", "b 9 9"]);
    assert_eq!(shorts(&both[1]), ["a 1 1", "a 7 7"]);
}

#[test]
fn dedup_keeps_the_first_in_event_time_for_its_ttl() {
    let text = "[operator.d]\ntype = \"dedup\"\nfrom = \"rows\"\nkey = [\"key\"]\nttl = \"4s\"\n";
    let rows: [TestRow; 8] = [
        ("a", 2.0, Some(2.0)),
        ("a", 1.0, Some(1.0)),
        ("b", 2.0, Some(3.0)),
        // Four seconds after the first that went on.
        ("a", 5.0, Some(4.0)),
        ("a", 5.0, Some(5.0)),
        ("b", 8.0, Some(6.0)),
        // Behind the watermark of 7: c is new, and a row of a went on three seconds later.
        ("c", 4.0, Some(7.0)),
        ("a", 3.5, Some(8.0)),
    ];
    let all = ports(text, &rows, 1.0);
    assert_eq!(shorts(&all[0]), ["a 1 1", "b 2 3", "a 5 4", "c 4 7", "b 8 6"]);
    assert_eq!(sorted(shorts(&all[2])), ["a 2 2", "a 3.5 8", "a 5 5"]);
    assert_eq!(all[1], Vec::<String>::new());
    // Four seconds behind the watermark nobody knows any more.
    let rows: [TestRow; 3] = [("a", 10.0, Some(1.0)), ("a", 6.0, Some(2.0)), ("b", 6.1, Some(3.0))];
    let all = ports(text, &rows, 0.0);
    assert_eq!(
        (shorts(&all[0]), shorts(&all[1])),
        (vec!["a 10 1".into(), "b 6.1 3".into()], vec!["a 6 2".into()])
    );
}

#[test]
fn dedup_remembers_for_as_long_as_rows_may_come() {
    let text = "[operator.d]\ntype = \"dedup\"\nfrom = \"rows\"\nkey = [\"key\"]\nttl = \"4s\"\n";
    // x was at 0.5 and was not heard of again until event time is 4.6: four seconds later.
    let rows: [TestRow; 6] = [
        ("x", 0.5, Some(1.0)),
        ("y", 4.6, Some(2.0)),
        ("x", 0.7, Some(3.0)),
        ("x", 4.4, Some(4.0)),
        ("y", 8.5, Some(5.0)),
        ("x", 4.55, Some(6.0)),
    ];
    let all = ports(text, &rows, 0.0);
    assert_eq!(shorts(&all[0]), ["x 0.5 1", "y 4.6 2", "x 4.55 6"]);
    assert_eq!(shorts(&all[2]), ["x 0.7 3", "x 4.4 4", "y 8.5 5"]);
}

#[test]
fn changed_compares_with_the_row_before_in_event_time() {
    let text = "[operator.c]\ntype = \"changed\"\nfrom = \"rows\"\nkey = [\"key\"]\ncolumns = [\"value\"]\n";
    let rows: [TestRow; 8] = [
        ("a", 1.0, Some(1.0)),
        // Between two equal values comes another one, later.
        ("a", 3.0, Some(1.0)),
        ("a", 2.0, Some(2.0)),
        ("b", 3.0, Some(1.0)),
        ("a", 4.0, None),
        ("a", 5.0, None),
        ("b", 5.0, Some(1.0)),
        ("a", 6.0, Some(1.0)),
    ];
    assert_eq!(lines(text, &rows, 1.0), ["a 1 1", "a 2 2", "a 3 1", "b 3 1", "a 4 -", "a 6 1"]);
    // All columns but key and time are watched if none is named.
    let all = "[operator.c]\ntype = \"changed\"\nfrom = \"rows\"\nkey = [\"key\"]\n";
    let rows: [TestRow; 3] = [("a", 1.0, Some(1.0)), ("a", 2.0, Some(1.0)), ("a", 3.0, Some(1.5))];
    assert_eq!(lines(all, &rows, 0.0), ["a 1 1", "a 3 1.5"]);
}

#[test]
fn lag_looks_back_on_rows_of_the_same_key() {
    let text = "[operator.l]\ntype = \"lag\"\nfrom = \"rows\"\nkey = [\"key\"]\ncolumns = [\"value\"]\nadd = [\"previous\", \"delta\", \"rate\"]\n";
    let rows: [TestRow; 7] = [
        ("a", 1.0, Some(10.0)),
        ("a", 5.0, Some(20.0)),
        ("b", 5.0, Some(1.0)),
        ("a", 3.0, Some(11.0)),
        ("a", 5.0, Some(26.0)),
        ("b", 6.0, None),
        ("b", 8.0, Some(3.0)),
    ];
    let expected = [
        "a 1 10 - - -",
        "a 3 11 10 1 0.5",
        "a 5 20 11 9 4.5",
        "b 5 1 - - -",
        // No time has passed, so there is no pace.
        "a 5 26 20 6 -",
        "b 6 - 1 - -",
        "b 8 3 - - -",
    ];
    assert_eq!(lines(text, &rows, 2.0), expected);
}

#[test]
fn lag_of_several_rows_and_of_whole_numbers_and_text() {
    let text = "[operator.l]\ntype = \"lag\"\nfrom = \"rows\"\ncolumns = [\"key\", \"n\"]\nrows = 2\n";
    let rows: [TestRow; 4] =
        [("a", 1.0, Some(1.0)), ("b", 2.0, Some(2.0)), ("c", 3.0, Some(4.0)), ("d", 4.0, Some(-8.0))];
    assert_eq!(lines(text, &rows, 0.0), ["a 1 1 - -", "b 2 2 - -", "c 3 4 a 1", "d 4 -8 b 2"]);
    let text =
        "[operator.l]\ntype = \"lag\"\nfrom = \"rows\"\ncolumns = [\"n\"]\nrows = 3\nadd = \"delta\"\n";
    assert_eq!(lines(text, &rows, 0.0)[3], "d 4 -8 -9");
}

const FILL: &str = "[operator.f]\ntype = \"fill\"\nfrom = \"rows\"\nkey = [\"key\"]\ncolumns = [\"value\"]\nevery = \"2s\"\nmax_gap = \"5s\"\n";

/// Time, key, value as `a 2 1.5`, in order of key, then time.
fn filled(kind: &str, rows: &[TestRow], delay_s: f64) -> Vec<String> {
    let mut made: Vec<(String, u64, String)> = ports(&format!("{FILL}kind = \"{kind}\"\n"), rows, delay_s)[0]
        .iter()
        .map(|line| {
            let parts: Vec<&str> = line.split(' ').collect();
            (parts[1].to_owned(), seconds(parts[0]).parse().expect("whole seconds"), seconds(parts[2]))
        })
        .collect();
    made.sort();
    made.into_iter().map(|(key, at, value)| format!("{key} {at} {value}")).collect()
}

const SPARSE: [TestRow; 8] = [
    ("a", 1.0, Some(10.0)),
    ("b", 2.0, Some(1.0)),
    ("a", 5.0, Some(30.0)),
    ("a", 4.0, Some(20.0)),
    // Two at one time: the second one counts.
    ("a", 8.0, Some(0.0)),
    ("a", 8.0, Some(60.0)),
    // More than five seconds later.
    ("a", 15.0, Some(7.0)),
    ("b", 14.5, Some(5.0)),
];

#[test]
fn fill_with_the_previous_value_reaches_as_far_as_the_gap() {
    let expected = [
        "a 2 10", "a 4 20", "a 6 30", "a 8 60", "a 10 60", "a 12 60", // 14 is six seconds after 8.
        "b 2 1", "b 4 1", "b 6 1",
    ];
    assert_eq!(filled("previous", &SPARSE, 1.0), expected);
}

#[test]
fn fill_reaches_over_a_gap_that_one_batch_holds() {
    // Between these no watermark comes, if they come in one batch.
    let rows: [TestRow; 2] = [("a", 1.0, Some(1.0)), ("a", 21.0, Some(2.0))];
    assert_eq!(filled("previous", &rows, 0.0), ["a 2 1", "a 4 1", "a 6 1"]);
    let rows: [TestRow; 2] = [("a", 2.0, Some(1.0)), ("a", 21.0, Some(2.0))];
    assert_eq!(filled("linear", &rows, 0.0), ["a 2 1"]);
}

#[test]
fn fill_has_no_line_to_nothing_but_a_value_where_there_is_one() {
    let rows: [TestRow; 4] =
        [("a", 2.0, Some(1.0)), ("a", 5.0, None), ("a", 6.0, Some(3.0)), ("a", 7.0, None)];
    assert_eq!(filled("linear", &rows, 0.0), ["a 2 1", "a 4 -", "a 6 3"]);
    assert_eq!(filled("previous", &rows, 0.0), ["a 2 1", "a 4 1", "a 6 3"]);
}

#[test]
fn fill_on_the_line_between_two_values() {
    // a: 10 at 1, 20 at 4, 30 at 5, then 0 and 60 at 8: a line leads to the first of two values, and where
    // they are the last one counts; then a gap.
    let expected = ["a 2 13.333333333333332", "a 4 20", "a 6 20", "a 8 60", "b 2 1"];
    assert_eq!(filled("linear", &SPARSE, 1.0), expected);
}

#[test]
fn limit_rate_lets_so_many_through_in_any_such_time() {
    let text = "[operator.l]\ntype = \"limit_rate\"\nfrom = \"rows\"\nkey = [\"key\"]\nrate = \"2/m\"\n";
    let rows: [TestRow; 8] = [
        ("a", 50.0, Some(1.0)),
        ("a", 55.0, Some(2.0)),
        ("b", 55.0, Some(3.0)),
        // In another minute of the clock, but not a minute later.
        ("a", 65.0, Some(4.0)),
        ("a", 109.9, Some(5.0)),
        ("a", 110.0, Some(6.0)),
        ("a", 111.0, Some(7.0)),
        ("a", 115.0, Some(8.0)),
    ];
    let all = ports(text, &rows, 0.0);
    assert_eq!(shorts(&all[0]), ["a 50 1", "a 55 2", "b 55 3", "a 110 6", "a 115 8"]);
    assert_eq!(shorts(&all[2]), ["a 65 4", "a 109.9 5", "a 111 7"]);
}

#[test]
fn sample_takes_each_third_row_or_a_share_of_the_keys() {
    let text = "[operator.s]\ntype = \"sample\"\nfrom = \"rows\"\nkey = [\"key\"]\nevery = 3\n";
    let rows: [TestRow; 6] = [
        ("a", 2.0, Some(2.0)),
        ("a", 1.0, Some(1.0)),
        ("b", 2.0, Some(3.0)),
        ("a", 3.0, Some(4.0)),
        ("a", 4.0, Some(5.0)),
        ("a", 5.0, Some(6.0)),
    ];
    assert_eq!(lines(text, &rows, 1.0), ["a 1 1", "b 2 3", "a 4 5"]);
    let keys = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8", "k9"];
    let rows: Vec<TestRow> = (0..40).map(|n| (keys[n % 10], n as f64, Some(n as f64))).collect();
    let text = "[operator.s]\ntype = \"sample\"\nfrom = \"rows\"\nkey = [\"key\"]\nshare = 0.5\n";
    let through = lines(text, &rows, 0.0);
    let taken: Vec<&&str> =
        keys.iter().filter(|key| through.iter().any(|line| line.starts_with(*key))).collect();
    // For these, Python's xxhash.xxh3_64_intdigest(key) is below 2**63.
    assert_eq!(taken, [&"k3", &"k9"]);
    assert_eq!(through.len(), 4 * taken.len(), "all rows of a key or none");
}

#[test]
fn top_keeps_the_best_of_each_window() {
    let text = "[operator.t]\ntype = \"top\"\nfrom = \"rows\"\nkey = [\"key\"]\nby = \"value\"\nrows = 2\nsize = \"10s\"\n";
    let rows: [TestRow; 10] = [
        ("a", 1.0, Some(5.0)),
        ("a", 2.0, Some(9.0)),
        ("b", 3.0, None),
        // As large as the one at 1, but later.
        ("a", 6.0, Some(5.0)),
        ("a", 4.0, Some(7.0)),
        ("b", 9.0, Some(-1.0)),
        ("a", 10.0, Some(1.0)),
        // Its window is open until 12.
        ("b", 8.0, Some(-2.0)),
        ("a", 12.5, Some(2.0)),
        // And closed now.
        ("a", 9.0, Some(100.0)),
    ];
    let all = ports(text, &rows, 2.0);
    assert_eq!(
        sorted(shorts(&all[0])),
        ["a 10 1 2", "a 12.5 2 1", "a 2 9 1", "a 4 7 2", "b 8 -2 2", "b 9 -1 1"]
    );
    assert_eq!(shorts(&all[1]), ["a 9 100"]);
    // Behind the watermark and older than another row of its key, but its window is open; NULL is no value.
    let behind: [TestRow; 3] = [("a", 5.0, Some(1.0)), ("a", 3.0, Some(2.0)), ("c", 6.0, None)];
    let all = ports(text, &behind, 0.0);
    assert_eq!((sorted(shorts(&all[0])), all[1].len()), (vec!["a 3 2 1".into(), "a 5 1 2".into()], 0));
    let smallest = text.replace("rows = 2", "rows = 1\norder = \"smallest\"");
    assert_eq!(sorted(lines(&smallest, &rows, 2.0)), ["a 1 5 1", "a 10 1 1", "b 8 -2 1"]);
}

#[test]
fn a_row_that_cannot_be_compared_is_rejected_and_its_neighbours_are_not() {
    let text = "[operator.t]\ntype = \"top\"\nfrom = \"rows\"\nby = \"100 / n\"\nrows = 1\nsize = \"10s\"\n";
    let rows: [TestRow; 3] = [("a", 1.0, Some(5.0)), ("a", 2.0, Some(0.0)), ("a", 3.0, Some(4.0))];
    let all = ports(text, &rows, 0.0);
    assert_eq!(shorts(&all[0]), ["a 3 4 1"]);
    assert_eq!(all[2].len(), 1);
    assert!(all[2][0].to_lowercase().contains("divide"), "{}", all[2][0]);
}

/// Times of the rows on the main port, in microseconds.
fn times_us(out: &mut Output, time: usize) -> Vec<i64> {
    let main = out.drain().filter(|(port, _)| *port == 0);
    let times = |(_, batch): (usize, RecordBatch)| {
        batch.column(time).as_primitive::<TimestampMicrosecondType>().values().to_vec()
    };
    main.flat_map(times).collect()
}

#[test]
fn readers_are_told_no_watermark_that_a_row_breaks_later() {
    let fill = |kind: &str| format!("{FILL}kind = \"{kind}\"\n");
    let top = "[operator.t]\ntype = \"top\"\nfrom = \"rows\"\nkey = [\"key\"]\nby = \"value\"\nrows = 2\nsize = \"7s\"\n";
    let sort = "[operator.s]\ntype = \"sort\"\nfrom = \"rows\"\nbound = \"3s\"\n";
    let lag = "[operator.l]\ntype = \"lag\"\nfrom = \"rows\"\ncolumns = [\"value\"]\n";
    // How far behind its input's an operator's watermark may be: a window, a gap and a step, a bound.
    for (text, behind_s) in [
        (fill("linear"), 7.0),
        (fill("previous"), 0.0),
        (top.into(), 7.0),
        (sort.into(), 3.0),
        (lag.into(), 0.0),
    ] {
        let mut part = build(&text);
        let time = part.ports[0].stream.time.expect("event time");
        let (mut out, mut told_us, mut emitted) = (Output::default(), i64::MIN, 0);
        for step in 0..400_u32 {
            // Three keys, one of them with long gaps; event time is up to a second ahead of the watermark.
            let at = f64::from(step) / 4.0 + f64::from(step * 7 % 5) / 4.0;
            let key = ["a", "b", if step % 50 == 0 { "c" } else { "a" }][step as usize % 3];
            part.operator.on_batch(0, &batch(&[(key, at, Some(at))]), &mut out).expect("takes rows");
            let watermark = Time(i64::from(step) * 250_000);
            part.operator.on_watermark(watermark, &mut out).expect("takes a watermark");
            let times = times_us(&mut out, time);
            emitted += times.len();
            assert!(times.iter().all(|at_us| *at_us >= told_us), "{text}\n{times:?} after {told_us}");
            let now_us = part.operator.output_watermark(watermark).0;
            assert!(now_us >= told_us, "{text}\nthe watermark goes back");
            told_us = now_us;
            let behind_us = (behind_s * 1e6) as i64;
            assert!(step < 60 || told_us >= watermark.0 - behind_us, "{text}\n{told_us} at {watermark}");
        }
        assert!(emitted > 20, "{text}\n{emitted} rows");
    }
}

#[test]
fn a_second_run_goes_on_and_makes_nothing_twice() {
    let top = "[operator.t]\ntype = \"top\"\nfrom = \"rows\"\nby = \"value\"\nrows = 1\nsize = \"10s\"\n";
    let fill = format!("{FILL}kind = \"previous\"\n");
    // The first run ends at 4: the window is closed, and the value of 4 is made. In the second one 6, 8 and 12 are.
    for (text, made, late) in [(top, [1, 1], 1), (fill.as_str(), [2, 3], 0)] {
        let runs =
            [[("a", 1.0, Some(1.0)), ("a", 4.0, Some(4.0))], [("a", 4.0, Some(9.0)), ("a", 12.0, Some(5.0))]];
        let (mut state, mut lines) = (Vec::new(), [0, 0]);
        for (rows, made) in runs.iter().zip(made) {
            let mut part = build(text);
            part.operator.restore(state).expect("restores");
            let mut out = Output::default();
            part.operator.on_batch(0, &batch(rows), &mut out).expect("takes rows");
            part.operator.on_watermark(Time((rows[1].1 * 1e6) as i64), &mut out).expect("takes a watermark");
            part.operator.on_end(&mut out).expect("ends");
            state = part.operator.snapshot().expect("snapshots");
            lines = [0, 0];
            out.drain().for_each(|(port, batch)| lines[port] += batch.num_rows());
            assert_eq!(lines[0], made, "{text}");
        }
        assert_eq!(lines[1], late, "{text}");
    }
}

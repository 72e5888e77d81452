//! A window whose state is given in changes: whatever is reported, put together,
//! lost and restored between any two batches, results are those of a window
//! that nobody disturbs.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type};
use arrow::util::pretty::pretty_format_batches;
use proptest::prelude::*;
use tidegate_engine::operator::{Input, Operator, Output};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::{Time, time_type};
use tidegate_engine::topology::parse::parse;

use super::*;
use crate::disturbed::{Then, disturbed, then};

const KINDS: [&str; 2] =
    ["{ kind = \"tumbling\", size = \"10s\" }", "{ kind = \"hopping\", size = \"10s\", slide = \"4s\" }"];

/// Aggregates whose states are read in place.
const DIRECT: &str = r#""count(*) AS c", "count(value) AS v", "sum(value) AS s", "avg(value) AS a", "min(n) AS low", "max(n) AS high", "min(value) AS least", "sum(n) FILTER (WHERE value > 0) AS p", "max(ts) AS newest""#;
/// And some whose states are not.
const OTHERS: &str = r#", "count(distinct n) AS d", "median(value) AS m""#;

fn stream() -> StreamSchema {
    StreamSchema::new(
        vec![
            Field::new("key", DataType::Utf8, true),
            Field::new("ts", time_type(), false),
            Field::new("value", DataType::Float64, true),
            Field::new("n", DataType::Int64, true),
            Field::new("part", DataType::Int64, true),
            Field::new("place", DataType::Int64, true),
        ],
        Some("ts"),
    )
}

/// How a window is made.
#[derive(Clone, Copy, Debug)]
struct Make {
    kind: usize,
    keyed: bool,
    others: bool,
}

fn of_panes(node: &NodeConfig, input: &Input) -> Window {
    let Parts { kind: Kind::Panes(frame), layout, stream, .. } = parts(node, input).expect("a right window")
    else {
        panic!("a window of panes");
    };
    let results = Results { name: "w".into(), stream };
    Window::new(input.stream.clone(), results, frame, layout).expect("a window")
}

fn new(make: Make, groups_whole_max: usize) -> Window {
    let (kind, others) = (KINDS[make.kind], if make.others { OTHERS } else { "" });
    let key = if make.keyed { "key = [\"key\", \"part\", \"place\"]\n" } else { "" };
    let text = format!(
        "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\n{key}window = {kind}\nselect = [{DIRECT}{others}]\n"
    );
    let (parsed, problems) = parse(&text);
    assert_eq!(problems, []);
    let input = Input { name: "rows".into(), stream: stream() };
    let mut window = of_panes(&parsed.nodes[0], &input);
    window.groups_whole_max = groups_whole_max;
    assert_eq!(window.layout.is_direct, !make.others);
    window
}

/// A batch of rows and what happens behind it.
#[derive(Clone, Debug)]
struct Step {
    rows: Vec<(u8, u8, i8)>,
    then: Then,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rows = proptest::collection::vec((0..12_u8, 0..15_u8, any::<i8>()), 0..25);
    let step = (rows, then()).prop_map(|(rows, then)| Step { rows, then });
    proptest::collection::vec(step, 1..25)
}

fn value(number: i8) -> Option<f64> {
    (number % 5 != 2).then(|| f64::from(number) / 4.0)
}

/// Rows of a step: times grow by half a second each step, and are up to seven
/// seconds behind.
fn batch(step: &Step, index: usize) -> RecordBatch {
    let base = i64::try_from(index).expect("small") * 1_000_000;
    let times: Vec<i64> = step.rows.iter().map(|row| base + i64::from(row.1) * 500_000).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(step.rows.iter().map(|row| format!("k{}", row.0 / 3)))),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        // Every fifth value is NULL.
        Arc::new(step.rows.iter().map(|row| value(row.2)).collect::<Float64Array>()),
        Arc::new(
            step.rows.iter().map(|row| (row.2 % 7 != 3).then_some(i64::from(row.2))).collect::<Int64Array>(),
        ),
        // (NULL, 1) and (1, NULL) have one hash in the library.
        Arc::new(step.rows.iter().map(|row| (row.0 % 3 != 1).then_some(1)).collect::<Int64Array>()),
        Arc::new(step.rows.iter().map(|row| (row.0 % 3 != 2).then_some(1)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(stream().columns, columns).expect("columns of the schema")
}

fn feed(window: &mut Window, step: &Step, index: usize) -> Vec<String> {
    let mut out = Output::default();
    if !step.rows.is_empty() {
        window.on_batch(0, &batch(step, index), &mut out).expect("takes rows");
    }
    let mark = Time(i64::try_from(index).expect("small") * 1_000_000);
    window.on_watermark(mark, &mut out).expect("takes a watermark");
    lines(&mut out)
}

fn end(window: &mut Window) -> Vec<String> {
    let mut out = Output::default();
    window.on_end(&mut out).expect("ends");
    lines(&mut out)
}

fn lines(out: &mut Output) -> Vec<String> {
    let mut lines = Vec::new();
    for (port, batch) in out.drain() {
        let text = pretty_format_batches(&[batch]).expect("prints").to_string();
        let rows = text.lines().skip(3).filter(|line| line.starts_with('|'));
        lines.extend(rows.map(|line| format!("{port} {line}")));
    }
    lines
}

fn run(make: Make, steps: &[Step], groups_whole_max: usize) -> (Vec<String>, usize) {
    let (mut window, mut results, changes) = disturbed(
        || new(make, groups_whole_max),
        steps.iter().map(|step| step.then),
        |window, index| feed(window, &steps[index], index),
    );
    results.extend(end(&mut window));
    results.sort();
    (results, changes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn changes_restores_and_crashes_do_not_disturb(
        steps in steps(), kind in 0..2_usize, keyed in any::<bool>(), others in any::<bool>(), most in 0..12_usize,
    ) {
        let make = Make { kind, keyed, others };
        let calm: Vec<Step> = steps.iter().map(|step| Step { then: Then::Nothing, ..step.clone() }).collect();
        let (expected, none) = run(make, &calm, usize::MAX);
        prop_assert_eq!(none, 0);
        let (found, _) = run(make, &steps, most);
        prop_assert_eq!(found, expected);
    }

    /// Our accumulators and DataFusion's say the same.
    #[test]
    fn aggregates_read_in_place_are_those_of_the_library(steps in steps(), kind in 0..2_usize) {
        let calm: Vec<Step> = steps.iter().map(|step| Step { then: Then::Nothing, ..step.clone() }).collect();
        let (own, _) = run(Make { kind, keyed: true, others: false }, &calm, usize::MAX);
        let (given, _) = run(Make { kind, keyed: true, others: true }, &calm, usize::MAX);
        let cells = |line: &String| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let mut own: Vec<Vec<String>> = own.iter().map(cells).collect();
        let columns = own.first().map_or(0, Vec::len) - usize::from(!own.is_empty());
        own.iter_mut().for_each(|line| line.truncate(columns));
        let mut given: Vec<Vec<String>> = given.iter().map(cells).collect();
        given.iter_mut().for_each(|line| line.truncate(columns));
        own.sort();
        given.sort();
        prop_assert_eq!(own, given);
    }
}

/// NULL, numbers and NaN of both signs.
const FLOATS: [Option<f64>; 9] = [
    None,
    Some(f64::NAN),
    Some(-f64::NAN),
    Some(f64::INFINITY),
    Some(f64::NEG_INFINITY),
    Some(0.0),
    Some(-0.0),
    Some(1.5),
    Some(-1.5),
];

fn floats(rows: &[(u8, usize)]) -> RecordBatch {
    let step = Step { rows: rows.iter().map(|(key, _)| (*key, 0, 1)).collect(), then: Then::Nothing };
    let mut columns = batch(&step, 0).columns().to_vec();
    columns[2] = Arc::new(rows.iter().map(|(_, value)| FLOATS[*value]).collect::<Float64Array>());
    RecordBatch::try_new(stream().columns, columns).expect("columns of the schema")
}

/// Bits of the least and the greatest value of each key.
type Extremes = std::collections::BTreeMap<String, (Option<u64>, Option<u64>)>;

/// As the library sorts them.
fn sorted_extremes(rows: &[(u8, usize)]) -> Extremes {
    let mut extremes = Extremes::new();
    for key in 0..4 {
        let of_key: Vec<Option<f64>> =
            rows.iter().filter(|row| row.0 / 3 == key).map(|row| FLOATS[row.1]).collect();
        let values: ArrayRef = Arc::new(of_key.iter().flatten().copied().collect::<Float64Array>());
        let sorted = arrow::compute::sort(&values, None).expect("sorts");
        let bits = |index: usize| sorted.as_primitive::<Float64Type>().value(index).to_bits();
        let ends = (!sorted.is_empty()).then(|| (bits(0), bits(sorted.len() - 1))).unzip();
        if !of_key.is_empty() {
            extremes.insert(format!("k{key}"), ends);
        }
    }
    extremes
}

fn extremes(out: &mut Output) -> Extremes {
    let mut extremes = Extremes::new();
    for (_, batch) in out.drain() {
        let keys = batch.column_by_name("key").expect("a key").as_string::<i32>().clone();
        let floats =
            |name| batch.column_by_name(name).expect("is there").as_primitive::<Float64Type>().clone();
        let (least, greatest) = (floats("least"), floats("greatest"));
        for row in 0..batch.num_rows() {
            let bits = |values: &Float64Array| values.is_valid(row).then(|| values.value(row).to_bits());
            extremes.insert(keys.value(row).to_owned(), (bits(&least), bits(&greatest)));
        }
    }
    extremes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// In whatever order rows come and states are merged, beside whatever other
    /// aggregates.
    #[test]
    fn the_least_and_the_greatest_are_those_of_the_library_s_order(
        rows in proptest::collection::vec(((0..12_u8, 0..FLOATS.len()), then()), 1..40), others in any::<bool>(),
    ) {
        let more = if others { ", \"median(n) AS m\"" } else { "" };
        let text = format!(
            "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\nkey = [\"key\"]\nwindow = {}\nselect = [\"min(value) AS least\", \"max(value) AS greatest\"{more}]\n",
            KINDS[0],
        );
        let make = || {
            let input = Input { name: "rows".into(), stream: stream() };
            let (parsed, _) = parse(&text);
            let mut window = of_panes(&parsed.nodes[0], &input);
            window.groups_whole_max = 1;
            window
        };
        let (mut window, _, _) = disturbed(make, rows.iter().map(|row| row.1), |window, index| {
            let mut out = Output::default();
            window.on_batch(0, &floats(&[rows[index].0]), &mut out).expect("takes rows");
            assert!(out.is_empty());
            Vec::new()
        });
        let mut out = Output::default();
        window.on_end(&mut out).expect("ends");
        let rows: Vec<(u8, usize)> = rows.iter().map(|row| row.0).collect();
        prop_assert_eq!(extremes(&mut out), sorted_extremes(&rows));
    }
}

#[test]
fn a_report_holds_what_has_changed_and_no_more() {
    for others in [false, true] {
        report_holds_what_has_changed(others);
    }
}

fn report_holds_what_has_changed(others: bool) {
    let mut window = new(Make { kind: 0, keyed: true, others }, 3);
    let rows =
        |from: u8, to: u8| Step { rows: (from..to).map(|key| (key, 0, 1)).collect(), then: Then::Nothing };
    let size = |window: &mut Window| {
        let changes = window.changes().expect("reports")?;
        Some(changes.iter().skip(1).map(RecordBatch::num_rows).collect::<Vec<_>>())
    };
    feed(&mut window, &rows(0, 3), 0);
    assert_eq!(size(&mut window), None, "a small state is given whole");
    window.snapshot().expect("snapshots");
    feed(&mut window, &rows(3, 100), 0);
    let more = if others { 100 } else { 97 };
    assert_eq!(size(&mut window), Some(vec![more]), "what is new, or what was small and all of it");
    assert_eq!(size(&mut window), Some(vec![]), "nothing is new");
    feed(&mut window, &rows(40, 42), 0);
    assert_eq!(size(&mut window), Some(vec![2]));
    feed(&mut window, &rows(40, 43), 0);
    assert_eq!(size(&mut window), Some(vec![3]));
    assert_eq!(end(&mut window).len(), 100);
}

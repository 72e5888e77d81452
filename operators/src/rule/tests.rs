//! A trigger whose memory is given in changes: whatever is reported, put
//! together, lost and restored between any two batches, it fires as one that
//! nobody disturbs.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::util::pretty::pretty_format_batches;
use proptest::prelude::*;
use tidegate_engine::operator::{Operator, Output};
use tidegate_engine::time::Time;
use tidegate_engine::topology::parse::parse;

use super::*;
use crate::disturbed::{Then, disturbed, then};
use crate::expression::SqlExpressions;

const KINDS: [&str; 6] = [
    "when = \"value > 0\"",
    "when = \"value > 0\"\nhold = \"3s\"\ncooldown = \"2s\"",
    "when = \"value > 0\"\nclear_when = \"value < -50\"\ncooldown = \"4s\"\nforget = \"6s\"",
    "when = \"value > 0\"\nhits = \"2 of 3\"\nforget = \"5s\"",
    "when = \"value > 0\"\ncount = 3\nwithin = \"5s\"",
    "absent_for = \"3s\"\nforget = \"8s\"",
];

fn stream() -> StreamSchema {
    let fields = vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("ts", time_type(), false),
        Field::new("value", DataType::Int64, true),
    ];
    StreamSchema::new(fields, Some("ts"))
}

fn new(kind: &str, keys_whole_max: usize) -> Rule {
    let text = format!("[trigger.t]\nfrom = \"rows\"\nkey = [\"key\"]\n{kind}\nstart = \"f\"\n");
    let (parsed, problems) = parse(&text);
    assert_eq!(problems, []);
    let expressions = Arc::new(SqlExpressions::new());
    let context = BuildContext::new("test", ".".into(), std::env::temp_dir(), expressions);
    let input = Input { name: "rows".into(), stream: stream() };
    let mut rule = rule(&parsed.nodes[0], &context, &input).expect("a right trigger").0;
    rule.keys_whole_max = keys_whole_max;
    rule
}

/// A batch of rows (key, half seconds, value) and what happens behind it.
#[derive(Clone, Debug)]
struct Step {
    rows: Vec<(u8, u8, i8)>,
    then: Then,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rows = proptest::collection::vec((0..12_u8, 0..8_u8, any::<i8>()), 0..10);
    let step = (rows, then()).prop_map(|(rows, then)| Step { rows, then });
    proptest::collection::vec(step, 1..30)
}

fn feed(rule: &mut Rule, step: &Step, index: usize) -> Vec<String> {
    let base = i64::try_from(index).expect("small") * 1_000_000;
    let mut out = Output::default();
    if !step.rows.is_empty() {
        let times: Vec<i64> = step.rows.iter().map(|row| base + i64::from(row.1) * 500_000).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(step.rows.iter().map(|row| format!("k{}", row.0)))),
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            Arc::new(Int64Array::from_iter_values(step.rows.iter().map(|row| i64::from(row.2)))),
        ];
        let batch = RecordBatch::try_new(stream().columns, columns).expect("columns of the schema");
        rule.on_batch(0, &batch, &mut out).expect("takes rows");
    }
    rule.on_watermark(Time(base), &mut out).expect("takes a watermark");
    lines(&mut out)
}

fn end(rule: &mut Rule) -> Vec<String> {
    let mut out = Output::default();
    rule.on_end(&mut out).expect("ends");
    lines(&mut out)
}

fn lines(out: &mut Output) -> Vec<String> {
    let printed = |(port, batch): (usize, RecordBatch)| {
        let text = pretty_format_batches(&[batch]).expect("prints").to_string();
        format!("{port}\n{text}")
    };
    out.drain().map(printed).collect()
}

/// What left the trigger, in order, and how many reports were changes.
fn run(kind: &str, steps: &[Step], keys_whole_max: usize) -> (Vec<String>, usize) {
    let (mut rule, mut left, changes) = disturbed(
        || new(kind, keys_whole_max),
        steps.iter().map(|step| step.then),
        |rule, index| feed(rule, &steps[index], index),
    );
    left.extend(end(&mut rule));
    (left, changes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn changes_restores_and_crashes_do_not_disturb(
        steps in steps(), kind in 0..KINDS.len(), most in 0..8_usize,
    ) {
        let calm: Vec<Step> = steps.iter().map(|step| Step { then: Then::Nothing, ..step.clone() }).collect();
        let (expected, none) = run(KINDS[kind], &calm, usize::MAX);
        prop_assert_eq!(none, 0);
        let (found, _) = run(KINDS[kind], &steps, most);
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_report_holds_the_keys_that_have_changed_and_those_that_are_gone() {
    let mut rule = new("when = \"value > 0\"\nforget = \"10s\"", 3);
    let rows = |from: u8, to: u8, at: u8| Step {
        rows: (from..to).map(|key| (key, at, 1)).collect(),
        then: Then::Nothing,
    };
    let mut chain = Vec::new();
    let mut keys = |rule: &mut Rule| {
        let changes = rule.changes().expect("reports")?;
        assert_eq!(changes.len(), 4);
        chain.extend(changes.iter().cloned());
        Some(changes[0].num_rows())
    };
    feed(&mut rule, &rows(0, 3, 0), 0);
    assert_eq!(keys(&mut rule), None, "a small state is given whole");
    feed(&mut rule, &rows(3, 100, 0), 1);
    assert_eq!(keys(&mut rule), Some(100));
    assert_eq!(keys(&mut rule), Some(0), "nothing is new");
    feed(&mut rule, &rows(40, 44, 0), 8);
    assert_eq!(keys(&mut rule), Some(4));
    feed(&mut rule, &rows(40, 41, 0), 14);
    // 96 keys are forgotten, one row came.
    assert_eq!(rule.keys.len(), 4);
    assert_eq!(keys(&mut rule), Some(97));
    let together = rule.compaction().expect("has one")(&chain).expect("goes together");
    assert_eq!(together[0].num_rows(), 4);
    let mut restored = new("when = \"value > 0\"\nforget = \"10s\"", 3);
    restored.restore(chain).expect("restores");
    assert_eq!(restored.keys.len(), 4);
}

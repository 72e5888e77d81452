//! What checkpoints hold of a join with a large table, and where rows that wait
//! for one find an end.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use tidegate_engine::operator::{Input, Operator, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::table::as_version;
use tidegate_engine::topology::parse::parse;

use super::operator::TableJoin;
use super::state::together;
use super::*;

const TEXT: &str = "[operator.j]\ntype = \"join\"\nfrom = [\"a\", \"b\"]\non = \"a.k = b.k\"\n";

fn operator() -> TableJoin {
    let (parsed, problems) = parse(TEXT);
    assert_eq!(problems, []);
    let fields = || vec![Field::new("k", DataType::Int64, true), Field::new("v", DataType::Utf8, true)];
    let left = Input { name: "a".into(), stream: StreamSchema::new(fields(), None) };
    let right = Input { name: "b".into(), stream: StreamSchema::of_table(rows(&[]).schema()) };
    let inputs = Both { left: &left, right: &right };
    let condition = on::compile(parsed.nodes[0].table.text("on").expect("it has one"), &inputs);
    let condition = condition.expect("is right");
    let output = output(&parsed.nodes[0], &inputs, false).expect("is right");
    let mut join = TableJoin::new(Arc::new(Shape {
        name: "j".into(),
        stream: left.stream.clone(),
        table: right.stream.clone(),
        keys: condition.keys,
        is_exact: true,
        residual: None,
        is_outer: false,
        pair: pair(&inputs),
        output,
    }));
    join.report_changes_above(0);
    join
}

fn rows(keys: &[i64]) -> RecordBatch {
    let texts = keys.iter().map(|key| Some(format!("{key}"))).collect::<StringArray>();
    let keys: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("v", Arc::new(texts) as ArrayRef, true)])
        .expect("a batch")
}

fn version(keys: &[i64], name: &str) -> RecordBatch {
    as_version(&rows(keys), name).expect("a batch")
}

/// Rows that leave for these.
fn given(join: &mut TableJoin, keys: &[i64]) -> usize {
    let mut out = Output::default();
    join.on_batch(0, &rows(keys), &mut out).expect("takes rows");
    let mut count = 0;
    loop {
        let sent: usize = out.drain().map(|(_, batch)| batch.num_rows()).sum();
        if sent == 0 {
            return count;
        }
        count += sent;
        join.resume(&mut out).expect("goes on");
    }
}

fn count(report: &[RecordBatch]) -> usize {
    report.iter().skip(1).map(RecordBatch::num_rows).sum()
}

#[test]
fn a_version_is_in_one_report_and_in_what_is_made_of_all() {
    let mut join = operator();
    let mut out = Output::default();
    join.on_batch(1, &version(&[1, 2, 3], "one"), &mut out).expect("takes a version");
    let first = join.changes().expect("reports").expect("changes");
    let second = join.changes().expect("reports").expect("changes");
    assert_eq!((count(&first), count(&second)), (3, 0));
    join.on_batch(1, &version(&[3, 4], "two"), &mut out).expect("takes a version");
    assert_eq!(given(&mut join, &[1, 4]), 1, "not before the barrier");
    let third = join.changes().expect("reports").expect("changes");
    assert_eq!(count(&third), 2);
    let all = [first, second, third].concat();
    for state in [all.clone(), together(&all).expect("fits")] {
        let mut join = operator();
        join.restore(state).expect("restores");
        assert_eq!(given(&mut join, &[1, 4, 4]), 2);
        assert_eq!(count(&join.changes().expect("reports").expect("changes")), 0, "it is saved already");
    }
}

#[test]
fn rows_that_wait_are_saved_and_have_a_limit() {
    let mut join = operator();
    assert_eq!(given(&mut join, &[7, 8]), 0);
    let mut state = Vec::new();
    for _ in 0..2 {
        state.extend(join.changes().expect("reports").unwrap_or_else(|| join.snapshot().expect("saves")));
    }
    let mut join = operator();
    join.restore(state).expect("restores");
    assert!(join.accepts(0) && join.accepts(1));
    let many: Vec<i64> = (0..2_000_000).collect();
    let mut batches = 0;
    while join.accepts(0) {
        batches += 1;
        assert_eq!(given(&mut join, &many), 0);
    }
    assert!(join.accepts(1), "the table is what they wait for");
    let mut out = Output::default();
    join.on_batch(1, &version(&[7], "one"), &mut out).expect("takes a version");
    let mut sent: usize = out.drain().map(|(_, batch)| batch.num_rows()).sum();
    while join.resume(&mut out).expect("goes on") == Progress::More {
        sent += out.drain().map(|(_, batch)| batch.num_rows()).sum::<usize>();
    }
    assert_eq!(sent, 1 + batches, "the saved row, once, and one of each batch");
    assert!(join.accepts(0));
}

#[test]
fn a_saved_version_of_other_columns_is_read_again() {
    let mut join = operator();
    let other: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let other = RecordBatch::try_from_iter([("k", other)]).expect("a batch");
    let report = super::state::Report {
        version: Some("old"),
        table: Some(&other),
        waiting: &std::collections::VecDeque::new(),
        held_us: None,
        has_ended: false,
    };
    join.restore(report.batches().expect("saves")).expect("restores");
    assert_eq!(given(&mut join, &[1]), 0, "it waits");
    let mut out = Output::default();
    join.on_batch(1, &version(&[1], "new"), &mut out).expect("takes a version");
    assert_eq!(out.drain().map(|(_, batch)| batch.num_rows()).sum::<usize>(), 1);
}

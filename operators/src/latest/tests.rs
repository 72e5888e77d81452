//! A table of last rows against a map, whatever happens to it.

use std::collections::BTreeMap;

use super::*;
use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use proptest::prelude::*;
use tidegate_engine::changelog::changelog_of;
use tidegate_engine::template::display;
use tidegate_engine::time::time_type;

fn recorder() -> Recorder {
    let fields = vec![
        Field::new("device", DataType::Utf8, true),
        Field::new("ts", time_type(), false),
        Field::new("value", DataType::Int64, true),
    ];
    let stream = StreamSchema::new(fields, Some("ts"));
    let rows = LastRows::new(stream.clone(), vec![0]).expect("text can be a key");
    Recorder { stream, key: vec![0], rows: Arc::new(Latest(Mutex::new(rows))), keys_whole_max: 5 }
}

fn batch(recorder: &Recorder, rows: &[(Option<String>, i64, i64)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0.as_deref()).collect::<StringArray>()),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC"),
        ),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
    ];
    RecordBatch::try_new(Arc::clone(&recorder.stream.columns), columns).expect("the stream's columns")
}

fn take(recorder: &mut Recorder, rows: &[(Option<&str>, i64, i64)]) {
    let rows: Vec<_> =
        rows.iter().map(|(key, time, value)| (key.map(str::to_owned), *time, *value)).collect();
    let batch = batch(recorder, &rows);
    recorder.on_batch(0, &batch, &mut Output::default()).expect("fits");
}

/// Each key with its value; a key that is there twice fails.
fn shown(recorder: &Recorder) -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for batch in recorder.rows.rows().expect("one schema") {
        for row in 0..batch.num_rows() {
            let key = display(batch.column(0), row).expect("prints");
            let value = batch.column(2).as_primitive::<Int64Type>().value(row);
            assert_eq!(found.insert(key, value), None, "one row for each key");
        }
    }
    found
}

#[test]
fn the_latest_row_of_each_key_stays_and_survives_a_restart() {
    let mut first = recorder();
    assert!(first.snapshot().expect("empty").is_empty());
    take(&mut first, &[(Some("a"), 5, 1), (Some("b"), 5, 2), (Some("a"), 3, 3), (None, 1, 4)]);
    take(&mut first, &[(Some("a"), 4, 5), (Some("b"), 5, 6)]);
    // a: 5 is later than 3 and 4; b: of two rows at 5 the one that came last.
    let expected = BTreeMap::from([(String::new(), 4), ("a".into(), 1), ("b".into(), 6)]);
    assert_eq!(shown(&first), expected);
    let mut second = recorder();
    second.restore(first.snapshot().expect("rows")).expect("the same columns");
    assert_eq!(shown(&second), expected);
    take(&mut second, &[(Some("a"), 4, 9)]);
    assert_eq!(shown(&second), expected, "a late row does not replace a later one");
}

#[test]
fn a_large_table_reports_what_is_new() {
    let mut table = recorder();
    let many: Vec<_> = (0..1_000).map(|key| (Some(format!("k{key}")), 1, key)).collect();
    let many = batch(&table, &many);
    table.on_batch(0, &many, &mut Output::default()).expect("fits");
    let rows = |report: Option<Vec<RecordBatch>>| {
        report.map(|report| report.iter().map(RecordBatch::num_rows).sum::<usize>())
    };
    assert_eq!(rows(table.changes().expect("reports")), Some(1_000));
    assert_eq!(rows(table.changes().expect("reports")), Some(0), "nothing is new");
    take(&mut table, &[(Some("k7"), 2, 0), (Some("new"), 2, 0)]);
    assert_eq!(rows(table.changes().expect("reports")), Some(2));
    take(&mut table, &[(Some("k8"), 2, 0), (Some("k9"), 2, 0)]);
    assert_eq!(rows(table.changes().expect("reports")), Some(2), "not what has been reported before");
}

/// Keys that come and go: what was taken back is not kept for ever, and does not
/// come up again from an earlier report.
#[test]
fn keys_that_are_gone_are_left_out() {
    let image = vec![Field::new("device", DataType::Utf8, true), Field::new("value", DataType::Int64, true)];
    let stream = changelog_of(image).keyed_by(vec![0]);
    let make = || {
        let rows = LastRows::new(stream.clone(), vec![0]).expect("text can be a key");
        let rows = Arc::new(Latest(Mutex::new(rows)));
        Recorder { stream: stream.clone(), key: vec![0], rows, keys_whole_max: 5 }
    };
    let batch = |rows: &[(String, i64, &str)]| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1))
                    .with_timezone("UTC"),
            ),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2))),
        ];
        RecordBatch::try_new(Arc::clone(&stream.columns), columns).expect("the stream's columns")
    };
    let keys = |recorder: &Recorder| {
        let rows = recorder.rows.rows().expect("one schema");
        rows.iter().map(RecordBatch::num_rows).sum::<usize>()
    };
    let mut table = make();
    let mut reports: Vec<RecordBatch> = Vec::new();
    for round in 0..30_i64 {
        let key = |index: i64| format!("{round}/{index}");
        let come: Vec<_> = (0..500).map(|index| (key(index), round * 10, "+I")).collect();
        let go: Vec<_> = (1..500).map(|index| (key(index), round * 10 + 1, "-D")).collect();
        for rows in [come, go] {
            table.on_batch(0, &batch(&rows), &mut Output::default()).expect("fits");
            match table.changes().expect("reports") {
                Some(changes) => reports.extend(changes),
                None => reports = table.snapshot().expect("reports"),
            }
        }
        let mut again = make();
        again.restore(reports.clone()).expect("the same columns");
        let expected = usize::try_from(round).expect("small") + 1;
        assert_eq!((keys(&table), keys(&again)), (expected, expected));
    }
    let (kept, reported) =
        (table.rows.lock().len(), reports.iter().map(RecordBatch::num_rows).sum::<usize>());
    assert!(kept < 2_000 && reported < 4_000, "{kept} keys, {reported} rows");
}

/// What happens to a table.
#[derive(Clone, Debug)]
enum Step {
    Rows(Vec<(Option<String>, i64, i64)>),
    Report,
    Compact,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop_oneof![1 => Just(None), 9 => (0..40_u8).prop_map(|key| Some(format!("k{key}")))];
    let rows = prop::collection::vec((key, 0..50_i64, any::<i64>()), 1..30);
    prop_oneof![
        6 => rows.prop_map(Step::Rows),
        3 => Just(Step::Report),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn a_table_is_its_reports_whatever_happens(steps in prop::collection::vec(step(), 1..60)) {
        let (mut table, mut at_report) = (recorder(), BTreeMap::new());
        let mut model: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut reports: Vec<RecordBatch> = Vec::new();
        let values = |model: &BTreeMap<String, (i64, i64)>| -> BTreeMap<String, i64> {
            model.iter().map(|(key, (_, value))| (key.clone(), *value)).collect()
        };
        for step in steps {
            match step {
                Step::Rows(rows) => {
                    let batch = batch(&table, &rows);
                    table.on_batch(0, &batch, &mut Output::default()).expect("fits");
                    for (key, time, value) in rows {
                        let place = model.entry(key.unwrap_or_default()).or_insert((time, value));
                        if place.0 <= time {
                            *place = (time, value);
                        }
                    }
                }
                Step::Report => {
                    match table.changes().expect("reports") {
                        Some(changes) => reports.extend(changes),
                        None => reports = table.snapshot().expect("reports"),
                    }
                    at_report = model.clone();
                }
                Step::Compact => {
                    reports = table.compaction().expect("it has one")(&reports).expect("puts together");
                    let rows: usize = reports.iter().map(RecordBatch::num_rows).sum();
                    prop_assert_eq!(rows, at_report.len());
                }
                Step::Restart => {
                    table = recorder();
                    table.restore(reports.clone()).expect("the same columns");
                    model = at_report.clone();
                }
            }
            prop_assert_eq!(shown(&table), values(&model));
        }
    }
}

#[test]
fn replaced_rows_and_small_chunks_do_not_add_up() {
    let mut table = recorder();
    for round in 0..20_000 {
        let key = if round % 2 == 0 { "hot".to_owned() } else { format!("k{round}") };
        take(&mut table, &[(Some(&key), round, round)]);
        if round % 100 == 0 {
            table.changes().expect("reports");
        }
    }
    let all = table.snapshot().expect("chunks");
    let rows: usize = all.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(table.rows.lock().len(), 10_001);
    assert!(rows < 20_100, "{rows} rows");
    assert!(all.len() < 40, "{} chunks", all.len());
}

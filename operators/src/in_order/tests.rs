//! However rows within the bound come, are cut, and whatever is lost between
//! them, the core sees them in one order.

use arrow::array::{AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Int64Type};
use proptest::prelude::*;
use tidegate_engine::time::time_type;
use tidegate_engine::topology::parse::parse;

use super::*;
use crate::disturbed::{Then, disturbed, then};

/// Lets every second row of a key through.
#[derive(Default)]
struct Second {
    counts: PerKey<i64>,
    late_before: Option<i64>,
}

impl Ordered for Second {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let mut mask = Vec::new();
        for (_, key) in rows.iter() {
            let count = self.counts.of(key).expect("a key");
            *count += 1;
            mask.push(*count % 2 == 0);
        }
        out.emit(filter_record_batch(rows.batch, &BooleanArray::from(mask))?);
        Ok(())
    }

    fn late_before(&self, _watermark_us: i64) -> Option<i64> {
        self.late_before
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.counts.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let counts = keys.iter().map(|key| self.counts.get(*key).copied());
        let counts: ArrayRef = Arc::new(counts.collect::<Int64Array>());
        Ok(vec![RecordBatch::try_from_iter([("key", places(keys)), ("counts", counts)])?])
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        self.counts.load(state[0].column(1).as_primitive::<Int64Type>().iter().map(Option::unwrap));
        Ok(())
    }
}

fn stream() -> StreamSchema {
    let fields = vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("ts", time_type(), false),
        Field::new("n", DataType::Int64, false),
    ];
    StreamSchema::new(fields, Some("ts"))
}

fn seconds(forget: &str, late_before: Option<i64>) -> InOrder<Second> {
    new(forget, Second { late_before, ..Second::default() })
}

fn new<C: Ordered>(forget: &str, core: C) -> InOrder<C> {
    let text =
        format!("[operator.x]\ntype = \"x\"\nfrom = \"rows\"\nkey = [\"key\"]\nforget = \"{forget}\"\n");
    let (parsed, problems) = parse(&text);
    assert_eq!(problems, []);
    let input = Input { name: "rows".into(), stream: stream() };
    let mut diagnostics = Vec::new();
    let keys = key_columns(&parsed.nodes[0], &input, &mut diagnostics);
    assert_eq!(diagnostics, []);
    InOrder::new(&parsed.nodes[0], &input, keys, core).unwrap_or_else(|error| panic!("{error}"))
}

/// Its state is given whole, or in changes.
fn limited(whole: bool) -> InOrder<Second> {
    InOrder { keys_whole_max: if whole { usize::MAX } else { 0 }, ..seconds("30d", None) }
}

/// Key (`None` is NULL), time in microseconds, number.
type TestRow = (Option<u8>, i64, i64);

fn batch(rows: &[TestRow]) -> RecordBatch {
    let keys = rows.iter().map(|row| row.0.map(|key| format!("k{key}")));
    let times = rows.iter().map(|row| row.1).collect::<Vec<_>>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(keys.collect::<StringArray>()),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(stream().columns, columns).expect("columns of the schema")
}

/// Port and number of each row.
fn numbers(out: &mut Output) -> Vec<String> {
    let mut lines = Vec::new();
    for (port, batch) in out.drain() {
        let numbers = batch.column(2).as_primitive::<Int64Type>();
        lines.extend(numbers.values().iter().map(|number| format!("{port} {number}")));
    }
    lines
}

const BOUND_US: i64 = 8;

/// Every second row of each key, of all rows in order of time, then of arrival.
fn by_hand(rows: &[TestRow]) -> Vec<String> {
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|row| row.1);
    let mut counts = std::collections::HashMap::new();
    let second = sorted.into_iter().filter(|row| {
        let count = counts.entry(row.0).or_insert(0);
        *count += 1;
        *count % 2 == 0
    });
    second.map(|row| format!("0 {}", row.2)).collect()
}

fn steps() -> impl Strategy<Value = Vec<(Vec<(u8, u8)>, Then)>> {
    let rows = proptest::collection::vec((0..5_u8, 0..=8_u8), 0..30);
    proptest::collection::vec((rows, then()), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_core_sees_one_order(steps in steps(), whole in any::<bool>()) {
        // The n-th row is up to eight microseconds ahead, so none lies further behind.
        let mut all = Vec::new();
        let batches: Vec<Vec<TestRow>> = steps.iter().map(|(rows, _)| {
            rows.iter().map(|(key, ahead)| {
                let n = i64::try_from(all.len()).expect("small");
                all.push(((*key > 0).then_some(*key), n / 3 + i64::from(*ahead), n));
                all[all.len() - 1]
            }).collect()
        }).collect();
        let feed = |operator: &mut InOrder<Second>, index: usize| {
            let mut out = Output::default();
            if !batches[index].is_empty() {
                operator.on_batch(0, &batch(&batches[index]), &mut out).expect("takes rows");
            }
            let newest = batches[..=index].iter().flatten().map(|row| row.1).max().unwrap_or(0);
            operator.on_watermark(Time(newest - BOUND_US), &mut out).expect("takes a watermark");
            numbers(&mut out)
        };
        let steps = steps.iter().map(|(_, then)| *then);
        let (mut operator, mut left, _) = disturbed(|| limited(whole), steps, feed);
        let mut out = Output::default();
        operator.on_end(&mut out).expect("ends");
        left.extend(numbers(&mut out));
        prop_assert_eq!(left, by_hand(&all));
    }
}

/// Feeds one row at a time, with this watermark behind it.
fn one_by_one(operator: &mut InOrder<Second>, rows: &[(TestRow, i64)]) -> Vec<String> {
    let mut left = Vec::new();
    for (row, watermark_us) in rows {
        let mut out = Output::default();
        operator.on_batch(0, &batch(&[*row]), &mut out).expect("takes a row");
        operator.on_watermark(Time(*watermark_us), &mut out).expect("takes a watermark");
        left.extend(numbers(&mut out));
    }
    left
}

#[test]
fn a_row_is_late_where_a_newer_one_of_its_key_was_judged() {
    let (a, b) = (Some(1), Some(2));
    // b is behind the watermark throughout, and is judged by its own time.
    let rows = [
        ((a, 10, 0), 10),
        ((b, 3, 1), 10),
        ((b, 4, 2), 10),
        ((a, 9, 3), 10),
        ((a, 10, 4), 10),
        ((b, 3, 5), 10),
    ];
    assert_eq!(one_by_one(&mut seconds("30d", None), &rows), ["0 2", "1 3", "0 4", "1 5"]);
    // By a bound that the core sets, whose key it is does not matter.
    let left = one_by_one(&mut seconds("30d", Some(4)), &rows);
    assert_eq!(left, ["1 1", "0 3", "1 5"], "b has one row, a has three");
}

#[test]
fn a_key_that_was_silent_begins_afresh() {
    let (a, b) = (Some(1), Some(2));
    let mut operator = seconds("1ms", None);
    // 999 µs of silence are none; a thousand are, whether event time came by before or with the row.
    let rows = [((a, 0, 0), 0), ((a, 999, 1), 999), ((a, 1_999, 2), 1_999), ((b, 5_000, 3), 5_000)];
    assert_eq!(one_by_one(&mut operator, &rows), ["0 1"]);
    assert_eq!(operator.keys.len(), 1, "only b is known");
    // Far behind, but of a key that nobody remembers.
    assert_eq!(one_by_one(&mut operator, &[((a, 1, 4), 5_000), ((a, 1, 5), 5_000)]), ["0 5"]);
    // Two lives of a key in one batch.
    let mut out = Output::default();
    operator
        .on_batch(0, &batch(&[(b, 5_100, 6), (b, 7_000, 7), (b, 7_001, 8)]), &mut out)
        .expect("takes rows");
    operator.on_watermark(Time(7_001), &mut out).expect("takes a watermark");
    assert_eq!(numbers(&mut out), ["0 6", "0 8"]);
    // Numbers of former lives are given again.
    assert_eq!(operator.keys.save().expect("saves").numbers, [2], "a was swept, b has its second number");
}

/// Hands on what it gets.
struct All;

impl Ordered for All {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        out.emit(rows.batch.clone());
        Ok(())
    }
}

#[test]
fn batches_in_order_are_not_copied_and_few_rows_keep_no_batch_in_memory() {
    let mut operator = new("30d", All);
    let rows: Vec<TestRow> = (0..100).map(|n| (Some(1), n, n)).collect();
    let whole = batch(&rows);
    let address = |batch: &RecordBatch| batch.column(2).as_primitive::<Int64Type>().values().as_ptr();
    let mut out = Output::default();
    operator.on_batch(0, &whole, &mut out).expect("takes rows");
    operator.on_watermark(Time(49), &mut out).expect("takes a watermark");
    let (_, first) = out.drain().next().expect("the first half");
    assert_eq!((first.num_rows(), address(&first)), (50, address(&whole)));
    operator.on_watermark(Time(97), &mut out).expect("takes a watermark");
    out.drain().for_each(drop);
    operator.on_watermark(Time(99), &mut out).expect("takes a watermark");
    let (_, rest) = out.drain().next().expect("the rest");
    assert_eq!(rest.num_rows(), 2);
    assert!(rest.get_array_memory_size() < whole.get_array_memory_size() / 2);
}

#[test]
fn the_silence_of_a_key_whose_clock_is_behind_is_counted_from_when_it_was_heard() {
    let (a, b) = (Some(1), Some(2));
    // a is four milliseconds behind, and is heard every 900 µs.
    let rows = [
        ((b, 5_000, 0), 5_000),
        ((a, 1, 1), 5_000),
        ((b, 5_900, 2), 5_900),
        ((a, 2, 3), 5_900),
        ((a, 2, 4), 5_900),
        ((b, 6_500, 5), 6_500),
        ((a, 3, 6), 6_500),
    ];
    assert_eq!(one_by_one(&mut seconds("1ms", None), &rows), ["0 2", "0 3", "0 6"]);
    // a was heard 1,050 µs ago when it comes again; that it was not swept yet makes no difference.
    let rows = [
        ((a, 4_400, 0), 4_400),
        ((b, 5_000, 1), 5_000),
        ((b, 5_450, 2), 5_450),
        ((a, 4_390, 3), 5_450),
        ((a, 4_450, 4), 5_450),
    ];
    assert_eq!(one_by_one(&mut seconds("1ms", None), &rows), ["0 2", "0 4"]);
}

#[test]
fn changes_tell_of_keys_that_are_gone() {
    let mut operator = InOrder { keys_whole_max: 0, ..seconds("1ms", None) };
    let (a, b, c) = (Some(1), Some(2), None);
    assert_eq!(one_by_one(&mut operator, &[((a, 0, 0), 0), ((b, 900, 1), 900)]), Vec::<String>::new());
    let mut chain = operator.snapshot().expect("saves");
    // a is swept, c is new, b has its second row.
    assert_eq!(one_by_one(&mut operator, &[((c, 1_000, 2), 1_000), ((b, 1_001, 3), 1_400)]), ["0 3"]);
    let changes = operator.changes().expect("saves").expect("changes");
    assert_eq!(changes[0].num_rows(), 3, "a, b and c");
    chain.extend(changes);
    let together = operator.compaction().expect("by key")(&chain).expect("goes together");
    assert_eq!(together[0].num_rows(), 2, "a is gone");
    for state in [chain, together] {
        let mut restored = seconds("1ms", None);
        restored.restore(state).expect("restores");
        assert_eq!(restored.keys.len(), 2);
        let rows = [((b, 1_500, 4), 1_500), ((c, 1_500, 5), 1_500), ((a, 1_500, 6), 1_500)];
        assert_eq!(one_by_one(&mut restored, &rows), ["0 5"], "b begins its next pair, c ends its first");
    }
}

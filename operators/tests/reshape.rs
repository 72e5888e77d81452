//! `flatten`, `unpivot` and `pivot`: every shape at every batch size, with and
//! without restores.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, Float64Array, Int64Array, LargeListArray, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use kit::{build_on, in_all_manners, try_build_on};
use tidegate_engine::operator::{Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::time_type;

/// A batch with these columns after `ts`, whose rows are a second apart.
fn rows(columns: Vec<(&str, ArrayRef)>) -> (StreamSchema, RecordBatch) {
    let count = columns[0].1.len();
    let times: Vec<i64> = (0..count as i64).map(|second| second * 1_000_000).collect();
    let mut fields = vec![Field::new("ts", time_type(), false)];
    let mut arrays: Vec<ArrayRef> =
        vec![Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))];
    for (name, column) in columns {
        fields.push(Field::new(name, column.data_type().clone(), true));
        arrays.push(column);
    }
    let stream = StreamSchema::new(fields, Some("ts"));
    let batch = RecordBatch::try_new(Arc::clone(&stream.columns), arrays).expect("columns of the schema");
    (stream, batch)
}

/// The lines of the main port without the date.
fn lines(stream: &StreamSchema, text: &str, rows: &RecordBatch) -> Vec<String> {
    let all = in_all_manners(stream, text, rows).remove(0);
    all.into_iter().map(|line| line.replace("1970-01-01T00:00:0", "").replace('Z', "")).collect()
}

fn names(stream: &StreamSchema) -> Vec<&str> {
    stream.columns.fields().iter().map(|field| field.name().as_str()).collect()
}

fn ints(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn refused(stream: &StreamSchema, text: &str) -> Vec<(String, String)> {
    let error = try_build_on(stream, text).err().expect("is refused");
    error.0.into_iter().map(|wrong| (wrong.code.to_owned(), wrong.message)).collect()
}

/// `point` is a struct of `x` and of the struct `at` of `n`; NULL in the second
/// row, `at` NULL in the third.
fn points() -> ArrayRef {
    let n = ints(&[Some(7), Some(8), Some(9)]);
    let at_fields = Fields::from(vec![Field::new("n", DataType::Int64, false)]);
    let at = StructArray::new(at_fields.clone(), vec![n], Some(NullBuffer::from(vec![true, true, false])));
    let x: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None]));
    let fields = Fields::from(vec![
        Field::new("x", DataType::Utf8, true),
        Field::new("at", DataType::Struct(at_fields), true),
    ]);
    Arc::new(StructArray::new(fields, vec![x, Arc::new(at)], Some(NullBuffer::from(vec![true, false, true]))))
}

#[test]
fn fields_of_structs_become_columns_and_a_null_struct_has_null_fields() {
    let (stream, batch) = rows(vec![("point", points()), ("k", ints(&[Some(1), Some(2), Some(3)]))]);
    let text = "[operator.f]\ntype = \"flatten\"\nfrom = \"rows\"\ncolumns = [\"point\"]\n";
    assert_eq!(lines(&stream, text, &batch), ["0 a 7 1", "1 - - 2", "2 - - 3"]);
    let part = build_on(&stream, text);
    assert_eq!(names(&part.ports[0].stream), ["ts", "point_x", "point_at_n", "k"]);
    assert_eq!(part.ports[0].stream.time, Some(0));
    let bare = build_on(&stream, &format!("{text}prefix = false\n"));
    assert_eq!(names(&bare.ports[0].stream), ["ts", "x", "n", "k"]);
}

#[test]
fn event_time_stays_the_same_column_behind_fields() {
    let (stream, batch) = rows(vec![("point", points())]);
    let fields: Vec<Field> =
        stream.columns.fields().iter().rev().map(|field| field.as_ref().clone()).collect();
    let stream = StreamSchema { time_shift_us: -1, ..StreamSchema::new(fields, Some("ts")) };
    let columns = batch.columns().iter().rev().cloned().collect();
    let batch = RecordBatch::try_new(Arc::clone(&stream.columns), columns).expect("columns of the schema");
    let text = "[operator.f]\ntype = \"flatten\"\nfrom = \"rows\"\n";
    assert_eq!(lines(&stream, text, &batch), ["a 7 0", "- - 1", "- - 2"]);
    let out = &build_on(&stream, text).ports[0].stream;
    assert_eq!((out.time, out.time_shift_us), (Some(2), -1));
}

/// Lists `[1, 2]`, NULL (with a value behind it), `[]`, `[3]`.
fn list() -> ListArray {
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let offsets = OffsetBuffer::from_lengths([2, 1, 0, 1]);
    let valid = NullBuffer::from(vec![true, false, true, true]);
    ListArray::new(item, offsets, ints(&[Some(1), Some(2), Some(99), Some(3)]), Some(valid))
}

#[test]
fn items_of_lists_become_rows_and_empty_lists_stay_unless_told() {
    let k = ints(&[Some(10), Some(20), Some(30), Some(40)]);
    let (stream, batch) = rows(vec![("k", k), ("v", Arc::new(list()))]);
    let text = "[operator.f]\ntype = \"flatten\"\nfrom = \"rows\"\nindex = \"i\"\n";
    assert_eq!(lines(&stream, text, &batch), ["0 10 1 0", "0 10 2 1", "1 20 - -", "2 30 - -", "3 40 3 0"]);
    let text = format!("{text}empty = \"drop\"\n");
    assert_eq!(lines(&stream, &text, &batch), ["0 10 1 0", "0 10 2 1", "3 40 3 0"]);
}

#[test]
fn lists_of_one_row_go_side_by_side_and_items_may_be_structs() {
    let large = LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(5), Some(6), Some(7)]),
        None,
    ]);
    let item = Arc::new(Field::new_list_field(points().data_type().clone(), true));
    let one = points().slice(0, 1);
    let whole = arrow::compute::concat(&[points().as_ref(), one.as_ref()]).expect("same type");
    let fixed = FixedSizeListArray::new(item, 2, whole, None);
    let (stream, batch) = rows(vec![("a", Arc::new(large)), ("p", Arc::new(fixed))]);
    let text = "[operator.f]\ntype = \"flatten\"\nfrom = \"rows\"\n";
    assert_eq!(lines(&stream, text, &batch), ["0 5 a 7", "0 6 - -", "0 7 - -", "1 - - -", "1 - a 7"]);
}

#[test]
fn a_long_list_leaves_in_pieces() {
    let values: Vec<Option<Vec<Option<i64>>>> =
        vec![Some((0..20_000).map(Some).collect()), Some(vec![]), Some(vec![Some(-1)])];
    let (stream, batch) =
        rows(vec![("v", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(values)))]);
    let mut part = build_on(&stream, "[operator.f]\ntype = \"flatten\"\nfrom = \"rows\"\nindex = \"i\"\n");
    let (mut out, mut pieces) = (Output::default(), Vec::new());
    let mut progress = part.operator.on_batch(0, &batch, &mut out).expect("takes rows");
    loop {
        pieces.extend(out.drain().map(|(_, piece)| piece));
        if progress == Progress::Done {
            break;
        }
        progress = part.operator.resume(&mut out).expect("goes on");
    }
    assert_eq!(pieces.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [8_192, 8_192, 3_618]);
    let all = arrow::compute::concat_batches(&pieces[0].schema(), &pieces).expect("one shape");
    assert_eq!(
        kit::row_lines(&all.slice(19_998, 4)),
        [
            "1970-01-01T00:00:00Z 19998 19998",
            "1970-01-01T00:00:00Z 19999 19999",
            "1970-01-01T00:00:01Z - -",
            "1970-01-01T00:00:02Z -1 0",
        ]
    );
}

#[test]
fn what_cannot_be_flattened_is_refused() {
    let (stream, _) =
        rows(vec![("k", ints(&[Some(1)])), ("point", points().slice(0, 1)), ("x", ints(&[None]))]);
    let text = |more: &str| format!("[operator.f]\ntype = \"flatten\"\nfrom = \"rows\"\n{more}\n");
    let (code, message) = refused(&stream, &text("columns = [\"k\"]")).remove(0);
    assert_eq!((code.as_str(), message.as_str()), ("TG-X003", "`k` is int64, neither a struct nor a list"));
    assert_eq!(refused(&stream, &text("columns = [\"pont\"]"))[0].0, "TG-X002");
    assert_eq!(refused(&stream, &text("prefix = false"))[0].0, "TG-T009");
    assert_eq!(refused(&stream, &text("index = \"i\""))[0].0, "TG-C006");
    assert_eq!(refused(&kit::stream(), &text(""))[0].0, "TG-X003");
}

fn wide() -> (StreamSchema, RecordBatch) {
    let pressure: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), None]));
    let running: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), Some(false)]));
    let count = ints(&[Some(3), Some(4)]);
    rows(vec![
        ("pressure", pressure),
        ("device", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("count", count),
        ("running", running),
    ])
}

#[test]
fn columns_become_rows_in_their_order() {
    let (stream, batch) = wide();
    let text = "[operator.u]\ntype = \"unpivot\"\nfrom = \"rows\"\ncolumns = [\"count\", \"pressure\"]\n";
    let expected =
        ["0 a true count 3.0", "0 a true pressure 1.5", "1 b false count 4.0", "1 b false pressure -"];
    assert_eq!(lines(&stream, text, &batch), expected);
    let part = build_on(&stream, text);
    assert_eq!(names(&part.ports[0].stream), ["ts", "device", "running", "point", "value"]);
    assert_eq!(part.ports[0].stream.time, Some(0));
    let text = format!("{text}nulls = \"drop\"\nname = \"tag\"\nvalue = \"reading\"\n");
    assert_eq!(lines(&stream, &text, &batch), expected[..3]);
    assert_eq!(names(&build_on(&stream, &text).ports[0].stream)[3..], ["tag", "reading"]);
}

#[test]
fn values_of_different_types_are_brought_to_one() {
    let (stream, batch) = wide();
    let text = |of: &str| {
        format!("[operator.u]\ntype = \"unpivot\"\nfrom = \"rows\"\nkeep = [\"ts\", \"device\"]\n{of}\n")
    };
    assert_eq!(
        refused(&stream, &text(""))[0].1,
        "the values of `u` are of different types: pressure float64, count int64, running bool"
    );
    let floats = lines(&stream, &text("value_type = \"float64\""), &batch);
    assert_eq!(floats[..3], ["0 a pressure 1.5", "0 a count 3.0", "0 a running 1.0"]);
    let words = lines(&stream, &text("value_type = \"string\""), &batch);
    assert_eq!(words[2..4], ["0 a running true", "1 b pressure -"]);
}

#[test]
fn what_cannot_become_rows_is_refused() {
    let (stream, _) = wide();
    let text = |more: &str| format!("[operator.u]\ntype = \"unpivot\"\nfrom = \"rows\"\n{more}\n");
    assert_eq!(refused(&stream, &text(""))[0].0, "TG-C004");
    assert_eq!(refused(&stream, &text("columns = [\"count\"]\nkeep = [\"ts\"]"))[0].0, "TG-C006");
    assert_eq!(refused(&stream, &text("columns = [\"cuont\"]"))[0].0, "TG-X002");
    assert_eq!(refused(&stream, &text("columns = [\"count\"]\nname = \"device\""))[0].0, "TG-T009");
    let floats = refused(&stream, &text("columns = [\"count\", \"device\"]\nvalue_type = \"float64\""));
    assert_eq!(floats[0].1, "`device` is string and no number");
    let time = refused(&stream, &text("keep = [\"device\"]"));
    assert!(time.iter().any(|(_, message)| message == "event time `ts` would become a row"), "{time:?}");
}

/// Rows `ts, device, point, value`; times in seconds.
fn points_table(table: &[(i64, &str, Option<&str>, Option<f64>)]) -> (StreamSchema, RecordBatch) {
    let devices: StringArray = table.iter().map(|row| Some(row.1)).collect();
    let points: StringArray = table.iter().map(|row| row.2).collect();
    let values: Float64Array = table.iter().map(|row| row.3).collect();
    let (stream, batch) =
        rows(vec![("device", Arc::new(devices)), ("point", Arc::new(points)), ("value", Arc::new(values))]);
    let times: Vec<i64> = table.iter().map(|row| row.0 * 1_000_000).collect();
    let mut columns = batch.columns().to_vec();
    columns[0] = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
    (stream, RecordBatch::try_new(batch.schema(), columns).expect("columns of the schema"))
}

const PIVOT: &str =
    "[operator.p]\ntype = \"pivot\"\nfrom = \"rows\"\nkey = [\"device\"]\ncolumns = [\"t\", \"p\"]\n";

#[test]
fn rows_of_one_key_and_instant_become_one() {
    let (stream, batch) = points_table(&[
        (1, "a", Some("p"), Some(1.0)),
        (1, "b", Some("t"), Some(2.0)),
        (1, "a", Some("t"), Some(3.0)),
        (1, "a", Some("x"), Some(9.0)),
        (2, "a", Some("t"), Some(4.0)),
        (2, "a", Some("t"), Some(5.0)),
        (2, "a", None, Some(9.0)),
        (3, "b", Some("p"), None),
    ]);
    assert_eq!(lines(&stream, PIVOT, &batch), ["1 a 3.0 1.0", "1 b 2.0 -", "2 a 5.0 -", "3 b - -"]);
    let part = build_on(&stream, PIVOT);
    assert_eq!(names(&part.ports[0].stream), ["ts", "device", "t", "p"]);
    assert_eq!(part.ports[0].stream.time, Some(0));
    let other = &in_all_manners(&stream, PIVOT, &batch)[2];
    assert_eq!(other.len(), 2, "{other:?}");
    assert!(other[0].ends_with("a x 9.0") && other[1].ends_with("a - 9.0"), "{other:?}");
}

#[test]
fn rows_in_any_order_within_the_delay_give_the_same() {
    let table = [
        (5, "a", Some("t"), Some(1.0)),
        (3, "a", Some("p"), Some(2.0)),
        (4, "b", Some("t"), Some(3.0)),
        (5, "a", Some("p"), Some(4.0)),
        (3, "a", Some("t"), Some(5.0)),
        (9, "a", Some("t"), Some(6.0)),
        (4, "b", Some("p"), Some(7.0)),
    ];
    let (stream, batch) = points_table(&table);
    for manner in kit::manners(5.0) {
        let all = kit::run_on(&stream, PIVOT, &batch, manner);
        let found: Vec<&str> = all[0].iter().map(|line| &line[17..]).collect();
        assert_eq!(found, ["03Z a 5.0 2.0", "04Z b 3.0 7.0", "05Z a 1.0 4.0", "09Z a 6.0 -"], "{manner:?}");
        assert_eq!(all[1], [""; 0], "{manner:?}");
    }
}

#[test]
fn a_row_behind_the_watermark_is_late_and_leaves_what_has_gone_alone() {
    let (stream, batch) = points_table(&[
        (1, "a", Some("t"), Some(1.0)),
        (2, "a", Some("t"), Some(2.0)),
        (1, "a", Some("p"), Some(3.0)),
        (2, "a", Some("p"), Some(4.0)),
    ]);
    let all = in_all_manners(&stream, PIVOT, &batch);
    let ends: Vec<&str> = all[0].iter().map(|line| &line[17..]).collect();
    assert_eq!(ends, ["01Z a 1.0 -", "02Z a 2.0 4.0"]);
    assert_eq!(all[1].len(), 1);
    assert!(all[1][0].ends_with("a p 3.0"), "{:?}", all[1]);
}

#[test]
fn unpivot_and_pivot_are_each_others_way_back() {
    let (stream, batch) = wide();
    let turn = "[operator.u]\ntype = \"unpivot\"\nfrom = \"rows\"\nkeep = [\"ts\", \"device\"]\nvalue_type = \"float64\"\n";
    let mut part = build_on(&stream, turn);
    let mut out = Output::default();
    part.operator.on_batch(0, &batch, &mut out).expect("takes rows");
    let (_, long) = out.drain().next().expect("rows");
    let text = PIVOT.replace("\"t\", \"p\"", "\"pressure\", \"count\", \"running\"");
    let found = lines(&part.ports[0].stream, &text, &long);
    assert_eq!(found, ["0 a 1.5 3.0 1.0", "1 b - 4.0 0.0"]);
}

#[test]
fn what_cannot_become_columns_is_refused() {
    let (stream, _) = points_table(&[(1, "a", None, None)]);
    let text = |more: &str| format!("[operator.p]\ntype = \"pivot\"\nfrom = \"rows\"\n{more}\n");
    assert_eq!(refused(&stream, &text("columns = []"))[0].0, "TG-C006");
    assert_eq!(refused(&stream, &text("columns = [\"t\", \"t\"]"))[0].0, "TG-T009");
    assert_eq!(refused(&stream, &text("columns = [\"ts\"]"))[0].0, "TG-T009");
    assert_eq!(refused(&stream, &text("columns = [\"t\"]\nname = \"tag\""))[0].0, "TG-X002");
    let number = refused(&stream, &text("columns = [\"t\"]\nname = \"value\""));
    assert_eq!(number[0].1, "`value` is float64, but names are strings");
    let timeless = StreamSchema { time: None, ..stream };
    assert_eq!(refused(&timeless, &text("columns = [\"t\"]"))[0].0, "TG-T007");
}

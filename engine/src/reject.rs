//! Rows that cannot be used: which rows of a batch they are, and how they look
//! on a port `rejects`. They never take their neighbours with them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::error::ArrowError;

use crate::codec::BadRow;
use crate::error::{OperatorError, RejectedRow};
use crate::schema::rejects_schema;
use crate::template::display;

/// Does `work` on `rows` rows, in as few parts as possible: a part that fails
/// is halved until the bad row stands alone. Answers the results in order, and
/// each bad row with its reason.
pub fn narrow<T>(
    rows: usize,
    mut work: impl FnMut(Range<usize>) -> Result<T, OperatorError>,
) -> (Vec<T>, Vec<RejectedRow>) {
    let (mut done, mut bad) = (Vec::new(), Vec::new());
    // Parts still to do, the next one last.
    let mut parts = vec![(0, rows)];
    while let Some((from, to)) = parts.pop() {
        if from == to {
            continue;
        }
        match work(from..to) {
            Ok(part) => done.push(part),
            Err(error) if to - from == 1 => bad.push(RejectedRow { row: from, reason: error.0 }),
            Err(_) => {
                let middle = from + (to - from) / 2;
                parts.push((middle, to));
                parts.push((from, middle));
            }
        }
    }
    (done, bad)
}

/// A row of a batch that cannot be used. Its payload shows its values, because
/// the bytes it came in are gone.
#[must_use]
pub fn bad_row(batch: &RecordBatch, RejectedRow { row, reason }: RejectedRow) -> BadRow {
    let schema = batch.schema();
    let values = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let value = display(column, row).unwrap_or_default();
        let value = if column.is_null(row) { "null".to_owned() } else { format!("{value:?}") };
        format!("{:?}: {value}", field.name())
    });
    let payload = format!("{{{}}}", values.collect::<Vec<_>>().join(", "));
    BadRow { reason, position: String::new(), payload: payload.into_bytes().into() }
}

/// Bad rows of a node with the columns of `rejects_schema`; `times_us` are their
/// times in microseconds.
///
/// # Errors
/// More rows or bytes than Arrow can count.
pub fn rejects(node: &str, bad: &[BadRow], times_us: Vec<i64>) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(times_us).with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(node, bad.len()))),
        Arc::new(StringArray::from_iter_values(bad.iter().map(|row| &row.reason))),
        Arc::new(StringArray::from_iter_values(bad.iter().map(|row| &row.position))),
        Arc::new(BinaryArray::from_iter_values(bad.iter().map(|row| &row.payload))),
    ];
    RecordBatch::try_new(rejects_schema().columns, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Float64Array};

    #[test]
    fn only_bad_rows_are_refused_and_order_is_kept() {
        let bad = [3, 8];
        let work = |part: Range<usize>| {
            if bad.iter().any(|row| part.contains(row)) { Err(OperatorError::new("bad")) } else { Ok(part) }
        };
        let (parts, refused) = narrow(10, work);
        assert_eq!(parts.into_iter().flatten().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 7, 9]);
        let reason = || "bad".to_owned();
        assert_eq!(refused, bad.map(|row| RejectedRow { row, reason: reason() }));
        assert!(narrow(0, |_| Err::<(), _>(OperatorError::new("never"))).0.is_empty());
    }

    #[test]
    fn a_bad_row_shows_its_values() {
        let column = |values| Arc::new(Float64Array::from(values)) as ArrayRef;
        let columns = [("a", column(vec![Some(1.5), None])), ("b", column(vec![Some(2.0), Some(f64::NAN)]))];
        let batch = RecordBatch::try_from_iter(columns).expect("equal lengths");
        let bad = [(0, "one"), (1, "two")]
            .map(|(row, reason)| bad_row(&batch, RejectedRow { row, reason: reason.into() }));
        let rows = rejects("node", &bad, vec![-1, 7]).expect("its schema");
        let payloads = rows.column(4).as_binary::<i32>();
        assert_eq!(payloads.value(0), br#"{"a": "1.5", "b": "2.0"}"#);
        assert_eq!(payloads.value(1), br#"{"a": null, "b": "NaN"}"#);
        assert_eq!(rows.column(2).as_string::<i32>().value(1), "two");
    }
}

//! An expression that fails on one row must not cost the rest of its batch:
//! the batch is halved until only bad rows fail.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use tidegate_engine::error::OperatorError;
use tidegate_engine::schema::{StreamSchema, rejects_schema};

/// Applies `work` to the batch; where it fails, to halves of it, down to single
/// rows. Good results go to `good` in order, failing rows to the answer.
pub(crate) fn narrow<T>(
    batch: &RecordBatch,
    work: &mut dyn FnMut(&RecordBatch) -> Result<T, OperatorError>,
    good: &mut dyn FnMut(T),
) -> Vec<(RecordBatch, String)> {
    let mut bad = Vec::new();
    // Pieces still to do, the next one last.
    let mut pieces = vec![batch.clone()];
    while let Some(piece) = pieces.pop() {
        match work(&piece) {
            Ok(result) => good(result),
            Err(error) if piece.num_rows() <= 1 => bad.push((piece, error.0)),
            Err(_) => {
                let half = piece.num_rows() / 2;
                pieces.push(piece.slice(half, piece.num_rows() - half));
                pieces.push(piece.slice(0, half));
            }
        }
    }
    bad
}

/// Rows of a stream as rows of `rejects_schema`: payload is the row as JSON-like text.
pub(crate) fn reject_rows(
    node: &str,
    stream: &StreamSchema,
    bad: &[(RecordBatch, String)],
) -> Result<RecordBatch, OperatorError> {
    let mut times = Vec::new();
    let mut payloads = Vec::new();
    for (row, _) in bad {
        let time = stream.times(row).ok().filter(|times| !times.is_empty());
        times.push(time.and_then(|times| times.iter().next().flatten()).unwrap_or(0));
        payloads.push(describe_row(row)?);
    }
    let count = bad.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        Arc::new(StringArray::from(vec![node; count])),
        Arc::new(bad.iter().map(|(_, reason)| Some(reason.as_str())).collect::<StringArray>()),
        Arc::new(StringArray::from(vec![""; count])),
        Arc::new(payloads.iter().map(|text| Some(text.as_bytes())).collect::<BinaryArray>()),
    ];
    Ok(RecordBatch::try_new(rejects_schema().columns, columns)?)
}

fn describe_row(row: &RecordBatch) -> Result<String, OperatorError> {
    let mut text = String::from("{");
    for (index, (field, column)) in row.schema().fields().iter().zip(row.columns()).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let value = tidegate_engine::template::display(column, 0)?;
        text.push_str(&format!("{comma}\"{}\": {value:?}", field.name()));
    }
    text.push('}');
    Ok(text)
}

//! What changes of a piece come to: of each key the last image decides. Applied
//! in one transaction that is the same as one after the other, and a row that is
//! updated is never away in between. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{and, filter_record_batch, not, or};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use tidegate_engine::changelog::{CHANGE, gives};

/// Rows to put in and rows to take out, first. A key that is in both has a NULL:
/// no constraint of a table compares it, so its row is put in anew.
pub(crate) struct Net {
    /// The images that stand, without the column `change`.
    pub(crate) given: RecordBatch,
    /// The keys of those that are gone, or put in anew.
    pub(crate) taken: Option<RecordBatch>,
}

/// The columns of a changelog's images.
pub(crate) fn image_of(columns: &SchemaRef) -> SchemaRef {
    let fields = columns.fields().iter().filter(|field| field.name() != CHANGE);
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// What the changes of these rows come to.
///
/// # Errors
/// A column that is missing, or cannot be compared.
pub(crate) fn net(rows: &RecordBatch, key: &[String]) -> Result<Net, String> {
    let failed = |error: ArrowError| error.to_string();
    let schema = rows.schema();
    let index = schema.index_of(CHANGE).map_err(failed)?;
    let gives = gives(rows, index).map_err(|error| error.0)?;
    let places: Result<Vec<usize>, ArrowError> = key.iter().map(|name| schema.index_of(name)).collect();
    let places = places.map_err(failed)?;
    let columns: Vec<ArrayRef> =
        places.iter().filter_map(|index| rows.columns().get(*index).cloned()).collect();
    let types = columns.iter().map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(types.collect()).map_err(failed)?;
    let keys = converter.convert_columns(&columns).map_err(failed)?;
    let mut last = HashMap::new();
    for (row, key) in keys.iter().enumerate() {
        last.insert(key, row);
    }
    let is_last: BooleanArray =
        keys.iter().enumerate().map(|(row, key)| Some(last.get(&key) == Some(&row))).collect();
    let is_given = and(&is_last, &gives).map_err(failed)?;
    let is_taken = and(&is_last, &or(&not(&gives).map_err(failed)?, &with_null(&columns)).map_err(failed)?);
    let is_taken = is_taken.map_err(failed)?;
    let image: Vec<usize> = (0..rows.num_columns()).filter(|column| *column != index).collect();
    let given = filter_record_batch(&rows.project(&image).map_err(failed)?, &is_given).map_err(failed)?;
    let taken = filter_record_batch(&rows.project(&places).map_err(failed)?, &is_taken).map_err(failed)?;
    Ok(Net { given, taken: (taken.num_rows() > 0).then_some(taken) })
}

/// Which rows have a NULL in one of these columns.
pub(crate) fn with_null(columns: &[ArrayRef]) -> BooleanArray {
    let rows = columns.first().map_or(0, |column| column.len());
    (0..rows).map(|row| Some(columns.iter().any(|column| column.is_null(row)))).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn net_of(rows: &[(&str, &str, i64)]) -> (Vec<(String, i64)>, Vec<String>) {
        let texts = |of: fn(&(&str, &str, i64)) -> String| -> ArrayRef {
            Arc::new(rows.iter().map(of).map(|text| (text != "-").then_some(text)).collect::<StringArray>())
        };
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)));
        let batch = RecordBatch::try_from_iter([
            ("k", texts(|row| row.1.to_owned())),
            ("n", numbers),
            (CHANGE, texts(|row| row.0.to_owned())),
        ]);
        let Net { given, taken } =
            net(&batch.expect("columns"), &["k".to_owned()]).expect("comes to something");
        assert!(given.column_by_name(CHANGE).is_none());
        let keys = |batch: &RecordBatch| -> Vec<String> {
            batch.column(0).as_string::<i32>().iter().map(|key| key.unwrap_or("-").to_owned()).collect()
        };
        let numbers = given.column(1).as_primitive::<Int64Type>().values().to_vec();
        (keys(&given).into_iter().zip(numbers).collect(), taken.as_ref().map(keys).unwrap_or_default())
    }

    #[test]
    fn the_last_image_of_a_key_decides() {
        let rows = [("+I", "a", 1), ("-U", "a", 1), ("+U", "a", 2), ("+I", "b", 5), ("-D", "c", 7)];
        assert_eq!(net_of(&rows), (vec![("a".into(), 2), ("b".into(), 5)], vec!["c".into()]));
        // A filter behind the result let only one image of the pair through.
        assert_eq!(net_of(&[("-U", "a", 1)]), (vec![], vec!["a".into()]));
        // NULL is never equal to NULL in a table: what was there goes first.
        let null = [("+I", "-", 1), ("-U", "-", 1), ("+U", "-", 2), ("+U", "a", 3)];
        assert_eq!(net_of(&null), (vec![("-".into(), 2), ("a".into(), 3)], vec!["-".into()]));
        assert_eq!(net_of(&[("-D", "-", 1)]), (vec![], vec!["-".into()]));
        // It went and came again.
        let again = [("-D", "a", 1), ("+I", "a", 3), ("+I", "b", 4), ("-D", "b", 4)];
        assert_eq!(net_of(&again), (vec![("a".into(), 3)], vec!["b".into()]));
    }
}

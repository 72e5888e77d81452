//! Rows as the table has them today: the columns of the stream may have changed
//! since they were kept, so a column is known by its name and type, never by its
//! place.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_engine::schema::type_name;

/// The columns of the table: rows from before a column came have NULL there.
pub(super) fn of_table(stream: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    Arc::new(Schema::new(stream.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Rows with these columns: one that they do not have is NULL, one of another
/// name is left out.
///
/// # Errors
/// A column is of another type.
pub(super) fn fit(rows: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, String> {
    let column = |field: &Arc<Field>| {
        let Some(column) = rows.column_by_name(field.name()) else {
            return Ok(new_null_array(field.data_type(), rows.num_rows()));
        };
        if column.data_type().equals_datatype(field.data_type()) {
            return Ok(Arc::clone(column));
        }
        let (then, now) = (type_name(column.data_type()), type_name(field.data_type()));
        Err(format!(
            "its column `{}` is of the type {then}, that of the stream is {now}: give the column another name, or move what \
             was kept away",
            field.name()
        ))
    };
    let fitted = columns.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), fitted, &options)
        .map_err(|error| error.to_string())
}

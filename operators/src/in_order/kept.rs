//! Values of some columns that are kept with a key, row by row, as bytes: of
//! any type, compact, and without the batch that they came in.

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use tidegate_engine::error::OperatorError;

use super::shape;

/// Turns rows of some columns into bytes and back.
pub(crate) struct Kept {
    columns: Vec<usize>,
    fields: Vec<FieldRef>,
    converter: RowConverter,
    /// A row of NULLs.
    nulls: Box<[u8]>,
}

impl Kept {
    pub(crate) fn new(schema: &SchemaRef, columns: Vec<usize>) -> Result<Kept, OperatorError> {
        let fields: Vec<FieldRef> =
            columns.iter().filter_map(|index| schema.fields().get(*index).cloned()).collect();
        let types = fields.iter().map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(types.collect())?;
        let nulls: Vec<ArrayRef> = fields.iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let nulls = converter.convert_columns(&nulls)?;
        let nulls = nulls.iter().map(|row| row.data().into()).next().unwrap_or_default();
        Ok(Kept { columns, fields, converter, nulls })
    }

    pub(crate) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// The columns under names such as `watched 0`, for a saved state.
    pub(crate) fn fields(&self, name: &str) -> Vec<Field> {
        let named = self.fields.iter().enumerate();
        named
            .map(|(index, field)| Field::new(format!("{name} {index}"), field.data_type().clone(), true))
            .collect()
    }

    /// The values of the columns of each row.
    pub(crate) fn encode(&self, batch: &RecordBatch) -> Result<Rows, OperatorError> {
        let columns = self.columns.iter().map(|index| batch.columns().get(*index).cloned());
        self.encode_columns(&columns.collect::<Option<Vec<_>>>().ok_or_else(shape)?)
    }

    /// The same from the columns alone, as they were saved.
    pub(crate) fn encode_columns(&self, columns: &[ArrayRef]) -> Result<Rows, OperatorError> {
        let types = self.fields.iter().map(|field| field.data_type());
        if !types.eq(columns.iter().map(|column| column.data_type())) {
            return Err(shape());
        }
        Ok(self.converter.convert_columns(columns)?)
    }

    /// The columns of these rows; `None` is a row of NULLs.
    pub(crate) fn decode<'a>(
        &'a self,
        rows: impl IntoIterator<Item = Option<&'a [u8]>>,
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let parser = self.converter.parser();
        let rows: Vec<&[u8]> = rows.into_iter().map(|row| row.unwrap_or(&self.nulls)).collect();
        Ok(self.converter.convert_rows(rows.into_iter().map(|row| parser.parse(row)))?)
    }
}

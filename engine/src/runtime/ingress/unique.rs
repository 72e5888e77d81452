//! Rows that a peer sends again, because its acknowledgement was cut off, told
//! by columns that name them. The last of them are remembered; a start reads
//! them back from the log.

use std::collections::{HashSet, VecDeque};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::xxh3_128;

/// Names that are remembered.
pub(super) const NAMES_MAX: usize = 1_000_000;

/// Names of rows that have come.
pub(super) struct Unique {
    columns: Vec<usize>,
    seen: HashSet<u128>,
    /// The same, oldest first.
    order: VecDeque<u128>,
    names_max: usize,
}

impl Unique {
    /// Rows are named by these columns; without any, none is.
    pub(super) fn new(columns: Vec<usize>, names_max: usize) -> Unique {
        Unique { columns, seen: HashSet::new(), order: VecDeque::new(), names_max }
    }

    /// Whether rows have names.
    pub(super) fn is_used(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The rows that have not come before, and how many have.
    ///
    /// # Errors
    /// A column has a type that cannot be compared.
    pub(super) fn only_new(&mut self, batch: RecordBatch) -> Result<(RecordBatch, usize), ArrowError> {
        if !self.is_used() || batch.num_rows() == 0 {
            return Ok((batch, 0));
        }
        let names = names(&batch, &self.columns)?;
        let is_new: Vec<bool> =
            names.into_iter().map(|name| name.is_none_or(|name| self.insert(name))).collect();
        let repeated = is_new.iter().filter(|is_new| !**is_new).count();
        if repeated == 0 {
            return Ok((batch, 0));
        }
        Ok((filter_record_batch(&batch, &BooleanArray::from(is_new))?, repeated))
    }

    /// Remembers rows that have come under these columns, of an earlier file. Their
    /// names are in columns that are called so now and are of the same type.
    ///
    /// # Errors
    /// There are no such columns, or one has a type that cannot be compared.
    pub(super) fn remember(&mut self, batch: &RecordBatch, now: &Schema) -> Result<(), ArrowError> {
        let schema = batch.schema();
        let place = |column: &usize| {
            let field = now.fields().get(*column)?;
            let (place, former) = schema.column_with_name(field.name())?;
            (former.data_type() == field.data_type()).then_some(place)
        };
        let columns: Option<Vec<usize>> = self.columns.iter().map(place).collect();
        let columns = columns.ok_or_else(|| ArrowError::SchemaError("no columns that name rows".into()))?;
        for name in names(batch, &columns)?.into_iter().flatten() {
            self.insert(name);
        }
        Ok(())
    }

    /// Whether it is a new one.
    fn insert(&mut self, name: u128) -> bool {
        if !self.seen.insert(name) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > self.names_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        true
    }
}

/// The name of each row; none if one of its columns is NULL.
fn names(batch: &RecordBatch, columns: &[usize]) -> Result<Vec<Option<u128>>, ArrowError> {
    let columns = batch.project(columns)?;
    let fields =
        columns.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(columns.columns())?;
    let is_null = |row| columns.columns().iter().any(|column| column.is_null(row));
    let names = rows.iter().enumerate().map(|(row, bytes)| (!is_null(row)).then(|| xxh3_128(bytes.data())));
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type};

    use super::*;

    fn rows(rows: &[(Option<&str>, i64)]) -> RecordBatch {
        let ids: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>());
        RecordBatch::try_from_iter([("id", ids), ("n", numbers)]).expect("equal lengths")
    }

    fn kept(unique: &mut Unique, batch: &[(Option<&str>, i64)]) -> Vec<i64> {
        let (batch, repeated) = unique.only_new(rows(batch)).expect("comparable");
        let numbers = batch.column(1).as_primitive::<Int64Type>().values().to_vec();
        assert!(repeated <= 4, "{repeated}");
        numbers
    }

    #[test]
    fn a_name_comes_once_and_rows_without_one_always() {
        let mut unique = Unique::new(vec![0], 100);
        assert_eq!(
            kept(&mut unique, &[(Some("a"), 1), (Some("b"), 2), (Some("a"), 3), (None, 4)]),
            [1, 2, 4]
        );
        assert_eq!(kept(&mut unique, &[(None, 5), (Some("b"), 6), (Some(""), 7), (Some(""), 8)]), [5, 7]);
        let mut both = Unique::new(vec![0, 1], 100);
        assert_eq!(kept(&mut both, &[(Some("a"), 1), (Some("a"), 2), (Some("a"), 1)]), [1, 2]);
        let mut none = Unique::new(vec![], 100);
        assert_eq!(kept(&mut none, &[(Some("a"), 1), (Some("a"), 1)]), [1, 1]);
    }

    #[test]
    fn names_of_an_earlier_file_are_known_whatever_else_its_columns_are() {
        let field = |name: &str, of: DataType| Field::new(name, of, true);
        let now = Schema::new(vec![field("new", DataType::Int64), field("id", DataType::Utf8)]);
        let now_row = |id: &str| {
            let columns: [ArrayRef; 2] =
                [Arc::new(Int64Array::from(vec![1])), Arc::new(StringArray::from(vec![id]))];
            RecordBatch::try_new(Arc::new(now.clone()), columns.into()).expect("fits")
        };
        let mut unique = Unique::new(vec![1], 100);
        unique.remember(&rows(&[(Some("a"), 1), (None, 2)]), &now).expect("has names");
        let repeated = |unique: &mut Unique, id| unique.only_new(now_row(id)).expect("comparable").1;
        assert_eq!(["a", "b", "b"].map(|id| repeated(&mut unique, id)), [1, 0, 1]);
        // Another type, or none of that name: nothing is known of them.
        let other = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
        unique.remember(&other.expect("one column"), &now).expect_err("of another type");
        let mut unique = Unique::new(vec![0], 100);
        unique.remember(&rows(&[(Some("a"), 1)]), &now).expect_err("it has no such column");
    }

    #[test]
    fn the_last_names_are_remembered() {
        let mut unique = Unique::new(vec![0], 2);
        assert_eq!(kept(&mut unique, &[(Some("a"), 1), (Some("b"), 2), (Some("c"), 3)]), [1, 2, 3]);
        assert_eq!(kept(&mut unique, &[(Some("b"), 4), (Some("c"), 5), (Some("a"), 6)]), [6]);
    }
}

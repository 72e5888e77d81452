//! Changelogs: streams whose rows say how a result has changed. Every row is a
//! whole image of the result, what it was or what it is now; the column
//! `change` says which, and `changed_at` is the event time of the change.
//! Applied in order, the changes give the result as it stands.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field};

use crate::error::OperatorError;
use crate::schema::{StreamKind, StreamSchema};
use crate::time::time_type;

/// The column that says what an image is.
pub const CHANGE: &str = "change";
/// The column with the event time of the change: no part of the image, since
/// the same image has another one when it is taken back.
pub const CHANGED_AT: &str = "changed_at";

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was none; now it is this.
    Insert,
    /// It was this until now; what it is follows.
    Before,
    /// It is this now; what it was came before.
    After,
    /// It was this until now, and there is none any more.
    Delete,
}

impl Change {
    /// The word in the column `change`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Change::Insert => "+I",
            Change::Before => "-U",
            Change::After => "+U",
            Change::Delete => "-D",
        }
    }
}

/// A changelog whose images have these columns; `changed_at` and `change` are
/// put behind them. What names a result, `keyed_by` says.
#[must_use]
pub fn changelog_of(mut image: Vec<Field>) -> StreamSchema {
    image.push(Field::new(CHANGED_AT, time_type(), false));
    image.push(Field::new(CHANGE, DataType::Utf8, false));
    StreamSchema { kind: StreamKind::Changelog, ..StreamSchema::new(image, Some(CHANGED_AT)) }
}

impl StreamSchema {
    /// The same changelog, whose results these columns name.
    #[must_use]
    pub fn keyed_by(self, key: Vec<usize>) -> StreamSchema {
        StreamSchema { key: Some(key), ..self }
    }

    /// Why images that are put in and taken out by these columns would hit those
    /// of another result: what names a result is not among them. `None`: they do
    /// not, or the rows are no changes.
    #[must_use]
    pub fn hits_others(&self, name: &str, columns: &[&str]) -> Option<(String, String)> {
        self.change()?;
        let Some(key) = &self.key else {
            return Some((
                format!("what names a result of `{name}` is not among its columns: taking one back would take others away"),
                "let `select` keep the key's columns as they are; without them, changes are read by an `aggregate`, or by a sink that keeps every row, with `accept_changes = true`".to_owned(),
            ));
        };
        let names = key.iter().filter_map(|index| self.columns.fields().get(*index));
        let names: Vec<&str> = names.map(|field| field.name().as_str()).collect();
        let missing: Vec<&str> = names.iter().copied().filter(|name| !columns.contains(name)).collect();
        (!missing.is_empty()).then(|| {
            let list = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let (named, missing) = (list(&names), list(&missing));
            (
                format!("a result of `{name}` is named by {named}, and the key leaves out {missing}: taking one back would take others away"),
                format!("add {missing} to the `key`"),
            )
        })
    }

    /// The column `change` of a changelog.
    #[must_use]
    pub fn change(&self) -> Option<usize> {
        let fields = self.columns.fields();
        (self.kind == StreamKind::Changelog)
            .then(|| fields.iter().position(|field| field.name() == CHANGE))
            .flatten()
    }

    /// Columns of a changelog that are no part of an image: an expression over
    /// them would not say of what is taken back what it said when it was given.
    #[must_use]
    pub fn outside_of_image(&self) -> Vec<usize> {
        let Some(change) = self.change() else { return Vec::new() };
        self.time.into_iter().chain([change]).collect()
    }
}

/// Whether each row gives an image (`+I`, `+U`); the others take one back.
///
/// # Errors
/// A word that is none of the four.
pub fn gives(batch: &RecordBatch, change: usize) -> Result<BooleanArray, OperatorError> {
    let words = batch.columns().get(change).and_then(|column| column.as_string_opt::<i32>());
    let words = words.ok_or_else(|| OperatorError::new(format!("the column `{CHANGE}` is no text")))?;
    let gives = |row: usize| match words.is_valid(row).then(|| words.value(row)) {
        Some("+I" | "+U") => Ok(true),
        Some("-U" | "-D") => Ok(false),
        other => Err(OperatorError::new(format!(
            "`{CHANGE}` is {}, which is none of +I, -U, +U, -D",
            other.unwrap_or("NULL")
        ))),
    };
    let gives: Result<Vec<bool>, OperatorError> = (0..batch.num_rows()).map(gives).collect();
    Ok(gives?.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    #[test]
    fn every_word_is_told_from_every_other() {
        let batch = |words: Vec<Option<&str>>| {
            RecordBatch::try_from_iter([(CHANGE, Arc::new(StringArray::from(words)) as ArrayRef)])
        };
        let all = [Change::Insert, Change::Before, Change::After, Change::Delete];
        let words = batch(all.iter().map(|change| Some(change.word())).collect()).expect("a column");
        let expected = BooleanArray::from(vec![true, false, true, false]);
        assert_eq!(gives(&words, 0).expect("words"), expected);
        for wrong in [None, Some("+"), Some("")] {
            assert!(gives(&batch(vec![wrong]).expect("a column"), 0).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_column_of_that_name_makes_no_changelog() {
        let stream = changelog_of(vec![Field::new("n", DataType::Int64, true)]);
        assert_eq!((stream.change(), stream.outside_of_image()), (Some(2), vec![1, 2]));
        let rows = StreamSchema { kind: StreamKind::Appends, ..stream };
        assert_eq!((rows.change(), rows.outside_of_image()), (None, vec![]));
    }
}

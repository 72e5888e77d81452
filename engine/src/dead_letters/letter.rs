//! A dead letter as columns: when, why and where from, then the row itself.
//! Pure.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;

/// The word in a batch's metadata that says what it holds.
const KIND: &str = "tidegate.dead";
const REFUSED: &str = "refused";
const REJECTED: &str = "rejected";
const QUARANTINED: &str = "quarantined";
const REPLAYED: &str = "replayed";
/// Columns before those of the row.
const OURS: usize = 3;

/// A row that cannot be used, and nobody reads the port it left by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// When it was refused.
    pub at_us: i64,
    /// Why.
    pub reason: String,
    /// Where it came from, as its source says; empty if nobody knows.
    pub position: String,
}

/// What became of the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A sink's peer did not take it: the row is there as it was, and may be
    /// delivered again.
    Refused,
    /// It could not be used, and nobody reads the port `rejects`: of it there
    /// is a payload only.
    Rejected,
    /// An operator panicked on its batch: it comes again from the checkpoint, and
    /// is kept to be looked at.
    Quarantined,
}

/// Where a letter stands in its node's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// Number of the record.
    pub record: u64,
    /// Row in it.
    pub row: usize,
}

impl std::fmt::Display for LetterId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.record, self.row)
    }
}

impl std::str::FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<LetterId, String> {
        let wrong = || format!("`{text}` is no number of a dead letter, such as 12.0");
        let (record, row) = text.split_once('.').ok_or_else(wrong)?;
        Ok(LetterId { record: record.parse().map_err(|_| wrong())?, row: row.parse().map_err(|_| wrong())? })
    }
}

/// What a record of the log holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// Letters: the row number `i` of the batch belongs to the letter `i`.
    Letters(Fate, Vec<Letter>, RecordBatch),
    /// These letters have been delivered after all.
    Replayed(Vec<LetterId>),
}

/// Letters and their rows as one batch.
pub(crate) fn letters(fate: Fate, letters: &[Letter], rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let word = match fate {
        Fate::Refused => REFUSED,
        Fate::Rejected => REJECTED,
        Fate::Quarantined => QUARANTINED,
    };
    let at = letters.iter().map(|letter| letter.at_us).collect::<Vec<_>>();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(letters.iter().map(|letter| &letter.reason))),
        Arc::new(StringArray::from_iter_values(letters.iter().map(|letter| &letter.position))),
    ];
    let mut fields = vec![
        Arc::new(Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)),
        Arc::new(Field::new("reason", DataType::Utf8, false)),
        Arc::new(Field::new("position", DataType::Utf8, false)),
    ];
    columns.extend(rows.columns().iter().cloned());
    fields.extend(rows.schema().fields().iter().cloned());
    RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, kind(word))), columns)
}

/// A note that letters have been delivered.
pub(crate) fn replayed(ids: &[LetterId]) -> Result<RecordBatch, ArrowError> {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(LetterId::to_string)));
    let fields = vec![Field::new("id", DataType::Utf8, false)];
    RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, kind(REPLAYED))), vec![column])
}

fn kind(word: &str) -> HashMap<String, String> {
    HashMap::from([(KIND.to_owned(), word.to_owned())])
}

/// What a batch of the log holds.
pub(crate) fn read(batch: &RecordBatch) -> Result<Content, String> {
    let unknown = || "a record that is none of dead letters".to_owned();
    let schema = batch.schema();
    let text = |column: usize| batch.columns().get(column).and_then(|c| c.as_string_opt::<i32>());
    match schema.metadata().get(KIND).map(String::as_str) {
        Some(REPLAYED) => {
            let ids = text(0).ok_or_else(unknown)?;
            Ok(Content::Replayed(ids.iter().flatten().map(str::parse).collect::<Result<_, _>>()?))
        }
        Some(word @ (REFUSED | REJECTED | QUARANTINED)) => {
            let fate = match word {
                REFUSED => Fate::Refused,
                REJECTED => Fate::Rejected,
                _ => Fate::Quarantined,
            };
            let at = batch.columns().first().and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
            let (at, reasons, positions) =
                (at.ok_or_else(unknown)?, text(1).ok_or_else(unknown)?, text(2).ok_or_else(unknown)?);
            let letter = |row: usize| Letter {
                at_us: at.value(row),
                reason: reasons.value(row).to_owned(),
                position: positions.value(row).to_owned(),
            };
            let own = (OURS..batch.num_columns()).collect::<Vec<_>>();
            let rows = batch.project(&own).map_err(|error| error.to_string())?;
            // Without our word in its metadata.
            let schema = Schema::new(rows.schema().fields().clone());
            let rows = RecordBatch::try_new(Arc::new(schema), rows.columns().to_vec());
            let rows = rows.map_err(|error| error.to_string())?;
            Ok(Content::Letters(fate, (0..batch.num_rows()).map(letter).collect(), rows))
        }
        Some(_) | None => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    #[test]
    fn letters_come_back_with_their_rows_even_if_a_column_is_called_like_ours() {
        let column = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let rows = RecordBatch::try_from_iter_with_nullable([
            ("reason", column(vec![Some(1), None]), true),
            ("n", column(vec![Some(3), Some(4)]), true),
        ])
        .expect("equal lengths");
        let letter = |at_us, reason: &str| Letter { at_us, reason: reason.into(), position: "p".into() };
        let written = [letter(-1, "bad"), letter(7, "ü")];
        let Ok(Content::Letters(Fate::Refused, read_back, rows_back)) =
            read(&letters(Fate::Refused, &written, &rows).expect("fits"))
        else {
            panic!("letters");
        };
        assert_eq!((read_back.as_slice(), &rows_back), (&written[..], &rows));
        let ids = [LetterId { record: 7, row: 0 }, LetterId { record: 9, row: 12 }];
        let Ok(Content::Replayed(back)) = read(&replayed(&ids).expect("fits")) else { panic!("a note") };
        assert_eq!(back, ids);
        assert!(read(&rows).is_err());
        assert!("7".parse::<LetterId>().is_err() && "x.1".parse::<LetterId>().is_err());
    }
}

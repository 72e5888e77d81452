//! The port `received` of a source: its rows by the time they came. That time
//! is a column like any other, so windows over it are windows of processing time
//! and no operator needs a clock. It ends windows although no row comes.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};

use crate::error::OperatorError;
use crate::schema::{StreamSchema, received_stream};
use crate::time::Time;

/// What the port has told its readers.
pub(super) struct Received {
    stream: StreamSchema,
    /// No row will come that was received before this.
    told: Option<Time>,
}

impl Received {
    /// `told` is what was told before a restart: it still holds.
    pub(super) fn new(rows: &StreamSchema, told: Option<Time>) -> Option<Received> {
        Some(Received { stream: received_stream(rows)?, told })
    }

    /// No row will come that was received before this.
    pub(super) fn told(&self) -> Option<Time> {
        self.told
    }

    /// Rows that came at this time, as the port gives them. A clock that was set
    /// back does not make them late.
    pub(super) fn stamp(
        &mut self,
        rows: &RecordBatch,
        at: Time,
    ) -> Result<(RecordBatch, Time), OperatorError> {
        let at = self.told.map_or(at, |told| told.max(at));
        let times = TimestampMicrosecondArray::from(vec![at.0; rows.num_rows()]).with_timezone("UTC");
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        let times: ArrayRef = Arc::new(times);
        match self.stream.time.and_then(|index| columns.get_mut(index)) {
            Some(column) => *column = times,
            None => columns.push(times),
        }
        Ok((RecordBatch::try_new(Arc::clone(&self.stream.columns), columns)?, at))
    }

    /// The clock has come so far, and no row that came before waits anywhere;
    /// answers the watermark if it is news.
    pub(super) fn pass(&mut self, to: Time) -> Option<Time> {
        let is_later = self.told.is_none_or(|told| told < to);
        is_later.then(|| {
            self.told = Some(to);
            to
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};

    use super::*;
    use crate::schema::RECEIVED_AT;
    use crate::time::time_type;

    fn rows() -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        RecordBatch::try_from_iter([("n", column)]).expect("a column")
    }

    #[test]
    fn rows_carry_when_they_came_and_no_clock_makes_them_late() {
        let stream = StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None);
        let mut received = Received::new(&stream, None).expect("no column is called so");
        let stamp = |received: &mut Received, at| {
            let (batch, at) = received.stamp(&rows(), Time(at)).expect("stamps");
            let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
            assert_eq!(times.values().as_ref(), [at.0, at.0]);
            at.0
        };
        assert_eq!(stamp(&mut received, 10), 10);
        assert_eq!(received.pass(Time(10)), Some(Time(10)));
        assert_eq!(received.pass(Time(10)), None);
        assert_eq!(stamp(&mut received, 9), 10, "the clock was set back");
        assert_eq!(received.pass(Time(9)), None);
        assert_eq!(stamp(&mut received, 11), 11);
    }

    #[test]
    fn a_column_of_that_name_is_not_taken_for_it() {
        let named = vec![Field::new(RECEIVED_AT, time_type(), false)];
        assert!(received_stream(&StreamSchema::new(named.clone(), None)).is_none());
        let own = StreamSchema::new(named, Some(RECEIVED_AT));
        assert_eq!(received_stream(&own), Some(own.clone()));
    }
}

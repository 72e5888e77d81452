//! `fill`: values at even times, made from rows that come at any. What is made
//! belongs to a grid aligned to the epoch, never to the first row, and a gap in
//! which nobody measured stays one.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{InOrder, Kept, Ordered, PerKey, Rows, Share, check_kept, key_columns, ports, shape};
use crate::part::{named_columns, number_columns, only_input, require_time};

/// Most values that are made for one row.
const VALUES_MAX: i64 = 100_000;
/// Rows of a batch that is sent.
const BATCH_ROWS: usize = 8_192;

const KEYS: &[Key] = &[
    optional(
        "key",
        Kind::List(&Kind::Text),
        "columns; each combination is filled by itself; a row behind the watermark leaves by the port `late`",
    ),
    required(
        "columns",
        Kind::List(&Kind::Text),
        "columns that are filled; rows have these, the key and the time",
    ),
    required("every", Kind::Duration, "distance of the rows that are made, aligned to the epoch"),
    required(
        "kind",
        Kind::Word(&["previous", "linear"]),
        "previous: the last value at or before a time; linear: numbers on the line between the values before and after it",
    ),
    required(
        "max_gap",
        Kind::Duration,
        "longer gaps are not filled: previous ends so long after its value, linear makes nothing in between",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "fill",
    summary: "makes rows at even times, with the previous value or on the line between two",
    keys: &[KEYS],
    example: r#"[operator.even]
type    = "fill"
from    = "rows"
key     = ["device"]
columns = ["value"]
every   = "1s"
kind    = "linear"
max_gap = "10s"
"#,
    build,
};

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let time = require_time(config, input)?;
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let linear = table.str("kind") == Some("linear");
    let find = if linear { number_columns } else { named_columns };
    let filled = find(config, "columns", &input.stream, &mut diagnostics);
    check_kept(config, "columns", input, &filled, &mut diagnostics);
    if let Some(column) = filled.iter().find(|column| **column == time || keys.contains(column)) {
        let name = input.stream.columns.fields().get(*column).map_or("", |field| field.name().as_str());
        let message = format!("`{name}` of `{}` is its key or time and cannot be filled", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(table.span_of("columns")));
    }
    if filled.is_empty() && diagnostics.is_empty() {
        let message = format!("`columns` of `{}` is empty", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(table.span_of("columns")));
    }
    let span = |key: &str| table.duration(key).map_or(0, micros);
    let (every_us, max_gap_us) = (span("every"), span("max_gap"));
    if every_us == 0 || max_gap_us / every_us > VALUES_MAX {
        let message = format!("`every` of `{}` would make more than {VALUES_MAX} rows of one", config.name);
        let diagnostic = Diagnostic::error("TG-C006", message).at(table.span_of("every"));
        diagnostics.push(diagnostic.help("make `every` longer or `max_gap` shorter"));
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    // The kept columns: those of the key, then what is filled.
    let kept = [keys.as_slice(), filled.as_slice()].concat();
    let output = output(&input.stream, &kept, filled.len(), linear);
    let kept = Kept::new(&input.stream.columns, kept)
        .map_err(|error| Diagnostic::error("TG-X003", error.0).at(table.span_of("columns")))?;
    let core = Fill {
        output: output.clone(),
        every_us,
        max_gap_us,
        filled: if linear { filled } else { Vec::new() },
        kept,
        last: PerKey::default(),
        now_us: i64::MIN,
        looked_us: i64::MIN,
    };
    // When a key has been silent for longer, nothing is owed to it.
    let operator = InOrder::new(config, input, keys, core)?.with_forget(max_gap_us.saturating_add(1));
    Ok(OperatorPart { operator: Box::new(operator), ports: ports(output, &input.stream) })
}

/// Time first, then the kept columns, of which the last are filled.
fn output(input: &StreamSchema, kept: &[usize], filled: usize, linear: bool) -> StreamSchema {
    let field = |index: &usize| input.columns.fields().get(*index).map(|field| field.as_ref().clone());
    let mut fields: Vec<Field> = input.time.iter().filter_map(field).collect();
    let first_filled = kept.len() - filled;
    for (place, field) in kept.iter().filter_map(field).enumerate() {
        fields.push(match place >= first_filled {
            true if linear => field.with_data_type(DataType::Float64).with_nullable(true),
            true => field.with_nullable(true),
            false => field,
        });
    }
    StreamSchema::new(fields, input.time_name())
}

/// The last row of a key.
#[derive(Clone)]
struct Last {
    at_us: i64,
    /// The first time of the grid for which nothing was made and may be.
    next_us: i64,
    kept: Arc<[u8]>,
    /// What is filled, if it is on a line.
    numbers: Vec<Option<f64>>,
}

/// Rows that were made.
#[derive(Default)]
struct Made {
    times: Vec<i64>,
    kept: Vec<Arc<[u8]>>,
    /// By column, if they are on a line.
    numbers: Vec<Vec<Option<f64>>>,
}

struct Fill {
    output: StreamSchema,
    every_us: i64,
    max_gap_us: i64,
    /// What is filled if it is on a line; else nothing.
    filled: Vec<usize>,
    kept: Kept,
    last: PerKey<Option<Last>>,
    /// The newest row, or the watermark if that is further.
    now_us: i64,
    /// The watermark when all keys were looked at.
    looked_us: i64,
}

impl Fill {
    /// The first time of the grid at or after this one.
    fn next_of(&self, at_us: i64) -> i64 {
        let before = at_us.rem_euclid(self.every_us);
        if before == 0 { at_us } else { at_us.saturating_sub(before).saturating_add(self.every_us) }
    }

    fn is_linear(&self) -> bool {
        !self.filled.is_empty()
    }

    /// Makes the rows from where the key is up to this time, both ends included,
    /// as far as its last value reaches.
    fn hold(&self, last: &mut Last, until_us: i64, made: &mut Made) {
        let reach_us = if self.is_linear() { 0 } else { self.max_gap_us };
        let until_us = until_us.min(last.at_us.saturating_add(reach_us));
        while last.next_us <= until_us {
            made.push(last.next_us, last, last.numbers.iter().copied());
            let Some(next_us) = last.next_us.checked_add(self.every_us) else { break };
            last.next_us = next_us;
        }
    }

    /// Makes the rows between the last one and the next one of its key.
    fn between(&self, last: &mut Last, next: &mut Last, made: &mut Made) {
        let gap_us = next.at_us.saturating_sub(last.at_us);
        if !self.is_linear() || gap_us > self.max_gap_us {
            self.hold(last, next.at_us.saturating_sub(1), made);
        }
        while gap_us <= self.max_gap_us && last.next_us < next.at_us {
            // At the value itself its neighbour does not matter.
            let is_value = last.next_us == last.at_us;
            let part = last.next_us.saturating_sub(last.at_us) as f64 / gap_us as f64;
            let line =
                last.numbers.iter().zip(&next.numbers).map(|(from, to)| {
                    if is_value { *from } else { Some((*from)? + ((*to)? - (*from)?) * part) }
                });
            made.push(last.next_us, last, line);
            let Some(next_us) = last.next_us.checked_add(self.every_us) else { break };
            last.next_us = next_us;
        }
        next.next_us = self.next_of(next.at_us).max(last.next_us);
    }

    fn emit(&self, made: Made, out: &mut Output) -> Result<(), OperatorError> {
        if made.times.is_empty() {
            return Ok(());
        }
        let rows = made.times.len();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(TimestampMicrosecondArray::from(made.times).with_timezone("UTC"))];
        columns.extend(self.kept.decode(made.kept.iter().map(|row| Some(row.as_ref())))?);
        columns.truncate(columns.len().saturating_sub(self.filled.len()));
        for numbers in made.numbers {
            columns.push(Arc::new(Float64Array::from(numbers)));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?;
        for start in (0..rows).step_by(BATCH_ROWS) {
            out.emit(batch.slice(start, BATCH_ROWS.min(rows - start)));
        }
        Ok(())
    }

    /// Rows as they are kept.
    fn rows(&self, times: &[i64], kept: &[ArrayRef]) -> Result<Vec<Last>, OperatorError> {
        let encoded = self.kept.encode_columns(kept)?;
        let filled = kept.get(kept.len().saturating_sub(self.filled.len())..).unwrap_or_default();
        let numbers: Result<Vec<ArrayRef>, _> =
            filled.iter().map(|column| cast(column, &DataType::Float64)).collect();
        let numbers = numbers?;
        let number = |column: &ArrayRef, row: usize| {
            let column = column.as_primitive::<Float64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        let rows = times.iter().zip(encoded.iter()).enumerate();
        Ok(rows
            .map(|(row, (at_us, kept))| Last {
                at_us: *at_us,
                next_us: self.next_of(*at_us),
                kept: kept.data().into(),
                numbers: numbers.iter().map(|column| number(column, row)).collect(),
            })
            .collect())
    }

    /// Makes what every key owes up to this time.
    fn look(&mut self, until_us: i64, is_end: bool, out: &mut Output) -> Result<(), OperatorError> {
        let mut last = std::mem::take(&mut self.last);
        let mut made = Made::default();
        for last in last.iter_mut().flatten() {
            // Until it is too old, a value on a line waits for the next one.
            let is_over = until_us.saturating_sub(last.at_us) >= self.max_gap_us;
            if is_end || is_over || !self.is_linear() {
                self.hold(last, until_us, &mut made);
            }
        }
        self.last = last;
        self.emit(made, out)
    }
}

impl Made {
    fn push(&mut self, at_us: i64, last: &Last, numbers: impl Iterator<Item = Option<f64>>) {
        self.times.push(at_us);
        self.kept.push(Arc::clone(&last.kept));
        self.numbers.resize_with(last.numbers.len(), Vec::new);
        for (column, number) in self.numbers.iter_mut().zip(numbers) {
            column.push(number);
        }
    }
}

impl Ordered for Fill {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let kept = self.kept.columns().iter().map(|index| rows.batch.columns().get(*index).cloned());
        let kept: Vec<ArrayRef> = kept.collect::<Option<_>>().ok_or_else(shape)?;
        let mut last = std::mem::take(&mut self.last);
        let mut made = Made::default();
        for (mut row, key) in self.rows(rows.times, &kept)?.into_iter().zip(rows.keys) {
            self.now_us = self.now_us.max(row.at_us);
            let Some(last) = last.of(*key) else { continue };
            if let Some(last) = last {
                self.between(last, &mut row, &mut made);
            }
            *last = Some(row);
        }
        self.last = last;
        self.emit(made, out)
    }

    fn on_time(&mut self, now_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        self.now_us = self.now_us.max(now_us);
        // Looking at every key is worth while when a time of the grid has passed.
        if self.looked_us != i64::MIN && self.next_of(self.looked_us) >= now_us {
            return Ok(());
        }
        self.looked_us = now_us;
        // Rows at `now_us` itself may still come.
        self.look(now_us.saturating_sub(1), false, out)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        self.look(self.now_us, true, out)
    }

    /// What was made behind the watermark cannot be taken back.
    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        Some(watermark_us)
    }

    fn output_watermark(&self, input_us: i64) -> i64 {
        if self.is_linear() { input_us.min(self.looked_us.saturating_sub(self.max_gap_us)) } else { input_us }
    }

    fn forget(&mut self, key: u32, out: &mut Output) -> Result<(), OperatorError> {
        let mut made = Made::default();
        if let Some(mut last) = self.last.of(key).and_then(Option::take) {
            self.hold(&mut last, i64::MAX, &mut made);
        }
        self.emit(made, out)
    }

    fn bytes(&self) -> usize {
        self.last.bytes(|last| {
            last.as_ref()
                .map_or(0, |last| last.kept.len() + last.numbers.capacity() * size_of::<Option<f64>>())
        })
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Aligned, Share::Common])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let last = || keys.iter().map(|key| self.last.get(*key)?.as_ref());
        let mut fields =
            vec![Field::new("at_us", DataType::Int64, true), Field::new("next_us", DataType::Int64, true)];
        fields.extend(self.kept.fields("kept"));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(last().map(|last| Some(last?.at_us)).collect::<Int64Array>()),
            Arc::new(last().map(|last| Some(last?.next_us)).collect::<Int64Array>()),
        ];
        columns.extend(self.kept.decode(last().map(|last| Some(last?.kept.as_ref())))?);
        let times: ArrayRef = Arc::new(Int64Array::from(vec![self.now_us, self.looked_us]));
        Ok(vec![
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?,
            RecordBatch::try_from_iter([("now, looked", times)])?,
        ])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [last, times] = state else { return Err(shape()) };
        let [at, next, kept @ ..] = last.columns() else { return Err(shape()) };
        let at = at.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let next = next.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let rows = self.rows(at.values(), kept)?.into_iter().zip(next.values());
        self.last.load(rows.map(|(row, next_us)| Some(Last { next_us: *next_us, ..row })));
        let [times] = times.columns() else { return Err(shape()) };
        let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let [now_us, looked_us] = times.values().as_ref() else { return Err(shape()) };
        (self.now_us, self.looked_us) = (*now_us, *looked_us);
        Ok(())
    }
}

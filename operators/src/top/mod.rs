//! `top`: the rows with the largest or smallest values, of each window or of all
//! rows so far. Of equal values the earlier row is ahead.

mod updating;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type};
use arrow::row::{RowConverter, SortField};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::changelog::changelog_of;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::expression::Scope;
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Port};
use tidegate_engine::schema::{StreamSchema, rejects_schema, type_name};
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::aggregate::{TTL_KEY, ttl_us};
use crate::in_order::{InOrder, Kept, Ordered, Rows, Share, check_kept, key_columns, ports, shape};
use crate::part::{check_names, only_input, require_time};
use updating::Updating;

/// Most rows of a window that are kept for a key.
const ROWS_MAX: i64 = 10_000;

const KEYS: &[Key] = &[
    optional("key", Kind::List(&Kind::Text), "columns; each combination has rows of its own"),
    required(
        "by",
        Kind::Expression,
        "what is compared, e.g. \"value\"; rows for which it is NULL do not count unless `nulls` says so",
    ),
    required("rows", Kind::Int(1, ROWS_MAX), "how many rows of a key go on"),
    optional(
        "size",
        Kind::Duration,
        "length of a window; windows follow each other, aligned to the epoch, and a row of a closed one leaves by the port `late`; without it all rows are compared, and each place is told again when another row takes it, with the columns `changed_at` and `change`: +I (new), -U and +U (was and is)",
    ),
    Key {
        doc: "without `size`: a key without rows for this long, by event time, is forgotten, and its last places stand; \"30d\" if left out",
        ..TTL_KEY
    },
    optional("order", Kind::Word(&["largest", "smallest"]), "which rows go on; \"largest\" if left out"),
    optional(
        "nulls",
        Kind::Word(&["drop", "first", "last"]),
        "rows for which `by` is NULL: they do not count (\"drop\", if left out), or are ahead of all others or behind them",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "top",
    summary: "the rows with the largest or smallest values, of each window or so far, with their `rank` from 1",
    keys: &[KEYS],
    example: r#"[operator.worst]
type = "top"
from = "rows"
by   = "value"
rows = 3
size = "1m"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let all: Vec<usize> = (0..input.stream.columns.fields().len()).collect();
    check_kept(config, "from", input, &all, &mut diagnostics);
    let scope = Scope::of(&input.stream.columns);
    let compiled = table.text("by").map(|text| context.expressions.compile(text, &scope));
    let by = match compiled {
        Some(Ok(by)) => Some(by),
        Some(Err(diagnostic)) => {
            diagnostics.push(diagnostic);
            None
        }
        None => None,
    };
    let rows = table.int_as("rows").unwrap_or(1);
    let memory_us = memory_us(config, &mut diagnostics);
    let size = table.get("size");
    // Of one row the rank says nothing.
    let named_by = || keys.iter().copied().chain((rows > 1).then_some(all.len())).collect();
    let output = output(input, size.is_none().then(named_by));
    let named: Vec<Field> = output.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    check_names(config, "from", &named, &mut diagnostics);
    let Some(by) = by.filter(|_| diagnostics.is_empty()) else { return Err(ConfigError(diagnostics)) };
    let nulls = table.str("nulls");
    let keeps_nulls = matches!(nulls, Some("first" | "last"));
    let options = SortOptions {
        descending: table.str("order") != Some("smallest"),
        nulls_first: nulls == Some("first"),
    };
    let order = order(by.data_type(), options).map_err(|_| not_compared(config, by.data_type()))?;
    let kept = kept(input, by.data_type()).map_err(|_| not_compared(config, by.data_type()))?;
    let operator: Box<dyn Operator> = if size.is_none() {
        let core = Updating::new(output.clone(), rows, order, keeps_nulls, kept);
        let operator = InOrder::new(config, input, keys, core)?;
        Box::new(operator.with_expressions(vec![by]).with_forget(memory_us))
    } else {
        let windows = BTreeMap::new();
        let (output, size_us) = (output.clone(), memory_us);
        let core = Top { output, rows, size_us, order, keeps_nulls, kept, windows, closed_us: i64::MIN };
        let operator = InOrder::new(config, input, keys, core)?;
        Box::new(operator.with_expressions(vec![by]).with_forget(size_us))
    };
    let mut ports = ports(output, &input.stream);
    ports.push(Port { name: "rejects".into(), stream: rejects_schema() });
    Ok(OperatorPart { operator, ports })
}

/// Length of a window; without windows, how long a key is remembered.
fn memory_us(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> i64 {
    let table = &config.table;
    let Some(size) = table.duration("size") else { return ttl_us(config, out) };
    if size.is_zero() {
        let message = format!("`size` of `{}` is zero", config.name);
        out.push(Diagnostic::error("TG-C006", message).at(table.span_of("size")));
    }
    if table.get(TTL_KEY.name).is_some() {
        let message = "`ttl` has no meaning beside `size`: a window ends by itself";
        out.push(Diagnostic::error("TG-C006", message).at(table.span_of(TTL_KEY.name)));
    }
    micros(size)
}

/// The rows with their ranks, as rows that stand or as a changelog whose results
/// these columns name.
fn output(input: &Input, named_by: Option<Vec<usize>>) -> StreamSchema {
    let mut fields: Vec<Field> =
        input.stream.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("rank", DataType::Int64, false));
    if let Some(key) = named_by {
        return changelog_of(fields).keyed_by(key);
    }
    StreamSchema { columns: Arc::new(Schema::new(fields)), ..input.stream.clone() }
}

fn not_compared(config: &NodeConfig, data_type: &DataType) -> Diagnostic {
    let message = format!("`by` of `{}` is {} and cannot be compared", config.name, type_name(data_type));
    Diagnostic::error("TG-X003", message).at(config.table.span_of("by"))
}

/// Makes bytes of values whose order is the one that is wanted.
fn order(by: &DataType, options: SortOptions) -> Result<RowConverter, OperatorError> {
    Ok(RowConverter::new(vec![SortField::new_with_options(by.clone(), options)])?)
}

/// Keeps all columns of the input, and the value they are compared by behind them.
fn kept(input: &Input, by: &DataType) -> Result<Kept, OperatorError> {
    let mut fields: Vec<Field> =
        input.stream.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("by", by.clone(), true));
    let all = (0..fields.len()).collect();
    Kept::new(&Arc::new(Schema::new(fields)), all)
}

/// A row that may go on.
struct Ranked {
    /// Less is better.
    place: Box<[u8]>,
    at_us: i64,
    kept: Box<[u8]>,
}

struct Top {
    output: StreamSchema,
    /// How many rows go on.
    rows: usize,
    size_us: i64,
    order: RowConverter,
    /// Rows without a value have a place as well.
    keeps_nulls: bool,
    kept: Kept,
    /// By the start of the window, then by key: the best rows, best first.
    windows: BTreeMap<i64, BTreeMap<u32, Vec<Ranked>>>,
    /// Every window that ends at or before this has been closed.
    closed_us: i64,
}

impl Top {
    fn window_of(&self, at_us: i64) -> i64 {
        at_us.saturating_sub(at_us.rem_euclid(self.size_us))
    }

    fn emit<'a>(
        &self,
        keys: impl Iterator<Item = &'a Vec<Ranked>>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let ranked: Vec<(i64, &Ranked)> = keys.flat_map(|rows| (1..).zip(rows)).collect();
        let mut columns = self.kept.decode(ranked.iter().map(|(_, row)| Some(row.kept.as_ref())))?;
        columns.pop();
        columns.push(Arc::new(ranked.iter().map(|(rank, _)| Some(*rank)).collect::<Int64Array>()));
        out.emit(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?);
        Ok(())
    }

    fn close(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        while let Some(window) = self.windows.first_entry() {
            let end_us = window.key().saturating_add(self.size_us);
            if end_us > until_us {
                break;
            }
            let keys = window.remove();
            self.closed_us = self.closed_us.max(end_us);
            self.emit(keys.values(), out)?;
        }
        Ok(())
    }
}

impl Ordered for Top {
    fn on_rows(&mut self, rows: &Rows<'_>, _out: &mut Output) -> Result<(), OperatorError> {
        let [by] = rows.values else { return Err(shape()) };
        let places = self.order.convert_columns(std::slice::from_ref(by))?;
        let kept = self.kept.encode_columns(&[rows.batch.columns(), rows.values].concat())?;
        for ((row, (at_us, key)), (place, kept)) in
            rows.iter().enumerate().zip(places.iter().zip(kept.iter()))
        {
            if by.is_null(row) && !self.keeps_nulls {
                continue;
            }
            let start_us = self.window_of(at_us);
            let best = self.windows.entry(start_us).or_default().entry(key).or_default();
            let ahead =
                best.partition_point(|other| (other.place.as_ref(), other.at_us) <= (place.data(), at_us));
            if ahead < self.rows {
                best.truncate(self.rows - 1);
                best.insert(ahead, Ranked { place: place.data().into(), at_us, kept: kept.data().into() });
            }
        }
        Ok(())
    }

    fn on_time(&mut self, now_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        self.close(now_us, out)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        self.close(i64::MAX, out)
    }

    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        Some(self.window_of(watermark_us).max(self.closed_us))
    }

    /// Rows keep their times, so the open window holds it.
    fn output_watermark(&self, input_us: i64) -> i64 {
        self.window_of(input_us)
    }

    /// Its windows end before the row that comes next, or have been closed.
    fn forget(&mut self, key: u32, out: &mut Output) -> Result<(), OperatorError> {
        let left: Vec<Vec<Ranked>> = self.windows.values_mut().filter_map(|keys| keys.remove(&key)).collect();
        self.windows.retain(|_, keys| !keys.is_empty());
        self.emit(left.iter(), out)
    }

    fn bytes(&self) -> usize {
        let rows = self.windows.values().flat_map(|ranked| ranked.values()).flatten();
        rows.map(|row| size_of::<Ranked>() + row.place.len() + row.kept.len()).sum()
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Keyed(1), Share::Common])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut rows: Vec<(i64, u32, &Ranked)> = Vec::new();
        for (start_us, ranked) in &self.windows {
            for (number, key) in (0..).zip(keys) {
                rows.extend(ranked.get(key).into_iter().flatten().map(|row| (*start_us, number, row)));
            }
        }
        let mut fields = vec![
            Field::new("start_us", DataType::Int64, false),
            Field::new("key", DataType::UInt32, false),
            Field::new("at_us", DataType::Int64, false),
        ];
        fields.extend(self.kept.fields("kept"));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<UInt32Array>()),
            Arc::new(rows.iter().map(|row| Some(row.2.at_us)).collect::<Int64Array>()),
        ];
        columns.extend(self.kept.decode(rows.iter().map(|row| Some(row.2.kept.as_ref())))?);
        let closed: ArrayRef = Arc::new(Int64Array::from(vec![self.closed_us]));
        Ok(vec![
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?,
            RecordBatch::try_from_iter([("closed_us", closed)])?,
        ])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [rows, closed] = state else { return Err(shape()) };
        let [starts, keys, times, kept @ ..] = rows.columns() else { return Err(shape()) };
        let starts = starts.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let keys = keys.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?;
        let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let places = self.order.convert_columns(kept.last().map(std::slice::from_ref).unwrap_or_default())?;
        let kept = self.kept.encode_columns(kept)?;
        let ranked = times.values().iter().zip(places.iter()).zip(kept.iter());
        let ranked = ranked.map(|((at_us, place), kept)| Ranked {
            place: place.data().into(),
            at_us: *at_us,
            kept: kept.data().into(),
        });
        // They were saved best first.
        for ((start_us, key), row) in starts.values().iter().zip(keys.values()).zip(ranked) {
            self.windows.entry(*start_us).or_default().entry(*key).or_default().push(row);
        }
        let closed = closed.columns().first().and_then(|column| column.as_primitive_opt::<Int64Type>());
        self.closed_us = closed.filter(|closed| !closed.is_empty()).ok_or_else(shape)?.value(0);
        Ok(())
    }
}

//! `deadband`: report by exception. A row goes on when its value has moved far
//! enough since the last row of its key that went on, or when that was long
//! enough ago.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output};
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{FORGET, InOrder, KEY, Ordered, PerKey, Rows, key_columns, places, ports, shape};
use crate::part::{number_columns, only_input, require_time};

const KEYS: &[Key] = &[
    KEY,
    required("column", Kind::Text, "the number that is watched"),
    optional("absolute", Kind::Number, "a smaller change does not go on").aside(),
    optional(
        "percent",
        Kind::Number,
        "a smaller change, in percent of the last value that went on, does not go on",
    )
    .aside(),
    optional(
        "min_interval",
        Kind::Duration,
        "no row goes on so soon after the last one that did, however large the change; a later one does if the value has still changed",
    )
    .aside(),
    optional(
        "max_interval",
        Kind::Duration,
        "a row goes on if the last one that did is this old, changed or not",
    )
    .aside(),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "deadband",
    summary: "lets a row through when its value has changed enough (report by exception)",
    keys: &[KEYS],
    example: r#"[operator.changes]
type     = "deadband"
from     = "rows"
key      = ["device"]
column   = "value"
absolute = 0.5
max_interval = "1m"
"#,
    build,
};

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let column = number_columns(config, "column", &input.stream, &mut diagnostics).first().copied();
    let spec = read_spec(config, &mut diagnostics);
    let (Some(column), true) = (column, diagnostics.is_empty()) else { return Err(ConfigError(diagnostics)) };
    let operator = InOrder::new(config, input, keys, Deadband { column, spec, last: PerKey::default() })?;
    Ok(OperatorPart { operator: Box::new(operator), ports: ports(input.stream.clone(), &input.stream) })
}

fn read_spec(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Spec {
    let table = &config.table;
    let (absolute, percent) = (table.number("absolute"), table.number("percent"));
    if absolute.is_none() && percent.is_none() {
        let message = format!("`{}` needs `absolute` or `percent`", config.name);
        out.push(Diagnostic::error("TG-C004", message).at(config.name_span.clone()));
    }
    for (key, value) in [("absolute", absolute), ("percent", percent)] {
        if value.is_some_and(|value| value.is_nan() || value < 0.0) {
            let message = format!("`{key}` of `{}` is below zero: every change is larger", config.name);
            out.push(Diagnostic::error("TG-C005", message).at(table.span_of(key)));
        }
    }
    let span = |key: &str| table.duration(key).map(micros);
    let spec = Spec {
        absolute: absolute.unwrap_or(f64::INFINITY),
        fraction: percent.map_or(f64::INFINITY, |percent| percent / 100.0),
        min_interval_us: span("min_interval").unwrap_or(0),
        max_interval_us: span("max_interval").unwrap_or(i64::MAX),
    };
    if spec.min_interval_us > spec.max_interval_us {
        let message = format!("`min_interval` of `{}` is longer than its `max_interval`", config.name);
        out.push(Diagnostic::error("TG-C006", message).at(table.span_of("min_interval")));
    }
    spec
}

/// When a row goes on.
struct Spec {
    absolute: f64,
    /// Of the last value.
    fraction: f64,
    min_interval_us: i64,
    max_interval_us: i64,
}

impl Spec {
    /// Whether a row goes on after the last one that did. A value that comes or
    /// goes (NULL) is a change.
    fn passes(&self, last: Option<Last>, value: Option<f64>, at_us: i64) -> bool {
        let Some(last) = last else { return true };
        let since_us = at_us.saturating_sub(last.at_us);
        if since_us < self.min_interval_us || since_us >= self.max_interval_us {
            return since_us >= self.max_interval_us;
        }
        match (last.value, value) {
            // A NaN that comes or goes is a change, and no distance from one is known.
            (Some(last), Some(value)) if last.is_nan() || value.is_nan() => last.is_nan() != value.is_nan(),
            (Some(last), Some(value)) => {
                let change = (value - last).abs();
                change >= self.absolute || change >= self.fraction * last.abs() && change > 0.0
            }
            (last, value) => last.is_some() != value.is_some(),
        }
    }
}

/// The last row of a key that went on.
#[derive(Clone, Copy)]
struct Last {
    value: Option<f64>,
    at_us: i64,
}

struct Deadband {
    column: usize,
    spec: Spec,
    last: PerKey<Option<Last>>,
}

impl Ordered for Deadband {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let missing = || OperatorError::new("a batch without the watched column");
        let values = cast(rows.batch.columns().get(self.column).ok_or_else(missing)?, &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let mut mask = Vec::with_capacity(rows.times.len());
        for ((at_us, key), value) in rows.iter().zip(values) {
            let Some(last) = self.last.of(key) else { continue };
            let passes = self.spec.passes(*last, value, at_us);
            if passes {
                *last = Some(Last { value, at_us });
            }
            mask.push(passes);
        }
        out.emit(filter_record_batch(rows.batch, &BooleanArray::from(mask))?);
        Ok(())
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(vec![self.column])
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.last.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let last = || keys.iter().map(|key| self.last.get(*key).copied().flatten());
        let columns: [(&str, ArrayRef, bool); 3] = [
            ("key", places(keys), false),
            ("value", Arc::new(last().map(|last| last?.value).collect::<Float64Array>()), true),
            ("at_us", Arc::new(last().map(|last| Some(last?.at_us)).collect::<Int64Array>()), true),
        ];
        Ok(vec![RecordBatch::try_from_iter_with_nullable(columns)?])
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [_, values, times] = batch.columns() else { return Err(shape()) };
        let values = values.as_primitive_opt::<Float64Type>().ok_or_else(shape)?;
        let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        self.last.load(values.iter().zip(times).map(|(value, at_us)| Some(Last { value, at_us: at_us? })));
        Ok(())
    }
}

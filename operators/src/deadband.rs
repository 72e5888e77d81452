//! `deadband`: report by exception. A row goes on when its value has moved far
//! enough since the last row of its key that went on, or when that was long
//! enough ago.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::schema::{StreamSchema, type_name};
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::part::{key_texts, named_columns, only_input, require_time};

const KEYS: &[Key] = &[
    optional("key", Kind::List(&Kind::Text), "columns; each combination is judged by itself"),
    required("column", Kind::Text, "the number that is watched"),
    optional("absolute", Kind::Number, "a smaller change does not go on").aside(),
    optional(
        "percent",
        Kind::Number,
        "a smaller change, in percent of the last value that went on, does not go on",
    )
    .aside(),
    optional("max_interval", Kind::Duration, "a row goes on at the latest after this time, changed or not")
        .aside(),
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
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let keys = named_columns(config, "key", &input.stream, &mut diagnostics);
    let column = named_columns(config, "column", &input.stream, &mut diagnostics).first().copied();
    let data_type =
        column.and_then(|index| input.stream.columns.fields().get(index)).map(|field| field.data_type());
    if let Some(data_type) = data_type.filter(|data_type| !data_type.is_numeric()) {
        let message = format!("`column` of `{}` is {} and no number", config.name, type_name(data_type));
        diagnostics.push(Diagnostic::error("TG-X003", message).at(table.span_of("column")));
    }
    let (absolute, percent) = (table.number("absolute"), table.number("percent"));
    if absolute.is_none() && percent.is_none() {
        let message = format!("`{}` needs `absolute` or `percent`", config.name);
        diagnostics.push(Diagnostic::error("TG-C004", message).at(config.name_span.clone()));
    }
    for (key, value) in [("absolute", absolute), ("percent", percent)] {
        if value.is_some_and(|value| value.is_nan() || value < 0.0) {
            let message = format!("`{key}` of `{}` is below zero: every change is larger", config.name);
            diagnostics.push(Diagnostic::error("TG-C005", message).at(table.span_of(key)));
        }
    }
    let Some(column) = column.filter(|_| diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let operator = Deadband {
        stream: input.stream.clone(),
        keys,
        column,
        absolute: absolute.unwrap_or(f64::INFINITY),
        fraction: percent.map_or(f64::INFINITY, |percent| percent / 100.0),
        max_interval_us: table.duration("max_interval").map_or(i64::MAX, |time: Duration| micros(time)),
        last: BTreeMap::new(),
    };
    let ports = vec![Port { name: String::new(), stream: input.stream.clone() }];
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

struct Deadband {
    stream: StreamSchema,
    keys: Vec<usize>,
    column: usize,
    absolute: f64,
    /// Of the last value.
    fraction: f64,
    max_interval_us: i64,
    /// Value (`None`: NULL) and time of the last row that went on, by key.
    last: BTreeMap<String, (Option<f64>, i64)>,
}

impl Deadband {
    /// Whether the row goes on; it is remembered if so. A value that comes or
    /// goes (NULL) is a change.
    fn passes(&mut self, key: String, value: Option<f64>, at_us: i64) -> bool {
        let passes = match self.last.get(&key) {
            None => true,
            Some((_, last_us)) if at_us.saturating_sub(*last_us) >= self.max_interval_us => true,
            Some((None, _)) => value.is_some(),
            Some((Some(last), _)) => value.is_none_or(|value| {
                let change = (value - last).abs();
                change >= self.absolute || change >= self.fraction * last.abs() && change > 0.0
            }),
        };
        if passes {
            self.last.insert(key, (value, at_us));
        }
        passes
    }
}

impl Operator for Deadband {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let times = self.stream.times(batch)?;
        let missing = || OperatorError::new("a batch without the watched column");
        let values = cast(batch.columns().get(self.column).ok_or_else(missing)?, &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let mut mask = Vec::with_capacity(batch.num_rows());
        let keys = key_texts(batch, &self.keys)?;
        for ((row, at_us), key) in times.values().iter().enumerate().zip(keys) {
            let value = (!values.is_null(row)).then(|| values.value(row));
            mask.push(self.passes(key, value, *at_us));
        }
        out.emit(filter_record_batch(batch, &BooleanArray::from(mask))?);
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        let time = self.stream.time.into_iter();
        Some(self.keys.iter().copied().chain([self.column]).chain(time).collect())
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        if self.last.is_empty() {
            return Ok(Vec::new());
        }
        let columns: [(&str, ArrayRef, bool); 3] = [
            ("key", Arc::new(self.last.keys().map(Some).collect::<StringArray>()), false),
            ("value", Arc::new(self.last.values().map(|(value, _)| *value).collect::<Float64Array>()), true),
            ("at_us", Arc::new(self.last.values().map(|(_, at)| Some(*at)).collect::<Int64Array>()), false),
        ];
        Ok(vec![RecordBatch::try_from_iter_with_nullable(columns)?])
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        let shape = || OperatorError::new("the saved state of the deadband has another shape");
        for batch in &state {
            let [keys, values, times] = batch.columns() else { return Err(shape()) };
            let keys = keys.as_string_opt::<i32>().ok_or_else(shape)?;
            let values = values.as_primitive_opt::<Float64Type>().ok_or_else(shape)?;
            let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
            for ((key, value), time) in keys.iter().flatten().zip(values).zip(times.values()) {
                self.last.insert(key.to_owned(), (value, *time));
            }
        }
        Ok(())
    }
}

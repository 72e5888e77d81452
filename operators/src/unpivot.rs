//! `unpivot`: columns become rows of one name and one value each, as
//! historians and point tables keep them. `pivot` is the other way.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, filter_record_batch, interleave, is_not_null, take};
use arrow::datatypes::{DataType, Field};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::schema::{StreamSchema, type_name};
use tidegate_engine::template::display;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::part::{named_columns, only_input};

const KEYS: &[Key] = &[
    optional(
        "columns",
        Kind::List(&Kind::Text),
        "these become rows, in this order; all others stay in each of them",
    ),
    optional("keep", Kind::List(&Kind::Text), "instead of `columns`: these stay, all others become rows"),
    optional("name", Kind::Text, "name of the new column with the name, \"point\" if left out"),
    optional("value", Kind::Text, "name of the new column with the value, \"value\" if left out"),
    optional(
        "value_type",
        Kind::Word(&["float64", "string"]),
        "what values are brought to where their types differ; whole numbers and float64 need none",
    ),
    optional(
        "nulls",
        Kind::Word(&["keep", "drop"]),
        "keep (default): NULL gives a row too; drop: it gives none",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "unpivot",
    summary: "columns become rows of one name and one value each",
    keys: &[KEYS],
    example: r#"[operator.points]
type       = "unpivot"
from       = "rows"
columns    = ["value", "quality"]
value_type = "string"
"#,
    build,
};

/// Rows that leave together, about: many columns must not make one huge batch.
const ROWS_MAX: usize = 8_192;

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let fields = input.stream.columns.fields();
    let columns = turned(config, input)?;
    let value_type = value_type(config, input, &columns)?;
    let kept: Vec<usize> = (0..fields.len()).filter(|index| !columns.contains(index)).collect();
    let name = config.table.text("name").map_or("point", |text| text.value.as_str());
    let value = config.table.text("value").map_or("value", |text| text.value.as_str());
    let names =
        columns.iter().filter_map(|index| fields.get(*index)).map(|field| field.name().clone()).collect();
    let mut output: Vec<Field> =
        kept.iter().filter_map(|index| fields.get(*index)).map(|field| field.as_ref().clone()).collect();
    output.push(Field::new(name, DataType::Utf8, false));
    output.push(Field::new(value, value_type.clone(), true));
    for (at, field) in output.iter().enumerate() {
        if output.iter().take(at).any(|earlier| earlier.name() == field.name()) {
            let message = format!("two columns of `{}` are called `{}`", config.name, field.name());
            let help = "`name` and `value` call the two new columns";
            let span = config.table.span_of(if field.name() == name { "name" } else { "value" });
            return Err(Diagnostic::error("TG-T009", message).at(span).help(help).into());
        }
    }
    let time = kept.iter().position(|index| Some(*index) == input.stream.time);
    let stream =
        StreamSchema { time, time_shift_us: input.stream.time_shift_us, ..StreamSchema::new(output, None) };
    let ports = vec![Port { name: String::new(), stream: stream.clone() }];
    let drops_nulls = config.table.str("nulls") == Some("drop");
    let operator = Unpivot { output: stream, columns, names, kept, value_type, drops_nulls, left: None };
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// The columns that become rows.
fn turned(config: &NodeConfig, input: &Input) -> Result<Vec<usize>, ConfigError> {
    let (table, name) = (&config.table, &config.name);
    let mut diagnostics = Vec::new();
    let columns = match (table.get("columns").is_some(), table.get("keep").is_some()) {
        (true, false) => named_columns(config, "columns", &input.stream, &mut diagnostics),
        (false, true) => {
            let keep = named_columns(config, "keep", &input.stream, &mut diagnostics);
            (0..input.stream.columns.fields().len()).filter(|index| !keep.contains(index)).collect()
        }
        (both, _) => {
            let code = if both { "TG-C006" } else { "TG-C004" };
            let message = format!("`{name}` needs one of `columns` and `keep`");
            let span = if both { table.span_of("keep") } else { config.name_span.clone() };
            let help = "columns = [\"pressure\", \"running\"] become rows; or keep = [\"ts\", \"device\"] and all others do";
            return Err(Diagnostic::error(code, message).at(span).help(help).into());
        }
    };
    let key = if table.get("columns").is_some() { "columns" } else { "keep" };
    if columns.is_empty() && diagnostics.is_empty() {
        let message = format!("no column of `{name}` would become a row");
        diagnostics.push(Diagnostic::error("TG-C006", message).at(table.span_of(key)));
    }
    if columns.iter().any(|index| Some(*index) == input.stream.time) {
        let time = input.stream.time_name().unwrap_or_default();
        let message = format!("event time `{time}` would become a row");
        let help = format!("each row needs its time: leave `{time}` out of `columns`, or put it into `keep`");
        diagnostics.push(Diagnostic::error("TG-C006", message).at(table.span_of(key)).help(help));
    }
    if diagnostics.is_empty() { Ok(columns) } else { Err(ConfigError(diagnostics)) }
}

/// The one type that all values have, or are brought to.
fn value_type(config: &NodeConfig, input: &Input, columns: &[usize]) -> Result<DataType, ConfigError> {
    let fields = columns.iter().filter_map(|index| input.stream.columns.fields().get(*index));
    let fields: Vec<_> = fields.collect();
    let types: Vec<&DataType> = fields.iter().map(|field| field.data_type()).collect();
    let wish = config.table.text("value_type");
    let found = match wish.map(|text| text.value.as_str()) {
        Some("string") => DataType::Utf8,
        Some(_) => {
            let is_number = |of: &DataType| of.is_numeric() || matches!(of, DataType::Boolean);
            if let Some(field) = fields.iter().find(|field| !is_number(field.data_type())) {
                let of = type_name(field.data_type());
                let message = format!("`{}` is {of} and no number", field.name());
                let span = wish.map(|text| text.span.clone()).unwrap_or_default();
                let help = "leave that column out, or write value_type = \"string\"";
                return Err(Diagnostic::error("TG-X003", message).at(span).help(help).into());
            }
            DataType::Float64
        }
        None => match common(&types) {
            Some(common) => common,
            None => {
                let words: Vec<String> = fields
                    .iter()
                    .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
                    .collect();
                let message =
                    format!("the values of `{}` are of different types: {}", config.name, words.join(", "));
                let key = if config.table.get("columns").is_some() { "columns" } else { "keep" };
                let help = "say what to bring them to: value_type = \"float64\" (true is 1), or \"string\"";
                return Err(Diagnostic::error("TG-X003", message)
                    .at(config.table.span_of(key))
                    .help(help)
                    .into());
            }
        },
    };
    Ok(found)
}

/// The type that holds all values: whole numbers beside floats become floats.
fn common(types: &[&DataType]) -> Option<DataType> {
    let first = *types.first()?;
    if types.iter().all(|of| *of == first) {
        return Some(first.clone());
    }
    let is_small = |of: &DataType| of.is_integer() && of.primitive_width().is_some_and(|width| width <= 4);
    if types.iter().all(|of| is_small(of) || matches!(of, DataType::Int64)) {
        return Some(DataType::Int64);
    }
    types.iter().all(|of| of.is_integer() || of.is_floating()).then_some(DataType::Float64)
}

struct Unpivot {
    output: StreamSchema,
    columns: Vec<usize>,
    /// Names of those columns.
    names: Vec<String>,
    kept: Vec<usize>,
    value_type: DataType,
    drops_nulls: bool,
    /// Rows that have not left yet; only between `on_batch` and `resume`.
    left: Option<RecordBatch>,
}

impl Unpivot {
    /// All rows of a batch, row by row, in each the columns in their order.
    fn turn(&self, batch: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let missing = || OperatorError::new("a batch without a column of its schema");
        let (rows, width) = (batch.num_rows(), self.columns.len());
        let mut values = Vec::with_capacity(width);
        for index in &self.columns {
            values.push(brought_to(&self.value_type, batch.columns().get(*index).ok_or_else(missing)?)?);
        }
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        let places: Vec<(usize, usize)> =
            (0..rows).flat_map(|row| (0..width).map(move |column| (column, row))).collect();
        let rows = u32::try_from(rows).map_err(OperatorError::new)?;
        let of_row: UInt32Array =
            (0..rows).flat_map(|row| std::iter::repeat_n(row, width)).collect::<Vec<_>>().into();
        let mut columns = Vec::with_capacity(self.kept.len() + 2);
        for index in &self.kept {
            columns.push(take(batch.columns().get(*index).ok_or_else(missing)?, &of_row, None)?);
        }
        let names: Vec<&String> = (0..rows).flat_map(|_| self.names.iter()).collect();
        columns.push(Arc::new(StringArray::from_iter_values(names)) as ArrayRef);
        let values = interleave(&values, &places)?;
        let is_given = is_not_null(&values)?;
        columns.push(values);
        let all = RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?;
        Ok(if self.drops_nulls { filter_record_batch(&all, &is_given)? } else { all })
    }

    fn step(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        let Some(batch) = self.left.take() else { return Ok(Progress::Done) };
        let count = (ROWS_MAX / self.columns.len().max(1)).clamp(1, batch.num_rows().max(1));
        out.emit(self.turn(&batch.slice(0, count.min(batch.num_rows())))?);
        if count >= batch.num_rows() {
            return Ok(Progress::Done);
        }
        self.left = Some(batch.slice(count, batch.num_rows() - count));
        Ok(Progress::More)
    }
}

/// A column's values in another type that can hold them.
fn brought_to(value_type: &DataType, column: &ArrayRef) -> Result<ArrayRef, OperatorError> {
    if column.data_type() == value_type {
        return Ok(Arc::clone(column));
    }
    let of = column.data_type();
    // Arrow's own texts of times need to know zones by name.
    if value_type == &DataType::Utf8 && (of.is_temporal() || of.is_nested()) {
        let texts =
            (0..column.len()).map(|row| column.is_valid(row).then(|| display(column, row)).transpose());
        let texts: Result<StringArray, OperatorError> = texts.collect();
        return Ok(Arc::new(texts?));
    }
    Ok(cast(column, value_type)?)
}

impl Operator for Unpivot {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        self.left = Some(batch.clone());
        self.step(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.step(out)
    }
}

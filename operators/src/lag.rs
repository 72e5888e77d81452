//! `lag`: values of an earlier row of the same key beside those of each row, and
//! how much they have changed since.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, UInt32Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output};
use tidegate_engine::schema::{StreamSchema, type_name};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{
    FORGET, InOrder, KEY, Kept, Ordered, PerKey, Rows, check_kept, key_columns, ports, shape,
};
use crate::part::{check_names, named_columns, only_input, require_time};

/// Most rows looked back on.
const ROWS_MAX: i64 = 10_000;

const KEYS: &[Key] = &[
    KEY,
    required("columns", Kind::List(&Kind::Text), "columns whose earlier values are wanted"),
    optional("rows", Kind::Int(1, ROWS_MAX), "how many rows of its key before; 1 if left out"),
    optional(
        "add",
        Kind::List(&Kind::Word(&["previous", "delta", "rate"])),
        "columns that each of them gets: previous_NAME, the earlier value; delta_NAME, the value less the earlier one; rate_NAME, delta per second of event time; [\"previous\"] if left out",
    )
    .aside(),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "lag",
    summary: "adds values of an earlier row of the same key, differences and rates; NULL where there is no such row",
    keys: &[KEYS],
    example: r#"[operator.slope]
type    = "lag"
from    = "rows"
key     = ["device"]
columns = ["value"]
add     = ["previous", "delta", "rate"]
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
    let columns = named_columns(config, "columns", &input.stream, &mut diagnostics);
    check_kept(config, "columns", input, &columns, &mut diagnostics);
    let adds = read_adds(config, input, &columns, &mut diagnostics);
    let mut fields: Vec<Field> =
        input.stream.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.extend(adds.iter().map(|add| Field::new(add.name.clone(), add.data_type(), true)));
    check_names(config, "columns", &fields, &mut diagnostics);
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let kept = Kept::new(&input.stream.columns, columns)
        .map_err(|error| Diagnostic::error("TG-X003", error.0).at(config.table.span_of("columns")))?;
    let output = StreamSchema { columns: Arc::new(Schema::new(fields)), ..input.stream.clone() };
    let rows = config.table.int_as("rows").unwrap_or(1);
    let core = Lag { output: output.clone(), rows, kept, adds, earlier: PerKey::default() };
    let operator = InOrder::new(config, input, keys, core)?;
    Ok(OperatorPart { operator: Box::new(operator), ports: ports(output, &input.stream) })
}

/// What a column is made into.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Previous,
    Delta,
    Rate,
}

/// One column that is added.
struct Add {
    what: What,
    /// The column of the input.
    column: usize,
    /// Its place among those that are kept.
    place: usize,
    name: String,
    input: DataType,
}

impl Add {
    fn data_type(&self) -> DataType {
        match self.what {
            What::Previous => self.input.clone(),
            // Differences of whole numbers are whole, and may be below zero.
            What::Delta if self.input.is_integer() => DataType::Int64,
            What::Delta | What::Rate => DataType::Float64,
        }
    }
}

fn read_adds(config: &NodeConfig, input: &Input, columns: &[usize], out: &mut Vec<Diagnostic>) -> Vec<Add> {
    let words = config.table.texts("add");
    let words: Vec<(What, &str)> =
        [(What::Previous, "previous"), (What::Delta, "delta"), (What::Rate, "rate")]
            .into_iter()
            .filter(|(what, word)| {
                words.iter().any(|text| text.value == *word) || (words.is_empty() && *what == What::Previous)
            })
            .collect();
    let mut adds = Vec::new();
    for (place, column) in columns.iter().enumerate() {
        let Some(field) = input.stream.columns.fields().get(*column) else { continue };
        for (what, word) in &words {
            if *what != What::Previous && !field.data_type().is_numeric() {
                let message = format!(
                    "`{}` is {}, so there is no {word} of it",
                    field.name(),
                    type_name(field.data_type())
                );
                let diagnostic = Diagnostic::error("TG-X003", message).at(config.table.span_of("columns"));
                out.push(diagnostic.help("add = [\"previous\"] takes columns of any type"));
                continue;
            }
            let name = format!("{word}_{}", field.name());
            adds.push(Add { what: *what, column: *column, place, name, input: field.data_type().clone() });
        }
    }
    adds
}

/// Time and kept values of a row.
type Earlier = (i64, Box<[u8]>);

struct Lag {
    output: StreamSchema,
    /// How many rows back.
    rows: usize,
    kept: Kept,
    adds: Vec<Add>,
    /// The last rows of each key, as many as are looked back on.
    earlier: PerKey<VecDeque<Earlier>>,
}

impl Lag {
    /// The row that each row looks back on.
    fn look_back(&mut self, rows: &Rows<'_>) -> Result<Vec<Option<Earlier>>, OperatorError> {
        let mut found = Vec::with_capacity(rows.keys.len());
        for (values, (at_us, key)) in self.kept.encode(rows.batch)?.iter().zip(rows.iter()) {
            let Some(earlier) = self.earlier.of(key) else { continue };
            found.push(if earlier.len() < self.rows { None } else { earlier.pop_front() });
            earlier.push_back((at_us, values.data().into()));
        }
        Ok(found)
    }
}

impl Ordered for Lag {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let earlier = self.look_back(rows)?;
        let previous = self.kept.decode(earlier.iter().map(|row| Some(row.as_ref()?.1.as_ref())))?;
        // NULL where no time has passed: nothing can be said of the pace.
        let seconds: Float64Array = rows
            .times
            .iter()
            .zip(&earlier)
            .map(|(at_us, row)| {
                Some(at_us.saturating_sub(row.as_ref()?.0)).filter(|passed_us| *passed_us > 0)
            })
            .map(|passed_us| Some(passed_us? as f64 / 1e6))
            .collect();
        let mut columns = rows.batch.columns().to_vec();
        for add in &self.adds {
            let now = rows.batch.columns().get(add.column).ok_or_else(shape)?;
            let before = previous.get(add.place).ok_or_else(shape)?;
            columns.push(match add.what {
                What::Previous => Arc::clone(before),
                What::Delta => difference(now, before)?,
                What::Rate => {
                    let delta = cast(&difference(now, before)?, &DataType::Float64)?;
                    let pace = delta.as_primitive::<Float64Type>().iter().zip(&seconds);
                    Arc::new(pace.map(|(delta, seconds)| Some(delta? / seconds?)).collect::<Float64Array>())
                }
            });
        }
        out.emit(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?);
        Ok(())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.earlier.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut rows: Vec<(u32, &Earlier)> = Vec::new();
        for (number, key) in (0..).zip(keys) {
            rows.extend(self.earlier.get(*key).into_iter().flatten().map(|row| (number, row)));
        }
        let mut fields =
            vec![Field::new("key", DataType::UInt32, false), Field::new("at_us", DataType::Int64, false)];
        fields.extend(self.kept.fields("kept"));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|(key, _)| Some(*key)).collect::<UInt32Array>()),
            Arc::new(rows.iter().map(|(_, row)| Some(row.0)).collect::<Int64Array>()),
        ];
        columns.extend(self.kept.decode(rows.iter().map(|(_, row)| Some(row.1.as_ref())))?);
        Ok(vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?])
    }

    fn bytes(&self) -> usize {
        self.earlier.bytes(|rows| {
            rows.capacity() * size_of::<Earlier>() + rows.iter().map(|(_, kept)| kept.len()).sum::<usize>()
        })
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [keys, times, values @ ..] = batch.columns() else { return Err(shape()) };
        let keys = keys.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?;
        let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        for ((key, at_us), values) in
            keys.values().iter().zip(times.values()).zip(self.kept.encode_columns(values)?.iter())
        {
            if let Some(earlier) = self.earlier.of(*key) {
                earlier.push_back((*at_us, values.data().into()));
            }
        }
        Ok(())
    }
}

/// `now` less `before`; NULL where one is or where the difference does not fit.
fn difference(now: &ArrayRef, before: &ArrayRef) -> Result<ArrayRef, OperatorError> {
    if now.data_type().is_integer() {
        let (now, before) = (cast(now, &DataType::Int64)?, cast(before, &DataType::Int64)?);
        let pairs = now.as_primitive::<Int64Type>().iter().zip(before.as_primitive::<Int64Type>());
        return Ok(Arc::new(pairs.map(|(now, before)| now?.checked_sub(before?)).collect::<Int64Array>()));
    }
    let (now, before) = (cast(now, &DataType::Float64)?, cast(before, &DataType::Float64)?);
    let pairs = now.as_primitive::<Float64Type>().iter().zip(before.as_primitive::<Float64Type>());
    Ok(Arc::new(pairs.map(|(now, before)| Some(now? - before?)).collect::<Float64Array>()))
}

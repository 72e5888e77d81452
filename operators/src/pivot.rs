//! `pivot`: rows of one name and one value each become columns: what has one
//! key and one instant is one row. It leaves when event time has passed that
//! instant. `unpivot` is the other way.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Field, UInt32Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output, Port};
use tidegate_engine::schema::{StreamSchema, type_name};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{InOrder, Ordered, Rows, Share, key_columns, ports, shape};
use crate::part::{only_input, require_time};

const KEYS: &[Key] = &[
    optional(
        "key",
        Kind::List(&Kind::Text),
        "columns; rows of one combination and one instant become one row, when event time has passed that instant; a row behind the watermark leaves by the port `late`",
    ),
    required(
        "columns",
        Kind::List(&Kind::Text),
        "names that become columns, in this order; a name that gave no value is NULL, of several values the last one counts; rows of other names leave by the port `other`",
    ),
    optional("name", Kind::Text, "the column with the name, \"point\" if left out"),
    optional("value", Kind::Text, "the column with the value, \"value\" if left out"),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "pivot",
    summary: "rows of one name and one value each become columns",
    keys: &[KEYS],
    example: r#"[operator.wide]
type    = "pivot"
from    = "rows"
key     = ["device"]
name    = "quality"
value   = "value"
columns = ["good", "bad"]
"#,
    build,
};

/// Rows of names that no column is made of.
const OTHER_PORT: usize = 2;
/// Nothing is remembered of a key but its number; this keeps numbers few.
const FORGET_US: i64 = 60_000_000;

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let time = require_time(config, input)?;
    let fields = input.stream.columns.fields();
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let name = column(config, input, "name", "point", &mut diagnostics);
    let value = column(config, input, "value", "value", &mut diagnostics);
    if let Some(field) =
        name.and_then(|index| fields.get(index)).filter(|field| field.data_type() != &DataType::Utf8)
    {
        let message =
            format!("`{}` is {}, but names are strings", field.name(), type_name(field.data_type()));
        diagnostics.push(Diagnostic::error("TG-X003", message).at(config.table.span_of("name")));
    }
    let names: Vec<String> = config.table.texts("columns").iter().map(|text| text.value.clone()).collect();
    if names.is_empty() {
        let message = format!("`columns` of `{}` is empty", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("columns")));
    }
    let (Some(name), Some(value), true) = (name, value, diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let of_value = fields.get(value).map_or(&DataType::Null, |field| field.data_type());
    let kept: Vec<usize> =
        [time].into_iter().chain(keys.iter().copied().filter(|key| *key != time)).collect();
    let mut output: Vec<Field> =
        kept.iter().filter_map(|index| fields.get(*index)).map(|field| field.as_ref().clone()).collect();
    for text in config.table.texts("columns") {
        if output.iter().any(|field| *field.name() == text.value) {
            let message = format!("two columns of `{}` are called `{}`", config.name, text.value);
            return Err(Diagnostic::error("TG-T009", message).at(text.span.clone()).into());
        }
        output.push(Field::new(&text.value, of_value.clone(), true));
    }
    let mut stream = StreamSchema { time: Some(0), ..StreamSchema::new(output, None) };
    stream.time_shift_us = input.stream.time_shift_us;
    let mut ports = ports(stream.clone(), &input.stream);
    ports.push(Port { name: "other".into(), stream: input.stream.clone() });
    let core =
        Pivot { input: input.stream.clone(), output: stream, kept, name, value, names, held: Vec::new() };
    let operator = InOrder::new(config, input, keys, core)?.with_forget(FORGET_US);
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// The column that a key of the node names, or the one that is called so.
fn column(
    config: &NodeConfig,
    input: &Input,
    key: &str,
    default: &str,
    out: &mut Vec<Diagnostic>,
) -> Option<usize> {
    let fields = input.stream.columns.fields();
    let name = config.table.text(key).map_or(default, |text| text.value.as_str());
    let found = fields.iter().position(|field| field.name() == name);
    if found.is_none() {
        let names = || fields.iter().map(|field| field.name().as_str());
        let diagnostic = Diagnostic::error("TG-X002", format!("there is no column `{name}`"));
        let help = format!(
            "`{key}` says which one it is; the columns are {}",
            names().collect::<Vec<_>>().join(", ")
        );
        let place = config.table.text(key).map_or_else(|| config.name_span.clone(), |text| text.span.clone());
        out.push(diagnostic.at(place).help(help).suggest(name, names()));
    }
    found
}

struct Pivot {
    input: StreamSchema,
    output: StreamSchema,
    /// Event time and key.
    kept: Vec<usize>,
    name: usize,
    value: usize,
    /// What becomes a column.
    names: Vec<String>,
    /// Rows that event time has reached and not passed, with the numbers of
    /// their keys.
    held: Vec<(RecordBatch, Vec<u32>)>,
}

impl Pivot {
    fn names_of<'a>(&self, batch: &'a RecordBatch) -> Result<&'a StringArray, OperatorError> {
        let column = batch.columns().get(self.name).and_then(|column| column.as_string_opt::<i32>());
        column.ok_or_else(|| OperatorError::new("a batch without the column of names"))
    }

    /// All that is held, in order.
    fn all(&mut self) -> Result<(RecordBatch, Vec<u32>), OperatorError> {
        let batch = concat_batches(&self.input.columns, self.held.iter().map(|(batch, _)| batch))?;
        Ok((batch, self.held.drain(..).flat_map(|(_, keys)| keys).collect()))
    }

    /// Sends the rows of all instants before this one.
    fn send(&mut self, before_us: Option<i64>, out: &mut Output) -> Result<(), OperatorError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let (batch, keys) = self.all()?;
        let times = self.input.times(&batch)?;
        let ready = before_us
            .map_or(times.len(), |before_us| times.values().partition_point(|time| *time < before_us));
        let (sent, left) = keys.split_at_checked(ready).ok_or_else(shape)?;
        if !sent.is_empty() {
            out.emit(self.turn(&batch.slice(0, ready), times.values(), sent)?);
        }
        if !left.is_empty() {
            // A copy: the rows before it need not stay in memory.
            let rows = u32::try_from(ready).and_then(|from| Ok(from..u32::try_from(batch.num_rows())?));
            let rows = UInt32Array::from_iter_values(rows.map_err(OperatorError::new)?);
            self.held.push((take_record_batch(&batch, &rows)?, left.to_vec()));
        }
        Ok(())
    }

    /// One row for each key and instant, in order of their first rows.
    fn turn(&self, batch: &RecordBatch, times: &[i64], keys: &[u32]) -> Result<RecordBatch, OperatorError> {
        let names = self.names_of(batch)?;
        let place_of: HashMap<&str, usize> =
            self.names.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        let mut firsts: Vec<u32> = Vec::new();
        let mut cells: Vec<Vec<Option<u32>>> = vec![Vec::new(); self.names.len()];
        let mut of_instant: HashMap<u32, usize> = HashMap::new();
        let mut instant = None;
        for (((row, time), key), name) in (0_u32..).zip(times).zip(keys).zip(names) {
            if instant.replace(time) != Some(time) {
                of_instant.clear();
            }
            let made = *of_instant.entry(*key).or_insert_with(|| {
                firsts.push(row);
                cells.iter_mut().for_each(|column| column.push(None));
                firsts.len() - 1
            });
            let place = name.and_then(|name| place_of.get(name));
            let column = place.and_then(|place| cells.get_mut(*place));
            if let Some(cell) = column.and_then(|column| column.get_mut(made)) {
                *cell = Some(row);
            }
        }
        let missing = || OperatorError::new("a batch without a column of its schema");
        let firsts = UInt32Array::from(firsts);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.kept.len() + cells.len());
        for index in &self.kept {
            columns.push(take(batch.columns().get(*index).ok_or_else(missing)?, &firsts, None)?);
        }
        let values = batch.columns().get(self.value).ok_or_else(missing)?;
        for rows in cells {
            columns.push(take(values, &UInt32Array::from(rows), None)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?)
    }
}

impl Ordered for Pivot {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let names = self.names_of(rows.batch)?;
        let is_ours =
            |name: Option<&str>| name.is_some_and(|name| self.names.iter().any(|ours| ours == name));
        let (mut ours, mut others, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for ((row, name), key) in (0_u32..).zip(names).zip(rows.keys) {
            if is_ours(name) {
                ours.push(row);
                keys.push(*key);
            } else {
                others.push(row);
            }
        }
        if others.is_empty() {
            self.held.push((rows.batch.clone(), keys));
            return Ok(());
        }
        out.emit_to(OTHER_PORT, take_record_batch(rows.batch, &UInt32Array::from(others))?);
        if !ours.is_empty() {
            self.held.push((take_record_batch(rows.batch, &UInt32Array::from(ours))?, keys));
        }
        Ok(())
    }

    fn on_time(&mut self, now_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        self.send(Some(now_us), out)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        self.send(None, out)
    }

    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        Some(watermark_us)
    }

    /// The rows that are held, and which key each is of.
    fn bytes(&self) -> usize {
        self.held
            .iter()
            .map(|(rows, keys)| rows.get_array_memory_size() + keys.capacity() * size_of::<u32>())
            .sum()
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Beside(1), Share::Keyed(0)])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        if self.held.is_empty() {
            return Ok(Vec::new());
        }
        let place_of: HashMap<u32, u32> = keys.iter().copied().zip(0..).collect();
        let (batch, held) = self.all()?;
        let places = held.iter().map(|key| place_of.get(key).copied().ok_or_else(shape));
        let places: ArrayRef = Arc::new(places.collect::<Result<UInt32Array, _>>()?);
        self.held.push((batch.clone(), held));
        Ok(vec![batch, RecordBatch::try_from_iter([("key", places)])?])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch, places] = state else { return if state.is_empty() { Ok(()) } else { Err(shape()) } };
        let [places] = places.columns() else { return Err(shape()) };
        let places = places.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?;
        if batch.schema().fields() != self.input.columns.fields() || places.len() != batch.num_rows() {
            return Err(shape());
        }
        self.held.push((batch.clone(), places.values().to_vec()));
        Ok(())
    }
}

//! `flatten`: nested columns become plain ones. A struct gives a column for
//! each of its fields, a list a row for each of its items.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::compute::{cast, is_null, nullif, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::schema::{StreamSchema, type_name};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::part::{named_columns, only_input};

const KEYS: &[Key] = &[
    optional(
        "columns",
        Kind::List(&Kind::Text),
        "structs, of which each field (of fields too) becomes a column, and lists, of which each item becomes a row; lists of one row go side by side, a shorter one filled up with NULL; every struct and list if left out",
    ),
    optional(
        "prefix",
        Kind::Bool,
        "true (default): a field is called `column_field` then; false: it keeps its name",
    ),
    optional("index", Kind::Text, "name of a further column with the number of each item, from 0"),
    optional(
        "empty",
        Kind::Word(&["keep", "drop"]),
        "keep (default): a row whose lists are NULL or empty stays, with NULL for its item; drop: it goes",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "flatten",
    summary: "fields of structs become columns, items of lists become rows",
    keys: &[KEYS],
    example: r#"[operator.bursts]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "10s" }
select = ["array_agg(value) AS samples", "max(value) AS peak"]

[operator.samples]
type    = "flatten"
from    = "bursts"
columns = ["samples"]
index   = "number"
"#,
    build,
};

/// Rows that leave together: a long list must not become one large batch.
const ROWS_MAX: usize = 8_192;

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let fields = input.stream.columns.fields();
    let chosen = chosen(config, input)?;
    let prefix = config.table.bool("prefix").unwrap_or(true);
    let (mut leaves, mut lists) = (Vec::new(), Vec::new());
    for (column, field) in fields.iter().enumerate() {
        let item = item_of(field.data_type()).filter(|_| chosen.contains(&column));
        let mut leaf = Leaf { column, list: None, path: Vec::new(), field: field.as_ref().clone() };
        if let Some(item) = item {
            leaf.list = Some(lists.len());
            leaf.field = Field::new(field.name(), item.data_type().clone(), true);
            lists.push(column);
        }
        let open = chosen.contains(&column);
        if open { leaf.spread(prefix, &mut leaves) } else { leaves.push(leaf) }
    }
    let time = leaves.iter().position(|leaf| Some(leaf.column) == input.stream.time && leaf.path.is_empty());
    let mut columns: Vec<Field> = leaves.iter().map(|leaf| leaf.field.clone()).collect();
    let index = config.table.text("index");
    columns.extend(index.map(|name| Field::new(&name.value, DataType::Int64, true)));
    if let Some(index) = index.filter(|_| lists.is_empty()) {
        let message =
            format!("`index` of `{}` would count the items of a list, but there is none", config.name);
        return Err(Diagnostic::error("TG-C006", message).at(index.span.clone()).help("leave it out").into());
    }
    check_names(config, &columns)?;
    let stream =
        StreamSchema { time, time_shift_us: input.stream.time_shift_us, ..StreamSchema::new(columns, None) };
    let ports = vec![Port { name: String::new(), stream: stream.clone() }];
    let keeps_empty = config.table.str("empty") != Some("drop");
    let operator =
        Flatten { output: stream, leaves, lists, is_numbered: index.is_some(), keeps_empty, left: None };
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// The columns that are taken apart.
fn chosen(config: &NodeConfig, input: &Input) -> Result<Vec<usize>, ConfigError> {
    let fields = input.stream.columns.fields();
    let is_nested =
        |data_type: &DataType| matches!(data_type, DataType::Struct(_)) || item_of(data_type).is_some();
    if config.table.get("columns").is_none() {
        let nested: Vec<usize> = fields
            .iter()
            .enumerate()
            .filter(|(_, field)| is_nested(field.data_type()))
            .map(|(at, _)| at)
            .collect();
        if nested.is_empty() {
            let message = format!("`{}` has no column that is a struct or a list", input.name);
            let diagnostic = Diagnostic::error("TG-X003", message).at(config.table.span_of("from"));
            return Err(diagnostic.help("leave this operator out").into());
        }
        return Ok(nested);
    }
    let mut diagnostics = Vec::new();
    let chosen = named_columns(config, "columns", &input.stream, &mut diagnostics);
    if chosen.is_empty() && diagnostics.is_empty() {
        let message = format!("`columns` of `{}` is empty", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("columns")));
    }
    for field in chosen.iter().filter_map(|index| fields.get(*index)) {
        if !is_nested(field.data_type()) {
            let found = type_name(field.data_type());
            let message = format!("`{}` is {found}, neither a struct nor a list", field.name());
            let texts = config.table.texts("columns");
            let place = texts.iter().find(|text| text.value == *field.name()).map(|text| text.span.clone());
            let diagnostic = Diagnostic::error("TG-X003", message).at(place.unwrap_or_default());
            diagnostics.push(diagnostic.help("other columns go on as they are without being named"));
        }
    }
    if diagnostics.is_empty() { Ok(chosen) } else { Err(ConfigError(diagnostics)) }
}

fn check_names(config: &NodeConfig, columns: &[Field]) -> Result<(), Diagnostic> {
    for (at, column) in columns.iter().enumerate() {
        if columns.iter().take(at).any(|earlier| earlier.name() == column.name()) {
            let message = format!("two columns of `{}` are called `{}`", config.name, column.name());
            let help = "give one of them another name with a `project` before; `prefix = true` puts the column's name before its fields";
            return Err(Diagnostic::error("TG-T009", message).at(config.table.span_of("columns")).help(help));
        }
    }
    Ok(())
}

/// The item of a list.
#[allow(clippy::wildcard_enum_match_arm, reason = "Arrow's list of types is open; the rest are no lists")]
fn item_of(data_type: &DataType) -> Option<&FieldRef> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Some(item),
        _ => None,
    }
}

/// Where an output column stands in the input.
struct Leaf {
    column: usize,
    /// Which of the lists it is an item of.
    list: Option<usize>,
    /// Numbers of fields, from outside.
    path: Vec<usize>,
    field: Field,
}

impl Leaf {
    /// Itself, or each field in it.
    fn spread(self, prefix: bool, out: &mut Vec<Leaf>) {
        let DataType::Struct(inner) = self.field.data_type() else { return out.push(self) };
        for (number, field) in inner.iter().enumerate() {
            let name = field.name();
            let name = if prefix { format!("{}_{name}", self.field.name()) } else { name.clone() };
            let nullable = self.field.is_nullable() || field.is_nullable();
            let path = self.path.iter().copied().chain([number]).collect();
            let field = Field::new(name, field.data_type().clone(), nullable);
            Leaf { column: self.column, list: self.list, path, field }.spread(prefix, out);
        }
    }

    /// Its values in those of its column. What is in a NULL struct is NULL.
    fn values(&self, column: &ArrayRef) -> Result<ArrayRef, OperatorError> {
        let mut values = Arc::clone(column);
        for number in &self.path {
            let outside = values.as_struct_opt().ok_or_else(|| OperatorError::new("a struct is none"))?;
            let inside = outside.columns().get(*number);
            let inside = inside.ok_or_else(|| OperatorError::new("a struct lacks a field"))?;
            let is_hidden = outside.null_count() > 0;
            values = if is_hidden { nullif(inside, &is_null(outside)?)? } else { Arc::clone(inside) };
        }
        Ok(values)
    }
}

struct Flatten {
    output: StreamSchema,
    leaves: Vec<Leaf>,
    /// Columns of lists.
    lists: Vec<usize>,
    is_numbered: bool,
    keeps_empty: bool,
    /// Rows that have not left yet; only between `on_batch` and `resume`.
    left: Option<Left>,
}

struct Left {
    batch: RecordBatch,
    lists: Vec<ListArray>,
    /// The next row, and the next item of it.
    row: usize,
    item: usize,
}

/// Which rows and items the next rows are made of.
#[derive(Default)]
struct Pick {
    rows: Vec<u32>,
    /// Places in the values of each list.
    items: Vec<Vec<Option<u32>>>,
    numbers: Vec<Option<i64>>,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.row >= self.batch.num_rows()
    }

    /// The next rows, at most `ROWS_MAX`.
    fn pick(&mut self, keeps_empty: bool) -> Result<Pick, OperatorError> {
        let mut pick = Pick { items: vec![Vec::new(); self.lists.len()], ..Pick::default() };
        while !self.is_empty() && pick.rows.len() < ROWS_MAX {
            let items: Vec<(usize, usize)> = self.lists.iter().map(|list| items(list, self.row)).collect();
            let longest = items.iter().map(|(_, length)| *length).max().unwrap_or(0);
            let count = if keeps_empty { longest.max(1) } else { longest };
            let row = u32::try_from(self.row).map_err(OperatorError::new)?;
            while self.item < count && pick.rows.len() < ROWS_MAX {
                pick.rows.push(row);
                for ((start, length), places) in items.iter().zip(&mut pick.items) {
                    let place = (self.item < *length).then(|| u32::try_from(start + self.item));
                    places.push(place.transpose().map_err(OperatorError::new)?);
                }
                pick.numbers.push(i64::try_from(self.item).ok().filter(|_| longest > 0));
                self.item += 1;
            }
            if self.item >= count {
                (self.row, self.item) = (self.row + 1, 0);
            }
        }
        Ok(pick)
    }
}

/// Where the items of a row begin in the list's values, and how many they are.
fn items(list: &ListArray, row: usize) -> (usize, usize) {
    let offsets = list.value_offsets();
    match (offsets.get(row), offsets.get(row + 1)) {
        (Some(from), Some(to)) if list.is_valid(row) => {
            (usize::try_from(*from).unwrap_or(0), usize::try_from(to - from).unwrap_or(0))
        }
        _ => (0, 0),
    }
}

impl Flatten {
    fn made(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, OperatorError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.output.columns), columns, &options)?)
    }

    /// Emits the next rows of what is left.
    fn step(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        let Some(mut left) = self.left.take() else { return Ok(Progress::Done) };
        let Pick { rows, items, numbers } = left.pick(self.keeps_empty)?;
        let count = rows.len();
        let rows = UInt32Array::from(rows);
        let mut of_lists = Vec::with_capacity(items.len());
        for (list, places) in left.lists.iter().zip(items) {
            of_lists.push(take(list.values(), &UInt32Array::from(places), None)?);
        }
        let missing = || OperatorError::new("a batch without a column of its schema");
        let mut columns = Vec::with_capacity(self.leaves.len() + 1);
        for leaf in &self.leaves {
            columns.push(match leaf.list {
                Some(list) => leaf.values(of_lists.get(list).ok_or_else(missing)?)?,
                None => {
                    let column = left.batch.columns().get(leaf.column).ok_or_else(missing)?;
                    take(&leaf.values(column)?, &rows, None)?
                }
            });
        }
        if self.is_numbered {
            columns.push(Arc::new(Int64Array::from(numbers)));
        }
        out.emit(self.made(columns, count)?);
        if left.is_empty() {
            return Ok(Progress::Done);
        }
        self.left = Some(left);
        Ok(Progress::More)
    }
}

impl Operator for Flatten {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let missing = || OperatorError::new("a batch without a column of its schema");
        if self.lists.is_empty() {
            let columns = self.leaves.iter().map(|leaf| {
                batch.columns().get(leaf.column).ok_or_else(missing).and_then(|column| leaf.values(column))
            });
            let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
            out.emit(self.made(columns, batch.num_rows())?);
            return Ok(Progress::Done);
        }
        let mut lists = Vec::with_capacity(self.lists.len());
        for index in &self.lists {
            let column = batch.columns().get(*index).ok_or_else(missing)?;
            let item = item_of(column.data_type()).ok_or_else(missing)?;
            lists.push(cast(column, &DataType::List(Arc::clone(item)))?.as_list::<i32>().clone());
        }
        self.left = Some(Left { batch: batch.clone(), lists, row: 0, item: 0 });
        self.step(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.step(out)
    }
}

//! `project`: computes columns from columns, row by row.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::expression::{Scope, Selected};
use tidegate_engine::operator::{Input, MAIN_PORT, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::schema::{StreamKind, StreamSchema, rejects_schema, type_name};
use tidegate_engine::time::{micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Table, Text};

use crate::narrow::{narrow, reject_rows};
use crate::part::{check_image, only_input_or};

const TIME_KEYS: &[Key] = &[
    required("column", Kind::Text, "a column that leaves, of type timestamp and never NULL"),
    optional("shift", Kind::Duration, "event time is so far behind it, \"0s\" if left out"),
];

const KEYS: &[Key] = &[
    required(
        "select",
        Kind::List(&Kind::Expression),
        "output columns: a column, `expr AS name`, or `*` for all",
    ),
    optional(
        "time",
        Kind::Table(TIME_KEYS),
        "event time of what leaves, where `select` leaves that of its input out: it must be the same instant",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "project",
    summary: "computes columns from columns, row by row",
    keys: &[KEYS],
    example: r#"[operator.scaled]
type   = "project"
from   = "rows"
select = ["*", "value * 2 AS doubled"]
"#,
    build,
};

const REJECTS_PORT: usize = 1;

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input_or(config, inputs, &[StreamKind::Revises, StreamKind::Changelog])?;
    let scope = Scope::of(&input.stream.columns);
    let mut diagnostics = Vec::new();
    let mut columns: Vec<Selected> = Vec::new();
    let mut add = |text: &Text, selected: Vec<Selected>, diagnostics: &mut Vec<Diagnostic>| {
        for column in selected {
            let name = column.field.name();
            if columns.iter().any(|known| known.field.name() == name) {
                let message = format!("two columns of `{}` are called `{name}`", config.name);
                let diagnostic = Diagnostic::error("TG-T009", message).at(text.span.clone());
                diagnostics.push(diagnostic.help("give one of them another name with AS"));
            }
            columns.push(column);
        }
    };
    for text in config.table.texts("select") {
        match context.expressions.compile_select(text, &scope) {
            Ok(mut selected) => {
                // They come behind the image, asked for or not.
                selected.retain(|column| !is_outside_of_image(input, column));
                for column in &selected {
                    check_image(config, "select", input, &column.expression.columns(), &mut diagnostics);
                }
                add(text, selected, &mut diagnostics);
            }
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    for index in input.stream.outside_of_image() {
        let fields = input.stream.columns.fields();
        let name = fields.get(index).map(|field| field.name().clone()).unwrap_or_default();
        let span = config.table.span_of("select");
        let text = Text { value: format!("\"{name}\""), span, starts_at: None };
        add(&text, context.expressions.compile_select(&text, &scope)?, &mut diagnostics);
    }
    if columns.is_empty() && diagnostics.is_empty() {
        let message = format!("`select` of `{}` is empty", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("select")));
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let fields = columns.iter().map(|column| column.field.as_ref().clone()).collect();
    let time = columns
        .iter()
        .find(|column| column.expression.input_column().is_some_and(|index| Some(index) == input.stream.time))
        .map(|column| column.field.name().clone());
    let mut stream = StreamSchema::new(fields, time.as_deref());
    stream.time_shift_us = input.stream.time_shift_us;
    if let Some(table) = config.table.table("time") {
        (stream.time, stream.time_shift_us) = time_of(table, &stream)?;
    }
    stream.kind = input.stream.kind;
    stream.key = key_of(input, &columns);
    let ports = vec![
        Port { name: String::new(), stream: stream.clone() },
        Port { name: "rejects".into(), stream: rejects_schema() },
    ];
    let operator =
        Project { name: config.name.clone(), input: input.stream.clone(), output: stream, columns };
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// Where the columns that name a result have gone; `None` if one is left out.
fn key_of(input: &Input, columns: &[Selected]) -> Option<Vec<usize>> {
    let place =
        |key: &usize| columns.iter().position(|column| column.expression.input_column() == Some(*key));
    input.stream.key.as_ref()?.iter().map(place).collect()
}

/// Whether it is the column `change` of a changelog, or its time, as it is.
fn is_outside_of_image(input: &Input, column: &Selected) -> bool {
    let index = column.expression.input_column();
    let name = index.and_then(|index| input.stream.columns.fields().get(index)).map(|field| field.name());
    index.is_some_and(|index| input.stream.outside_of_image().contains(&index))
        && name == Some(column.field.name())
}

/// The event time that the node names itself.
fn time_of(table: &Table, stream: &StreamSchema) -> Result<(Option<usize>, i64), Diagnostic> {
    let name = table.str("column").unwrap_or_default();
    let found = stream.columns.fields().iter().enumerate().find(|(_, field)| field.name() == name);
    let wrong = |code, message: String| Err(Diagnostic::error(code, message).at(table.span_of("column")));
    match found {
        None => wrong("TG-X002", format!("`select` gives no column `{name}`")),
        Some((_, field)) if *field.data_type() != time_type() || field.is_nullable() => {
            let found = type_name(field.data_type());
            wrong("TG-X003", format!("event time is a timestamp that is never NULL, but `{name}` is {found}"))
        }
        Some((index, _)) => Ok((Some(index), table.duration("shift").map_or(0, micros))),
    }
}

struct Project {
    name: String,
    input: StreamSchema,
    output: StreamSchema,
    columns: Vec<Selected>,
}

impl Project {
    fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let columns: Result<Vec<ArrayRef>, OperatorError> =
            self.columns.iter().map(|column| column.expression.evaluate(rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let schema = std::sync::Arc::clone(&self.output.columns);
        Ok(RecordBatch::try_new_with_options(schema, columns?, &options)?)
    }
}

impl Operator for Project {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let bad = narrow(batch, &mut |rows| self.apply(rows), &mut |rows| out.emit_to(MAIN_PORT, rows));
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &self.input, batch, bad)?);
        }
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.columns.iter().flat_map(|column| column.expression.columns()).collect())
    }
}

//! `tidegate eval 'c < 18' --in row.json`: try an expression on rows.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use clap::Args;
use serde_json::Value;
use tidegate_engine::expression::{Expressions, Scope};
use tidegate_engine::template::display;
use tidegate_engine::topology::report::render;
use tidegate_engine::topology::value::Text;
use tidegate_operators::expression::SqlExpressions;

use super::print::say;
use crate::exit::{CONFIG, FAILED, Failure, IO};

#[derive(Args)]
pub(crate) struct Eval {
    /// The expression
    expression: String,
    /// A file with one JSON object a line; stdin if left out or `-`
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Eval {
    pub(crate) fn run(self) -> Result<(), Failure> {
        for (number, line) in self.read()?.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let row: Value = serde_json::from_str(line)
                .map_err(|error| Failure::new(FAILED, format!("line {}: not JSON: {error}", number + 1)))?;
            say!("{}", self.evaluate(&row)?);
        }
        Ok(())
    }

    fn read(&self) -> Result<String, Failure> {
        match self.input.as_ref().filter(|path| path.as_os_str() != "-") {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::new(IO, format!("cannot read {}: {error}", path.display()))),
            None => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.map(|_| text).map_err(|error| Failure::new(IO, format!("cannot read stdin: {error}")))
            }
        }
    }

    fn evaluate(&self, row: &Value) -> Result<String, Failure> {
        let Value::Object(fields) = row else {
            return Err(Failure::new(FAILED, "a row is a JSON object, such as {\"c\": 12.5}"));
        };
        let mut columns: Vec<(Field, ArrayRef)> = Vec::new();
        for (name, value) in fields {
            let column: ArrayRef = match value {
                Value::Bool(flag) => Arc::new(BooleanArray::from(vec![*flag])),
                Value::Number(number) if number.is_i64() => Arc::new(Int64Array::from(vec![number.as_i64()])),
                Value::Number(number) => Arc::new(Float64Array::from(vec![number.as_f64()])),
                Value::String(text) => Arc::new(StringArray::from(vec![text.as_str()])),
                Value::Null => Arc::new(StringArray::from(vec![None::<&str>])),
                Value::Array(_) | Value::Object(_) => Arc::new(StringArray::from(vec![value.to_string()])),
            };
            columns.push((Field::new(name, column.data_type().clone(), true), column));
        }
        let schema =
            Arc::new(Schema::new(columns.iter().map(|(field, _)| field.clone()).collect::<Vec<_>>()));
        let text =
            Text { value: self.expression.clone(), span: 0..self.expression.len(), starts_at: Some(0) };
        let compiled = SqlExpressions::new().compile(&text, &Scope::of(&schema)).map_err(|diagnostic| {
            Failure::new(CONFIG, render("expression", &self.expression, &[diagnostic], false))
        })?;
        let batch = RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect());
        let failed = |error: &dyn std::fmt::Display| Failure::new(FAILED, error);
        let batch = batch.map_err(|error| failed(&error))?;
        let result = compiled.evaluate(&batch).map_err(|error| failed(&error))?;
        let shown = display(&result, 0).map_err(|error| failed(&error))?;
        Ok(if result.is_null(0) { "NULL".to_owned() } else { shown })
    }
}

//! `json = { text = "{expr}" }`: a table of the file whose strings are
//! templates, as a JSON value. Text with exactly one `{expr}` keeps its type.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use serde_json::{Map, Number, Value as Json};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::{Expression, Expressions, Scope};
use tidegate_engine::template::Template;
use tidegate_engine::topology::value::{Data, Value};

use crate::format::encode::EncodeFormat;

/// A compiled value.
#[derive(Clone, Debug)]
pub(crate) enum JsonTemplate {
    /// As the file says.
    Fixed(Json),
    /// Text with values inserted.
    Text(Template),
    /// Exactly one expression.
    Value(Arc<dyn Expression>),
    /// An array.
    List(Vec<JsonTemplate>),
    /// An object, in the file's order.
    Object(Vec<(String, JsonTemplate)>),
}

impl JsonTemplate {
    /// Compiles a value of the file; nesting is limited by the key's check.
    ///
    /// # Errors
    /// As `Template::compile`; `TG-C005` for a TOML date, which JSON has not.
    pub(crate) fn compile(
        value: &Value,
        scope: &Scope,
        expressions: &dyn Expressions,
    ) -> Result<JsonTemplate, Vec<Diagnostic>> {
        Ok(match &value.data {
            Data::Text(text) => {
                let template = Template::compile(text, scope, expressions)?;
                match (template.as_literal(), template.as_expression()) {
                    (Some(literal), _) => JsonTemplate::Fixed(Json::String(literal)),
                    (None, Some(expression)) => JsonTemplate::Value(Arc::clone(expression)),
                    (None, None) => JsonTemplate::Text(template),
                }
            }
            Data::Int(number) => JsonTemplate::Fixed((*number).into()),
            Data::Float(number) => {
                JsonTemplate::Fixed(Number::from_f64(*number).map_or(Json::Null, Json::Number))
            }
            Data::Bool(flag) => JsonTemplate::Fixed(Json::Bool(*flag)),
            Data::Datetime => {
                let problem = Diagnostic::error("TG-C005", "JSON has no dates").at(value.span.clone());
                return Err(vec![problem.help("write it in quotes")]);
            }
            Data::List(items) => {
                let items = items.iter().map(|item| JsonTemplate::compile(item, scope, expressions));
                JsonTemplate::List(all(items)?)
            }
            Data::Table(table) => {
                let field = |entry: &tidegate_engine::topology::value::Entry| {
                    Ok((entry.key.clone(), JsonTemplate::compile(&entry.value, scope, expressions)?))
                };
                JsonTemplate::Object(all(table.entries.iter().map(field))?)
            }
        })
    }

    /// The value for a batch of one row.
    ///
    /// # Errors
    /// An expression that fails, or a value that JSON cannot hold.
    pub(crate) fn render(&self, row: &RecordBatch) -> Result<Json, OperatorError> {
        Ok(match self {
            JsonTemplate::Fixed(value) => value.clone(),
            JsonTemplate::Text(template) => {
                Json::String(template.render(row, &str::to_owned)?.into_iter().next().unwrap_or_default())
            }
            JsonTemplate::Value(expression) => one_value(expression.as_ref(), row)?,
            JsonTemplate::List(items) => {
                Json::Array(items.iter().map(|item| item.render(row)).collect::<Result<_, _>>()?)
            }
            JsonTemplate::Object(fields) => {
                let field = |(name, value): &(String, JsonTemplate)| Ok((name.clone(), value.render(row)?));
                Json::Object(fields.iter().map(field).collect::<Result<Map<_, _>, OperatorError>>()?)
            }
        })
    }
}

/// The expression's value in the same form as rows have in JSON lines.
fn one_value(expression: &dyn Expression, row: &RecordBatch) -> Result<Json, OperatorError> {
    let field = Field::new("value", expression.data_type().clone(), true);
    let column = expression.evaluate(row)?;
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column])?;
    let mut line = Vec::new();
    EncodeFormat::Json.encoder().encode(&batch, &mut line).map_err(OperatorError)?;
    let object: Json = serde_json::from_slice(&line).map_err(OperatorError::new)?;
    Ok(object.get("value").cloned().unwrap_or(Json::Null))
}

/// Everything, or every problem.
fn all<T>(items: impl Iterator<Item = Result<T, Vec<Diagnostic>>>) -> Result<Vec<T>, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for item in items {
        match item {
            Ok(item) => found.push(item),
            Err(more) => problems.extend(more),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::DataType;
    use serde_json::json;

    use super::*;
    use crate::testing::{build_context, node};

    #[test]
    fn one_expression_keeps_its_type_and_text_around_makes_text() {
        let config = node(
            "[sink.s]\ntype = \"x\"\njson = { id = \"{truck}\", c = \"{c}\", say = \"{truck}: {c}\", list = [1, 2.5, true], none = \"{n}\" }\n",
        );
        let fields = ["truck", "c", "n"]
            .map(|name| Field::new(name, if name == "c" { DataType::Float64 } else { DataType::Utf8 }, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let context = build_context();
        let value = config.table.get("json").expect("is there");
        let compiled = JsonTemplate::compile(value, &Scope::of(&schema), context.expressions.as_ref());
        let none: Option<&str> = None;
        let row = RecordBatch::try_new(
            schema,
            vec![
                Arc::new(StringArray::from(vec!["t-1"])),
                Arc::new(Float64Array::from(vec![8.5])),
                Arc::new(StringArray::from(vec![none])),
            ],
        )
        .expect("one row");
        let json = compiled.expect("compiles").render(&row).expect("renders");
        let expected =
            json!({ "id": "t-1", "c": 8.5, "say": "t-1: 8.5", "list": [1, 2.5, true], "none": null });
        assert_eq!(json, expected);
    }
}

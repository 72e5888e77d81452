//! Values in a query: `$name` and `{expr}` become look-ups in a table of one
//! row, so that a value keeps its type and can never be read as SQL.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::TaskError;
use tidegate_engine::expression::{Expression, Expressions, Scope};
use tidegate_engine::template::closing_brace;
use tidegate_engine::topology::value::Text;

/// The table of values.
pub(super) const VALUES: &str = "tidegate_values";

/// A query with its look-ups, and what it looks up.
pub(super) struct Inserted {
    pub(super) query: String,
    pub(super) values: Values,
}

/// The table of values: the task's values as `c0`, `c1` …, then the `{expr}`
/// of the query as `e0`, `e1` ….
#[derive(Clone)]
pub(super) struct Values {
    pub(super) columns: SchemaRef,
    expressions: Vec<Arc<dyn Expression>>,
}

impl Values {
    fn new(scope: &Scope, expressions: Vec<Arc<dyn Expression>>) -> Values {
        let own = scope.columns.iter().enumerate();
        let own = own.map(|(index, (_, field))| (format!("c{index}"), field.data_type().clone()));
        let computed = expressions.iter().enumerate();
        let computed =
            computed.map(|(index, expression)| (format!("e{index}"), expression.data_type().clone()));
        let fields = own.chain(computed).map(|(name, data_type)| Field::new(name, data_type, true));
        let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Values { columns, expressions }
    }

    /// The one row, from the task's values.
    pub(super) fn row(&self, values: &RecordBatch) -> Result<RecordBatch, TaskError> {
        let mut columns = values.columns().to_vec();
        for expression in &self.expressions {
            columns.push(expression.evaluate(values).map_err(|error| TaskError::Fatal(error.0))?);
        }
        RecordBatch::try_new(Arc::clone(&self.columns), columns)
            .map_err(|error| TaskError::Fatal(format!("the values do not fit: {error}")))
    }
}

/// Replaces `$name`, `$task.column` and `{expr}` outside of quotes and
/// comments. `{{` and `}}` are braces.
pub(super) fn insert_values(
    text: &Text,
    scope: &Scope,
    compiler: &dyn Expressions,
) -> Result<Inserted, Vec<Diagnostic>> {
    let sql = text.value.as_str();
    let mut query = String::with_capacity(sql.len());
    let mut expressions = Vec::new();
    let mut wrong = Vec::new();
    // What ends the quoted text or, for a comment, its line.
    let mut quote = None;
    let mut at = 0;
    while let Some(c) = sql.get(at..).and_then(|rest| rest.chars().next()) {
        let next = sql.get(at + c.len_utf8()..).and_then(|rest| rest.chars().next());
        let mut end = at + c.len_utf8();
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('\'' | '"'), '{') => wrong.extend(inserted_in_quotes(text, at, scope, compiler)),
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '-') if next == Some('-') => quote = Some('\n'),
            (None, '$') => {
                end = end_of_name(sql, end);
                match find_value(text, at..end, scope) {
                    Ok(index) => query.push_str(&format!("(SELECT c{index} FROM {VALUES})")),
                    Err(diagnostic) => wrong.push(diagnostic),
                }
                at = end;
                continue;
            }
            (None, '{' | '}') if next == Some(c) => end += 1,
            (None, '{') => {
                let Some(close) = closing_brace(sql, end) else {
                    wrong.push(no_partner(text, at, "`{` without its `}`"));
                    break;
                };
                match compiler.compile(&text.part(end..close), scope) {
                    Ok(expression) => expressions.push(expression),
                    Err(diagnostic) => wrong.push(diagnostic),
                }
                query.push_str(&format!("(SELECT e{} FROM {VALUES})", expressions.len().saturating_sub(1)));
                at = close + 1;
                continue;
            }
            (None, '}') => wrong.push(no_partner(text, at, "`}` without its `{`")),
            (None, _) => {}
        }
        query.push(c);
        at = end;
    }
    if wrong.is_empty() {
        Ok(Inserted { query, values: Values::new(scope, expressions) })
    } else {
        Err(wrong)
    }
}

fn no_partner(text: &Text, at: usize, message: &str) -> Diagnostic {
    let help = "a brace itself is written twice";
    Diagnostic::error("TG-X006", message).at(text.span_of(at..at + 1)).help(help)
}

/// `'{v}'` would be text as it stands, which nobody means; `'[0-9]{3}'` is.
fn inserted_in_quotes(
    text: &Text,
    open: usize,
    scope: &Scope,
    compiler: &dyn Expressions,
) -> Option<Diagnostic> {
    let length = text.value.get(open..)?.find('}')?;
    let inside = text.part(open + 1..open + length);
    let expression = compiler.compile(&inside, scope).ok()?;
    if expression.columns().is_empty() {
        return None;
    }
    let message = format!("`{{{}}}` inside quotes would be text as it stands", inside.value);
    let help =
        format!("write {{{}}} without quotes: it is a value, not text put into the query", inside.value);
    Some(Diagnostic::error("TG-X006", message).at(text.span_of(open..open + length + 1)).help(help))
}

fn end_of_name(sql: &str, start: usize) -> usize {
    let rest = sql.get(start..).unwrap_or_default();
    let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    start + length.unwrap_or(rest.len())
}

/// The index of the value that `$name` means.
fn find_value(text: &Text, place: std::ops::Range<usize>, scope: &Scope) -> Result<usize, Diagnostic> {
    let name = text.value.get(place.start + 1..place.end).unwrap_or_default();
    let of_run = format!("run.{name}");
    let mut wanted = [name, of_run.as_str()].into_iter();
    let found = wanted.find_map(|name| scope.columns.iter().position(|column| value_name(column) == name));
    found.ok_or_else(|| {
        let names: Vec<String> = scope.columns.iter().map(value_name).collect();
        Diagnostic::error("TG-X002", format!("there is no value `${name}`"))
            .at(text.span_of(place))
            .help(format!("the values are {}", names.join(", ")))
            .suggest(name, names.iter().map(String::as_str))
    })
}

fn value_name(column: &(Option<String>, FieldRef)) -> String {
    match column {
        (Some(qualifier), field) => format!("{qualifier}.{}", field.name()),
        (None, field) => field.name().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::DataType;

    use crate::expression::SqlExpressions;

    fn inserted(query: &str) -> Result<String, Vec<Diagnostic>> {
        let scope = Scope::default()
            .with(None, Field::new("turbine", DataType::Utf8, true))
            .with(Some("run"), Field::new("fired_at", DataType::Int64, true));
        insert_values(&Text::loose(query), &scope, &SqlExpressions::new()).map(|inserted| inserted.query)
    }

    #[test]
    fn values_are_looked_up_and_never_pasted() {
        assert_eq!(
            inserted("SELECT '$turbine' WHERE t = $turbine AND at > $fired_at").expect("both are there"),
            "SELECT '$turbine' WHERE t = (SELECT c0 FROM tidegate_values) AND at > (SELECT c1 FROM tidegate_values)"
        );
        assert_eq!(
            inserted("SELECT {turbine}, {upper(turbine) || '}'} -- {x} isn't\n, {run.fired_at}")
                .expect("all"),
            "SELECT (SELECT e0 FROM tidegate_values), (SELECT e1 FROM tidegate_values) -- {x} isn't\n, \
             (SELECT e2 FROM tidegate_values)"
        );
        assert_eq!(inserted("SELECT '[0-9]{3}', {{ a: 1 }}").expect("braces"), "SELECT '[0-9]{3}', { a: 1 }");
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong =
            inserted("SELECT $turbin, {turbin}, '{turbine}', \"{turbine}\", {turbine").expect_err("5");
        let said: Vec<_> =
            wrong.iter().map(|diagnostic| (diagnostic.code, diagnostic.message.as_str())).collect();
        assert_eq!(said.len(), 5, "{said:?}");
        assert_eq!(wrong[0].help.as_deref(), Some("did you mean `turbine`?"));
        let codes: Vec<_> = said.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, ["TG-X002", "TG-X002", "TG-X006", "TG-X006", "TG-X006"]);
    }
}

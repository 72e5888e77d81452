//! Where in an expression a planning error comes from. Only called when there
//! is one, so it may try each part by itself.

use std::ops::ControlFlow;

use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::ast::{self, Spanned, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::Location;
use tidegate_engine::diagnostic::{Diagnostic, Span};
use tidegate_engine::schema::type_name;
use tidegate_engine::topology::value::Text;

/// Begins the message about a function that depends on the moment.
pub(super) const VOLATILE: &str = "the value of";

/// The error as a message at the wrong word.
pub(super) fn diagnose(
    error: &DataFusionError,
    text: &Text,
    scope: &DFSchema,
    state: &SessionState,
) -> Diagnostic {
    let message = error.strip_backtrace();
    if let Some(name) = unknown_column(error) {
        return diagnose_column(&name, text, scope);
    }
    if let DataFusionError::SQL(parser, _) = innermost(error) {
        let message = parser.to_string();
        let at = location_in(&message).and_then(|location| offset(&text.value, location));
        let at = at.map_or(0..text.value.len(), |at| at..end_of_word(&text.value, at));
        let said = message.trim_start_matches("sql parser error: ");
        let said = said.split(" at Line").next().unwrap_or(said);
        return Diagnostic::error("TG-X001", format!("not an expression: {}", lower_first(said)))
            .at(text.span_of(at))
            .label("here");
    }
    if let Some(name) = between(&message, "Invalid function '", "'") {
        let names = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        return Diagnostic::error("TG-X004", format!("there is no function `{name}`"))
            .at(word(text, &name))
            .suggest(&name, names.map(String::as_str));
    }
    if message.contains(VOLATILE) {
        let name = between(&message, "`", "`").unwrap_or_default();
        return Diagnostic::error(
            "TG-X008",
            format!("`{name}` gives another value at each call, so a replay would differ"),
        )
        .at(word(text, &name))
        .help("use the row's event time, or `run.fired_at` in a flow");
    }
    let at = culprit(text, scope, state).unwrap_or(0..text.value.len());
    let said = message
        .trim_start_matches("Error during planning: ")
        .trim_start_matches("type_coercion\ncaused by\n");
    let said = said.trim_start_matches("Error during planning: ");
    let said = said.lines().next().unwrap_or(said);
    Diagnostic::error("TG-X003", format!("the types do not fit: {}", lower_first(said)))
        .at(text.span_of(at))
        .label("here")
}

/// The error of a whole query as a message at the wrong word, where it can be
/// told. `tables` are those it may name.
pub(crate) fn locate_in_query(error: &DataFusionError, text: &Text, tables: &[&str]) -> Diagnostic {
    if let Some(name) = unknown_column(error) {
        return Diagnostic::error("TG-X002", format!("there is no column `{name}`"))
            .at(word(text, &name))
            .label("not a column here");
    }
    let message = error.strip_backtrace();
    if let Some(name) = between(&message, "table '", "' not found") {
        let name = name.rsplit('.').next().unwrap_or(&name);
        return Diagnostic::error("TG-F025", format!("there is no table `{name}`"))
            .at(word(text, name))
            .label("not a table here")
            .help(format!("the tables here are {}", tables.join(", ")))
            .suggest(name, tables.iter().copied());
    }
    let said = message.trim_start_matches("Error during planning: ").trim_start_matches("SQL error: ");
    let said = said.lines().next().unwrap_or(said);
    Diagnostic::error("TG-F024", format!("the query cannot be planned: {}", lower_first(said)))
        .at(text.span_of(0..text.value.len()))
        .help(
            "it is one SELECT over `trigger`, earlier tasks by their ids, tables, and values such as `$name`",
        )
}

fn diagnose_column(name: &str, text: &Text, scope: &DFSchema) -> Diagnostic {
    let names: Vec<String> = scope
        .iter()
        .map(|(qualifier, field)| match qualifier {
            Some(qualifier) => format!("{qualifier}.{}", field.name()),
            None => field.name().clone(),
        })
        .collect();
    let listed: Vec<String> = scope
        .iter()
        .zip(&names)
        .map(|((_, field), name)| format!("{name} ({})", type_name(field.data_type())))
        .collect();
    Diagnostic::error("TG-X002", format!("there is no column `{name}`"))
        .at(word(text, name))
        .label("not a column here")
        .help(format!("the columns are {}", listed.join(", ")))
        .suggest(name, names.iter().map(String::as_str))
}

fn unknown_column(error: &DataFusionError) -> Option<String> {
    let DataFusionError::SchemaError(inner, _) = innermost(error) else { return None };
    match inner.as_ref() {
        SchemaError::FieldNotFound { field, .. } => Some(field.flat_name().replace('"', "")),
        SchemaError::AmbiguousReference { .. }
        | SchemaError::DuplicateQualifiedField { .. }
        | SchemaError::DuplicateUnqualifiedField { .. } => None,
    }
}

/// The error inside contexts and diagnostics.
#[allow(clippy::wildcard_enum_match_arm, reason = "DataFusion's list of errors is open")]
fn innermost(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => innermost(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, innermost),
        other => other,
    }
}

/// The smallest part of the expression that fails by itself.
fn culprit(text: &Text, scope: &DFSchema, state: &SessionState) -> Option<Span> {
    let mut parser = DFParserBuilder::new(text.value.as_str()).build().ok()?;
    let parsed = parser.parse_into_expr().ok()?;
    let mut search = Search { text: &text.value, scope, state };
    match parsed.expr.visit(&mut search) {
        ControlFlow::Break(span) => Some(span),
        ControlFlow::Continue(()) => None,
    }
}

struct Search<'a> {
    text: &'a str,
    scope: &'a DFSchema,
    state: &'a SessionState,
}

impl Visitor for Search<'_> {
    type Break = Span;

    /// Children come first, so the first that fails is the smallest.
    fn post_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<Span> {
        let planned = self
            .state
            .create_logical_expr(&expr.to_string(), self.scope)
            .and_then(|logical| self.state.create_physical_expr(logical, self.scope));
        let span = expr.span();
        let range = offset(self.text, span.start).zip(offset(self.text, span.end));
        match (planned, range) {
            // The end of a span is the last character's column in some nodes, one past it in others.
            (Err(_), Some((start, end))) => {
                ControlFlow::Break(start..end_of_word(self.text, end.max(start)).max(end))
            }
            (_, _) => ControlFlow::Continue(()),
        }
    }
}

/// The place of a whole word in the text, else the whole text. A word inside
/// quoted text or a comment is not meant.
pub(super) fn word(text: &Text, word: &str) -> Span {
    let code = without_literals(&text.value);
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    let last = word.rsplit('.').next().unwrap_or(word);
    for wanted in [word, last] {
        for (at, found) in code.match_indices(wanted) {
            let before = code.get(..at).and_then(|before| before.chars().next_back());
            let after = code.get(at + found.len()..).and_then(|after| after.chars().next());
            if !wanted.is_empty() && !before.is_some_and(inside) && !after.is_some_and(inside) {
                return text.span_of(at..at + found.len());
            }
        }
    }
    text.span_of(0..text.value.len())
}

/// The text with blanks in place of quoted text and comments, byte by byte.
fn without_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = [("'", "'"), ("/*", "*/"), ("--", "\n")].iter().find_map(|(open, close)| {
            let inside = rest.strip_prefix(open)?;
            Some(inside.find(close).map_or(rest.len(), |at| open.len() + at + close.len()))
        });
        let length = end.unwrap_or(first.len_utf8());
        let (piece, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        match end {
            Some(_) => code.extend(std::iter::repeat_n(' ', piece.len())),
            None => code.push_str(piece),
        }
        rest = after;
    }
    code
}

fn end_of_word(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '\'')).unwrap_or(rest.len());
    start + length.max(rest.chars().next().map_or(0, char::len_utf8))
}

/// Byte offset of a line and column (both from 1; column in characters).
fn offset(text: &str, location: Location) -> Option<usize> {
    let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
    let line_start = if line == 0 { 0 } else { text.match_indices('\n').nth(line - 1)?.0 + 1 };
    let rest = text.get(line_start..)?;
    Some(line_start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
}

pub(crate) fn location_in(message: &str) -> Option<Location> {
    let line = between(message, "Line: ", ",")?.parse().ok()?;
    let column = message.rsplit("Column: ").next()?;
    let column: String = column.chars().take_while(char::is_ascii_digit).collect();
    Some(Location { line, column: column.parse().ok()? })
}

fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inside, _)| inside.to_owned())
}

fn lower_first(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let mut chars = text.chars();
    let (first, second) = (chars.next(), chars.next());
    if second.is_some_and(char::is_uppercase) {
        // An abbreviation, such as DDL.
        return text.to_owned();
    }
    first.map(|first| first.to_lowercase().chain(text.chars().skip(1)).collect()).unwrap_or_default()
}

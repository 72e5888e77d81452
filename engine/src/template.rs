//! Text with `{expr}` in it: `"fleet/{truck}/cmd"`. `{{` and `}}` are braces.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::diagnostic::Diagnostic;
use crate::error::OperatorError;
use crate::expression::{Expression, Expressions, Scope};
use crate::time::Time;
use crate::topology::value::Text;

/// A compiled template.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Insert(Arc<dyn Expression>),
}

impl Template {
    /// Compiles the text and every expression in it.
    ///
    /// # Errors
    /// `TG-X006` for a brace without its partner, else as
    /// `Expressions::compile`, for each expression at its own place.
    pub fn compile(
        text: &Text,
        scope: &Scope,
        expressions: &dyn Expressions,
    ) -> Result<Template, Vec<Diagnostic>> {
        let mut parts = Vec::new();
        let mut wrong = Vec::new();
        for piece in split(text).map_err(|diagnostic| vec![diagnostic])? {
            match piece {
                Piece::Literal(literal) => parts.push(Part::Text(literal)),
                Piece::Expression(inside) => match expressions.compile(&inside, scope) {
                    Ok(expression) => parts.push(Part::Insert(expression)),
                    Err(diagnostic) => wrong.push(diagnostic),
                },
            }
        }
        if wrong.is_empty() { Ok(Template { parts }) } else { Err(wrong) }
    }

    /// The text, if nothing is inserted.
    #[must_use]
    pub fn as_literal(&self) -> Option<String> {
        let mut all = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => all.push_str(text),
                Part::Insert(_) => return None,
            }
        }
        Some(all)
    }

    /// The expression, if the template is exactly one `{expr}`: its value
    /// keeps its type.
    #[must_use]
    pub fn as_expression(&self) -> Option<&Arc<dyn Expression>> {
        match self.parts.as_slice() {
            [Part::Insert(expression)] => Some(expression),
            _ => None,
        }
    }

    /// The expressions that are inserted, in order.
    #[must_use]
    pub fn expressions(&self) -> Vec<Arc<dyn Expression>> {
        let inserts = self.parts.iter().filter_map(|part| match part {
            Part::Insert(expression) => Some(Arc::clone(expression)),
            Part::Text(_) => None,
        });
        inserts.collect()
    }

    /// The text with these values for its expressions, in order.
    #[must_use]
    pub fn fill(&self, values: &[String]) -> String {
        let mut values = values.iter();
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Insert(_) => text.push_str(values.next().map_or("", String::as_str)),
            }
        }
        text
    }

    /// The text of each row. NULL is inserted as nothing; `encode` is applied
    /// to each inserted value (for a URL, a topic, a header), never to the
    /// template's own text.
    ///
    /// # Errors
    /// An expression that fails on a row.
    pub fn render(
        &self,
        batch: &RecordBatch,
        encode: &dyn Fn(&str) -> String,
    ) -> Result<Vec<String>, OperatorError> {
        let mut rows = vec![String::new(); batch.num_rows()];
        for part in &self.parts {
            match part {
                Part::Text(text) => rows.iter_mut().for_each(|row| row.push_str(text)),
                Part::Insert(expression) => {
                    let values = expression.evaluate(batch)?;
                    for (index, row) in rows.iter_mut().enumerate() {
                        row.push_str(&encode(&display(&values, index)?));
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// Why a URL leads elsewhere than its template says, where `ordinary` is the same
/// one with ordinary values: a value alone, or with the text around it, is an empty
/// segment of the path, `.` or `..`.
#[must_use]
pub fn leaves_its_place(url: &str, ordinary: &str) -> Option<String> {
    fn segments(url: &str) -> impl Iterator<Item = &str> {
        url.split(['?', '#']).next().unwrap_or_default().split('/')
    }
    let leaves = |segment: &str| {
        // Who reads a URL takes these for dots as well.
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        matches!(plain.as_str(), "" | "." | "..")
    };
    let mut pairs = segments(url).zip(segments(ordinary));
    let segment = pairs.find_map(|(segment, ordinary)| {
        let is_other = leaves(segment) && segment != ordinary;
        is_other.then_some(segment)
    })?;
    Some(format!("a value makes `{segment}` of a part of the path, which would be another place"))
}

/// A value as a reader would write it; NULL is empty.
///
/// # Errors
/// A type that cannot be printed.
pub fn display(values: &ArrayRef, row: usize) -> Result<String, OperatorError> {
    if values.is_null(row) {
        return Ok(String::new());
    }
    // Arrow knows no zone by name here, not even UTC; times print as RFC 3339.
    if let Some(times) = values.as_any().downcast_ref::<TimestampMicrosecondArray>() {
        return Ok(Time(times.value(row)).to_string());
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(values.as_ref(), &options)?;
    Ok(formatter.value(row).try_to_string()?)
}

enum Piece {
    Literal(String),
    Expression(Text),
}

fn split(text: &Text) -> Result<Vec<Piece>, Diagnostic> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut chars = text.value.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '{' | '}' if chars.peek().is_some_and(|(_, next)| *next == c) => {
                chars.next();
                literal.push(c);
            }
            '{' => {
                let end = closing_brace(&text.value, at + 1).ok_or_else(|| {
                    let message = "`{` without its `}`";
                    Diagnostic::error("TG-X006", message)
                        .at(text.span_of(at..at + 1))
                        .help("a brace itself is `{{`")
                })?;
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Expression(text.part(at + 1..end)));
                while chars.peek().is_some_and(|(index, _)| *index <= end) {
                    chars.next();
                }
            }
            '}' => {
                let diagnostic =
                    Diagnostic::error("TG-X006", "`}` without its `{`").at(text.span_of(at..at + 1));
                return Err(diagnostic.help("a brace itself is `}}`"));
            }
            _ => literal.push(c),
        }
    }
    if !literal.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// Index of the `}` that ends an expression which begins at `from`: not one
/// inside a quoted string.
#[must_use]
pub fn closing_brace(text: &str, from: usize) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < from) {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, '}') => return Some(at),
            (_, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc3339() {
        let times = TimestampMicrosecondArray::from(vec![Some(0), None]).with_timezone("UTC");
        let times: ArrayRef = Arc::new(times);
        assert_eq!(display(&times, 0), Ok("1970-01-01T00:00:00.000000Z".into()));
        assert_eq!(display(&times, 1), Ok(String::new()));
    }

    #[test]
    fn a_value_stays_in_its_segment_of_a_url() {
        let leaves = |value: &str| {
            let with = |value: &str| format!("http://h/v1/{value}/x.{value}?q={value}");
            leaves_its_place(&with(value), &with("a"))
        };
        for value in ["..", ".", "", "%2e%2E"] {
            let reason = leaves(value).expect("leads elsewhere");
            assert!(reason.contains(&format!("`{value}`")), "{reason}");
        }
        for value in ["a", "...", "..%2F..", "a%2F..", "%252e", "..%5C"] {
            assert_eq!(leaves(value), None, "{value}");
        }
        assert!(
            leaves_its_place("http://h/v1/../x", "http://h/v1/.a/x").is_some(),
            "with the text around it"
        );
        assert_eq!(leaves_its_place("http://h//x/b", "http://h//x/a"), None, "as the file has it");
    }
}

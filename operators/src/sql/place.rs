//! Where things stand in a query. Nodes are made of texts that are printed anew;
//! each knows which words of the query it came from, so that a mistake that a
//! node's own build function finds is shown at the author's word.

use std::ops::{ControlFlow, Range};

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::{Location, Span as SqlSpan, Token, TokenWithSpan};
use tidegate_engine::diagnostic::{Diagnostic, Span};
use tidegate_engine::topology::value::Text;

/// Printed texts say that they stand here, beyond the end of any file: a place in
/// one is told from a place in the file.
const PRINTED_AT: usize = usize::MAX / 2;
/// More than any printed text is long.
const PRINTED_BYTES_MAX: usize = 1 << 20;

/// A name or a value, with its place in the query.
pub(super) type Atom = (Range<usize>, String);

/// A query's text, and every text that was printed from it.
pub(super) struct Places {
    text: Text,
    /// Where each line begins, and whether a column of it is a byte.
    lines: Vec<(usize, bool)>,
    /// Words that are no names in quotes.
    words: Vec<(Range<usize>, String)>,
    /// For each printed text: where its words stand, and where they stood.
    printed: Vec<Vec<(Range<usize>, Range<usize>)>>,
}

impl Places {
    pub(super) fn new(text: &Text) -> Places {
        let mut start = 0;
        let lines = text.value.split_inclusive('\n').chain([""]).map(|line| {
            let begin = start;
            start += line.len();
            (begin, line.is_ascii())
        });
        Places { lines: lines.collect(), text: text.clone(), words: Vec::new(), printed: Vec::new() }
    }

    pub(super) fn with_tokens(mut self, tokens: &[TokenWithSpan]) -> Places {
        let words = tokens.iter().filter_map(|token| match &token.token {
            Token::Word(word) if word.quote_style.is_none() => {
                Some((self.of_span(token.span), word.value.clone()))
            }
            _ => None,
        });
        self.words = words.collect();
        self
    }

    /// The file's bytes for bytes of the query.
    pub(super) fn in_file(&self, range: Range<usize>) -> Span {
        self.text.span_of(range)
    }

    /// The query's own text at these bytes.
    pub(super) fn part(&self, range: Range<usize>) -> Text {
        self.text.part(range)
    }

    /// The whole query.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.text.value.len()
    }

    /// Byte of a line and column (both from 1; the column counts characters).
    pub(super) fn byte(&self, location: Location) -> Option<usize> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
        let (start, is_ascii) = *self.lines.get(line)?;
        let rest = self.text.value.get(start..)?;
        if is_ascii {
            return Some(start + column.min(rest.len()));
        }
        Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
    }

    /// The word that begins at a byte.
    pub(super) fn word_at(&self, start: usize) -> Range<usize> {
        let rest = self.text.value.get(start..).unwrap_or_default();
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        start..start + length.max(rest.chars().next().map_or(0, char::len_utf8))
    }

    /// The bytes between two locations; everything where there are none.
    pub(super) fn of_span(&self, span: SqlSpan) -> Range<usize> {
        match (self.byte(span.start), self.byte(span.end)) {
            (Some(start), Some(end)) if start < end => start..end,
            _ => self.all(),
        }
    }

    pub(super) fn of_name(&self, name: &Ident) -> Range<usize> {
        self.of_span(name.span)
    }

    /// From the first name or value to the last.
    pub(super) fn of<T: Visit>(&self, node: &T) -> Range<usize> {
        let atoms = self.atoms(node);
        let start = atoms.iter().map(|(place, _)| place.start).min();
        let end = atoms.iter().map(|(place, _)| place.end).max();
        start.zip(end).map_or_else(|| self.all(), |(start, end)| start..end)
    }

    /// The first of these words at or behind a byte of the query.
    pub(super) fn word_behind(&self, word: &str, from: usize) -> Option<Range<usize>> {
        let mut places = self.words(word);
        places.find(|place| place.start >= from)
    }

    /// The last of these words before a byte of the query.
    pub(super) fn word_before(&self, word: &str, to: usize) -> Option<Range<usize>> {
        self.words(word).take_while(|place| place.start < to).last()
    }

    fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        let meant = self.words.iter().filter(move |(_, found)| found.eq_ignore_ascii_case(word));
        meant.map(|(place, _)| place.clone())
    }

    /// Names and values, in the order of the query.
    pub(super) fn atoms<T: Visit>(&self, node: &T) -> Vec<Atom> {
        let mut search = Atoms { places: self, found: Vec::new() };
        if node.visit(&mut search).is_break() {
            return Vec::new();
        }
        search.found.sort_by_key(|(place, _)| place.start);
        search.found
    }

    /// A text that was printed from these names and values.
    pub(super) fn printed(&mut self, text: String, atoms: &[Atom]) -> Text {
        let mut marks = Vec::new();
        let mut from = 0;
        for (place, word) in atoms {
            let Some(at) = find_word(&text, word, from) else { continue };
            from = at + word.len();
            marks.push((at..from, place.clone()));
        }
        let starts = atoms.iter().map(|(place, _)| place.start).min();
        let ends = atoms.iter().map(|(place, _)| place.end).max();
        let all = starts.zip(ends).map_or_else(|| self.all(), |(start, end)| start..end);
        let starts_at = PRINTED_AT + self.printed.len() * PRINTED_BYTES_MAX;
        self.printed.push(marks);
        Text { value: text, span: self.in_file(all), starts_at: Some(starts_at) }
    }

    /// The message at the author's words instead of printed ones.
    pub(super) fn moved(&self, mut message: Diagnostic) -> Diagnostic {
        let Some(span) = message.span.clone().filter(|span| span.start >= PRINTED_AT) else { return message };
        let number = (span.start - PRINTED_AT) / PRINTED_BYTES_MAX;
        let base = PRINTED_AT + number * PRINTED_BYTES_MAX;
        let (start, end) = (span.start - base, span.end.saturating_sub(base));
        let marks = self.printed.get(number).map(Vec::as_slice).unwrap_or_default();
        let inside: Vec<_> = marks.iter().filter(|(at, _)| at.start < end && start < at.end).collect();
        // A word between two names, such as a keyword, is behind the one before it.
        let near = marks.iter().rev().find(|(at, _)| at.start <= start).or(marks.first());
        let chosen = if inside.is_empty() { near.into_iter().collect() } else { inside };
        let from = chosen.iter().map(|(_, place)| place.start).min();
        let to = chosen.iter().map(|(_, place)| place.end).max();
        let place = from.zip(to).map_or_else(|| self.all(), |(from, to)| from..to);
        message.span = Some(self.in_file(place));
        message
    }
}

/// A word as a whole, at or behind a byte.
fn find_word(text: &str, word: &str, from: usize) -> Option<usize> {
    let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let found = text.get(from..)?.match_indices(word).find(|(at, _)| {
        let before = text.get(..from + at).and_then(|before| before.chars().next_back());
        let after = text.get(from + at + word.len()..).and_then(|after| after.chars().next());
        !is_inside(before) && !is_inside(after)
    });
    found.map(|(at, _)| from + at)
}

struct Atoms<'a> {
    places: &'a Places,
    found: Vec<Atom>,
}

impl Atoms<'_> {
    fn push(&mut self, span: SqlSpan, word: String) {
        let bytes = (self.places.byte(span.start), self.places.byte(span.end));
        if let (Some(start), Some(end)) = bytes
            && start < end
        {
            self.found.push((start..end, word));
        }
    }
}

impl Visitor for Atoms<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.push(name.span, name.to_string()),
            Expr::CompoundIdentifier(names) => {
                names.iter().for_each(|name| self.push(name.span, name.to_string()));
            }
            Expr::Function(call) => {
                for name in parts(&call.name) {
                    self.push(name.span, name.to_string());
                }
            }
            Expr::Value(value) => self.push(value.span, value.value.to_string()),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        for name in parts(name) {
            self.push(name.span, name.to_string());
        }
        ControlFlow::Continue(())
    }
}

/// The names of a name with dots.
pub(super) fn parts(name: &ObjectName) -> impl Iterator<Item = &Ident> {
    name.0.iter().filter_map(ObjectNamePart::as_ident)
}

//! What saved state depends on, as text without places, and what has changed
//! since a state was written: told key by key, each at its place in the file.
//! The text is kept in checkpoints, so its form is for ever.

mod diff;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::diff::{Words, differences};
use crate::diagnostic::Span;
use crate::operator::Input;
use crate::topology::key::{Key, Touches};
use crate::topology::node::NodeConfig;
use crate::topology::report::line_and_column;
use crate::topology::value::{Data, Table, Value};

/// A topology's file, for messages about state that come when it has been read
/// long ago.
#[derive(Clone, Debug, Default)]
pub struct SourceText {
    /// The file as a reader would call it.
    pub name: String,
    /// Its text.
    pub text: Arc<str>,
}

/// What the saved state of a node depends on.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint {
    node: String,
    text: String,
    /// Top keys that state does not depend on; older texts have them.
    aside: Vec<&'static str>,
    /// Columns of its inputs that it looks at; `None`: all. State depends on no
    /// others.
    reads: Option<BTreeSet<String>>,
    /// Where each key and its inputs stand, by path.
    places: Vec<(String, Span)>,
    name_span: Span,
    file: Arc<SourceText>,
}

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, with dots.
    pub path: String,
    /// What was, what is, and where.
    pub message: String,
    /// A list that still has something of what it had: a list of topics that
    /// has grown.
    pub is_partial: bool,
}

impl Fingerprint {
    /// Of an operator or table: every key but those that are aside, and the
    /// columns of its inputs, as far as it says that it `reads` them.
    pub(super) fn of_state(
        node: &NodeConfig,
        inputs: &[Input],
        reads: Option<&[usize]>,
        keys: &[&[Key]],
        file: &Arc<SourceText>,
    ) -> Fingerprint {
        let all = || keys.iter().flat_map(|table| table.iter());
        let aside = all().filter(|key| key.touches == Touches::Nothing).map(|key| key.name).collect();
        let mut fingerprint = Fingerprint::of_keys(node, aside, file);
        // The time of its rows is what every operator is told.
        let read = |input: &Input, index: usize| {
            reads.is_some_and(|reads| reads.contains(&index)) || input.stream.time == Some(index)
        };
        let of_input = |input: &Input| {
            let fields = input.stream.columns.fields().iter().enumerate();
            let read = fields.filter(|(index, _)| read(input, *index));
            read.map(|(_, field)| field.name().clone()).collect::<Vec<_>>()
        };
        fingerprint.reads = reads.map(|_| inputs.iter().flat_map(of_input).collect());
        // A table is read again: what is kept of it is no reason to refuse.
        for input in inputs.iter().filter(|input| !input.stream.is_table()) {
            for field in input.stream.columns.fields() {
                let column = format!(" {}:{}", field.name(), crate::schema::type_name(field.data_type()));
                fingerprint.text.push_str(&column);
            }
        }
        fingerprint
    }

    /// Of a source or sink: its type, and the keys that say which outside it is.
    pub(super) fn of_outside(node: &NodeConfig, keys: &[&[Key]], file: &Arc<SourceText>) -> Fingerprint {
        let all = || keys.iter().flat_map(|table| table.iter());
        let meant = |key: &&Key| key.touches == Touches::Outside || key.name == "type";
        let aside = all().filter(|key| !meant(key)).map(|key| key.name).collect();
        Fingerprint::of_keys(node, aside, file)
    }

    fn of_keys(node: &NodeConfig, aside: Vec<&'static str>, file: &Arc<SourceText>) -> Fingerprint {
        let mut table = node.table.clone();
        table.entries.retain(|entry| !aside.contains(&entry.key.as_str()));
        let mut places = Vec::new();
        find_places("", &node.table, &mut places);
        Fingerprint {
            node: format!("{}.{}", node.section.word(), node.name),
            text: format!("{} {}", node.section.word(), table_text(&table)),
            aside,
            reads: None,
            places,
            name_span: node.name_span.clone(),
            file: Arc::clone(file),
        }
    }

    /// The text that is kept with the state.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `operator.load`, as the file says.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The node's place: `load.toml:9:11`; empty where there is no file.
    #[must_use]
    pub fn place(&self) -> String {
        self.place_of(&self.name_span)
    }

    /// What has changed since this text was written; nothing if the state means
    /// the same.
    #[must_use]
    pub fn changes(&self, then: &str) -> Vec<Change> {
        if then == self.text {
            return Vec::new();
        }
        let words = |text| {
            let words = Words::read(text, &self.aside)?;
            Some(match &self.reads {
                Some(reads) => words.of_columns(reads),
                None => words,
            })
        };
        let (Some(then_words), Some(now_words)) = (words(then), words(&self.text)) else {
            let message = format!("{}: it was {then}, is {}", self.node, self.text);
            return vec![Change { path: String::new(), message, is_partial: false }];
        };
        let told = differences(&then_words, &now_words).into_iter().map(|difference| {
            let place = self.place_of(self.span_of(&difference.path));
            let message = format!("{}: {}{}", self.node, difference.text, in_brackets(&place));
            Change { path: difference.path, message, is_partial: difference.is_partial }
        });
        told.collect()
    }

    /// Where a key stands, or the nearest thing around it that is there.
    fn span_of(&self, path: &str) -> &Span {
        let around = |known: &&(String, Span)| {
            path.strip_prefix(known.0.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let nearest = self.places.iter().filter(around).max_by_key(|(known, _)| known.len());
        nearest.map_or(&self.name_span, |(_, span)| span)
    }

    fn place_of(&self, span: &Span) -> String {
        if self.file.name.is_empty() {
            return String::new();
        }
        let (line, column) = line_and_column(&self.file.text, span.start);
        format!("{}:{line}:{column}", self.file.name)
    }
}

/// ` (load.toml:9:11)`, or nothing.
fn in_brackets(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" ({place})") }
}

fn find_places(path: &str, table: &Table, out: &mut Vec<(String, Span)>) {
    for entry in &table.entries {
        let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
        out.push((path.clone(), entry.value.span.clone()));
        if let Data::Table(inner) = &entry.value.data {
            find_places(&path, inner, out);
        }
    }
}

pub(crate) fn table_text(table: &Table) -> String {
    let mut entries: Vec<String> =
        table.entries.iter().map(|entry| format!("{}={}", entry.key, value_text(&entry.value))).collect();
    entries.sort();
    format!("{{{}}}", entries.join(","))
}

fn value_text(value: &Value) -> String {
    match &value.data {
        Data::Text(text) => format!("{:?}", text.value),
        Data::Int(number) => number.to_string(),
        Data::Float(number) => number.to_string(),
        Data::Bool(flag) => flag.to_string(),
        Data::Datetime => "datetime".into(),
        Data::List(items) => format!("[{}]", items.iter().map(value_text).collect::<Vec<_>>().join(",")),
        Data::Table(table) => table_text(table),
    }
}

#[cfg(test)]
mod tests;

//! First pass: TOML text to nodes that remember their places. It knows which
//! sections exist, not what a node of a type may say.

use std::ops::Range;
use std::sync::Arc;

use toml_edit::{Document, Item, TableLike};

use crate::diagnostic::Diagnostic;
use crate::topology::keys::without_type;
use crate::topology::node::{NodeConfig, Section};
use crate::topology::value::{Data, Entry, Table, Text, Value};

/// A topology file after the first pass.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The `[topology]` table; empty if there is none.
    pub topology: Table,
    /// Every named node, in the file's order.
    pub nodes: Vec<NodeConfig>,
    /// The text they were read from.
    pub text: Arc<str>,
}

/// Longest topology file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Parses a topology file.
///
/// Answers what could be read and every message of this layer; with an error
/// among the messages nothing may start.
#[must_use]
pub fn parse(text: &str) -> (Parsed, Vec<Diagnostic>) {
    parse_with(text, &|name| std::env::var(name).ok())
}

/// Parses a topology file whose `${VAR}` are looked up by `variable`.
#[must_use]
pub fn parse_with(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> (Parsed, Vec<Diagnostic>) {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes; a topology may have {FILE_BYTES_MAX}", text.len());
        return (Parsed::default(), vec![Diagnostic::error("TG-C001", message)]);
    }
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => return (Parsed::default(), vec![syntax_error(&error)]),
    };
    let mut reader = Reader { text, variable, diagnostics: Vec::new() };
    let mut parsed = Parsed { text: text.into(), ..Parsed::default() };
    for entry in reader.table(document.as_table(), 0..0).entries {
        reader.section(&mut parsed, entry);
    }
    (parsed, reader.diagnostics)
}

/// Parses any TOML text into one table, for configurations that are no
/// topology.
#[must_use]
pub fn parse_table(text: &str) -> (Table, Vec<Diagnostic>) {
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => return (Table::default(), vec![syntax_error(&error)]),
    };
    let variable = |name: &str| std::env::var(name).ok();
    let mut reader = Reader { text, variable: &variable, diagnostics: Vec::new() };
    let table = reader.table(document.as_table(), 0..0);
    (table, reader.diagnostics)
}

fn syntax_error(error: &toml_edit::TomlError) -> Diagnostic {
    let message = error.message().lines().next().unwrap_or("not TOML").to_owned();
    let diagnostic = Diagnostic::error("TG-C001", format!("not valid TOML: {message}"));
    match error.span() {
        Some(span) => diagnostic.at(span),
        None => diagnostic,
    }
}

struct Reader<'a> {
    text: &'a str,
    variable: &'a dyn Fn(&str) -> Option<String>,
    diagnostics: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn section(&mut self, parsed: &mut Parsed, entry: Entry) {
        let Entry { key, key_span, value } = entry;
        let Data::Table(table) = value.data else {
            let message = format!("`{key}` stands outside of any table");
            let diagnostic = Diagnostic::error("TG-C002", message).at(key_span);
            self.diagnostics.push(diagnostic.help("put it under [topology] or a node such as [source.x]"));
            return;
        };
        if key == "topology" {
            parsed.topology = table;
            return;
        }
        let Some(section) = Section::ALL.into_iter().find(|section| section.word() == key) else {
            let words = Section::ALL.iter().map(|section| section.word()).chain(["topology"]);
            let message = format!("unknown section `{key}`");
            self.diagnostics.push(Diagnostic::error("TG-C002", message).at(key_span).suggest(&key, words));
            return;
        };
        for node in table.entries {
            self.node(parsed, section, node);
        }
    }

    fn node(&mut self, parsed: &mut Parsed, section: Section, entry: Entry) {
        let word = section.word();
        let Data::Table(table) = entry.value.data else {
            let message =
                format!("`{}` stands directly under [{word}], which holds named nodes only", entry.key);
            let diagnostic = Diagnostic::error("TG-C002", message).at(entry.key_span);
            self.diagnostics.push(diagnostic.help(format!("write [{word}.NAME] above it")));
            return;
        };
        if !is_name(&entry.key) {
            let message = format!("`{}` cannot be a name", entry.key);
            let help = "a name begins with a letter and holds letters, digits, `_` and `-`, at most 64";
            self.diagnostics
                .push(Diagnostic::error("TG-C012", message).at(entry.key_span.clone()).help(help));
        }
        let kind = match (section, table.text("type")) {
            (Section::Trigger | Section::Flow, _) => Text::loose(word),
            (_, Some(kind)) => kind.clone(),
            (_, None) => {
                let what = format!("{word} `{}`", entry.key);
                self.diagnostics.push(without_type(&what, &table, entry.key_span));
                return;
            }
        };
        parsed.nodes.push(NodeConfig { section, name: entry.key, name_span: entry.key_span, kind, table });
    }

    fn table(&mut self, table: &dyn TableLike, span: Range<usize>) -> Table {
        let mut entries = Vec::new();
        for (name, item) in table.iter() {
            let key_span = table.key(name).and_then(toml_edit::Key::span).unwrap_or_else(|| span.clone());
            if let Some(value) = self.item(item, &key_span) {
                entries.push(Entry { key: name.to_owned(), key_span, value });
            }
        }
        Table { span, entries }
    }

    fn item(&mut self, item: &Item, outer: &Range<usize>) -> Option<Value> {
        let span = item.span().unwrap_or_else(|| outer.clone());
        let data = match item {
            Item::None => return None,
            Item::Value(value) => return Some(self.value(value, outer)),
            Item::Table(table) => {
                // The span of a table is its header; a dotted parent has none of its own.
                Data::Table(self.table(table, table.span().unwrap_or_else(|| outer.clone())))
            }
            Item::ArrayOfTables(tables) => Data::List(
                tables
                    .iter()
                    .map(|table| {
                        let span = table.span().unwrap_or_else(|| outer.clone());
                        Value { span: span.clone(), data: Data::Table(self.table(table, span)) }
                    })
                    .collect(),
            ),
        };
        Some(Value { span, data })
    }

    fn value(&mut self, value: &toml_edit::Value, outer: &Range<usize>) -> Value {
        let span = value.span().unwrap_or_else(|| outer.clone());
        let data = match value {
            toml_edit::Value::String(text) => Data::Text(self.string(text.value(), &span)),
            toml_edit::Value::Integer(number) => Data::Int(*number.value()),
            toml_edit::Value::Float(number) => Data::Float(*number.value()),
            toml_edit::Value::Boolean(flag) => Data::Bool(*flag.value()),
            toml_edit::Value::Datetime(_) => Data::Datetime,
            toml_edit::Value::Array(items) => {
                Data::List(items.iter().map(|item| self.value(item, &span)).collect())
            }
            toml_edit::Value::InlineTable(table) => Data::Table(self.table(table, span.clone())),
        };
        Value { span, data }
    }

    /// Replaces `${VAR}` and finds where the text begins in the file.
    fn string(&mut self, value: &str, span: &Range<usize>) -> Text {
        let raw = self.text.get(span.clone()).unwrap_or_default();
        let quotes = if raw.starts_with("\"\"\"") || raw.starts_with("'''") { 3 } else { 1 };
        let inside = raw.get(quotes..raw.len().saturating_sub(quotes)).unwrap_or_default();
        let skipped =
            inside.len() - inside.strip_prefix("\r\n").or(inside.strip_prefix('\n')).unwrap_or(inside).len();
        let skipped = if quotes == 3 { skipped } else { 0 };
        let same = inside.get(skipped..) == Some(value);
        let starts_at = same.then_some(span.start + quotes + skipped);
        let text = Text { value: value.to_owned(), span: span.clone(), starts_at };
        if !value.contains("${") {
            return text;
        }
        match replace_variables(value, self.variable) {
            Ok(replaced) => Text { value: replaced, span: span.clone(), starts_at: None },
            Err((message, range)) => {
                let diagnostic = Diagnostic::error("TG-C008", message).at(text.span_of(range));
                self.diagnostics.push(diagnostic.help("set it, or give a default: ${NAME:-default}"));
                text
            }
        }
    }
}

/// Whether a node may be called so.
pub(super) fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && name.len() <= 64
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$${` is a literal `${`.
fn replace_variables(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, (String, Range<usize>)> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find("${")) {
        let start = at + found;
        let before = text.get(at..start).unwrap_or_default();
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            at = start + 2;
            continue;
        }
        out.push_str(before);
        let Some(length) = text.get(start..).and_then(|rest| rest.find('}')) else {
            return Err(("`${` without `}`".into(), start..text.len()));
        };
        let end = start + length + 1;
        let inside = text.get(start + 2..end - 1).unwrap_or_default();
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (inside, None),
        };
        let value = variable(name).filter(|value| !value.is_empty()).or(default);
        let value = value.ok_or_else(|| (format!("environment variable `{name}` is not set"), start..end))?;
        out.push_str(&value);
        at = end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_names_types_and_places() {
        let text = "[topology]\nname = \"t\"\n\n[source.press]\ntype = \"modbus\"\nevery = \"1s\"\n";
        let (parsed, diagnostics) = parse(text);
        assert_eq!(diagnostics, []);
        assert_eq!(parsed.topology.str("name"), Some("t"));
        let node = &parsed.nodes[0];
        assert_eq!((node.name.as_str(), node.kind.value.as_str()), ("press", "modbus"));
        assert_eq!(text.get(node.name_span.clone()), Some("press"));
        let every = node.table.text("every").expect("is there");
        assert_eq!(text.get(every.span_of(0..1)), Some("1"));
    }

    #[test]
    fn names_the_wrong_section_and_the_nearest_right_one() {
        let (_, diagnostics) = parse("[sorce.x]\ntype = \"file\"\n[sink]\npath = \"x\"\n");
        assert_eq!(diagnostics.len(), 2);
        assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean `source`?"));
        assert!(diagnostics[1].message.contains("`path`"), "{:?}", diagnostics[1]);
    }

    #[test]
    fn replaces_variables() {
        let env = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(replace_variables("x${A}y", &env), Ok("x1y".into()));
        assert_eq!(replace_variables("${B:-2}", &env), Ok("2".into()));
        assert_eq!(replace_variables("$${A}", &env), Ok("${A}".into()));
        assert_eq!(replace_variables("a${B}", &env).map_err(|error| error.1), Err(1..5));
        assert!(replace_variables("${A", &env).is_err());
    }
}

//! Second pass: are these the keys that this kind of node has, and are their
//! values of the right kind? Reports everything wrong at once.

use crate::diagnostic::{Diagnostic, Span};
use crate::secret::SecretRef;
use crate::topology::key::{Key, Kind};
use crate::topology::value::{Data, Table, Text, Value, parse_duration, parse_rate, parse_size};

/// Deepest nesting of tables and arrays in a value.
const DEPTH_MAX: usize = 16;

/// Checks a table against the keys it may have. `what` names the table in
/// messages, e.g. "source `press` (type `modbus`)"; `at` is marked where a key
/// is missing.
pub fn check_keys(table: &Table, keys: &[&[Key]], what: &str, at: &Span, out: &mut Vec<Diagnostic>) {
    check_table(table, keys, what, at, 0, out);
}

fn check_table(
    table: &Table,
    keys: &[&[Key]],
    what: &str,
    at: &Span,
    depth: usize,
    out: &mut Vec<Diagnostic>,
) {
    let all = || keys.iter().flat_map(|table| table.iter());
    for entry in &table.entries {
        match all().find(|key| key.name == entry.key) {
            Some(key) => check_value(&entry.value, &key.kind, &entry.key, what, depth, out),
            None => out.push(
                Diagnostic::error("TG-C003", format!("unknown key `{}` in {what}", entry.key))
                    .at(entry.key_span.clone())
                    .label("not a key here")
                    .help(known_keys(&all().map(|key| key.name).collect::<Vec<_>>()))
                    .suggest(&entry.key, all().map(|key| key.name)),
            ),
        }
    }
    for key in all().filter(|key| key.required && table.get(key.name).is_none()) {
        out.push(
            Diagnostic::error("TG-C004", format!("{what} has no `{}`", key.name))
                .at(at.clone())
                .label(format!("`{}` is missing", key.name))
                .help(format!("`{}`: {} ({})", key.name, key.doc, key.kind.describe())),
        );
    }
}

fn known_keys(names: &[&str]) -> String {
    format!("its keys are {}", names.join(", "))
}

fn check_value(value: &Value, kind: &Kind, key: &str, what: &str, depth: usize, out: &mut Vec<Diagnostic>) {
    if depth > DEPTH_MAX {
        let message = format!("`{key}` in {what} is nested deeper than {DEPTH_MAX} levels");
        out.push(Diagnostic::error("TG-C005", message).at(value.span.clone()));
        return;
    }
    match (kind, &value.data) {
        (Kind::Table(keys), Data::Table(table)) => {
            check_table(table, &[keys], &format!("`{key}` of {what}"), &value.span, depth + 1, out);
        }
        (Kind::Map(inner), Data::Table(table)) => {
            for entry in &table.entries {
                // Most headers are no secrets.
                let plain = entry.value.as_text().is_some_and(|text| !is_reference(text));
                let kind = if matches!(inner, Kind::Secret) && plain { &Kind::Text } else { *inner };
                check_value(&entry.value, kind, &entry.key, what, depth + 1, out);
            }
        }
        (Kind::List(inner), _) => {
            for item in value.items() {
                check_value(item, inner, key, what, depth + 1, out);
            }
        }
        (Kind::AnyOf(kinds), _) => check_any(value, kinds, key, what, depth, out),
        (Kind::Secret, Data::Text(text)) => check_secret(text, key, what, out),
        (_, _) if accepts(kind, value) => {}
        (_, _) => out.push(wrong_value(value, kind, key, what)),
    }
}

fn is_reference(text: &Text) -> bool {
    SecretRef::new(text.value.clone()).is_reference()
}

/// A reference must be one that can be resolved; a value that stands in the
/// file itself is better kept elsewhere.
fn check_secret(text: &Text, key: &str, what: &str, out: &mut Vec<Diagnostic>) {
    if let Err(reason) = SecretRef::new(text.value.clone()).check() {
        out.push(Diagnostic::error("TG-C014", reason).at(text.span.clone()));
    } else if !is_reference(text) && text.starts_at.is_some() {
        let message = format!("`{key}` of {what} stands in the file");
        let diagnostic = Diagnostic::warning("TG-C011", message).at(text.span.clone());
        out.push(diagnostic.help("write \"secret://env/NAME\" or \"secret://file/PATH\""));
    }
}

/// One of several kinds: the kinds of the value's own TOML type are meant, and
/// with exactly one of them its own messages are the helpful ones.
fn check_any(value: &Value, kinds: &[Kind], key: &str, what: &str, depth: usize, out: &mut Vec<Diagnostic>) {
    let mut candidates = Vec::new();
    for kind in kinds.iter().filter(|kind| same_shape(kind, value)) {
        let mut messages = Vec::new();
        check_value(value, kind, key, what, depth + 1, &mut messages);
        if messages.is_empty() {
            return;
        }
        candidates.push(messages);
    }
    match (candidates.len(), candidates.pop()) {
        (1, Some(messages)) => out.extend(messages),
        (_, _) => out.push(wrong_value(value, &Kind::AnyOf(&[]), key, what).help(format!(
            "`{key}` is {}",
            kinds.iter().map(Kind::describe).collect::<Vec<_>>().join(", or ")
        ))),
    }
}

fn same_shape(kind: &Kind, value: &Value) -> bool {
    match kind {
        Kind::Table(_) | Kind::Map(_) => matches!(value.data, Data::Table(_)),
        Kind::List(_) => matches!(value.data, Data::List(_)),
        Kind::Any | Kind::AnyOf(_) => true,
        Kind::Bool => matches!(value.data, Data::Bool(_)),
        Kind::Int(..) | Kind::Number => matches!(value.data, Data::Int(_) | Data::Float(_)),
        Kind::Text | Kind::Template | Kind::Expression | Kind::Secret | Kind::Word(_) => {
            matches!(value.data, Data::Text(_))
        }
        Kind::Duration | Kind::Size | Kind::Rate => matches!(value.data, Data::Text(_)),
    }
}

fn accepts(kind: &Kind, value: &Value) -> bool {
    match (kind, &value.data) {
        (Kind::Any, _) => true,
        (Kind::Text | Kind::Template | Kind::Expression | Kind::Secret, Data::Text(_)) => true,
        (Kind::Word(words), Data::Text(text)) => words.contains(&text.value.as_str()),
        (Kind::Bool, Data::Bool(_)) => true,
        (Kind::Int(low, high), Data::Int(number)) => (low..=high).contains(&number),
        (Kind::Number, Data::Int(_)) => true,
        (Kind::Number, Data::Float(number)) => number.is_finite(),
        (Kind::Duration, Data::Text(text)) => parse_duration(&text.value).is_some(),
        (Kind::Size, Data::Text(text)) => parse_size(&text.value).is_some(),
        (Kind::Rate, Data::Text(text)) => parse_rate(&text.value).is_some(),
        (_, _) => false,
    }
}

fn wrong_value(value: &Value, kind: &Kind, key: &str, what: &str) -> Diagnostic {
    let found = describe(value);
    let (code, message) = match (kind, &value.data) {
        (Kind::Duration, Data::Int(_) | Data::Float(_)) => {
            ("TG-C010", format!("`{key}` in {what} is a bare number where a time is due"))
        }
        (Kind::Word(_) | Kind::Duration | Kind::Size | Kind::Rate, Data::Text(_))
        | (Kind::Int(..), Data::Int(_)) => ("TG-C006", format!("`{key}` in {what} cannot be {found}")),
        (_, _) => ("TG-C005", format!("`{key}` in {what} is {found}")),
    };
    let diagnostic = Diagnostic::error(code, message)
        .at(value.span.clone())
        .label(format!("not {}", kind.describe()))
        .help(format!("`{key}` is {}", kind.describe()));
    match (kind, value.as_text(), &value.data) {
        (Kind::Word(words), Some(text), _) => diagnostic.suggest(&text.value, words.iter().copied()),
        (Kind::Duration, _, Data::Int(number)) => {
            diagnostic.help(format!("write \"{number}s\" or \"{number}ms\""))
        }
        (_, _, _) => diagnostic,
    }
}

fn describe(value: &Value) -> String {
    match &value.data {
        Data::Text(text) => format!("{:?}", text.value.chars().take(60).collect::<String>()),
        Data::Int(number) => number.to_string(),
        Data::Float(number) => number.to_string(),
        Data::Bool(flag) => flag.to_string(),
        Data::Datetime => "a date or time".into(),
        Data::List(_) => "an array".into(),
        Data::Table(_) => "a table".into(),
    }
}

/// A node that does not say what it is, at `at`, or at the key that was meant
/// to say it.
pub(crate) fn without_type(what: &str, table: &Table, at: Span) -> Diagnostic {
    let diagnostic = Diagnostic::error("TG-C004", format!("{what} has no `type`"));
    let meant = table.entries.iter().find(|entry| strsim::osa_distance(&entry.key, "type") == 1);
    match meant {
        Some(entry) => diagnostic.at(entry.key_span.clone()).help("did you mean `type`?"),
        None => diagnostic.at(at).label("type is missing").help("`tidegate list` shows every type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::key::{optional, required};
    use crate::topology::parse::parse;

    const KEYS: &[Key] = &[
        required("type", Kind::Text, "the type"),
        required("every", Kind::Duration, "how often"),
        optional("qos", Kind::Int(0, 2), "quality of service"),
        optional("mode", Kind::Word(&["fast", "slow"]), "how"),
        optional("schema", Kind::Map(&Kind::Text), "columns"),
        optional("points", Kind::List(&Kind::Table(&[required("name", Kind::Text, "its name")])), "points"),
        optional("size", Kind::AnyOf(&[Kind::Duration, Kind::Int(1, 100)]), "a time or a count"),
    ];

    fn messages(body: &str) -> Vec<(&'static str, Option<String>)> {
        let (parsed, errors) = parse(&format!("[source.s]\ntype = \"x\"\n{body}"));
        assert_eq!(errors, []);
        let mut out = Vec::new();
        check_keys(&parsed.nodes[0].table, &[KEYS], "source `s`", &(0..0), &mut out);
        out.into_iter().map(|message| (message.code, message.help)).collect()
    }

    #[test]
    fn accepts_what_is_right() {
        let body = "every = \"1s\"\nqos = 2\nmode = \"slow\"\nschema = {a = \"int64\"}\npoints = [{name = \"p\"}]\nsize = 5\n";
        assert_eq!(messages(body), []);
    }

    #[test]
    fn reports_everything_wrong_at_once() {
        let found = messages(
            "evry = \"1s\"\nqos = 3\nmode = \"slwo\"\nschema = {a = 1}\npoints = [{nam = \"p\"}]\nsize = \"x\"\n",
        );
        let codes: Vec<_> = found.iter().map(|(code, _)| *code).collect();
        assert_eq!(
            codes,
            ["TG-C003", "TG-C006", "TG-C006", "TG-C005", "TG-C003", "TG-C004", "TG-C006", "TG-C004"]
        );
        assert_eq!(found[0].1.as_deref(), Some("did you mean `every`?"));
        assert_eq!(found[2].1.as_deref(), Some("did you mean `slow`?"));
    }

    #[test]
    fn a_bare_number_is_no_time() {
        let found = messages("every = 10");
        assert_eq!(found[0].0, "TG-C010");
        assert_eq!(found[0].1.as_deref(), Some("write \"10s\" or \"10ms\""));
    }
}

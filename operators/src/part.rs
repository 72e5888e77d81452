//! What the build functions of operators share.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Field;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::Input;
use tidegate_engine::schema::{StreamKind, StreamSchema, type_name};
use tidegate_engine::template::display;
use tidegate_engine::topology::node::NodeConfig;

/// The one input of an operator that takes one, whose rows stand.
pub(crate) fn only_input<'a>(config: &NodeConfig, inputs: &'a [Input]) -> Result<&'a Input, ConfigError> {
    only_input_or(config, inputs, &[])
}

/// Refuses rows that later ones may replace or take back.
pub(crate) fn rows_that_stand(config: &NodeConfig, input: &Input) -> Result<(), ConfigError> {
    rows_that_stand_or(config, input, &[])
}

fn rows_that_stand_or(config: &NodeConfig, input: &Input, others: &[StreamKind]) -> Result<(), ConfigError> {
    let kind = input.stream.kind;
    if kind == StreamKind::Appends || others.contains(&kind) {
        return Ok(());
    }
    let (reads, name) = (&input.name, &config.name);
    let message = format!("`{reads}` gives results again when they change, which `{name}` cannot take back");
    let help = match kind {
        StreamKind::Changelog => {
            "changes are read by `filter`, `project`, `union`, `aggregate`, a table `latest` and sinks; a `window` over the same rows gives results that stand"
        }
        StreamKind::Table => "a table is joined: type = \"join\", with the stream first",
        StreamKind::Revises | StreamKind::Appends => {
            "leave `early` and `allowed_lateness` out there, or read another window over the same rows"
        }
    };
    Err(Diagnostic::error("TG-T012", message).at(config.table.span_of("from")).help(help).into())
}

/// The one input of an operator that takes one, which may also be of these
/// kinds.
pub(crate) fn only_input_or<'a>(
    config: &NodeConfig,
    inputs: &'a [Input],
    others: &[StreamKind],
) -> Result<&'a Input, ConfigError> {
    match inputs {
        [input] => rows_that_stand_or(config, input, others).map(|()| input),
        others => {
            let kind = &config.kind.value;
            let message = format!("`{}` has {} inputs, but `{kind}` takes one", config.name, others.len());
            let diagnostic = Diagnostic::error("TG-T005", message).at(config.table.span_of("from"));
            Err(diagnostic.help("join several streams with an operator of type `union` first").into())
        }
    }
}

/// Refuses to let what is read at `key` depend on when a change happened, or on
/// which way it goes.
pub(crate) fn check_image(
    config: &NodeConfig,
    key: &str,
    input: &Input,
    reads: &[usize],
    out: &mut Vec<Diagnostic>,
) {
    let outside = input.stream.outside_of_image();
    let Some(index) = reads.iter().find(|index| outside.contains(index)) else { return };
    let name =
        input.stream.columns.fields().get(*index).map(|field| field.name().as_str()).unwrap_or_default();
    let message = format!(
        "`{name}` says when and how `{}` changed: what depends on it could not be taken back",
        input.name
    );
    let diagnostic = Diagnostic::error("TG-T012", message).at(config.table.span_of(key));
    out.push(diagnostic.help(
        "take a time from the rows themselves, e.g. `max(ts) AS last_seen`, where the results are made",
    ));
}

/// The event-time column that an operator needs.
pub(crate) fn require_time(config: &NodeConfig, input: &Input) -> Result<usize, ConfigError> {
    input.stream.time.ok_or_else(|| {
        let message = format!("`{}` needs event time, but `{}` has none", config.name, input.name);
        let help =
            "let `select` keep the time column, or name one with `time = { column = … }` at the source";
        Diagnostic::error("TG-T007", message).at(config.table.span_of("from")).help(help).into()
    })
}

/// Indices of the columns that a key of the node names.
pub(crate) fn named_columns(
    config: &NodeConfig,
    key: &str,
    stream: &StreamSchema,
    out: &mut Vec<Diagnostic>,
) -> Vec<usize> {
    let fields = stream.columns.fields();
    let mut found = Vec::new();
    for text in config.table.texts(key) {
        match fields.iter().position(|field| *field.name() == text.value) {
            Some(index) => found.push(index),
            None => {
                let names = || fields.iter().map(|field| field.name().as_str());
                let diagnostic = Diagnostic::error("TG-X002", format!("there is no column `{}`", text.value));
                let help = format!("the columns are {}", names().collect::<Vec<_>>().join(", "));
                out.push(diagnostic.at(text.span.clone()).help(help).suggest(&text.value, names()));
            }
        }
    }
    found
}

/// The same for columns that must be numbers.
pub(crate) fn number_columns(
    config: &NodeConfig,
    key: &str,
    stream: &StreamSchema,
    out: &mut Vec<Diagnostic>,
) -> Vec<usize> {
    let found = named_columns(config, key, stream, out);
    for field in found.iter().filter_map(|index| stream.columns.fields().get(*index)) {
        if !field.data_type().is_numeric() {
            let texts = config.table.texts(key);
            let span = texts.iter().find(|text| text.value == *field.name()).map(|text| text.span.clone());
            let (name, found) = (field.name(), type_name(field.data_type()));
            let message = format!("`{name}` is {found}, but `{key}` of `{}` takes numbers", config.name);
            out.push(Diagnostic::error("TG-X003", message).at(span.unwrap_or_default()));
        }
    }
    found
}

/// Refuses two columns of one name in what the node gives; `key` is where it
/// was made so.
pub(crate) fn check_names(config: &NodeConfig, key: &str, columns: &[Field], out: &mut Vec<Diagnostic>) {
    for (index, column) in columns.iter().enumerate() {
        if columns.iter().take(index).any(|earlier| earlier.name() == column.name()) {
            let message = format!("two columns of `{}` are called `{}`", config.name, column.name());
            let diagnostic = Diagnostic::error("TG-T009", message).at(config.table.span_of(key));
            out.push(diagnostic.help("give the one that comes in another name with a `project` before"));
        }
    }
}

/// The key of each row as text. Several columns are joined by `/`, with a `\`
/// before one inside a value, so that (a/b, c) and (a, b/c) are two keys. NULL
/// is `\N`; a value that begins so has one `\` more.
pub(crate) fn key_texts(batch: &RecordBatch, keys: &[usize]) -> Result<Vec<String>, OperatorError> {
    let mut texts = vec![String::new(); batch.num_rows()];
    for (position, index) in keys.iter().enumerate() {
        let Some(column) = batch.columns().get(*index) else { continue };
        for (row, text) in texts.iter_mut().enumerate() {
            if position > 0 {
                text.push('/');
            }
            if column.is_null(row) {
                text.push_str("\\N");
                continue;
            }
            let value = display(column, row)?;
            if keys.len() > 1 && value.contains(['/', '\\']) {
                text.push_str(&value.replace('\\', "\\\\").replace('/', "\\/"));
                continue;
            }
            if value.starts_with('\\') {
                text.push('\\');
            }
            text.push_str(&value);
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    #[test]
    fn no_two_keys_have_one_text() {
        let column = |values: [&str; 4]| Arc::new(StringArray::from_iter_values(values)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([
            ("a", column(["a/b", "a", "a\\", "a"])),
            ("b", column(["c", "b/c", "/b", "\\/b"])),
        ]);
        let batch = batch.expect("two columns");
        let mut texts = key_texts(&batch, &[0, 1]).expect("text");
        assert_eq!(texts[0], "a\\/b/c");
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 4);
        assert_eq!(key_texts(&batch, &[0]).expect("text")[0], "a/b", "one column stands as it is");
    }

    #[test]
    fn null_is_a_key_of_its_own() {
        let values = [None, Some(""), Some("\\N"), Some("\\\\N"), Some("N"), Some("C:\\x")];
        let a = Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("a", Arc::clone(&a)), ("b", a)]).expect("two columns");
        for keys in [&[0][..], &[0, 1]] {
            let mut texts = key_texts(&batch, keys).expect("text");
            texts.sort();
            texts.dedup();
            assert_eq!(texts.len(), values.len(), "{texts:?}");
        }
        let texts = key_texts(&batch, &[0]).expect("text");
        assert_eq!((texts[0].as_str(), texts[1].as_str(), texts[5].as_str()), ("\\N", "", "C:\\x"));
    }
}

//! What is wrong with a node's format although each key by itself is right.

use arrow::datatypes::{DataType, Field};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::time::time_type;
use tidegate_engine::topology::node::NodeConfig;

use crate::format::FormatKind;
use crate::format::spec::RowSpec;

/// The `delimiter` of a node: one ASCII character that means nothing else.
pub(crate) fn delimiter(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> u8 {
    let Some(text) = config.table.text("delimiter") else { return b',' };
    match text.value.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
        _ => {
            let message = format!("`delimiter` cannot be {:?}", text.value);
            let help = "one ASCII character, such as \",\", \";\" or \"\\t\"";
            out.push(Diagnostic::error("TG-C033", message).at(text.span.clone()).help(help));
            b','
        }
    }
}

/// Keys and types that the format does not have.
pub(super) fn check_against_format(
    config: &NodeConfig,
    kind: FormatKind,
    spec: &RowSpec,
    out: &mut Vec<Diagnostic>,
) {
    let table = &config.table;
    let at = table.get("format").map_or(&config.kind.span, |format| &format.span);
    if kind != FormatKind::Raw && table.get("schema").is_none() {
        let word = table.str("format").unwrap_or("json");
        let message =
            format!("{} `{}` has format `{word}` but no `schema`", config.section.word(), config.name);
        let help = "name its columns: schema = { id = \"int64\", at = \"timestamp\" }";
        out.push(Diagnostic::error("TG-C030", message).at(at.clone()).help(help));
    }
    let payload = |spec: &RowSpec| match spec.columns.as_slice() {
        [column] => matches!(column.data_type, DataType::Binary | DataType::Utf8),
        _ => false,
    };
    if kind == FormatKind::Raw && table.get("schema").is_some() && !payload(spec) {
        let message = "format `raw` has one column, of type bytes or string";
        let help = "write schema = { payload = \"bytes\" }";
        out.push(Diagnostic::error("TG-C030", message).at(table.span_of("schema")).help(help));
    }
    let csv = matches!(kind, FormatKind::Csv { .. });
    for key in ["delimiter", "header"].into_iter().filter(|_| !csv) {
        if let Some(entry) = table.entry(key) {
            let message = format!("`{key}` has a meaning for format `csv` only");
            out.push(Diagnostic::error("TG-C033", message).at(entry.key_span.clone()));
        }
    }
    let nested = spec.columns.iter().find(|column| column.path.len() > 1);
    if let (false, Some(column)) = (kind == FormatKind::Json, nested) {
        let message = format!("column `{}` stands inside another field, which only json has", column.name);
        out.push(Diagnostic::error("TG-C033", message).at(table.span_of("schema")));
    }
}

/// Columns that clash with the connector's own, and a time column that is none.
pub(super) fn check_own(config: &NodeConfig, spec: &RowSpec, own: &[Field], out: &mut Vec<Diagnostic>) {
    let table = &config.table;
    for field in own.iter().filter(|field| spec.columns.iter().any(|column| &column.name == field.name())) {
        let span = table.table("schema").map_or(config.name_span.clone(), |schema| {
            schema.entry(field.name()).map_or(schema.span.clone(), |entry| entry.key_span.clone())
        });
        let message = format!("column `{}` is one that `{}` adds itself", field.name(), config.kind.value);
        let help = "give it another name; `from` says where it stands in a json row";
        out.push(Diagnostic::error("TG-C030", message).at(span).help(help));
    }
    let Some(name) = table.table("time").and_then(|time| time.text("column")) else { return };
    if spec.columns.iter().any(|column| column.name == name.value) {
        return;
    }
    match own.iter().find(|field| field.name() == &name.value) {
        Some(field) if field.data_type() == &time_type() => {}
        Some(_) => {
            let message = format!("time column `{}` is no timestamp", name.value);
            out.push(Diagnostic::error("TG-C031", message).at(name.span.clone()));
        }
        None => {
            let message = format!("time column `{}` is not among the columns", name.value);
            let names = spec.columns.iter().map(|column| column.name.as_str());
            let names = names.chain(own.iter().map(|field| field.name().as_str()));
            out.push(Diagnostic::error("TG-C031", message).at(name.span.clone()).suggest(&name.value, names));
        }
    }
}

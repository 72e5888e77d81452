//! Helpers of the format tests: formats from a few lines of TOML, rows as text.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_engine::error::ConfigError;
use tidegate_engine::topology::keys::check_keys;
use tidegate_engine::topology::parse::parse;

use crate::format::{ROW_KEYS, RowFormat};

/// The format that a source with these lines has.
pub(crate) fn format(lines: &str) -> RowFormat {
    try_format(lines, Vec::new()).expect("a right format")
}

/// The same, or what is wrong with it.
pub(crate) fn try_format(lines: &str, own: Vec<arrow::datatypes::Field>) -> Result<RowFormat, ConfigError> {
    let (parsed, errors) = parse(&format!("[source.s]\ntype = \"x\"\n{lines}\n"));
    assert_eq!(errors, []);
    let node = &parsed.nodes[0];
    let mut wrong = Vec::new();
    let mut table = node.table.clone();
    table.entries.retain(|entry| entry.key != "type");
    check_keys(&table, &[ROW_KEYS], "source `s`", &(0..0), &mut wrong);
    if !wrong.is_empty() {
        return Err(ConfigError(wrong));
    }
    RowFormat::from_config(node, own)
}

/// Each row as its values, separated by bars.
pub(crate) fn shown(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    // Arrow prints named time zones with a feature only that nothing else needs.
    let offset = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let arrays: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(|column| match column.as_primitive_opt::<TimestampMicrosecondType>() {
            Some(times) => std::sync::Arc::new(times.clone().with_data_type(offset.clone())) as ArrayRef,
            None => column.clone(),
        })
        .collect();
    let columns: Vec<ArrayFormatter<'_>> = arrays
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a printable type"))
        .collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"))
        .collect()
}

//! A Parquet file as a table: its types, its changes, its damage.

use std::fs;
use std::path::Path;

use ::parquet::arrow::ArrowWriter;
use arrow::array::{LargeStringArray, TimestampMillisecondArray};
use tidegate_engine::schema::type_name;

use super::*;
use crate::format::testing::shown;
use crate::testing::{build_context, node};

fn table(folder: &Path, keys: &str) -> Result<TablePart, ConfigError> {
    let config = node(&format!("[table.t]\ntype = \"parquet\"\n{keys}"));
    let context = BuildContext { base_dir: folder.to_owned(), ..build_context() };
    (ROW.build)(&config, &context, &[])
}

fn rows(part: &TablePart) -> Result<Vec<String>, String> {
    part.table.rows().map(|batches| batches.iter().flat_map(shown).collect())
}

#[test]
fn a_parquet_file_has_its_own_types_and_changes_under_a_topology() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.parquet");
    let write = |batch: RecordBatch| {
        let file = fs::File::create(&path).expect("a file");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("columns");
        writer.write(&batch).expect("writes");
        writer.close().expect("closes");
    };
    let made = |ids: &[&str], ns: Vec<i64>| {
        let ids: ArrayRef = Arc::new(LargeStringArray::from(ids.to_vec()));
        let ts: ArrayRef = Arc::new(TimestampMillisecondArray::from(ns));
        RecordBatch::try_from_iter([("id", ids), ("ts", ts)]).expect("a batch")
    };
    write(made(&["a", "b"], vec![0, 1_500]));
    let part = table(folder.path(), "path = \"t.parquet\"\nkey = \"id\"").expect("a right file");
    let types = part
        .columns
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), type_name(field.data_type())));
    assert_eq!(types.collect::<Vec<_>>(), ["id string", "ts timestamp"]);
    assert_eq!(rows(&part), Ok(vec!["a|1970-01-01T00:00:00Z".into(), "b|1970-01-01T00:00:01.500Z".into()]));
    let stamp = part.table.stamp();
    write(made(&["a", "a"], vec![0, 0]));
    assert!(rows(&part).expect_err("twice").contains("two rows have the key a"));
    assert_ne!(part.table.stamp(), stamp);
    let other: ArrayRef = Arc::new(LargeStringArray::from(vec!["x"]));
    write(RecordBatch::try_from_iter([("id", other)]).expect("a batch"));
    assert!(rows(&part).expect_err("fewer columns").contains("other columns"));
    fs::write(&path, "PAR1").expect("writes");
    assert!(rows(&part).expect_err("damaged").starts_with("cannot read t.parquet"));
}

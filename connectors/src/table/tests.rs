//! Tables as a user writes them: types that values tell, files that change,
//! rows that do not fit.

use std::fs;
use std::path::Path;

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::schema::type_name;
use tidegate_engine::table::TablePart;
use tidegate_engine::topology::node::BuildContext;

use super::CSV;
use crate::format::testing::shown;
use crate::testing::{build_context, node};

fn build(folder: &Path, keys: &str) -> Result<TablePart, Vec<Diagnostic>> {
    let kind = if keys.contains("jsonl") { "json" } else { "csv" };
    let config = node(&format!("[table.t]\ntype = \"{kind}\"\n{keys}"));
    let context = BuildContext { base_dir: folder.to_owned(), ..build_context() };
    (CSV.build)(&config, &context, &[]).map_err(|error| error.0)
}

fn columns(part: &TablePart) -> Vec<String> {
    part.columns
        .fields()
        .iter()
        .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
        .collect()
}

fn rows(part: &TablePart) -> Result<Vec<String>, String> {
    part.table.rows().map(|batches| batches.iter().flat_map(shown).collect())
}

#[test]
fn the_header_names_the_columns_and_the_values_tell_their_types() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "device,limit,n,spare,since,on,code,note\r\n\
                p1,4.5,7,,2026-01-02T03:04:05Z,2026-01-02,007,\"a, b\"\r\n\
                p2,5,-1,,2026-01-02T03:04:05.5+01:00,2026-12-31,12,\r\n";
    fs::write(folder.path().join("t.csv"), text).expect("writes");
    let part = build(folder.path(), "path = \"t.csv\"\nkey = \"device\"").expect("a right file");
    let expected = [
        "device string",
        "limit float64",
        "n int64",
        "spare string",
        "since timestamp",
        "on date",
        "code string",
        "note string",
    ];
    assert_eq!(columns(&part), expected);
    let expected = [
        "p1|4.5|7|NULL|2026-01-02T03:04:05Z|2026-01-02|007|a, b",
        "p2|5.0|-1|NULL|2026-01-02T02:04:05.500Z|2026-12-31|12|NULL",
    ];
    assert_eq!(rows(&part).expect("reads"), expected);
}

#[test]
fn a_changed_file_is_seen_and_a_bad_line_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.csv");
    fs::write(&path, "id,v\n1,2\n").expect("writes");
    let part = build(folder.path(), "path = \"t.csv\"\nkey = [\"id\"]").expect("a right file");
    assert_eq!(rows(&part), Ok(vec!["1|2".into()]));
    // Columns are found by name, the last line needs no end.
    fs::write(&path, "v,id\n20,10\n21,11").expect("writes");
    assert_eq!(rows(&part), Ok(vec!["10|20".into(), "11|21".into()]));
    for (text, words) in [
        ("id,v\n1,2\n2,much\n", "t.csv:3: "),
        ("id,v\n1,\"2\n", "t.csv:2: "),
        ("id,v\n1,2\n1,3\n", "t.csv: two rows have the key 1"),
        ("", "t.csv:1: "),
    ] {
        fs::write(&path, text).expect("writes");
        let error = rows(&part).expect_err(text);
        assert!(error.contains(words), "{error}");
    }
    fs::remove_file(&path).expect("removes");
    let error = rows(&part).expect_err("gone");
    assert!(error.starts_with("cannot read t.csv: "), "{error}");
}

#[test]
fn what_is_wrong_at_load_has_a_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = [
        ("path = \"none.csv\"", "", "TG-C009"),
        ("path = \"t.csv\"\nheader = false", "1,2\n", "TG-C030"),
        ("path = \"t.csv\"", "a,\n1,2\n", "TG-C037"),
        ("path = \"t.csv\"", "a,a\n1,2\n", "TG-C037"),
        ("path = \"t.csv\"", "", "TG-C037"),
        ("path = \"t.csv\"", "a,b\n1,\"2\n", "TG-C037"),
        ("path = \"t.csv\"\nschema = { a = \"int64\" }", "a\nx\n", "TG-C037"),
        ("path = \"t.csv\"\nschema = { a = \"int46\" }", "a\nx\n", "TG-C030"),
        ("path = \"t.csv\"\nkey = \"aa\"", "a,b\n1,2\n", "TG-X002"),
        ("path = \"t.csv\"\nkey = \"a\"", "a,b\n1,2\n1,3\n", "TG-C037"),
    ];
    for (keys, text, code) in cases {
        fs::write(folder.path().join("t.csv"), text).expect("writes");
        let found = build(folder.path(), keys).err().unwrap_or_default();
        let codes: Vec<&str> = found.iter().map(|diagnostic| diagnostic.code).collect();
        assert_eq!(codes, [code], "{keys} {text:?} {found:?}");
    }
}

#[test]
fn json_lines_and_a_file_without_header_have_a_schema() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("t.jsonl"), "{\"id\": 1, \"v\": 2.5}\n{\"id\": 2}\n").expect("writes");
    let json = "path = \"t.jsonl\"\nschema = { id = \"int64\", v = \"float64\" }";
    let part = build(folder.path(), json).expect("a right file");
    assert_eq!(rows(&part), Ok(vec!["1|2.5".into(), "2|NULL".into()]));
    fs::write(folder.path().join("t.csv"), "1;2\n").expect("writes");
    let csv =
        "path = \"t.csv\"\nheader = false\ndelimiter = \";\"\nschema = { a = \"int64\", b = \"int64\" }";
    let part = build(folder.path(), csv).expect("a right file");
    assert_eq!(rows(&part), Ok(vec!["1|2".into()]));
}

//! Reads the sources and holds what no compiler holds: who may import whom,
//! how long a file may be, that every file says what it is for.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a source file, tests included.
const FILE_LINES_MAX: usize = 450;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.map(|entry| entry.expect("readable folder").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let name = entry.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((name, fs::read_to_string(&entry).expect("readable file")));
            }
        }
    }
    assert!(!found.is_empty() || !Path::new(folder).exists(), "no source in {folder}");
    found.sort();
    found
}

fn all() -> Vec<(String, String)> {
    ["src", "engine/src", "connectors/src", "operators/src"]
        .iter()
        .flat_map(|folder| sources(folder))
        .collect()
}

/// Code without comments and without the tests at the end of a file.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every place where a word stands in the code of these files.
fn uses(files: &[(String, String)], word: &str) -> Vec<String> {
    files.iter().filter(|(_, text)| code(text).contains(word)).map(|(name, _)| name.clone()).collect()
}

fn starting(files: &[(String, String)], prefix: &str) -> Vec<(String, String)> {
    files.iter().filter(|(name, _)| name.starts_with(prefix)).cloned().collect()
}

#[test]
fn every_file_says_what_it_is_for_and_is_short() {
    for (name, text) in all() {
        assert!(text.starts_with("//!"), "{name} does not begin with //!");
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines; split it");
    }
}

#[test]
fn crates_import_only_what_they_may() {
    let files = all();
    let none: Vec<String> = Vec::new();
    let engine = starting(&files, "engine/");
    assert_eq!(uses(&engine, "tidegate_connectors"), none);
    assert_eq!(uses(&engine, "tidegate_operators"), none);
    let connectors = starting(&files, "connectors/");
    let operators = starting(&files, "operators/");
    assert_eq!(uses(&connectors, "tidegate_operators"), none);
    assert_eq!(uses(&operators, "tidegate_connectors"), none);
    for both in [&connectors, &operators] {
        assert_eq!(uses(both, "engine::runtime"), none);
    }
}

#[test]
fn runtime_and_flow_do_not_import_each_other() {
    let files = all();
    let none: Vec<String> = Vec::new();
    assert_eq!(uses(&starting(&files, "engine/src/runtime/"), "crate::flow"), none);
    assert_eq!(uses(&starting(&files, "engine/src/flow/"), "crate::runtime"), none);
    assert_eq!(uses(&starting(&files, "engine/src/topology/"), "crate::runtime"), none);
}

#[test]
fn operators_and_pure_files_know_no_tokio() {
    let files = all();
    let none: Vec<String> = Vec::new();
    let operators: Vec<_> =
        starting(&files, "operators/").into_iter().filter(|(name, _)| !name.contains("/tasks/")).collect();
    assert_eq!(uses(&operators, "tokio"), none);
    for pure in ["runtime/align.rs", "runtime/ledger.rs", "runtime/watermark.rs", "flow/run.rs"] {
        assert_eq!(uses(&starting(&files, &format!("engine/src/{pure}")), "tokio"), none);
    }
}

#[test]
fn each_protocol_library_stays_in_its_folder() {
    let files = all();
    let allowed = |word: &str, folders: &[&str]| {
        for name in uses(&files, word) {
            assert!(folders.iter().any(|folder| name.starts_with(folder)), "{name} names {word}");
        }
    };
    allowed("rdkafka::", &["connectors/src/kafka", "src/demo/"]);
    allowed("rumqttc::", &["connectors/src/mqtt"]);
    allowed("tokio_modbus::", &["connectors/src/modbus", "src/demo/"]);
    allowed("opcua::", &["connectors/src/opcua", "src/demo/"]);
    allowed("datafusion::", &["operators/src/"]);
    allowed("rusqlite::", &["engine/src/flow/", "connectors/src/sqlite"]);
    allowed("tokio_postgres::", &["connectors/src/postgres"]);
    allowed("object_store::", &["connectors/src/s3"]);
    allowed(
        "parquet::",
        &["connectors/src/objects", "connectors/src/table/parquet", "connectors/src/table/recorded"],
    );
}

#[test]
fn nothing_is_unbounded_global_or_unfinished() {
    let files = all();
    for word in ["static mut", "unbounded_channel", "channel::unbounded", "todo!(", "unimplemented!("] {
        assert_eq!(uses(&files, word), Vec::<String>::new(), "{word}");
    }
}

#[test]
fn every_code_is_explained_and_every_explained_code_is_used() {
    let files = all();
    let explained = files.iter().find(|(name, _)| name == "src/cli/codes.rs").map(|(_, text)| text.clone());
    let explained = explained.expect("src/cli/codes.rs");
    for code in codes(&explained) {
        assert_eq!(explained.matches(&code).count(), 1, "{code} is explained more than once");
    }
    let explained = codes(&explained);
    let used: std::collections::BTreeSet<String> = files
        .iter()
        .filter(|(name, _)| name != "src/cli/codes.rs" && name != "src/cli/explain.rs")
        .flat_map(|(_, text)| codes(text))
        .collect();
    let unexplained: Vec<_> = used.difference(&explained).collect();
    assert!(unexplained.is_empty(), "not in src/cli/codes.rs: {unexplained:?}");
    let unused: Vec<_> = explained.difference(&used).collect();
    assert!(unused.is_empty(), "explained and never used: {unused:?}");
}

/// Every `TG-X000` in a text.
fn codes(text: &str) -> std::collections::BTreeSet<String> {
    text.match_indices("TG-")
        .filter_map(|(at, _)| text.get(at..at + 7))
        .filter(|code| {
            let mut chars = code.chars().skip(3);
            chars.next().is_some_and(|c| c.is_ascii_uppercase()) && chars.all(|c| c.is_ascii_digit())
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_word_of_the_glossary_has_a_second_name() {
    for (name, text) in all() {
        for word in ["pipeline", "workflow", "job manager"] {
            assert!(!text.to_lowercase().contains(word), "{name} says {word:?}");
        }
    }
}

/// A name may end with `*`.
#[test]
fn every_test_that_the_table_of_faults_names_is_there() {
    let table = fs::read_to_string(root().join("tests/README.md")).expect("tests/README.md");
    let folders = ["tests", "engine", "connectors", "operators"];
    let tests: String = folders.iter().flat_map(|folder| sources(folder)).map(|(_, text)| text).collect();
    let is_of_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_*".contains(c);
    for quoted in table.split('`').skip(1).step_by(2) {
        // `file.rs: test`, or a further test of that file.
        let name = quoted.rsplit(' ').next().unwrap_or_default();
        if name.contains('_') && name.chars().all(is_of_a_name) {
            let beginning = format!("fn {}", name.trim_end_matches('*'));
            assert!(tests.contains(&beginning), "tests/README.md names `{name}`, which is no test");
        }
    }
}

//! Every topology in `tests/broken/` is refused with the messages that stand
//! in it: a comment `#   ^ CODE words` under a line means that the message
//! begins at the caret's column of that line and that its text or help holds
//! the words; `#< CODE` means column 1, `#! CODE` any place.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A message as a file expects it.
#[derive(Debug)]
struct Expected {
    code: String,
    /// Line and column, from 1.
    place: Option<(u64, u64)>,
    words: String,
}

fn expected(text: &str) -> Vec<Expected> {
    let mut found = Vec::new();
    let mut line_of_marks = 0;
    for (number, line) in text.lines().enumerate() {
        let rest = line.strip_prefix('#').map(str::trim_start).unwrap_or_default();
        let marked =
            ["^ ", "< ", "! "].iter().find_map(|mark| rest.strip_prefix(mark).map(|rest| (*mark, rest)));
        let Some((mark, rest)) = marked else {
            line_of_marks = number as u64 + 1;
            continue;
        };
        let (code, words) = rest.split_once(' ').unwrap_or((rest, ""));
        let place = match mark {
            "^ " => line.find('^').map(|at| (line_of_marks, at as u64 + 1)),
            "< " => Some((line_of_marks, 1)),
            _ => None,
        };
        found.push(Expected { code: code.to_owned(), place, words: words.to_owned() });
    }
    found
}

fn check(path: &Path) -> (Option<i32>, Vec<serde_json::Value>) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["check", "--format", "json"])
        .arg(path)
        .output()
        .expect("tidegate starts");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let messages = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    (output.status.code(), messages)
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn every_broken_topology_is_refused_at_the_right_place() {
    let mut wrong = Vec::new();
    for path in files() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("readable");
        let expected = expected(&text);
        assert!(!expected.is_empty(), "{name} expects nothing");
        let (status, messages) = check(&path);
        if status != Some(78) {
            wrong.push(format!("{name}: exit {status:?}"));
        }
        let errors: Vec<_> = messages.iter().filter(|message| message["severity"] == "error").collect();
        for expected in &expected {
            let fits = |message: &&&serde_json::Value| {
                let place = message["line"].as_u64().zip(message["column"].as_u64());
                message["code"] == expected.code.as_str()
                    && (expected.place.is_none() || place == expected.place)
                    && (message["message"].as_str().unwrap_or_default().contains(&expected.words)
                        || message["help"].as_str().unwrap_or_default().contains(&expected.words))
            };
            if !errors.iter().any(|message| fits(&message)) {
                wrong.push(format!("{name}: expected {expected:?}, found {errors:?}"));
            }
        }
        if errors.len() != expected.len() {
            wrong.push(format!("{name}: {} errors, expected {}: {errors:?}", errors.len(), expected.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn the_broken_topologies_cover_many_codes() {
    let files = files();
    assert!(files.len() >= 40, "{} files", files.len());
    let codes: BTreeSet<String> = files
        .iter()
        .flat_map(|path| expected(&fs::read_to_string(path).expect("readable")))
        .map(|expected| expected.code)
        .collect();
    assert!(codes.len() >= 25, "{codes:?}");
}

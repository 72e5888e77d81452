//! Every part of the catalog has an example that is right, and a slip of the
//! finger in any of its keys is told with the right word.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that fails says where"
)]

use std::path::Path;
use std::process::{Command, Output};

/// What examples of operators, triggers and tasks stand among.
const ROWS: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp", value = "float64", quality = "string" }
time   = { column = "ts", unit = "ms" }
"#;
const MORE: &str = r#"
[source.more]
type   = "file"
path   = "more.jsonl"
schema = { device = "string", ts = "timestamp", value = "float64", quality = "string" }
time   = { column = "ts", unit = "ms" }
"#;
const TRIGGER: &str = r#"
[trigger.hot_rows]
from  = "rows"
when  = "value > 90"
start = "warn"
give  = { device = "device" }
"#;
/// Files that examples of tables read.
const TABLES: [(&str, &str); 2] = [("presses.csv", "device,limit\n"), ("presses.jsonl", "")];
/// Makes a file of Parquet.
const MADE: &str = r#"
[source.presses]
type   = "file"
path   = "presses.jsonl"
schema = { device = "string", limit = "float64" }

[sink.made]
type   = "file"
from   = "presses"
path   = "made/"
format = "parquet"
"#;
const FLOW: &str = r#"
[flow.warn]
params = { device = "string" }
"#;
const TASK: &str = r#"
[[flow.warn.task]]
id   = "tell"
type = "alert"
text = "{device} is hot"
"#;

fn tidegate(arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args(["300", env!("CARGO_BIN_EXE_tidegate")])
        .args(arguments)
        .output()
        .expect("tidegate starts")
}

fn stdout(arguments: &[&str]) -> String {
    let output = tidegate(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Each part's name, its example, and a whole topology around it.
fn examples() -> Vec<(String, String, String)> {
    let list = stdout(&["list"]);
    let names = list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    names
        .chain(["trigger".to_owned()])
        .map(|name| {
            let doc = stdout(&["doc", &name]);
            let (_, example) = doc.split_once("Example:\n\n").unwrap_or_else(|| panic!("{name} has none"));
            let example = example.trim_end().to_owned() + "\n";
            let (section, _) = name.split_once('.').unwrap_or((&name, ""));
            let around = match section {
                // Some are whole by themselves.
                _ if example.contains("[source.") => String::new(),
                "operator" if example.contains("\"more\"") => [ROWS, MORE].concat(),
                "operator" => ROWS.to_owned(),
                "table" => ROWS.to_owned(),
                "trigger" => [ROWS, FLOW, TASK].concat(),
                "task" => {
                    let flow = example.split(['.', ']']).nth(1).expect("[[flow.NAME.task]]");
                    [ROWS, TRIGGER, FLOW].concat().replace("warn", flow)
                }
                _ if example.contains("\"rows\"") => ROWS.to_owned(),
                _ => String::new(),
            };
            let whole = example.clone() + &around;
            (name, example, whole)
        })
        .collect()
}

/// A reader that goes away is no failure of ours.
#[test]
fn a_closed_pipe_ends_a_listing_in_silence() {
    let script = format!("{} list | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_tidegate"));
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash starts");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

/// The files that examples of tables read.
fn make_tables(folder: &Path) {
    for (file, text) in TABLES {
        write(folder, file, text);
    }
    let database = rusqlite::Connection::open(folder.join("plant.db")).expect("opens");
    database.execute_batch("CREATE TABLE presses (device TEXT, \"limit\" REAL)").expect("a table");
    write(folder, "presses.jsonl", "{\"device\":\"p1\",\"limit\":5.5}\n");
    let path = write(folder, "made.toml", MADE);
    let made = tidegate(&["run", "--once", &path]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut files =
        std::fs::read_dir(folder.join("made")).expect("a folder").map(|entry| entry.expect("one").path());
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    std::fs::copy(file.expect("was made"), folder.join("presses.parquet")).expect("copies");
}

#[test]
fn every_example_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    make_tables(folder.path());
    let all = examples();
    assert!(all.len() > 30, "{}", all.len());
    for (name, _, whole) in all {
        let path = write(folder.path(), "example.toml", &whole);
        let output = tidegate(&["check", &path]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the example of {name}:\n{text}");
    }
}

/// Places and words of the keys at the beginning of a line or in an inline table.
fn keys(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let mut quoted = false;
        let mut word = None;
        for (place, c) in line.char_indices() {
            let is_word = c.is_ascii_lowercase() || c == '_' || c == '-';
            match c {
                '"' => quoted = !quoted,
                _ if quoted => {}
                '=' => {
                    if let Some((from, to)) = word.take() {
                        found.push((at + from, &text[at + from..at + to]));
                    }
                }
                '[' if place == 0 => break,
                _ if is_word => {
                    word = Some(word.map_or((place, place + 1), |(from, to)| {
                        if to == place { (from, place + 1) } else { (place, place + 1) }
                    }));
                }
                _ => {}
            }
        }
        at += line.len();
    }
    found
}

/// A key with one slip: a letter left out, doubled, exchanged or hit beside.
fn slip(key: &str, kind: usize) -> String {
    let middle = key.len() / 2;
    let (left, right) = key.split_at(middle);
    match kind % 4 {
        0 => format!("{left}{}", &right[1..]),
        1 => format!("{left}{}{right}", &right[..1]),
        2 if middle > 0 => {
            format!("{}{}{}{}", &left[..middle - 1], &right[..1], &left[middle - 1..], &right[1..])
        }
        _ => format!("{left}x{}", &right[1..]),
    }
}

#[test]
fn a_slip_in_a_key_is_told_with_the_right_word() {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, text) in TABLES {
        write(folder.path(), file, text);
    }
    // Names that the author chooses are no keys.
    let chosen = ["device", "turbine", "truck", "door", "good", "bad", "amount", "backup_cooling"];
    let (mut told, mut silent) = (0, Vec::new());
    for (name, example, whole) in examples() {
        for (number, (at, key)) in keys(&example).into_iter().enumerate() {
            let wrong = slip(key, number);
            if chosen.contains(&key) || key.len() < 3 || wrong == key {
                continue;
            }
            let text = format!("{}{wrong}{}", &whole[..at], &whole[at + key.len()..]);
            let output = tidegate(&["check", &write(folder.path(), "slip.toml", &text)]);
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(!message.contains("panicked"), "{message}");
            if output.status.code() == Some(78) && message.contains(&format!("did you mean `{key}`")) {
                told += 1;
            } else {
                silent.push(format!("{name}: `{wrong}` for `{key}`"));
            }
        }
    }
    assert!(told > 100, "{told} slips");
    assert!(told * 10 >= (told + silent.len()) * 9, "{told} told, not told: {silent:#?}");
}

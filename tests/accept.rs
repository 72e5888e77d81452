//! What is refused because rows would be lost or come twice, and the loss that a
//! person may accept.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says where"
)]

#[path = "crash/process.rs"]
#[allow(dead_code, reason = "not every test uses all of it")]
mod process;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use process::published;

const PLANT: &str = r#"[topology]
checkpoint_interval = "50ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { id = "int64" }

[sink.out]
type = "file"
from = "rows"
path = "out/"

[sink.table]
type  = "sqlite"
from  = "rows"
path  = "out.db"
table = "rows"
"#;

fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let base = ["run", "plant.toml", "--json", "--data-dir", "state"];
    let output = command.args(base).args(arguments).current_dir(folder).output().expect("tidegate starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

fn append(folder: &Path, ids: std::ops::Range<u64>) {
    let file = std::fs::File::options().create(true).append(true).open(folder.join("rows.jsonl"));
    let lines: String = ids.map(|id| format!("{{\"id\":{id}}}\n")).collect();
    file.expect("opens").write_all(lines.as_bytes()).expect("writes");
}

/// Runs three times, so that there are three checkpoints at least.
fn plant() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("plant.toml"), PLANT).expect("writes");
    for round in 0..3 {
        append(folder.path(), round * 10..round * 10 + 10);
        let (code, said) = run(folder.path(), &["--once"]);
        assert_eq!(code, Some(0), "{said}");
    }
    folder
}

fn checkpoints(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("state/checkpoints")).expect("a folder");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let is_one =
        |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().starts_with("checkpoint-");
    let mut paths: Vec<PathBuf> = paths.filter(is_one).collect();
    paths.sort();
    paths
}

fn out(folder: &Path) -> Vec<u64> {
    let mut ids: Vec<u64> =
        published(&folder.join("out")).iter().map(|row| row["id"].as_u64().expect("a number")).collect();
    ids.sort_unstable();
    ids
}

fn table(folder: &Path) -> Vec<i64> {
    let connection = rusqlite::Connection::open(folder.join("out.db")).expect("opens");
    let mut statement = connection.prepare("SELECT id FROM rows ORDER BY id").expect("right");
    let rows = statement.query_map((), |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("numbers")
}

#[test]
fn without_a_whole_checkpoint_nothing_starts_until_a_person_accepts_the_loss() {
    let folder = plant();
    let folder = folder.path();
    let all = checkpoints(folder);
    assert!(all.len() >= 3, "{all:?}");
    for path in &all {
        let mut bytes = std::fs::read(path).expect("is there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(path, bytes).expect("writes");
    }
    append(folder, 30..40);
    let before = (out(folder), table(folder));
    let (code, said) = run(folder, &["--once"]);
    assert_eq!(code, Some(1), "{said}");
    let last = said.lines().last().expect("a last word");
    let newest = all.last().expect("there is one").file_name().expect("a name").to_string_lossy();
    for words in ["no checkpoint is whole", &*newest, "the checksum does not fit", "--accept-loss"] {
        assert!(last.contains(words), "{words} is not in {last}");
    }
    assert_eq!((out(folder), table(folder)), before, "nothing has started");

    // A slip beside it costs nothing.
    for slip in [["--reset-state", "tabel"], ["--keep-position", "row"]] {
        let (code, said) = run(folder, &[&["--once", "--accept-loss"][..], &slip].concat());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.lines().last().expect("a last word").contains(slip[1]), "{said}");
        assert_eq!(checkpoints(folder), all, "nothing is put aside");
    }

    let (code, said) = run(folder, &["--once", "--accept-loss"]);
    assert_eq!(code, Some(0), "{said}");
    let audit: Vec<&str> =
        said.lines().filter(|line| line.contains("--accept-loss: begins without")).collect();
    assert_eq!(audit.len(), 1, "{said}");
    for words in ["\"ERROR\"", "rows", &*newest] {
        assert!(audit[0].contains(words), "{words} is not in {}", audit[0]);
    }
    // Everything is read again, and what was delivered before is there twice.
    let twice: Vec<u64> = (0..30).flat_map(|id| [id, id]).chain(30..40).collect();
    assert_eq!(out(folder), twice);
    assert_eq!(table(folder).len(), twice.len());
    for path in &all {
        let name = format!("lost-{}", path.file_name().expect("a name").to_string_lossy());
        assert!(path.with_file_name(name).exists(), "what was given up is kept");
    }

    // From here on as ever, and the flag does nothing where nothing is lost.
    append(folder, 40..50);
    let (code, said) = run(folder, &["--once", "--accept-loss"]);
    assert_eq!((code, said.contains("--accept-loss:")), (Some(0), false), "{said}");
    assert_eq!((out(folder).len(), table(folder).len()), (80, 80));
}

#[test]
fn a_sink_that_is_ahead_of_the_state_ends_a_bounded_run_with_an_error() {
    let folder = plant();
    let folder = folder.path();
    // An older state, as a copy that was brought back would be.
    for path in &checkpoints(folder)[1..] {
        std::fs::remove_file(path).expect("removes");
    }
    append(folder, 30..40);
    let (code, said) = run(folder, &["--once"]);
    assert_eq!(code, Some(1), "{said}");
    let last = said.lines().last().expect("a last word");
    for words in ["`table` failed", "later than epoch", "_tidegate_epochs"] {
        assert!(last.contains(words), "{words} is not in {last}");
    }
    assert_eq!(table(folder).len(), 30, "nothing more is delivered");

    let (code, said) = run(folder, &["--once", "--accept-duplicates"]);
    assert_eq!(code, Some(0), "{said}");
    let audit: Vec<&str> = said.lines().filter(|line| line.contains("--accept-duplicates: ")).collect();
    assert_eq!(audit.len(), 1, "{said}");
    for words in ["\"ERROR\"", "\"table\"", "later than epoch", "may be there twice"] {
        assert!(audit[0].contains(words), "{words} is not in {}", audit[0]);
    }
    // What came after that state is there twice, everything else once.
    let rows = table(folder);
    let times = |id: i64| rows.iter().filter(|row| **row == id).count();
    let first_twice = (0..30).find(|id| times(*id) == 2).expect("some are in doubt");
    assert!(
        (0..first_twice).all(|id| times(id) == 1) && (first_twice..30).all(|id| times(id) == 2),
        "{rows:?}"
    );
    assert!((30..40).all(|id| times(id) == 1), "{rows:?}");

    // From here on as ever, and the flag does nothing where nothing is ahead.
    let before = rows.len();
    for (ids, arguments) in [(40..50, &["--once"][..]), (50..60, &["--once", "--accept-duplicates"])] {
        append(folder, ids);
        let (code, said) = run(folder, arguments);
        assert_eq!((code, said.contains("--accept-duplicates:")), (Some(0), false), "{said}");
    }
    let rows = table(folder);
    assert_eq!(rows.len(), before + 20);
    assert_eq!(rows[before..], (40..60).collect::<Vec<_>>());
}

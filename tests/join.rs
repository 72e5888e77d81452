//! A join in a whole topology: two files, two runs, rows without a partner.

#![allow(clippy::expect_used, reason = "a test that fails says where")]

use std::fs;
use std::process::Command;

const TOPOLOGY: &str = r#"
[source.a]
type   = "file"
path   = "a.jsonl"
schema = { k = "string", ts = "timestamp" }
time   = { column = "ts", unit = "s" }

[source.b]
type   = "file"
path   = "b.jsonl"
schema = { k = "string", ts = "timestamp" }
time   = { column = "ts", unit = "s" }

[operator.joined]
type  = "join"
from  = ["a", "b"]
on    = "a.k = b.k"
kind  = "full"
match = { within = "5s" }

[operator.short]
type   = "project"
from   = "joined"
select = ["event_time AS at", "a_k", "b_k"]

[operator.counted]
type   = "window"
from   = "joined"
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS n", "count(a_k) AS a", "count(b_k) AS b"]

[sink.out]
type = "file"
path = "out.jsonl"
from = "short"

[sink.counts]
type = "file"
path = "counts.jsonl"
from = "counted"
"#;

#[test]
fn two_files_are_joined_and_a_second_run_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("writes");
    let line = |(k, ts): &(&str, u32)| format!("{{\"k\":\"{k}\",\"ts\":{ts}}}\n");
    let rows = |rows: &[(&str, u32)]| rows.iter().map(line).collect::<String>();
    let run = || {
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_tidegate"), "run", "join.toml", "--once"]);
        let ran = command.current_dir(folder.path()).output().expect("tidegate starts");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let text = fs::read_to_string(folder.path().join("out.jsonl")).expect("was written");
        let mut lines: Vec<String> = text.lines().map(|line| line.replace("1970-01-01T00:00:", "")).collect();
        lines.sort();
        lines
    };
    let out = |at: u32, a: &str, b: &str| format!("{{\"at\":\"{at}.000000Z\",\"a_k\":{a},\"b_k\":{b}}}");
    write("join.toml", TOPOLOGY);
    write("a.jsonl", &rows(&[("x", 10), ("y", 11)]));
    write("b.jsonl", &rows(&[("x", 12)]));
    let mut expected = vec![out(11, "\"y\"", "null"), out(12, "\"x\"", "\"x\"")];
    assert_eq!(run(), expected);
    // The x of second 12 is still there; the y of second 11 has left alone.
    write("a.jsonl", &rows(&[("x", 10), ("y", 11), ("x", 13)]));
    write("b.jsonl", &rows(&[("x", 12), ("y", 14)]));
    expected.extend([out(13, "\"x\"", "\"x\""), out(14, "null", "\"y\"")]);
    assert_eq!(run(), expected);
    let counts = fs::read_to_string(folder.path().join("counts.jsonl")).expect("was written");
    assert!(counts.lines().next().is_some_and(|line| line.ends_with("\"n\":2,\"a\":2,\"b\":1}")), "{counts}");
}

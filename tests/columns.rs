//! A result does not depend on who else reads: a source that is told which
//! columns are read rejects the same rows and gives the same windows as one
//! whose every column and reject is read.

#![allow(clippy::expect_used, reason = "a test that fails says where")]

use std::path::Path;
use std::process::Command;

const TOPOLOGY: &str = r#"
[source.rows]
type   = "file"
path   = "rows.FORMAT"
format = "FORMAT"
schema = { device = "string", ts = "timestamp", value = "float64", quality = "string", n = "int8" }
time   = { column = "ts", unit = "ms" }
missing = "reject"

[operator.good]
type  = "filter"
from  = "rows"
where = "value >= 0"

[operator.load]
type   = "window"
from   = "good"
key    = ["device"]
window = { kind = "tumbling", size = "1s" }
select = ["count(*) AS n", "sum(value) AS total"]

[sink.out]
type   = "file"
from   = "load"
path   = "out.jsonl"
format = "json"
"#;

/// Readers of everything.
const READERS: &str = r#"
[sink.raw]
type = "discard"
from = "rows"

[sink.rejects]
type = "file"
from = "rows.rejects"
path = "rejects.jsonl"
"#;

/// Rows of which every fifth has something wrong in a column that no window reads.
fn rows(format: &str) -> String {
    let json = format == "json";
    let mut text = String::from(if json { "" } else { "device,ts,value,quality,n\n" });
    for row in 0..1_000 {
        let (device, ts, value) = (row % 7, 1_700_000_000_000_i64 + row * 10, row % 50 - 5);
        let (quality, n) = match row % 10 {
            3 if json => ("7", "1"),
            3 => ("good,1", "1"),
            8 => ("good", "128"),
            _ => ("good", "-128"),
        };
        text += &if json {
            let quality = if quality == "good" { "\"good\"" } else { quality };
            format!(
                "{{\"device\":\"d{device}\",\"ts\":{ts},\"value\":{value},\"quality\":{quality},\"n\":{n}}}\n"
            )
        } else {
            format!("d{device},{ts},{value},{quality},{n}\n")
        };
    }
    text
}

fn run(folder: &Path, topology: &str) -> String {
    std::fs::write(folder.join("topology.toml"), topology).expect("written");
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_tidegate"), "run", "topology.toml", "--once"])
        .current_dir(folder)
        .output()
        .expect("tidegate starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(folder.join("out.jsonl")).expect("a result")
}

#[test]
fn windows_and_rejects_do_not_depend_on_who_reads_the_source() {
    for format in ["json", "csv"] {
        let topology = TOPOLOGY.replace("FORMAT", format);
        let results = [topology.clone(), topology + READERS].map(|topology| {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join(format!("rows.{format}")), rows(format)).expect("written");
            let result = run(folder.path(), &topology);
            let rejects = std::fs::read_to_string(folder.path().join("rejects.jsonl"));
            (result, rejects.map(|text| text.lines().count()).ok())
        });
        let [(alone, _), (watched, rejects)] = results;
        assert_eq!(alone, watched, "{format}");
        assert!(!alone.is_empty(), "{format}");
        // n = 128 is no int8, and a quality that is no text (JSON); CSV has a cell too many, which is ignored.
        let expected = if format == "json" { 200 } else { 100 };
        assert_eq!(rejects, Some(expected), "{format}");
    }
}

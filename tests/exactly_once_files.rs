//! Parquet files in a directory hold each row once, however often the process
//! is killed; every file that a reader finds is whole, and its columns have
//! their types. Read back by DuckDB and pyarrow.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

#[path = "exactly_once/process.rs"]
mod process;
#[path = "exactly_once/reader.rs"]
mod reader;

use process::{Feed, kill, pause, run_once, start};
use reader::{counted, names, python};

const TOPOLOGY: &str = r#"
[topology]
name = "kills"
checkpoint_interval = "50ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { id = "int64", device = "string" }

[sink.all]
type   = "file"
from   = "rows"
path   = "out/"
format = "parquet"
roll   = { size = "16KiB", age = "200ms" }
"#;

/// Kills; each comes at another moment of a life.
const KILLS: u64 = 20;

#[test]
fn every_row_is_in_one_file_after_many_kills() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY).expect("written");
    let out = folder.path().join("out");
    let feed = Feed::start(&folder.path().join("rows.jsonl"));
    let mut delivered = Vec::new();
    for round in 0..KILLS {
        let child = start(folder.path());
        pause(150 + (round * 7_919) % 701);
        kill(child);
        if round % 3 == 2 {
            // A half file would make the reader fail.
            let (rows, distinct, _) = counted(&out);
            assert_eq!(rows, distinct, "after kill {round}");
            delivered.push(rows);
        }
    }
    let rows = feed.stop();
    run_once(folder.path());
    assert_eq!(counted(&out), (rows, rows, rows));
    delivered.dedup();
    assert!(delivered.len() > 4, "{delivered:?}");
    // Many checkpoints share a file, and nothing is left of the others.
    let files = names(&out);
    assert!((20..600).contains(&files.len()), "{} files", files.len());
    let all = std::fs::read_dir(&out).expect("a folder").count();
    assert_eq!(all, files.len() + 1, "files, and the folder of the marker");
}

const TYPES: &str = r#"
[topology]
name = "types"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { b = "bool", i = "int16", u = "uint64", f = "float64", t = "string", x = "bytes", at = "timestamp", day = "date", money = "decimal(10,2)" }
time   = { column = "at", format = "rfc3339" }

[sink.zstd]
type   = "file"
from   = "rows"
path   = "zstd/"
format = "parquet"

[sink.snappy]
type        = "file"
from        = "rows"
path        = "snappy/"
format      = "parquet"
compression = "snappy"

[sink.none]
type        = "file"
from        = "rows"
path        = "none/"
format      = "parquet"
compression = "none"
"#;

#[test]
fn values_and_types_are_read_back_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TYPES).expect("written");
    let rows = [
        r#"{"b":true,"i":-7,"u":18446744073709551615,"f":1.5,"t":"a\tb ü","x":"6869","at":"2026-01-02T03:04:05.000006Z","day":"2026-02-28","money":"12.30"}"#,
        r#"{"b":null,"i":8,"u":null,"f":null,"t":null,"x":null,"at":"1969-12-31T23:59:59.999999Z","day":null,"money":null}"#,
    ];
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n") + "\n").expect("written");
    run_once(folder.path());
    let program = "import sys, glob, pyarrow.parquet as pq\n\
         file = pq.ParquetFile(glob.glob(sys.argv[1] + '/*.parquet')[0])\n\
         table = file.read()\n\
         print(*(f'{f.name}:{f.type}' for f in table.schema), sep=' ')\n\
         print(table.to_pylist())\n\
         print(file.metadata.row_group(0).column(0).compression, file.metadata.metadata[b'tidegate.epochs'].decode())";
    for compression in ["zstd", "snappy", "none"] {
        let said = python(program, &[&folder.path().join(compression)]);
        let lines: Vec<&str> = said.lines().collect();
        let types = "b:bool i:int16 u:uint64 f:double t:string x:binary at:timestamp[us, tz=UTC] \
                     day:date32[day] money:decimal128(10, 2)";
        assert_eq!(lines[0], types);
        let values = "[{'b': True, 'i': -7, 'u': 18446744073709551615, 'f': 1.5, 't': 'a\\tb ü', 'x': b'hi', \
             'at': datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=<UTC>), 'day': datetime.date(2026, 2, 28), \
             'money': Decimal('12.30')}, {'b': None, 'i': 8, 'u': None, 'f': None, 't': None, 'x': None, \
             'at': datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=<UTC>), 'day': None, 'money': None}]";
        assert_eq!(lines[1].replace("zoneinfo.ZoneInfo(key='UTC')", "<UTC>"), values);
        let expected = if compression == "none" { "UNCOMPRESSED" } else { compression };
        assert!(lines[2].eq_ignore_ascii_case(&format!("{expected} 1-1")), "{}", lines[2]);
    }
}

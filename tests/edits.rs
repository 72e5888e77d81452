//! A topology's file is changed while its state is on disk: what fits goes on
//! by the names of nodes, what does not is refused with what has changed, its
//! place and its cure, and nothing is forgotten without a word.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says where"
)]

#[path = "edits/orders.rs"]
mod orders;
#[path = "crash/process.rs"]
#[allow(dead_code, reason = "not every test uses all of it")]
mod process;

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use orders::{ORDERS, post};
use process::{Daemon, published};

const PLANT: &str = r#"[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "s" }

[operator.load]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS n"]

[operator.calm]
type     = "deadband"
from     = "rows"
key      = "device"
column   = "value"
absolute = 0.5

[trigger.high]
from  = "rows"
key   = ["device"]
when  = "value > 50"
hold  = "1m"
start = "look"

[flow.look]
[[flow.look.task]]
id   = "tell"
type = "emit"
name = "high"
text = "high"

[sink.out]
type = "file"
from = "load"
path = "out/"

[sink.quiet]
type = "file"
from = "calm"
path = "calm/"
"#;

/// What the second start does.
enum Expect {
    /// It is refused with exactly these lines, places included.
    Refused(&'static [&'static str]),
    /// It goes on, says these words, and the windows count so many rows.
    Counts(u64, &'static [&'static str]),
}
use Expect::{Counts, Refused};

struct Edit {
    name: &'static str,
    /// Replacements in the file.
    edits: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
    expect: Expect,
}

/// Rows before the edit: five in the first ten seconds; and four after it.
const BEFORE: std::ops::Range<u64> = 0..5;
const AFTER: std::ops::Range<u64> = 5..9;

/// The trigger, whose rows wait whole.
const HIGH: (&str, &str) = (
    "[trigger.high]\nfrom  = \"rows\"\nkey   = [\"device\"]\nwhen  = \"value > 50\"\nhold  = \"1m\"\nstart = \"look\"\n",
    "",
);

const EDITS: &[Edit] = &[
    Edit { name: "nothing", edits: &[], arguments: &[], expect: Counts(9, &[]) },
    Edit {
        name: "a size",
        edits: &[("10s", "20s")],
        arguments: &[],
        expect: Refused(&[
            r#"  operator.load: window.size was "10s", is "20s" (plant.toml:11:38)"#,
            "    change it back, or throw its state away: --reset-state load",
        ]),
    },
    Edit {
        name: "a size, and its state thrown away",
        edits: &[("10s", "20s")],
        arguments: &["--reset-state", "load"],
        expect: Counts(4, &[]),
    },
    Edit {
        name: "three nodes at once, keys that came and went, a type of a column",
        edits: &[
            ("value = \"float64\"", "value = \"int64\", site = \"string\""),
            ("key    = [\"device\"]\n", ""),
            ("\"count(*) AS n\"", "\"count(*) AS n\", \"max(value) AS peak\""),
            ("hold  = \"1m\"", "hold  = \"2m\""),
        ],
        arguments: &[],
        expect: Refused(&[
            "  operator.calm: its input's column `value` was float64, is int64 (plant.toml:15:12)",
            "    change it back, or throw its state away: --reset-state calm",
            "  trigger.high: hold was \"1m\", is \"2m\" (plant.toml:24:9)",
            "  trigger.high: its input's column `value` was float64, is int64 (plant.toml:21:9)",
            "  trigger.high: its input has a new column `site` (string) (plant.toml:21:9)",
            "    change it back, or throw its state away: --reset-state high",
            "  operator.load: key was [\"device\"], is left out (plant.toml:7:11)",
            "  operator.load: select has \"max(value) AS peak\" besides what it had (plant.toml:11:10)",
            "  operator.load: its input's column `value` was float64, is int64 (plant.toml:9:10)",
            "    change it back, or throw its state away: --reset-state load",
        ]),
    },
    Edit {
        name: "columns that nothing with state reads",
        edits: &[("value = \"float64\" }", "site = \"string\", value = \"float64\" }"), HIGH],
        arguments: &[],
        expect: Counts(9, &["`high` is not in the file any more"]),
    },
    Edit {
        name: "keys that state does not depend on",
        edits: &[
            ("absolute = 0.5", "absolute = 0.1"),
            ("start = \"look\"", "mode  = \"shadow\"\nstart = \"look\"\nmax_starts = \"9/m\""),
            ("path = \"out/\"", "path = \"out/\"\nformat = \"json\""),
        ],
        arguments: &[],
        expect: Counts(9, &[]),
    },
    Edit {
        name: "one key for a list of one, and an operator between",
        edits: &[
            ("key    = [\"device\"]", "key    = \"device\""),
            (
                "[operator.load]",
                "[operator.all]\ntype = \"filter\"\nfrom = \"rows\"\nwhere = \"true\"\n\n[operator.load]",
            ),
            ("\"window\"\nfrom   = \"rows\"", "\"window\"\nfrom   = \"all\""),
        ],
        arguments: &[],
        expect: Counts(9, &[]),
    },
    Edit {
        name: "an operator that is gone, and one that is new",
        edits: &[("calm]", "still]"), ("\"calm\"", "\"still\"")],
        arguments: &[],
        expect: Counts(
            9,
            &["`calm` is not in the file any more: its state (", "is forgotten with the next checkpoint"],
        ),
    },
    Edit {
        name: "another file",
        edits: &[("rows.jsonl", "other.jsonl")],
        arguments: &[],
        expect: Refused(&[
            r#"  source.rows: path was "rows.jsonl", is "other.jsonl" (plant.toml:3:10)"#,
            "    change it back, or begin it anew: --reset-state rows; if it is the same under another name: --keep-position rows",
        ]),
    },
    Edit {
        name: "the same file under another name",
        edits: &[("rows.jsonl", "link.jsonl")],
        arguments: &["--keep-position", "rows"],
        expect: Counts(9, &[r#"path was \"rows.jsonl\", is \"link.jsonl\""#]),
    },
    Edit {
        name: "another file from its beginning, its rows in the windows that are open",
        edits: &[("rows.jsonl", "other.jsonl")],
        arguments: &["--reset-state", "rows"],
        expect: Counts(5 + 1, &[]),
    },
    Edit {
        name: "a source of another type",
        edits: &[(
            "\"file\"\npath   = \"rows.jsonl\"",
            "\"kafka\"\nbrokers = [\"127.0.0.1:9\"]\ntopics = [\"rows\"]",
        )],
        arguments: &["--keep-position", "rows"],
        expect: Refused(&[
            r#"  source.rows: brokers was left out, is ["127.0.0.1:9"] (plant.toml:3:11)"#,
            r#"  source.rows: path was "rows.jsonl", is left out (plant.toml:1:9)"#,
            r#"  source.rows: topics was left out, is ["rows"] (plant.toml:4:10)"#,
            r#"  source.rows: type was "file", is "kafka" (plant.toml:2:10)"#,
            "    change it back, or begin it anew: --reset-state rows",
        ]),
    },
    Edit {
        name: "a source of another name",
        edits: &[("source.rows", "source.lines"), ("\"rows\"", "\"lines\"")],
        arguments: &[],
        expect: Counts(14, &["source `rows` is not in the file any more: its position {\\\"files\\\":"]),
    },
    Edit {
        name: "a name that is nowhere",
        edits: &[],
        arguments: &["--reset-state", "laod"],
        expect: Refused(&["error: there is no node `laod` whose state could be thrown away"]),
    },
];

fn rows(range: std::ops::Range<u64>) -> String {
    range.map(|ts| format!("{{\"device\":\"a\",\"ts\":{ts},\"value\":99}}\n")).collect()
}

fn edited(edits: &[(&str, &str)]) -> String {
    let mut text = PLANT.to_owned();
    for (before, after) in edits {
        assert!(text.contains(before), "{before}");
        text = text.replace(before, after);
    }
    text
}

/// Exit code and everything that was said.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["run", "plant.toml", "--json"]).args(arguments).current_dir(folder).output();
    let output = output.expect("tidegate starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn every_edit_goes_on_or_is_refused_with_what_has_changed() {
    for Edit { name, edits, arguments, expect } in EDITS {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        std::fs::write(folder.join("plant.toml"), PLANT).expect("writes");
        std::fs::write(folder.join("rows.jsonl"), rows(BEFORE)).expect("writes");
        std::fs::write(folder.join("other.jsonl"), rows(7..8)).expect("writes");
        std::fs::hard_link(folder.join("rows.jsonl"), folder.join("link.jsonl")).expect("links");
        let (code, said) = run(folder, &["--for", "1500ms"]);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert_eq!(
            published(&folder.join("out")),
            Vec::<serde_json::Value>::new(),
            "{name}: windows are open"
        );
        std::fs::write(folder.join("plant.toml"), edited(edits)).expect("writes");
        let mut file = std::fs::File::options().append(true).open(folder.join("rows.jsonl")).expect("opens");
        file.write_all(rows(AFTER).as_bytes()).expect("writes");
        let (code, said) = run(folder, &[&["--once"][..], arguments].concat());
        match expect {
            Refused(lines) => {
                assert_eq!(code, Some(1), "{name}: {said}");
                let told: Vec<&str> = said.lines().skip_while(|line| line.starts_with('{')).collect();
                let head = "error: the saved state does not fit the file any more:";
                let told = if told[0] == head { &told[1..] } else { &told[..] };
                assert_eq!(told, *lines, "{name}");
                // Nothing has been done: the former file goes on.
                std::fs::write(folder.join("plant.toml"), PLANT).expect("writes");
                let (code, said) = run(folder, &["--once"]);
                assert_eq!((code, counted(folder)), (Some(0), 9), "{name}, changed back: {said}");
            }
            Counts(count, words) => {
                assert_eq!(code, Some(0), "{name}: {said}");
                assert_eq!(counted(folder), *count, "{name}: {said}");
                for word in *words {
                    assert!(said.contains(word), "{name}: {word:?} is not in {said}");
                }
                let warned = said.matches("\"WARN\"").count();
                assert_eq!(warned, usize::from(!words.is_empty()), "{name}: {said}");
            }
        }
    }
}

/// Rows that the windows have counted.
fn counted(folder: &Path) -> u64 {
    published(&folder.join("out")).iter().map(|row| row["n"].as_u64().expect("a count")).sum()
}

#[test]
fn acknowledged_rows_of_a_source_that_is_gone_are_not_forgotten() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let plant = ORDERS.replace("ADDRESS", &address);
    std::fs::write(folder.join("plant.toml"), &plant).expect("writes");
    let first = Daemon::start(folder, "plant.toml", &[]);
    post(folder, &address, 1);
    first.stop(folder);
    let second = Daemon::start(folder, "plant.toml", &[]);
    (2..5).for_each(|id| post(folder, &address, id));
    second.kill();

    let file = "type = \"file\"\npath = \"orders.jsonl\"\nformat = \"json\"";
    let changed = plant.replace("type   = \"http\"", file).replace(&format!("listen = \"{address}\"\n"), "");
    std::fs::write(folder.join("orders.jsonl"), "{\"id\":9}\n").expect("writes");
    for (name, text) in [("another name", plant.replace("orders", "others")), ("another type", changed)] {
        std::fs::write(folder.join("plant.toml"), &text).expect("writes");
        let (code, said) = run(folder, &["--for", "1s"]);
        assert_eq!(code, Some(1), "{name}: {said}");
        for words in
            ["source `orders` no longer reads", "ingress/orders: 3 records of it", "--reset-state orders"]
        {
            assert!(said.contains(words), "{name}: {words} is not in {said}");
        }
    }
    // As it was they are there; and lost when a person says so.
    let (code, said) = run(folder, &["--once", "--reset-state", "orders"]);
    assert_eq!(code, Some(0), "{said}");
    let ids = || published(&folder.join("out")).iter().map(|row| row["id"].as_u64()).collect::<Vec<_>>();
    assert_eq!(ids(), [Some(1), Some(9)]);
    assert!(said.contains("3 records that were acknowledged and not worked on are put aside"), "{said}");
}

const QUEUED: &str = r#"[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", value = "float64" }

[sink.out]
type  = "http"
from  = "rows"
url   = "http://127.0.0.1:9/rows"
queue = { disk = "64MiB" }
"#;

#[test]
fn rows_that_wait_for_a_sink_that_is_gone_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("plant.toml"), QUEUED).expect("writes");
    std::fs::write(folder.join("rows.jsonl"), rows(0..7)).expect("writes");
    let (code, said) = run(folder, &["--for", "1500ms"]);
    assert_eq!(code, Some(0), "{said}");
    let waits = "up to 7 rows (";
    let http = "type  = \"http\"\nfrom  = \"rows\"\nurl   = \"http://127.0.0.1:9/rows\"\nqueue = { disk = \"64MiB\" }\n";
    let cases: [(&str, String, Option<i32>, &[&str]); 4] = [
        ("as it was", QUEUED.into(), Some(0), &[]),
        (
            "another name",
            QUEUED.replace("sink.out", "sink.there"),
            Some(0),
            &["sink `out` is not in the file any more", waits, "egress/out"],
        ),
        (
            "no queue any more",
            QUEUED.replace(http, "type = \"discard\"\nfrom = \"rows\"\n"),
            Some(0),
            &["sink `out` is not in the file any more, or keeps no rows", waits, "egress/out"],
        ),
        (
            "another type",
            QUEUED.replace(http, "type = \"sqlite\"\nfrom = \"rows\"\npath = \"out.db\"\ntable = \"rows\"\n"),
            Some(1),
            &[
                r#"sink.out: type was "http", is "sqlite" (plant.toml:7:8)"#,
                waits,
                "egress/out",
                "change it back",
            ],
        ),
    ];
    for (name, text, expected, words) in cases {
        std::fs::write(folder.join("plant.toml"), text).expect("writes");
        let (code, said) = run(folder, &["--for", "300ms"]);
        assert_eq!(code, expected, "{name}: {said}");
        for word in words {
            assert!(said.contains(word), "{name}: {word} is not in {said}");
        }
        assert_eq!(said.contains(waits), !words.is_empty(), "{name}: {said}");
        // What it names is the place of the change.
        std::fs::write(folder.join("plant.toml"), QUEUED).expect("writes");
        assert_eq!(run(folder, &["--for", "300ms"]).0, Some(0), "{name}, changed back");
    }
}

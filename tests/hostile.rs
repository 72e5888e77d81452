//! What bad input and a bad machine get: a counted reject or a clear error,
//! never a panic, never silence.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Exit codes, as sysexits.h has them.
const EX_IOERR: i32 = 74;
const EX_CONFIG: i32 = 78;

const FROM_FILE: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
format = "json"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "ms" }

[sink.out]
type = "file"
from = "rows"
path = "out.jsonl"

[sink.rejects]
type = "file"
from = "rows.rejects"
path = "rejects.jsonl"
"#;

fn folder(topology: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), topology).expect("written");
    folder
}

fn tidegate(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_tidegate")]).args(arguments).current_dir(folder);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let output = tidegate(folder, &[&["run", "topology.toml"], arguments].concat()).output();
    let output = output.expect("tidegate starts");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("was written");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

#[test]
fn rows_that_cannot_be_used_are_rejected_with_place_and_reason() {
    let folder = folder(FROM_FILE);
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let long = "x".repeat(100_000_000);
    let lines: [(Vec<u8>, Option<&str>); 11] = [
        (br#"{"device":"a","ts":1700000000000,"value":1.5}"#.to_vec(), None),
        (b"{\"device\":\"\xff\xfe\",\"ts\":1700000000001,\"value\":1.5}".to_vec(), Some("unicode")),
        (br#"{"device":"a","ts":1700000000002,"value":NaN}"#.to_vec(), Some("not JSON")),
        (br#"{"device":"a","ts":-5,"value":2}"#.to_vec(), None),
        (br#"{"device":"a","ts":9223372036854775807,"value":2}"#.to_vec(), Some("column `ts`")),
        (br#"{"device":"a","ts":4102444800000,"value":2}"#.to_vec(), None),
        (format!(r#"{{"device":"a","ts":1,"value":{open}{close}}}"#).into_bytes(), Some("nested deeper")),
        (format!(r#"{{"device":"{long}","ts":1,"value":2}}"#).into_bytes(), Some("payload_max")),
        (br#"{"device":"a","ts":1700000000003,"value":1e999}"#.to_vec(), Some("column `value`")),
        (vec![0, 0], Some("expected an object")),
        (br#"{"device":"last","ts":1700000000004,"value":3}"#.to_vec(), None),
    ];
    let text: Vec<&[u8]> = lines.iter().map(|(line, _)| line.as_slice()).collect();
    std::fs::write(folder.path().join("rows.jsonl"), text.join(&b'\n')).expect("written");
    let output = run(folder.path(), &["--once"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(rows(&folder.path().join("out.jsonl")).len(), 4);
    let rejects = rows(&folder.path().join("rejects.jsonl"));
    let expected = lines.iter().zip(1..).filter_map(|((_, reason), line)| Some(((*reason)?, line)));
    for (reject, (reason, line)) in rejects.iter().zip(expected) {
        assert_eq!(reject["position"], format!("rows.jsonl:{line}"), "{reject}");
        assert!(reject["reason"].as_str().is_some_and(|text| text.contains(reason)), "{}", reject["reason"]);
    }
    assert_eq!(rejects.len(), 7);
}

#[test]
fn peers_that_are_not_there_hold_nobody_up() {
    // Ports of the first kilobyte that nothing here listens on.
    let folder = folder(
        r#"
[source.orders]
type    = "kafka"
brokers = ["127.0.0.1:1"]
topics  = ["orders"]
group   = "g"
start   = "earliest"
format  = "raw"

[source.fleet]
type   = "mqtt"
broker = "mqtt://127.0.0.1:2"
topics = ["fleet/+/temp"]
format = "raw"

[source.plc]
type    = "modbus"
device  = "tcp://127.0.0.1:3"
unit_id = 1
every   = "100ms"
points  = [{ name = "level", register = "holding:0", type = "u16" }]

[source.scada]
type     = "opcua"
endpoint = "opc.tcp://127.0.0.1:4"
nodes    = [{ node = "ns=2;s=level" }]

[source.numbers]
type = "generate"
rate = "100/s"

[sink.nothing]
type = "discard"
from = "orders"

[sink.nothing_2]
type = "discard"
from = "fleet"

[sink.nothing_3]
type = "discard"
from = "scada"

[sink.levels]
type = "file"
from = "plc"
path = "levels.jsonl"

[sink.out]
type = "file"
from = "numbers"
path = "numbers.jsonl"
"#,
    );
    let output = run(folder.path(), &["--for", "3s"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for address in ["127.0.0.1:1", "mqtt", "127.0.0.1:3", "127.0.0.1:4"] {
        assert!(stderr(&output).contains(address), "{address} is not named: {}", stderr(&output));
    }
    assert!(rows(&folder.path().join("numbers.jsonl")).len() > 100);
    let levels = rows(&folder.path().join("levels.jsonl"));
    assert!(levels.len() > 5, "{levels:?}");
    assert!(levels.iter().all(|row| row["quality"] == "bad" && row["level"].is_null()), "{levels:?}");
}

#[test]
fn a_second_process_on_the_same_state_is_refused() {
    let folder = folder(
        "[source.n]\ntype = \"generate\"\nrate = \"10/s\"\n[sink.s]\ntype = \"discard\"\nfrom = \"n\"\n",
    );
    let first = tidegate(folder.path(), &["run", "topology.toml"]).stderr(Stdio::piped()).spawn();
    let mut first = first.expect("tidegate starts");
    let mut log = String::new();
    let mut reader = std::io::BufReader::new(first.stderr.take().expect("piped"));
    while !log.contains("connected") {
        assert!(std::io::BufRead::read_line(&mut reader, &mut log).expect("readable") > 0, "{log}");
    }
    let second = run(folder.path(), &["--for", "1s"]);
    assert_eq!(second.status.code(), Some(EX_IOERR));
    assert!(stderr(&second).contains("belongs to another running tidegate"), "{}", stderr(&second));
    let stopped = Command::new("kill").arg(first.id().to_string()).status().expect("kill starts");
    assert!(stopped.success());
    assert!(first.wait().expect("ends").success(), "SIGTERM ends the first in good order");
    let third = run(folder.path(), &["--for", "100ms"]);
    assert_eq!(third.status.code(), Some(0), "{}", stderr(&third));
}

/// A command with a file system of 32 KiB, full, at `small` (a mount of its own
/// namespace, which ends with it).
fn on_a_full_disk(folder: &Path, command: &str) -> Output {
    std::fs::create_dir(folder.join("small")).expect("a mount point");
    let script = format!(
        "mount -t tmpfs -o size=32k none small && {{ head -c 100k /dev/zero > small/filler || true; }} && exec {command}"
    );
    let output = Command::new("timeout")
        .args(["60", "unshare", "--mount", "--map-root-user", "sh", "-c", &script])
        .current_dir(folder)
        .output()
        .expect("unshare, of util-linux");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    output
}

#[test]
fn a_full_disk_at_the_start_is_said() {
    let folder = folder(FROM_FILE);
    std::fs::write(folder.path().join("rows.jsonl"), "").expect("written");
    let command =
        format!("{} run topology.toml --once --data-dir small/state", env!("CARGO_BIN_EXE_tidegate"));
    let output = on_a_full_disk(folder.path(), &command);
    assert_eq!(output.status.code(), Some(EX_IOERR), "{}", stderr(&output));
    assert!(stderr(&output).contains("No space left on device"), "{}", stderr(&output));
    assert!(stderr(&output).contains("small/state"), "{}", stderr(&output));
}

#[test]
fn files_that_are_not_there_or_no_text_are_named() {
    let empty = tempfile::tempdir().expect("a folder");
    let output = run(empty.path(), &["--once"]);
    assert_eq!(output.status.code(), Some(EX_IOERR));
    assert!(stderr(&output).contains("topology.toml"), "{}", stderr(&output));

    let no_rows = folder(FROM_FILE);
    let output = run(no_rows.path(), &["--once"]);
    assert_eq!(output.status.code(), Some(EX_CONFIG));
    assert!(
        stderr(&output).contains("TG-C009") && stderr(&output).contains("rows.jsonl"),
        "{}",
        stderr(&output)
    );
    assert!(!no_rows.path().join(".tidegate").exists(), "nothing was started");

    let no_text = tempfile::tempdir().expect("a folder");
    std::fs::write(no_text.path().join("topology.toml"), b"[source.a]\ntype = \"\xff\"").expect("written");
    let output = run(no_text.path(), &["--once"]);
    assert_eq!(output.status.code(), Some(EX_CONFIG));
    assert!(stderr(&output).contains("not UTF-8: byte 19"), "{}", stderr(&output));
}

/// Every kind of state that grows with its keys and rows has an end, by name.
#[test]
fn a_state_that_outgrows_its_limit_fails_the_topology_by_name() {
    let rows = FROM_FILE.replace(
        "[sink.out]",
        "[operator.load]\nfrom = INPUT\nstate_max = \"1MiB\"\nKIND\n[sink.out]\naccept_changes = true",
    );
    let rows = rows.replace("from = \"rows\"\n", "from = \"load\"\n");
    let key = "key = [\"device\"]\nselect = [\"count(*) AS n\"]\n";
    let kinds = [
        ("\"rows\"", format!("type = \"window\"\nwindow = {{ kind = \"tumbling\", size = \"1h\" }}\n{key}")),
        ("\"rows\"", format!("type = \"window\"\nwindow = {{ kind = \"tumbling\", size = \"1h\" }}\n{key}parallelism = 3\n")),
        ("\"rows\"", format!("type = \"window\"\nwindow = {{ kind = \"session\", gap = \"1h\" }}\n{key}")),
        ("\"rows\"", "type = \"changed\"\nkey = \"device\"\ncolumns = \"value\"\n".into()),
        // One key, and what is kept of it grows.
        ("\"rows\"", "type = \"aggregate\"\nselect = [\"count(DISTINCT device) AS n\"]\n".into()),
        ("\"first\"", "type = \"aggregate\"\nselect = [\"median(value) AS middle\"]\n[operator.first]\ntype = \"dedup\"\nfrom = \"rows\"\nkey = [\"device\"]\nkeep = \"last\"\nttl = \"9d\"\n".into()),
        ("[\"rows\", \"again\"]", "type = \"join\"\non = \"rows.device = again.device\"\nmatch = { within = \"1h\" }\n[operator.again]\ntype = \"project\"\nfrom = \"rows\"\nselect = [\"*\"]\n".into()),
    ];
    let lines: String = (0..60_000)
        .map(|row| format!("{{\"device\":\"device {row}\",\"ts\":{row},\"value\":{row}}}\n"))
        .collect();
    for (input, kind) in kinds {
        let folder = folder(&rows.replace("INPUT", input).replace("KIND", &kind));
        std::fs::write(folder.path().join("rows.jsonl"), &lines).expect("written");
        let output = run(folder.path(), &["--once"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{kind}: {said}");
        assert!(said.contains("`load`") && said.contains("`state_max` is 1.0 MiB"), "{kind}: {said}");
    }
}

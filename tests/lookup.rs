//! Look-ups in a whole topology against real peers: SQLite, PostgreSQL, Redis and
//! an HTTP service that is slow, wrong, away and back.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that fails says where"
)]

#[path = "exactly_once/postgres.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod postgres;
#[path = "exactly_once/process.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod process;
#[path = "lookup/redis.rs"]
mod redis;
#[path = "lookup/service.rs"]
mod service;

use std::fs;
use std::path::Path;
use std::process::Command;

use service::Service;

const ROWS: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64", device = "string" }
missing = "null"

[operator.owned]
type   = "lookup"
from   = "rows"
MORE

[operator.short]
type   = "project"
from   = "owned"
select = ["n", "device", "owner", "high"]

[sink.out]
type = "file"
path = "out.jsonl"
from = "short"

[sink.rejects]
type = "file"
path = "rejects.jsonl"
from = "owned.rejects"
"#;

/// Rows 1, 2, 3 … of these devices; `-` is none.
fn rows(devices: &[&str]) -> String {
    let row = |(n, device): (usize, &&str)| match *device {
        "-" => format!("{{\"n\":{n}}}\n"),
        device => format!("{{\"n\":{n},\"device\":\"{device}\"}}\n"),
    };
    (1..).zip(devices).map(row).collect()
}

fn run(folder: &Path, more: &str) {
    fs::write(folder.join("plant.toml"), ROWS.replace("MORE", more)).expect("writes");
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_tidegate"), "run", "plant.toml", "--once"]);
    let ran = command.current_dir(folder).output().expect("tidegate starts");
    assert!(
        ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// `n device owner high` of each line.
fn lines(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
    let short = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let word = |name: &str| line[name].to_string().replace('"', "").replace("null", "-");
        format!("{} {} {} {}", word("n"), word("device"), word("owner"), word("high"))
    };
    text.lines().map(short).collect()
}

fn rejects(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("rejects.jsonl")).unwrap_or_default();
    let reason = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["reason"].as_str().expect("text").to_owned()
    };
    text.lines().map(reason).collect()
}

const OUTPUT: &str = "output = { owner = \"string\", high = \"float64\" }\n";
const KNOWN: [&str; 6] = ["1 a ada 5.5", "2 b bob -", "2 b bert 7.0", "3 c - -", "4 - - -", "5 a ada 5.5"];
const DEVICES: [&str; 5] = ["a", "b", "c", "-", "a"];
const MAKE: &str = "CREATE TABLE devices (device TEXT, owner TEXT, high double precision);
    INSERT INTO devices VALUES ('a', 'ada', 5.5), ('b', 'bob', NULL), ('b', 'bert', 7)";

#[test]
fn sqlite_is_asked_by_parameters() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = rusqlite::Connection::open(folder.path().join("plant.db")).expect("opens");
    database.execute_batch(MAKE).expect("rows");
    let mut devices = DEVICES.to_vec();
    devices.push("a' OR '1'='1");
    fs::write(folder.path().join("rows.jsonl"), rows(&devices)).expect("writes");
    let sql = "sql = { sqlite = \"plant.db\", query = \"SELECT owner, high FROM devices WHERE device = {device} ORDER BY owner DESC\" }\n";
    run(folder.path(), &(sql.to_owned() + OUTPUT));
    let mut expected = KNOWN.map(str::to_owned).to_vec();
    expected.push("6 a' OR '1'='1 - -".into());
    assert_eq!(lines(folder.path()), expected);
    // A value that does not fit costs its row; another kind gives only rows that are known.
    database.execute_batch("INSERT INTO devices VALUES ('c', 'cyd', 'much')").expect("a row");
    let folder_two = tempfile::tempdir().expect("a folder");
    fs::copy(folder.path().join("plant.db"), folder_two.path().join("plant.db")).expect("copies");
    fs::write(folder_two.path().join("rows.jsonl"), rows(&["c", "d", "a"])).expect("writes");
    run(folder_two.path(), &(sql.to_owned() + OUTPUT + "kind = \"inner\"\n"));
    assert_eq!(lines(folder_two.path()), ["3 a ada 5.5"]);
    let rejects = rejects(folder_two.path());
    assert!(rejects.len() == 1 && rejects[0].contains("high"), "{rejects:?}");
}

#[test]
fn postgres_is_asked_for_many_keys_at_once_and_a_key_that_fails_costs_its_rows() {
    let mut server = postgres::Server::start();
    server.ask(MAKE);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rows.jsonl"), rows(&DEVICES)).expect("writes");
    let sql = |query: &str| format!("sql = {{ postgres = \"{}\", query = \"{query}\" }}\n", server.url());
    run(
        folder.path(),
        &(sql("SELECT owner, high FROM devices WHERE device = {device} ORDER BY owner DESC") + OUTPUT),
    );
    assert_eq!(lines(folder.path()), KNOWN);

    let many = tempfile::tempdir().expect("a folder");
    let devices: Vec<String> = (0..20_000).map(|n| format!("d{n}")).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    fs::write(many.path().join("rows.jsonl"), rows(&devices)).expect("writes");
    let query = "SELECT 'o' || {device} AS owner, 10.0 / ({n} - 500) AS high";
    run(many.path(), &(sql(query) + OUTPUT));
    let lines = lines(many.path());
    assert_eq!((lines.len(), lines[0].as_str()), (19_999, "1 d0 od0 -0.02004008016032064"));
    assert!(
        lines
            .iter()
            .is_sorted_by_key(|line| line.split(' ').next().map(|n| n.parse::<u64>().expect("a number")))
    );
    let told = rejects(many.path());
    assert!(told.len() == 1 && told[0].contains("division by zero"), "{told:?}");

    // A key that takes too long costs its own row, and nobody works on it any more.
    let late = tempfile::tempdir().expect("a folder");
    let devices: Vec<&str> = devices.iter().take(100).copied().collect();
    fs::write(late.path().join("rows.jsonl"), rows(&devices)).expect("writes");
    let query = "SELECT 'o' || {device} AS owner, \
         CASE WHEN {device} = 'd7' THEN (SELECT 1.0 FROM pg_sleep(100)) ELSE 2.0 END AS high";
    run(late.path(), &(sql(query) + OUTPUT + "timeout = \"1s\"\nretries = 0\n"));
    assert_eq!(crate::lines(late.path()).len(), 99);
    let told = rejects(late.path());
    assert!(told.len() == 1 && told[0].contains("no answer within 1s"), "{told:?}");
    let busy = "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%tidegate_keys%' \
         AND state = 'active' AND pid <> pg_backend_pid() AND now() - query_start > '2s'";
    assert_eq!(server.ask(busy), [[Some("0".to_owned())]]);

    // Away: rows without an answer leave as rejects, after all attempts.
    server.kill();
    let away = tempfile::tempdir().expect("a folder");
    fs::write(away.path().join("rows.jsonl"), rows(&DEVICES)).expect("writes");
    let more = format!(
        "sql = {{ postgres = \"{}\", query = \"SELECT owner, high FROM devices WHERE device = {{device}}\" }}\n{OUTPUT}retries = 1\n",
        server.url()
    );
    run(away.path(), &more);
    assert_eq!(crate::lines(away.path()), ["4 - - -"]);
    assert_eq!(rejects(away.path()).len(), 4);
}

#[test]
fn redis_gives_values_objects_and_hashes() {
    let server = redis::Server::start();
    server.ask(&["SET", "device:a", "{\"owner\": \"ada\", \"high\": 5.5}"]);
    server.ask(&["SET", "device:b", "[1"]);
    server.ask(&["SET", "owner:a", "ada"]);
    server.ask(&["HSET", "hash:a", "owner", "ada", "high", "5.5", "spare", "x"]);
    server.ask(&["HSET", "hash:b", "owner", "bob"]);
    server.ask(&["SET", "hash:d", "no hash"]);
    // One value that is too long costs its row, the most that Redis keeps too.
    let long = "x".repeat(5 << 20);
    server.ask(&["SET", "device:long", &long]);
    server.ask(&["HSET", "hash:long", "owner", &long, "high", "1"]);
    server.ask(&["SETRANGE", "device:longest", "100000000", "x"]);
    for (key, output, devices, expected, refused) in [
        (
            "get = \"device:{device}\"",
            OUTPUT,
            &["a", "b", "c", "-", "long", "longest", "a"][..],
            &["1 a ada 5.5", "3 c - -", "4 - - -", "7 a ada 5.5"][..],
            3,
        ),
        (
            "hash = \"hash:{device}\"",
            OUTPUT,
            &["a", "b", "c", "d", "long", "b"],
            &["1 a ada 5.5", "2 b bob -", "3 c - -", "6 b bob -"],
            2,
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("rows.jsonl"), rows(devices)).expect("writes");
        run(
            folder.path(),
            &format!("redis = {{ url = \"redis://127.0.0.1:{}/0\", {key} }}\n{output}", server.port),
        );
        assert_eq!(lines(folder.path()), expected, "{key}");
        assert_eq!(rejects(folder.path()).len(), refused, "{key}");
    }
}

#[test]
fn an_http_service_that_is_slow_wrong_or_away_for_a_moment_costs_nothing() {
    let service = Service::start();
    let folder = tempfile::tempdir().expect("a folder");
    // The service answers `503` twice to b, with no JSON to e, late to a; it knows no c.
    fs::write(folder.path().join("rows.jsonl"), rows(&["a", "b", "c", "-", "a", "e", "x/y z", "..", "."]))
        .expect("writes");
    let more = format!(
        "http = {{ get = \"http://127.0.0.1:{}/devices/{{device}}?v=1\" }}\noutput = {{ owner = \"string\", high = {{ type = \"float64\", from = \"limits.high\" }} }}\n",
        service.port
    );
    run(folder.path(), &more);
    let expected = ["1 a ada 5.5", "2 b bob -", "3 c - -", "4 - - -", "5 a ada 5.5", "7 x/y z path -"];
    assert_eq!(lines(folder.path()), expected);
    let rejects = rejects(folder.path());
    assert!(rejects.len() == 3 && rejects[0].contains("does not fit"), "{rejects:?}");
    assert!(rejects[1..].iter().all(|reason| reason.contains("another place")), "{rejects:?}");
    let asked = service.asked();
    assert!(asked.iter().all(|path| path.starts_with("/devices/") && path != "/devices/?v=1"), "{asked:?}");
    let count = |path: &str| asked.iter().filter(|asked| *asked == path).count();
    assert_eq!(count("/devices/a?v=1"), 1, "{asked:?}");
    assert_eq!(count("/devices/b?v=1"), 3);
    assert_eq!(count("/devices/x%2Fy%20z?v=1"), 1);
}

#[test]
fn a_table_in_postgres_has_the_types_of_its_schema_and_its_server_may_be_away_at_a_start() {
    let mut server = postgres::Server::start();
    server.ask(
        "CREATE TABLE devices (device text, owner text, \"High\" numeric, active boolean, since timestamp, day date);
         INSERT INTO devices VALUES ('a', 'ada \"x\"', 5.5, true, '2026-01-02 03:04:05.5', '2026-01-02'),
                                    ('b', NULL, NULL, NULL, NULL, NULL), (NULL, 'none', 1, true, NULL, NULL)",
    );
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rows.jsonl"), rows(&["a", "b", "-"])).expect("writes");
    let text = ROWS.replace("type   = \"lookup\"\nfrom   = \"rows\"\nMORE", &format!(
        "type = \"join\"\nfrom = [\"rows\", \"devices\"]\non = \"rows.device = devices.device\"\nkind = \"left\"\n
         [table.devices]\ntype = \"postgres\"\nurl = \"{}\"\nquery = \"SELECT * FROM devices;\"\n
         schema = {{ device = \"string\", owner = \"string\", High = \"float64\", active = \"bool\", since = \"timestamp\", day = \"date\" }}\n",
        server.url()
    ));
    let text = text.replace(
        "\"device\", \"owner\", \"high\"]",
        "\"rows_device AS device\", \"owner || ' ' || since || ' ' || day AS owner\", \"High AS high\"]",
    );
    fs::write(folder.path().join("plant.toml"), text).expect("writes");
    server.kill();
    let mut command = Command::new("timeout");
    command.args(["100", env!("CARGO_BIN_EXE_tidegate"), "run", "plant.toml", "--once"]);
    let mut waits = command.current_dir(folder.path()).spawn().expect("tidegate starts");
    process::pause(1_500);
    assert_eq!(waits.try_wait().expect("a child"), None, "rows wait for the table");
    assert_eq!(lines(folder.path()), [] as [&str; 0]);
    server.restart();
    assert!(waits.wait().expect("ends").success());
    let expected = ["1 a ada \\x\\ 2026-01-02T03:04:05.500Z 2026-01-02 5.5", "2 b - -", "3 - - -"];
    assert_eq!(lines(folder.path()), expected);
}

//! Rows to PostgreSQL are there exactly once, however often the process or the
//! server is killed; values arrive as they are.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that fails says where"
)]

#[path = "exactly_once/postgres.rs"]
mod postgres;
#[path = "exactly_once/process.rs"]
mod process;

use std::path::Path;
use std::process::Command;

use postgres::{Server, now};
use process::{Feed, kill, last_ids, pause, run_once, start};

const TOPOLOGY: &str = r#"
[topology]
name = "kills"
checkpoint_interval = "50ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { id = "int64", device = "string" }

[sink.all]
type  = "postgres"
from  = "rows"
url   = "URL"
table = "every row"

[sink.last]
type  = "postgres"
from  = "rows"
url   = "URL"
table = "public.last"
mode  = "upsert"
key   = ["device"]

[operator.count]
type   = "aggregate"
from   = "rows"
key    = ["device"]
select = ["count(*) AS n", "max(id) AS newest"]

# A device goes and comes again with each of its rows.
[operator.evens]
type  = "filter"
from  = "count"
where = "n % 2 = 0"

[sink.even]
type  = "postgres"
from  = "evens"
url   = "URL"
table = "even"
mode  = "upsert"
key   = ["device"]
"#;

/// Kills of the process; each third one comes while the server is dead.
const KILLS: u64 = 18;

fn text(values: &[Option<String>]) -> Vec<&str> {
    values.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect()
}

#[test]
fn every_row_is_there_once_after_kills_of_both_sides() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY.replace("URL", &server.url()))
        .expect("written");
    let feed = Feed::start(&folder.path().join("rows.jsonl"));
    for round in 0..KILLS {
        let child = start(folder.path());
        pause(150 + (round * 7_919) % 701);
        if round % 3 == 2 {
            server.kill();
            pause(100);
            // The one that goes on without a server lives on into its next life.
            if round % 2 == 0 {
                server.restart();
                pause(600);
            }
        }
        kill(child);
        if round % 3 == 2 && round % 2 != 0 {
            let child = start(folder.path());
            pause(400);
            kill(child);
            server.restart();
        }
        if round > 3 {
            let counted = server.ask("SELECT count(*) - count(DISTINCT id) FROM \"every row\"");
            assert_eq!(text(&counted[0]), ["0"], "after kill {round}");
        }
    }
    let rows = feed.stop();
    run_once(folder.path());
    let counted = server.ask("SELECT count(*), count(DISTINCT id), max(id) FROM \"every row\"");
    let rows_text = rows.to_string();
    assert_eq!(text(&counted[0]), [&rows_text, &rows_text, &rows_text]);
    let last = server.ask("SELECT device, id FROM last ORDER BY device");
    let last: Vec<_> = last.iter().map(|row| text(row).join(" ")).collect();
    let expected: Vec<_> = last_ids(rows).iter().map(|(device, id)| format!("{device} {id}")).collect();
    assert_eq!(last, expected);
    let even = server.ask("SELECT device, n, newest FROM even ORDER BY device");
    let of_rows = "SELECT device, count(*), max(id) FROM \"every row\" GROUP BY device HAVING count(*) % 2 = 0 ORDER BY device";
    let of_rows = server.ask(of_rows);
    assert_eq!(even, of_rows);
}

#[test]
fn a_dead_server_stops_neither_checkpoints_nor_a_stop() {
    let mut server = Server::start();
    let url = server.url();
    server.kill();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY.replace("URL", &url)).expect("written");
    std::fs::write(folder.path().join("rows.jsonl"), "{\"id\":1,\"device\":\"d\"}\n").expect("written");
    let mut child = start(folder.path());
    pause(1_500);
    let stopping = now();
    let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(stopped.success());
    let status = child.wait().expect("ends");
    assert!(status.success(), "{status}");
    assert!(stopping.elapsed().as_secs() < 15, "{:?}", stopping.elapsed());
    // The row is not read again: it waits in the log.
    std::fs::write(
        folder.path().join("rows.jsonl"),
        "{\"id\":1,\"device\":\"d\"}\n{\"id\":2,\"device\":\"d\"}\n",
    )
    .expect("written");
    server.restart();
    run_once(folder.path());
    let counted = server.ask("SELECT string_agg(id::text, ' ' ORDER BY id) FROM \"every row\"");
    assert_eq!(text(&counted[0]), ["1 2"]);
}

#[test]
fn a_transaction_that_was_left_under_way_is_waited_for() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY.replace("URL", &server.url()))
        .expect("written");
    std::fs::write(folder.path().join("rows.jsonl"), "").expect("written");
    run_once(folder.path());
    // A transaction of a killed process: it has the marker, and is not done yet.
    server.ask("CREATE TABLE IF NOT EXISTS \"every row\" (id bigint, device text, received_at timestamptz)");
    let held = server.hold("UPDATE _tidegate_epochs SET epoch = epoch WHERE sink = 'kills/all'");
    std::fs::write(folder.path().join("rows.jsonl"), "{\"id\":1,\"device\":\"d\"}\n").expect("written");
    let mut child = start(folder.path());
    pause(1_500);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill").success());
    assert!(child.wait().expect("ends").success());
    let epoch = last_epoch(folder.path());
    let waiting = std::thread::spawn({
        let folder = folder.path().to_owned();
        move || run_once(&folder)
    });
    pause(1_500);
    held.finish(&format!(
        "INSERT INTO \"every row\" (id) VALUES (1); UPDATE _tidegate_epochs SET epoch = {epoch} WHERE sink = 'kills/all'"
    ));
    waiting.join().expect("ends");
    assert_eq!(text(&server.ask("SELECT count(*) FROM \"every row\"")[0]), ["1"]);
}

#[test]
fn rows_are_not_there_without_their_marker() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY.replace("URL", &server.url()))
        .expect("written");
    std::fs::write(folder.path().join("rows.jsonl"), "{\"id\":1,\"device\":\"d\"}\n").expect("written");
    server.ask(
        "CREATE TABLE _tidegate_epochs (sink text PRIMARY KEY, epoch bigint NOT NULL); \
         CREATE TABLE \"every row\" (id bigint, device text, received_at timestamptz); \
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$; \
         CREATE TRIGGER no BEFORE UPDATE ON _tidegate_epochs FOR EACH ROW EXECUTE FUNCTION no()",
    );
    let child = start(folder.path());
    pause(2_000);
    kill(child);
    let count = || server.ask("SELECT count(*) FROM \"every row\"");
    assert_eq!(text(&count()[0]), ["0"]);
    server.ask("DROP TRIGGER no ON _tidegate_epochs");
    run_once(folder.path());
    assert_eq!(text(&count()[0]), ["1"]);
}

/// The topology's last checkpoint.
fn last_epoch(folder: &Path) -> u64 {
    let epochs = std::fs::read_dir(folder.join(".tidegate/kills/checkpoints")).expect("a folder");
    let epochs = epochs.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_prefix("checkpoint-")?.parse().ok()
    });
    epochs.max().expect("a checkpoint")
}

const TYPES: &str = r#"
[topology]
name = "types"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { b = "bool", i = "int16", u = "uint64", f = "float64", t = "string", x = "bytes", at = "timestamp", day = "date", money = "decimal(10,2)" }
time   = { column = "at", format = "rfc3339" }

[sink.append]
type  = "postgres"
from  = "rows"
url   = "URL"
table = "appended"

[sink.upsert]
type  = "postgres"
from  = "rows"
url   = "URL"
table = "upserted"
mode  = "upsert"
key   = ["i"]

[sink.strict]
type   = "postgres"
from   = "rows"
url    = "URL"
table  = "strict"
create = false
"#;

#[test]
fn values_arrive_as_they_are_and_only_bad_rows_are_left_out() {
    let server = Server::start();
    server.ask(
        "CREATE TABLE strict (b bool, i int UNIQUE DEFERRABLE INITIALLY DEFERRED, u numeric, f real, t varchar(6), \
         x bytea, at timestamp, day text, money numeric, more int DEFAULT 5)",
    );
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TYPES.replace("URL", &server.url()))
        .expect("written");
    let rows = [
        r#"{"b":true,"i":-7,"u":18446744073709551615,"f":1.5,"t":"a\tb\\","x":"6869","at":"2026-01-02T03:04:05.000006Z","day":"2026-02-28","money":"12.30"}"#,
        r#"{"b":null,"i":8,"u":null,"f":null,"t":null,"x":null,"at":"1969-12-31T23:59:59.999999Z","day":null,"money":null}"#,
        r#"{"b":false,"i":8,"u":0,"f":-2e300,"t":"far too long","x":null,"at":"2026-01-02T03:04:05Z","day":null,"money":null}"#,
        r#"{"b":false,"i":9,"u":0,"f":0.25,"t":"no\u0000","x":null,"at":"2026-01-02T03:04:05Z","day":null,"money":null}"#,
        r#"{"b":false,"i":-7,"u":0,"f":0.25,"t":"twice","x":null,"at":"2026-01-02T03:04:06Z","day":null,"money":null}"#,
    ];
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n") + "\n").expect("written");
    let said = run_once(folder.path());
    let columns = "b, i, u, f, t, encode(x, 'escape'), at AT TIME ZONE 'UTC', day, money";
    let query = format!("SELECT {columns} FROM appended ORDER BY at, i");
    let appended = server.ask(&query);
    assert_eq!(appended.len(), 4, "{appended:?} {said}");
    assert_eq!(
        text(&appended[0]),
        ["NULL", "8", "NULL", "NULL", "NULL", "NULL", "1969-12-31 23:59:59.999999", "NULL", "NULL"]
    );
    assert_eq!(
        text(&appended[2]),
        [
            "t",
            "-7",
            "18446744073709551615",
            "1.5",
            "a\tb\\",
            "hi",
            "2026-01-02 03:04:05.000006",
            "2026-02-28",
            "12.30"
        ]
    );
    let upserted = server.ask("SELECT i, t FROM upserted ORDER BY i");
    let upserted: Vec<_> = upserted.iter().map(|row| text(row)).collect();
    assert_eq!(upserted, [["-7", "twice"], ["8", "far too long"]]);
    let strict = server.ask("SELECT i, more FROM strict ORDER BY i");
    let strict: Vec<_> = strict.iter().map(|row| text(row)).collect();
    assert_eq!(strict, [["-7", "5"], ["8", "5"]]);
    for reason in ["22021", "23505", "22003"] {
        assert!(said.contains(reason), "{reason} is missing: {said}");
    }
}

//! `pattern` and `alarm` in every manner: what has begun outlives a restore
//! between any two rows.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use kit::{TestRow, batch, build, in_all_manners, manners, run, stream, try_build_on};

fn refused(text: &str) -> Vec<(String, String)> {
    let error = try_build_on(&stream(), text).err().expect("is refused");
    error.0.into_iter().map(|wrong| (wrong.code.to_owned(), wrong.message)).collect()
}

fn short(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| line.replace("1970-01-01T00:00:", "").replace('Z', "")).collect()
}

fn pattern(more: &str) -> String {
    format!("[operator.p]\ntype = \"pattern\"\nfrom = \"rows\"\nkey = [\"key\"]\nwithin = \"10s\"\n{more}\n")
}

const HOT_THEN_COLD: &str = r#"sequence = [
  { name = "hot", when = "value > 90" },
  { name = "cold", when = "value < 10", not = "value = 50" },
]
"#;

#[test]
fn hot_then_cold_of_each_key() {
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("b", 1.0, Some(99.0)),
        ("a", 2.0, None),
        ("a", 3.0, Some(60.0)),
        ("b", 4.0, Some(50.0)),
        ("a", 5.0, Some(4.0)),
        ("b", 6.0, Some(3.0)),
        ("a", 7.0, Some(1.0)),
        ("b", 10.0, Some(92.0)),
        ("b", 20.0, Some(2.0)),
        ("b", 21.0, Some(91.0)),
        ("b", 30.5, Some(1.0)),
    ];
    let text =
        pattern(&format!("{HOT_THEN_COLD}select = [\"hot.value\", \"cold.value - hot.value AS fall\"]"));
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(short(&found[0]), ["00 05 a 95.0 -91.0", "21 30.500 b 91.0 -90.0"]);
    let ports = build(&text).ports;
    let fields = ports[0].stream.columns.fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["match_start", "match_end", "key", "hot_value", "fall"]);
    assert_eq!(ports[0].stream.time, Some(1));
    // Without a `select` every column of every step.
    let found = in_all_manners(&stream(), &pattern(HOT_THEN_COLD), &batch(&rows));
    assert_eq!(short(&found[0])[0], "00 05 a a 00 95.0 95 a 05 4.0 4");
}

#[test]
fn silence_after_a_row() {
    let steps = "sequence = [{ name = \"hot\", when = \"value > 90\" }, { name = \"quiet\", not = \"value < 10\" }]\nselect = [\"hot.n\"]";
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("b", 1.0, Some(96.0)),
        ("b", 9.0, Some(2.0)),
        ("a", 10.0, Some(2.0)),
        ("c", 12.0, Some(97.0)),
        ("b", 22.0, Some(50.0)),
        ("b", 23.0, Some(98.0)),
    ];
    let found = in_all_manners(&stream(), &pattern(steps), &batch(&rows));
    assert_eq!(short(&found[0]), ["00 10 a 95", "12 22 c 97"], "the time of 98 is not over at the end");
}

/// What began after a forbidden row does not end when the time of what was
/// before it is over.
#[test]
fn a_silence_that_was_broken_is_not_due_any_more() {
    let steps = "sequence = [{ name = \"hot\", when = \"value > 90\" }, { name = \"warm\", when = \"value = 50\" }, { name = \"quiet\", not = \"value < 10\" }]\nselect = [\"hot.n\", \"warm.n AS warm_n\"]";
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("a", 1.0, Some(50.0)),
        ("a", 2.0, Some(3.0)),
        ("a", 3.0, Some(96.0)),
        ("a", 11.0, Some(50.0)),
        ("a", 14.0, Some(20.0)),
    ];
    let found = in_all_manners(&stream(), &pattern(steps), &batch(&rows));
    assert_eq!(short(&found[0]), ["03 13 a 96 50"]);
}

#[test]
fn rows_in_any_order_within_the_delay_give_the_same_matches() {
    let rows: Vec<TestRow> =
        vec![("a", 5.0, Some(4.0)), ("a", 3.0, Some(60.0)), ("a", 0.0, Some(95.0)), ("a", 6.0, Some(50.0))];
    let text = pattern(&format!("{HOT_THEN_COLD}select = [\"hot.n\", \"cold.n\"]"));
    for manner in manners(6.0) {
        assert_eq!(short(&run(&text, &batch(&rows), manner)[0]), ["00 05 a 95 4"], "{manner:?}");
    }
}

#[test]
fn a_match_whose_select_fails_is_rejected_and_others_are_not() {
    let text = pattern(&format!("{HOT_THEN_COLD}select = [\"hot.n / cold.n AS ratio\"]"));
    let rows: Vec<TestRow> =
        vec![("a", 0.0, Some(95.0)), ("b", 0.0, Some(96.0)), ("a", 5.0, Some(0.0)), ("b", 5.0, Some(2.0))];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(short(&found[0]), ["00 05 b 48"]);
    assert_eq!(found[2].len(), 1, "{found:?}");
    assert!(found[2][0].contains("Divide by zero") && found[2][0].contains("00:00:05"), "{found:?}");
}

#[test]
fn a_pattern_that_cannot_be_is_refused() {
    let hot = "{ name = \"hot\", when = \"value > 90\" }";
    for (steps, code) in [
        (hot.to_owned(), "TG-C006"),
        (format!("{hot}, {hot}"), "TG-T003"),
        (format!("{hot}, {{ name = \"cold\" }}"), "TG-C004"),
        (format!("{{ name = \"cold\", not = \"value < 1\" }}, {hot}"), "TG-C004"),
        (format!("{hot}, {{ name = \"so cold\", when = \"value < 1\" }}"), "TG-C012"),
        (format!("{hot}, {{ name = \"cold\", when = \"valu < 1\" }}"), "TG-X002"),
        (format!("{hot}, {{ name = \"cold\", when = \"value\" }}"), "TG-X003"),
    ] {
        let found = refused(&pattern(&format!("sequence = [{steps}]")));
        assert!(found.iter().any(|(found, _)| found == code), "{steps}: {found:?}");
    }
    let twice = refused(&pattern(&format!("{HOT_THEN_COLD}select = [\"hot.key AS k\", \"cold.key AS k\"]")));
    assert_eq!(twice[0].0, "TG-T009");
    let unknown = refused(&pattern(&format!("{HOT_THEN_COLD}select = [\"warm.value\"]")));
    assert_eq!(unknown[0].0, "TG-X002");
    assert_eq!(refused(&pattern(&format!("{HOT_THEN_COLD}forget = \"5s\"")))[0].0, "TG-C006");
}

fn alarm(more: &str) -> String {
    format!(
        "[operator.a]\ntype = \"alarm\"\nfrom = \"rows\"\nkey = [\"key\"]\nwhen = \"CASE WHEN value < 0 THEN NULL ELSE value > 90 END\"\n{more}\n"
    )
}

/// `alarm_time event state raised_at key value`.
fn told(lines: &[String]) -> Vec<String> {
    let words = |line: &String| {
        let line = short(std::slice::from_ref(line)).remove(0);
        let words: Vec<&str> = line.split(' ').collect();
        [words[0], words[1], words[2], words[3], words[4], words[6]].join(" ")
    };
    lines.iter().map(words).collect()
}

#[test]
fn an_alarm_lives_its_life_with_delays_and_answers() {
    let text = alarm(
        "clear_when = \"CASE WHEN value >= 0 THEN value <= 80 END\"\non_delay = \"5s\"\noff_delay = \"3s\"\nacknowledge = \"value = -1\"",
    );
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("b", 1.0, Some(95.0)),
        ("b", 4.0, Some(85.0)),
        ("a", 7.0, Some(96.0)),
        ("a", 8.0, Some(85.0)),
        ("a", 9.0, Some(-1.0)),
        ("a", 10.0, Some(70.0)),
        ("a", 12.0, Some(91.0)),
        ("a", 13.0, Some(60.0)),
        ("a", 14.0, Some(-1.0)),
        ("b", 20.0, Some(50.0)),
    ];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(
        told(&found[0]),
        [
            "05 raised unacknowledged 05 a 95.0",
            "09 acknowledged acknowledged 05 a -1.0",
            "16 returned normal 05 a 60.0",
        ]
    );
    let fields = build(&text).ports[0].stream.columns.fields().clone();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["alarm_time", "alarm_event", "alarm_state", "raised_at", "key", "ts", "value", "n"]);
}

#[test]
fn what_latches_and_what_is_shelved() {
    let text = alarm(
        "acknowledge = \"value = -1\"\nlatch = true\nreset = \"value = -2\"\nshelve = \"value = -3\"\nshelve_for = \"10s\"\nunshelve = \"value = -4\"",
    );
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("a", 1.0, Some(50.0)),
        ("a", 2.0, Some(-2.0)),
        ("a", 3.0, Some(-1.0)),
        ("a", 4.0, Some(-2.0)),
        ("a", 5.0, Some(-3.0)),
        ("a", 6.0, Some(99.0)),
        ("a", 20.0, Some(98.0)),
        ("a", 21.0, Some(-3.0)),
        ("a", 22.0, Some(-4.0)),
    ];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(
        told(&found[0]),
        [
            "00 raised unacknowledged 00 a 95.0",
            "01 returned latched_unacknowledged 00 a 50.0",
            "03 acknowledged latched_acknowledged 00 a -1.0",
            "04 reset normal 00 a -2.0",
            "05 shelved shelved - a -3.0",
            "15 unshelved unacknowledged 06 a 99.0",
            "15 raised unacknowledged 15 a 99.0",
            "21 shelved shelved 15 a -3.0",
            "22 unshelved unacknowledged 15 a -4.0",
            "22 raised unacknowledged 22 a -4.0",
        ]
    );
}

/// Whose row is told where time leads to something: the newest measurement since
/// the alarm left `normal`, or the row that made it leave.
#[test]
fn the_row_of_an_instant_does_not_depend_on_the_cut_of_batches() {
    let text = alarm("shelve = \"value = -3\"\nshelve_for = \"10s\"");
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(5.0)),
        ("a", 1.0, Some(-3.0)),
        ("b", 2.0, Some(6.0)),
        ("b", 3.0, Some(-3.0)),
        ("b", 4.0, Some(7.0)),
        ("b", 5.0, Some(-5.0)),
        ("a", 20.0, Some(8.0)),
    ];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    let unshelved: Vec<String> =
        told(&found[0]).into_iter().filter(|line| line.contains("unshelved")).collect();
    assert_eq!(unshelved, ["11 unshelved normal - a -3.0", "13 unshelved normal - b 7.0"]);
}

#[test]
fn a_flood_leaves_by_a_port_of_its_own_until_each_alarm_is_normal() {
    let text = alarm("flood = { count = 2, within = \"10s\" }");
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("b", 1.0, Some(95.0)),
        ("c", 2.0, Some(95.0)),
        ("a", 3.0, Some(5.0)),
        ("c", 4.0, Some(6.0)),
        ("c", 30.0, Some(95.0)),
    ];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(
        told(&found[0]),
        [
            "00 raised acknowledged 00 a 95.0",
            "01 raised acknowledged 01 b 95.0",
            "03 returned normal 00 a 5.0",
            "30 raised acknowledged 30 c 95.0",
        ]
    );
    assert_eq!(told(&found[3]), ["02 raised acknowledged 02 c 95.0", "04 returned normal 02 c 6.0"]);
}

#[test]
fn what_came_in_a_flood_stays_there_until_it_is_normal() {
    let text = alarm("flood = { count = 1, within = \"10s\" }\nacknowledge = \"value = -1\"");
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("b", 1.0, Some(95.0)),
        ("b", 2.0, Some(5.0)),
        ("b", 30.0, Some(95.0)),
        ("b", 31.0, Some(-1.0)),
        ("b", 32.0, Some(6.0)),
        ("b", 50.0, Some(95.0)),
    ];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(told(&found[0]), ["00 raised unacknowledged 00 a 95.0", "50 raised unacknowledged 50 b 95.0"]);
    assert_eq!(
        told(&found[3]),
        [
            "01 raised unacknowledged 01 b 95.0",
            "02 returned returned 01 b 5.0",
            "30 raised unacknowledged 30 b 95.0",
            "31 acknowledged acknowledged 30 b -1.0",
            "32 returned normal 30 b 6.0",
        ]
    );
}

#[test]
fn a_forgotten_alarm_is_told() {
    let text = alarm("forget = \"20s\"");
    let rows: Vec<TestRow> = vec![
        ("a", 0.0, Some(95.0)),
        ("c", 0.0, Some(5.0)),
        ("b", 15.0, Some(5.0)),
        ("b", 30.0, Some(5.0)),
        ("a", 31.0, Some(95.0)),
    ];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(
        told(&found[0]),
        [
            "00 raised acknowledged 00 a 95.0",
            "20 forgotten normal 00 a 95.0",
            "31 raised acknowledged 31 a 95.0",
        ]
    );
}

#[test]
fn a_late_row_changes_nothing_and_is_told() {
    let text = alarm("on_delay = \"5s\"");
    let rows: Vec<TestRow> =
        vec![("a", 0.0, Some(95.0)), ("b", 3.0, Some(5.0)), ("a", 2.0, Some(5.0)), ("b", 9.0, None)];
    let found = in_all_manners(&stream(), &text, &batch(&rows));
    assert_eq!(told(&found[0]), ["05 raised acknowledged 05 a 95.0"]);
    assert_eq!(found[1].len(), 1);
}

#[test]
fn an_alarm_that_cannot_be_is_refused() {
    for (more, code) in [
        ("latch = true", "TG-C004"),
        ("reset = \"value = -1\"", "TG-C004"),
        ("shelve = \"value = -1\"", "TG-C004"),
        ("shelve_for = \"1m\"", "TG-C004"),
        ("unshelve = \"value = -1\"", "TG-C004"),
        ("clear_when = \"value\"", "TG-X003"),
        ("on_delay = \"1h\"\nforget = \"1m\"", "TG-C006"),
    ] {
        let found = refused(&alarm(more));
        assert_eq!(
            found.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(),
            [code],
            "{more}: {found:?}"
        );
    }
}

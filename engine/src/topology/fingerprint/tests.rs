//! Texts that were written once, read for ever; and what is told of them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};

use super::*;
use crate::schema::StreamSchema;
use crate::topology::key::{Kind, optional, required};
use crate::topology::parse::parse;

const KEYS: &[Key] = &[
    required("type", Kind::Text, "its type"),
    required("from", Kind::List(&Kind::Text), "its input").aside(),
    optional("key", Kind::List(&Kind::Text), "its key"),
    optional("window", Kind::Table(&[]), "a table"),
    optional("select", Kind::List(&Kind::Text), "expressions"),
    optional("path", Kind::Text, "where").outside(),
    optional("topics", Kind::List(&Kind::Text), "which").outside(),
];

fn node(body: &str) -> (NodeConfig, Arc<SourceText>) {
    let text = format!("[operator.load]\n{body}");
    let (parsed, errors) = parse(&text);
    assert_eq!(errors, []);
    (parsed.nodes[0].clone(), Arc::new(SourceText { name: "t.toml".into(), text: text.into() }))
}

fn state(body: &str, columns: &[(&str, DataType)]) -> Fingerprint {
    reading(body, columns, None)
}

fn reading(body: &str, columns: &[(&str, DataType)], reads: Option<&[usize]>) -> Fingerprint {
    let fields = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
    let input = Input { name: "rows".into(), stream: StreamSchema::new(fields, None) };
    let (node, file) = node(body);
    Fingerprint::of_state(&node, &[input], reads, &[KEYS], &file)
}

fn told(changes: Vec<Change>) -> Vec<String> {
    changes.into_iter().map(|change| change.message).collect()
}

const BODY: &str = "type = \"window\"\nfrom = \"rows\"\nkey = [\"device\"]\nwindow = { kind = \"tumbling\", size = \"10s\" }\nselect = [\"count(*) AS n\", \"avg(value) AS m\"]\n";
const COLUMNS: &[(&str, DataType)] = &[("device", DataType::Utf8), ("value", DataType::Float64)];
/// Written by the first version, which had `from` among the keys.
const FIRST: &str = r#"operator {from="rows",key=["device"],select=["count(*) AS n","avg(value) AS m"],type="window",window={kind="tumbling",size="10s"}} device:string value:float64"#;

#[test]
fn the_first_texts_are_read_for_ever() {
    let now = state(BODY, COLUMNS);
    assert_eq!(now.changes(FIRST), []);
    assert_eq!(now.text(), FIRST.replace("from=\"rows\",", ""));
    assert_eq!(
        now.changes(&FIRST.replace("from=\"rows\"", "from=[\"other\"]")),
        [],
        "an input of another name"
    );
    assert_eq!(now.changes(&FIRST.replace("[\"device\"]", "\"device\"")), [], "one is a list of one");
}

#[test]
fn only_what_has_changed_is_told_each_at_its_place() {
    let body = BODY.replace("10s", "20s").replace("avg(value) AS m", "max(value) AS \\\"m,]}\\\"");
    let now = state(&body, &[("value", DataType::Int64), ("site", DataType::Utf8)]);
    assert_eq!(
        told(now.changes(FIRST)),
        [
            r#"operator.load: select had "avg(value) AS m", has "max(value) AS \"m,]}\"" (t.toml:6:10)"#,
            r#"operator.load: window.size was "10s", is "20s" (t.toml:5:38)"#,
            "operator.load: its input has no column `device` (string) any more (t.toml:3:8)",
            "operator.load: its input's column `value` was float64, is int64 (t.toml:3:8)",
            "operator.load: its input has a new column `site` (string) (t.toml:3:8)",
        ]
    );
    // And back: an escaped quote does not end a text.
    let back = state(BODY, COLUMNS).changes(now.text());
    assert_eq!(back.len(), 5, "{back:?}");
}

#[test]
fn a_key_that_came_or_went_is_told_at_the_nearest_place() {
    let without = state(&BODY.replace("key = [\"device\"]\n", ""), COLUMNS);
    assert_eq!(
        told(without.changes(FIRST)),
        [r#"operator.load: key was ["device"], is left out (t.toml:1:11)"#]
    );
    let with = state(&BODY.replace("size = \"10s\"", "size = \"10s\", offset = \"1s\""), COLUMNS);
    assert_eq!(
        told(with.changes(FIRST)),
        [r#"operator.load: window.offset was left out, is "1s" (t.toml:5:54)"#]
    );
}

#[test]
fn columns_in_another_order_are_told() {
    let turned: Vec<_> = COLUMNS.iter().rev().cloned().collect();
    assert_eq!(
        told(state(BODY, &turned).changes(FIRST)),
        [
            "operator.load: its input's columns stood in the order device, value, stand in value, device (t.toml:3:8)"
        ]
    );
}

#[test]
fn columns_that_nobody_reads_may_come_and_go() {
    let then = state(BODY, &[("old", DataType::Utf8), COLUMNS[0].clone(), COLUMNS[1].clone()]);
    let columns = [COLUMNS[1].clone(), ("new", DataType::Utf8), COLUMNS[0].clone()];
    // It reads the value, whatever stands beside it.
    assert_eq!(reading(BODY, &columns, Some(&[0])).changes(then.text()), []);
    assert_eq!(
        told(reading(BODY, &columns, Some(&[0, 1])).changes(then.text())),
        ["operator.load: its input has a new column `new` (string) (t.toml:3:8)"]
    );
    let other = [("value", DataType::Int64), COLUMNS[0].clone()];
    assert_eq!(
        told(reading(BODY, &other, Some(&[0])).changes(then.text())),
        ["operator.load: its input's column `value` was float64, is int64 (t.toml:3:8)"]
    );
    assert_eq!(told(reading(BODY, &columns, Some(&[0, 2])).changes(then.text())).len(), 1, "their order");
}

#[test]
fn of_what_is_outside_only_the_keys_that_name_it_count() {
    let outside = |body: &str| {
        let (node, file) = node(body);
        Fingerprint::of_outside(&node, &[KEYS], &file)
    };
    let then = outside("type = \"kafka\"\ntopics = [\"a\", \"b\"]\nkey = \"x\"\n");
    assert_eq!(then.text(), r#"operator {topics=["a","b"],type="kafka"}"#);
    assert_eq!(outside("type = \"kafka\"\ntopics = [\"a\", \"b\"]\n").changes(then.text()), []);
    let grown = outside("type = \"kafka\"\ntopics = [\"b\", \"a\", \"c\"]\n").changes(then.text());
    assert_eq!(
        grown,
        [Change {
            path: "topics".into(),
            message: r#"operator.load: topics has "c" besides what it had (t.toml:3:10)"#.into(),
            is_partial: true
        }]
    );
    // One, and a list that has it.
    let one = outside("type = \"kafka\"\ntopics = \"a\"\n");
    let partial = |now: &Fingerprint, then: &Fingerprint| {
        now.changes(then.text())
            .into_iter()
            .map(|change| (change.message, change.is_partial))
            .collect::<Vec<_>>()
    };
    let came = r#"operator.load: topics has "b" besides what it had (t.toml:3:10)"#;
    assert_eq!(partial(&then, &one), [(came.to_owned(), true)]);
    let went = r#"operator.load: topics has "b" no more (t.toml:3:10)"#;
    assert_eq!(partial(&one, &then), [(went.to_owned(), true)]);
    let other = outside("type = \"file\"\npath = \"a\"\ntopics = [\"d\"]\n").changes(then.text());
    assert!(other.iter().all(|change| !change.is_partial), "{other:?}");
    assert_eq!(other.len(), 3, "{other:?}");
}

#[test]
fn what_is_no_text_of_ours_is_shown_whole() {
    for text in ["", "tumbling 10s", "operator {", "operator {a=\"", "operator {a=[1,", "operator [1]"] {
        let changes = state(BODY, COLUMNS).changes(text);
        assert_eq!(changes.len(), 1, "{text}: {changes:?}");
    }
}

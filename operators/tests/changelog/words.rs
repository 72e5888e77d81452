//! Who reads changes, who does not, and what leaves.

use arrow::array::RecordBatch;
use tidegate_engine::schema::{StreamKind, StreamSchema};

use crate::kit::{
    Manner, TestRow, batch, build, build_on, built, context, run, run_on, stream, try_build_on,
};
use crate::oracle::batches;

const HIGH: &str =
    "[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nkey = [\"key\"]\nselect = [\"max(n) AS high\"]\n";

fn high() -> StreamSchema {
    build(HIGH).ports[0].stream.clone()
}

fn refused(text: &str) -> Vec<(String, String)> {
    let error = try_build_on(&high(), text).err().unwrap_or_else(|| panic!("is not refused: {text}"));
    error.0.into_iter().map(|wrong| (wrong.code.to_owned(), wrong.message)).collect()
}

fn one_by_one() -> Manner {
    Manner { batch_size: 1, delay: std::time::Duration::ZERO, restore: false, snapshot: false }
}

fn rows() -> RecordBatch {
    let rows: Vec<TestRow> = vec![
        ("a", 1.0, Some(3.0)),
        ("b", 2.0, Some(9.0)),
        ("a", 3.0, Some(2.0)),
        ("a", 4.0, Some(7.0)),
        ("b", 5.0, None),
    ];
    batch(&rows)
}

#[test]
fn a_result_leaves_when_it_changes() {
    let lines = run(HIGH, &rows(), one_by_one());
    let short: Vec<String> =
        lines[0].iter().map(|line| line.replace("1970-01-01T00:00:", "").replace('Z', "")).collect();
    assert_eq!(short, ["a 3 01 +I", "b 9 02 +I", "a 3 04 -U", "a 7 04 +U"], "2 and NULL are no change");
    let stream = high();
    let names: Vec<String> = stream.columns.fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["key", "high", "changed_at", "change"]);
    assert_eq!((stream.kind, stream.time), (StreamKind::Changelog, Some(2)));
}

#[test]
fn one_row_for_all_without_a_key() {
    let lines = run(&HIGH.replace("key = [\"key\"]\n", ""), &rows(), one_by_one());
    let words: Vec<&str> = lines[0].iter().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(words, ["+I", "-U", "+U"]);
}

#[test]
fn each_image_is_judged_by_itself() {
    let changes = batches(HIGH, &rows(), 1);
    let filter = "[operator.f]\ntype = \"filter\"\nfrom = \"rows\"\nwhere = \"high > 5\"\n";
    let lines = run_on(&high(), filter, &changes, one_by_one());
    let kept: Vec<String> =
        lines[0].iter().map(|line| format!("{} {}", &line[..3], &line[line.len() - 2..])).collect();
    assert_eq!(kept, ["b 9 +I", "a 7 +U"], "what a was did not pass");
    assert_eq!(build_on(&high(), filter).ports[0].stream, high());
    let project = "[operator.p]\ntype = \"project\"\nfrom = \"rows\"\nselect = [\"high * 2 AS twice\"]\n";
    let part = build_on(&high(), project);
    let stream = &part.ports[0].stream;
    let names: Vec<String> = stream.columns.fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["twice", "changed_at", "change"], "they stay without being named");
    assert_eq!((stream.kind, stream.change()), (StreamKind::Changelog, Some(2)));
    let all = build_on(
        &high(),
        "[operator.p]\ntype = \"project\"\nfrom = \"rows\"\nselect = [\"*\", \"1 AS one\"]\n",
    );
    assert_eq!(all.ports[0].stream.change(), Some(4));
}

#[test]
fn whoever_cannot_take_back_refuses() {
    for text in [
        "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\nwindow = { kind = \"tumbling\", size = \"1s\" }\nselect = [\"count(*) AS n\"]\n",
        "[operator.d]\ntype = \"dedup\"\nfrom = \"rows\"\nkey = [\"key\"]\nttl = \"1h\"\n",
        "[operator.t]\ntype = \"top\"\nfrom = \"rows\"\nby = \"high\"\nrows = 1\n",
        "[operator.f]\ntype = \"filter\"\nfrom = \"rows\"\nwhere = \"changed_at > TIMESTAMP '1970-01-01T00:00:00Z'\"\n",
        "[operator.f]\ntype = \"filter\"\nfrom = \"rows\"\nwhere = \"change = '+I'\"\n",
        "[operator.p]\ntype = \"project\"\nfrom = \"rows\"\nselect = [\"date_trunc('day', changed_at) AS day\"]\n",
        "[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nselect = [\"max(changed_at) AS at\"]\n",
        "[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nkey = [\"change\"]\nselect = [\"count(*) AS n\"]\n",
    ] {
        let wrong = refused(text);
        assert!(wrong.iter().any(|(code, _)| code == "TG-T012"), "{text}: {wrong:?}");
    }
    // When a change happened is not when a value was measured: the rows must say so.
    let wrong =
        refused("[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nselect = [\"last(high) AS now\"]\n");
    assert!(wrong.iter().any(|(_, message)| message.contains("when")), "{wrong:?}");
}

#[test]
fn an_expression_that_fails_takes_its_row_away_and_no_other() {
    let text = "[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nkey = [\"key\"]\nselect = [\"100 / max(n) AS share\"]\n";
    let rows: Vec<TestRow> =
        vec![("a", 1.0, Some(-4.0)), ("b", 1.0, Some(5.0)), ("a", 2.0, Some(0.0)), ("a", 3.0, Some(2.0))];
    for restore in [false, true] {
        let manner = Manner { restore, snapshot: restore, ..one_by_one() };
        let lines = run(text, &batch(&rows), manner);
        let changes: Vec<String> = lines[0]
            .iter()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                format!("{} {} {}", words[0], words[1], words[3])
            })
            .collect();
        assert_eq!(changes, ["a -25 +I", "b 20 +I", "a -25 -D", "a 50 +I"]);
        assert_eq!(lines[2].len(), 1, "{:?}", lines[2]);
    }
    assert!(try_build_on(&stream(), text).is_ok());
}

#[test]
fn what_names_a_result_is_known_as_long_as_it_is_there() {
    let keyed = |stream: &StreamSchema, text: &str| build_on(stream, text).ports[0].stream.clone();
    assert_eq!(high().key, Some(vec![0]));
    let project = |select: &str| {
        let text = format!("[operator.p]\ntype = \"project\"\nfrom = \"rows\"\nselect = [{select}]\n");
        keyed(&high(), &text).key
    };
    assert_eq!(project("\"high\", \"key AS device\""), Some(vec![1]));
    assert_eq!(project("\"high\", \"upper(key) AS key\""), None, "two keys may have one text");
    assert_eq!(project("\"high\""), None);
    let filter = "[operator.f]\ntype = \"filter\"\nfrom = \"rows\"\nwhere = \"high > 5\"\n";
    assert_eq!(keyed(&high(), filter).key, Some(vec![0]));
    let top = |rows: u32| {
        let text = "[operator.t]\ntype = \"top\"\nfrom = \"rows\"\nby = \"n\"\nkey = [\"key\"]\n";
        keyed(&stream(), &format!("{text}rows = {rows}\n")).key
    };
    assert_eq!((top(3), top(1)), (Some(vec![0, 4]), Some(vec![0])), "of one row the rank says nothing");
    let last = "[operator.d]\ntype = \"dedup\"\nfrom = \"rows\"\nkey = [\"key\", \"n\"]\nttl = \"1h\"\nkeep = \"last\"\n";
    assert_eq!(keyed(&stream(), last).key, Some(vec![0, 3]));
}

#[test]
fn a_key_that_names_no_result_is_refused() {
    let named = high();
    assert_eq!(named.hits_others("a", &["key"]), None);
    assert_eq!(named.hits_others("a", &["high", "key"]), None, "more is no harm");
    let (message, help) = named.hits_others("a", &["high"]).expect("is refused");
    assert!(message.contains("named by `key`") && help.contains("add `key`"), "{message} {help}");
    let nameless = StreamSchema { key: None, ..high() };
    assert!(nameless.hits_others("a", &["key"]).expect("is refused").1.contains("accept_changes"));
    assert_eq!(stream().hits_others("a", &[]), None, "rows that stand");
}

#[test]
fn whoever_forgets_what_stands_is_warned() {
    let ttl = format!("{HIGH}ttl = \"1h\"\n");
    for (stream, text, expected) in [(high(), &*HIGH.replace("max(n)", "max(high)"), 0), (stream(), &*ttl, 0)]
        .into_iter()
        .chain([(high(), &*ttl.replace("max(n)", "max(high)"), 1)])
    {
        let context = context();
        built(&context, &stream, text).unwrap_or_else(|error| panic!("{error}"));
        let warnings = context.take_warnings();
        assert_eq!(warnings.len(), expected, "{text}: {warnings:?}");
        assert!(warnings.iter().all(|warning| warning.message.contains("`late`")));
    }
}

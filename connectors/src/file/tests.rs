//! Files under the hands of others: appended, cut, renamed, replaced, resumed;
//! and the epochs of a directory across crashes.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use tempfile::TempDir;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::Sink;
use tidegate_engine::source::{Polled, Position, Source, SourcePart};

use super::{SINK, SOURCE};
use crate::testing::{build_context, node};

const LIMIT: Duration = Duration::from_secs(30);

fn build(folder: &Path, once: bool, keys: &str) -> Result<SourcePart, ConfigError> {
    let mut context = build_context();
    context.base_dir = folder.to_owned();
    context.once = once;
    let text = format!("[source.rows]\ntype = \"file\"\nschema = {{ n = \"int64\" }}\n{keys}\n");
    (SOURCE.build)(&node(&text), &context)
}

async fn open(folder: &Path, once: bool, keys: &str, resume: Option<&Position>) -> Box<dyn Source> {
    let mut source = build(folder, once, keys).expect("a right node").source;
    source.open(resume).await.expect("opens");
    source
}

/// What one `next` gave: numbers, positions of bad rows, and where to go on.
async fn next(source: &mut dyn Source) -> Option<(Vec<i64>, Vec<String>, Position)> {
    let polled = tokio::time::timeout(LIMIT, source.next()).await.expect("in time").expect("reads");
    let Polled::Rows(rows) = polled else { return None };
    let numbers = rows.batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    let bad = rows.rejects.map_or(Vec::new(), |bad| {
        bad.column(3).as_string::<i32>().iter().flatten().map(str::to_owned).collect()
    });
    Some((numbers, bad, rows.position))
}

/// Numbers until there are `count`.
async fn numbers(source: &mut dyn Source, count: usize) -> Vec<i64> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(next(source).await.expect("more rows").0);
    }
    all
}

fn lines(range: std::ops::Range<i64>) -> String {
    range.map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("opens");
    file.write_all(text.as_bytes()).expect("writes");
}

#[tokio::test]
async fn a_read_to_the_end_goes_on_exactly_where_any_position_says() {
    let folder = TempDir::new().expect("a folder");
    // Three files, one over several chunks, the last one without a line end.
    append(&folder.path().join("b.jsonl"), &lines(3..300_000));
    append(&folder.path().join("a.jsonl"), &format!("\u{feff}{}oops\n{}", lines(0..1), lines(1..3)));
    append(&folder.path().join("c.jsonl"), "\n{\"n\":300000}\n{\"n\":300001}");
    let keys = "path = \"*.jsonl\"";
    let mut seen = vec![(Vec::new(), None)];
    let mut all = Vec::new();
    let mut source = open(folder.path(), true, keys, None).await;
    while let Some((numbers, bad, position)) = next(source.as_mut()).await {
        all.extend(numbers);
        assert!(bad.is_empty() || bad == ["a.jsonl:2"], "{bad:?}");
        seen.push((all.clone(), Some(position)));
    }
    assert!(seen.len() > 4, "several batches");
    assert_eq!(all, (0..300_002).collect::<Vec<i64>>());
    for (mut before, position) in seen {
        let mut again = open(folder.path(), true, keys, position.as_ref()).await;
        while let Some((numbers, ..)) = next(again.as_mut()).await {
            before.extend(numbers);
        }
        assert!(before == all, "other rows after {position:?}");
    }
}

#[tokio::test]
async fn a_followed_file_gives_rows_when_their_line_ends() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("log");
    let mut source = open(folder.path(), false, "path = \"log\"", None).await;
    let reader = tokio::spawn(async move { (numbers(source.as_mut(), 3).await, source) });
    append(&path, "{\"n\":1}\n{\"n\":");
    append(&path, "2}\n");
    append(&path, "{\"n\":3}\n{\"n\"");
    let (found, mut source) = tokio::time::timeout(LIMIT, reader).await.expect("in time").expect("no panic");
    assert_eq!(found, [1, 2, 3]);
    // Replaced: the old file is read to its very end, then the new one.
    append(&path, ":4}\n");
    fs::rename(&path, folder.path().join("log.1")).expect("renames");
    append(&folder.path().join("log.1"), "{\"n\":5}");
    append(&path, "{\"n\":6}\n");
    assert_eq!(numbers(source.as_mut(), 3).await, [4, 5, 6]);
    // Cut: read from its beginning.
    fs::write(&path, "").expect("cuts");
    let reader = tokio::spawn(async move { numbers(source.as_mut(), 1).await });
    append(&path, "{\"n\":7}\n");
    assert_eq!(tokio::time::timeout(LIMIT, reader).await.expect("in time").expect("no panic"), [7]);
}

#[tokio::test]
async fn the_rest_of_a_file_that_was_renamed_meanwhile_comes_first() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("log");
    append(&path, &lines(0..2));
    let mut source = open(folder.path(), false, "path = \"log\"", None).await;
    let (found, _, position) = next(source.as_mut()).await.expect("rows");
    assert_eq!(found, [0, 1]);
    drop(source);
    append(&path, &lines(2..4));
    fs::rename(&path, folder.path().join("log.1")).expect("renames");
    append(&path, &lines(4..6));
    let mut source = open(folder.path(), false, "path = \"log\"", Some(&position)).await;
    assert_eq!(numbers(source.as_mut(), 4).await, [2, 3, 4, 5]);
    // A new file with the old one's inode is not the old one.
    let other = folder.path().join("other");
    append(&other, &lines(10..12));
    let mut source = open(folder.path(), true, "path = \"other\"", None).await;
    let (_, _, position) = next(source.as_mut()).await.expect("rows");
    fs::write(&other, lines(20..30)).expect("replaces the content, keeps the inode");
    let mut source = open(folder.path(), true, "path = \"other\"", Some(&position)).await;
    assert_eq!(numbers(source.as_mut(), 10).await, (20..30).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_row_longer_than_the_limit_is_rejected_and_passed_over() {
    let folder = TempDir::new().expect("a folder");
    let long = format!("{{\"n\":1,\"x\":\"{}\"}}\n", "x".repeat(5_000_000));
    append(&folder.path().join("log"), &format!("{}{long}{}", lines(0..1), lines(2..4)));
    let keys = "path = \"log\"\npayload_max = \"64KiB\"";
    let mut source = open(folder.path(), true, keys, None).await;
    let (mut all, mut bad) = (Vec::new(), Vec::new());
    let mut resume = None;
    while let Some((numbers, wrong, position)) = next(source.as_mut()).await {
        all.extend(numbers);
        bad.extend(wrong);
        if resume.is_none() && !bad.is_empty() {
            resume = Some((all.len(), position));
        }
    }
    assert_eq!((all.as_slice(), bad), ([0, 2, 3].as_slice(), vec!["log:2".to_owned()]));
    // The position may stand in the middle of the long row.
    let (before, position) = resume.expect("a position after the reject");
    let mut source = open(folder.path(), true, keys, Some(&position)).await;
    assert_eq!(numbers(source.as_mut(), 3 - before).await, all[before..]);
}

#[tokio::test]
async fn csv_knows_its_header_wherever_it_goes_on() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("t.csv");
    append(&path, "x,n\r\n\"a\nb\",1\r\n");
    let keys = "path = \"t.csv\"\nformat = \"csv\"";
    let mut source = open(folder.path(), true, keys, None).await;
    let (found, _, position) = next(source.as_mut()).await.expect("rows");
    assert_eq!(found, [1]);
    append(&path, "c,2\r\nc,no\r\n");
    let mut source = open(folder.path(), true, keys, Some(&position)).await;
    let (found, bad, _) = next(source.as_mut()).await.expect("rows");
    assert_eq!((found, bad), (vec![2], vec!["t.csv:5".to_owned()]));
}

#[tokio::test]
async fn a_missing_file_is_an_error_only_if_it_must_be_there_now() {
    let folder = TempDir::new().expect("a folder");
    let error = build(folder.path(), true, "path = \"rows.jsonl\"").err().expect("is missing");
    assert_eq!((error.0[0].code, error.0[0].span.is_some()), ("TG-C009", true));
    assert!(error.0[0].message.contains("rows.jsonl"), "{error}");
    let error = build(folder.path(), false, "path = \".\"").err().expect("is a directory");
    assert!(error.0[0].help.as_deref().is_some_and(|help| help.contains("./*.jsonl")), "{error:?}");
    assert_eq!(
        build(folder.path(), true, "path = \"rows[\"").err().expect("no pattern").0[0].code,
        "TG-C032"
    );
    let mut source = open(folder.path(), false, "path = \"later\"", None).await;
    let reader = tokio::spawn(async move { numbers(source.as_mut(), 1).await });
    append(&folder.path().join("later"), &lines(0..1));
    assert_eq!(tokio::time::timeout(LIMIT, reader).await.expect("in time").expect("no panic"), [0]);
}

fn sink(folder: &Path, keys: &str) -> Box<dyn Sink> {
    let mut context = build_context();
    context.base_dir = folder.to_owned();
    let stream = StreamSchema::new(
        batch(0..0).schema().fields().iter().map(|field| field.as_ref().clone()).collect(),
        None,
    );
    let text = format!("[sink.out]\ntype = \"file\"\nfrom = \"x\"\n{keys}\n");
    let input = Input { name: "x".into(), stream };
    (SINK.build)(&node(&text), &context, &input).expect("a right node").sink
}

fn batch(range: std::ops::Range<i64>) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(range));
    RecordBatch::try_from_iter([("n", numbers)]).expect("one column")
}

/// Every file of a folder that has its final name: names and content.
fn published(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|ending| ending != "part"))
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("text"))
        })
        .collect();
    files.sort();
    files
}

async fn put(sink: &mut dyn Sink, range: std::ops::Range<i64>, epoch: u64) {
    sink.write(&batch(range)).await.expect("takes");
    sink.flush(epoch).await.expect("flushes");
}

#[tokio::test]
async fn a_directory_shows_each_row_once_across_crashes() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("out");
    let mut first = sink(folder.path(), "path = \"out/\"");
    first.open().await.expect("opens");
    first.commit(0).await.expect("nothing yet");
    put(first.as_mut(), 0..2, 1).await;
    put(first.as_mut(), 2..3, 1).await;
    assert_eq!(published(&out), []);
    first.commit(1).await.expect("publishes");
    first.commit(1).await.expect("again");
    put(first.as_mut(), 3..4, 2).await;
    put(first.as_mut(), 4..5, 3).await;
    // Killed before commit(2): epoch 2 is in a checkpoint, epoch 3 is not.
    drop(first);
    let mut second = sink(folder.path(), "path = \"out/\"");
    second.open().await.expect("opens");
    second.commit(2).await.expect("publishes what the dead one prepared");
    put(second.as_mut(), 4..5, 3).await;
    // The disk was away for a moment: what is durable stays, the rest comes again.
    second.write(&batch(90..91)).await.expect("takes");
    second.open().await.expect("opens");
    put(second.as_mut(), 5..6, 3).await;
    second.commit(3).await.expect("publishes");
    let expected = [
        ("out-0000000001-0.jsonl", lines(0..3)),
        ("out-0000000002-0.jsonl", lines(3..4)),
        ("out-0000000003-0.jsonl", lines(4..5)),
        ("out-0000000003-1.jsonl", lines(5..6)),
    ];
    let expected: Vec<(String, String)> = expected.map(|(name, text)| (name.into(), text)).into();
    assert_eq!(published(&out), expected);
    assert_eq!(fs::read_dir(&out).expect("a folder").count(), 4, "no parts are left");
}

#[tokio::test]
async fn csv_files_each_have_a_header_and_a_limit() {
    let folder = TempDir::new().expect("a folder");
    let mut sink = sink(folder.path(), "path = \"out/\"\nformat = \"csv\"\nfile_max = \"6B\"");
    sink.open().await.expect("opens");
    put(sink.as_mut(), 1..3, 1).await;
    put(sink.as_mut(), 3..4, 1).await;
    sink.commit(1).await.expect("publishes");
    let files: Vec<String> =
        published(&folder.path().join("out")).into_iter().map(|(_, text)| text).collect();
    assert_eq!(files, ["n\n1\n2\n", "n\n3\n"]);
}

#[tokio::test]
async fn one_file_is_appended_to_and_never_torn() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("out.jsonl");
    fs::write(&path, "{\"n\":0}\n{\"n\"").expect("a file that a crash left");
    let mut sink = sink(folder.path(), "path = \"out.jsonl\"");
    sink.open().await.expect("opens");
    put(sink.as_mut(), 1..2, 1).await;
    sink.write(&batch(2..3)).await.expect("takes");
    assert_eq!(fs::read_to_string(&path).expect("text"), "{\"n\":0}\n{\"n\"\n{\"n\":1}\n");
    sink.flush(2).await.expect("flushes");
    assert!(fs::read_to_string(&path).expect("text").ends_with("{\"n\":2}\n"));
}

//! Rows per second of one thread through a join, both sides counted, in batches
//! with a watermark behind each, as two sources would bring them:
//! (a) after Nexmark q8: persons and their auctions in one window of 10 s;
//! (b) after Nexmark q9: auctions and the bids up to 20 s after them that reach
//! the reserve, about ten for each; (c) as (b), left, with a text key; (d) bids
//! and the last row of their auction, as of 20 s.
//! Beside each a loop by hand over the same rows, with a hash map of rows that
//! is cleared of old ones now and then, which copies the columns it joins.
//! Prints minimum, median and maximum of five runs; the answers are compared.
//!
//! `cargo bench -p tidegate-operators --bench join`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::too_many_lines,
    reason = "a benchmark stops at the first surprise"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, TimestampMicrosecondType};
use tidegate_engine::operator::{Input, Operator, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::{Time, time_type};
use tidegate_engine::topology::node::BuildContext;
use tidegate_engine::topology::parse::parse;
use tidegate_operators::OPERATORS;
use tidegate_operators::expression::SqlExpressions;

/// Rows of the left side unless an argument says otherwise; the other one has
/// `per_left` for each.
const LEFTS: i64 = 100_000;
const LEFTS_A_SECOND: i64 = 1_000;
const BATCH_ROWS: usize = 4_096;
const RUNS: usize = 5;

/// Rows in the order they come: side and batch, and the watermark behind it.
type Feed = Vec<(usize, RecordBatch, i64)>;

struct Load {
    name: &'static str,
    near: &'static str,
    on: &'static str,
    kind: &'static str,
    /// Rows of the right side for each left row, and how far they lie behind it.
    per_left: i64,
    spread_us: i64,
}

const LOADS: [Load; 4] = [
    Load {
        name: "(a) window",
        near: "window = \"10s\"",
        on: "a.k = b.k",
        kind: "inner",
        per_left: 1,
        spread_us: 5_000_000,
    },
    Load {
        name: "(b) within, condition",
        near: "within = { after = \"20s\" }",
        on: "a.k = b.k AND b.v >= a.v",
        kind: "inner",
        per_left: 10,
        spread_us: 20_000_000,
    },
    Load {
        name: "(c) within, left, text",
        near: "within = { after = \"20s\" }",
        on: "a.s = b.s",
        kind: "left",
        per_left: 10,
        spread_us: 20_000_000,
    },
    Load {
        name: "(d) as of",
        near: "as_of = \"20s\"",
        on: "b.k = a.k",
        kind: "left",
        per_left: 10,
        spread_us: 20_000_000,
    },
];

fn main() {
    let lefts = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(LEFTS);
    println!("one thread; {lefts} rows on the left; M rows/s, minimum, median, maximum of {RUNS}");
    for load in &LOADS {
        let feed = feed(load, lefts);
        let rows: usize = feed.iter().map(|(_, batch, _)| batch.num_rows()).sum();
        let mut answers = Vec::new();
        let mut measure = |who: &str, way: &mut dyn FnMut() -> (usize, i64)| {
            let mut rates: Vec<f64> = (0..RUNS)
                .map(|_| {
                    #[allow(clippy::disallowed_methods, reason = "a benchmark")]
                    let started = Instant::now();
                    answers.push(way());
                    rows as f64 / started.elapsed().as_secs_f64() / 1e6
                })
                .collect();
            rates.sort_by(f64::total_cmp);
            let name = format!("{} {who}", load.name);
            println!("{name:34} {:6.2} {:6.2} {:6.2}", rates[0], rates[RUNS / 2], rates[RUNS - 1]);
        };
        measure("ours", &mut || ours(load, &feed));
        measure("by hand", &mut || by_hand(load, &feed));
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        println!("{:34} {rows} rows in, {} out", "", answers[0].0);
    }
}

/// A number that follows from another.
fn scattered(number: i64) -> i64 {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 20).rem_euclid(1 << 30)
}

fn stream() -> StreamSchema {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    StreamSchema::new(
        vec![
            Field::new("ts", time_type(), false),
            field("k", DataType::Int64),
            field("s", DataType::Utf8),
            field("v", DataType::Int64),
            field("note", DataType::Utf8),
        ],
        Some("ts"),
    )
}

fn feed(load: &Load, lefts: i64) -> Feed {
    // Time, side, key, value.
    let mut rows: Vec<(i64, usize, i64, i64)> = Vec::new();
    for left in 0..lefts {
        let ts = left * (1_000_000 / LEFTS_A_SECOND);
        rows.push((ts, 0, left, scattered(left) % 100));
        for right in 0..load.per_left {
            let number = left * load.per_left + right;
            rows.push((ts + scattered(number) % load.spread_us, 1, left, scattered(number + 7) % 100));
        }
    }
    rows.sort_unstable();
    // The right side of (d) is what is looked up.
    let swap = load.near.starts_with("as_of");
    let mut feed = Vec::new();
    for part in rows.chunks(2 * BATCH_ROWS) {
        for side in 0..2 {
            let own: Vec<_> = part.iter().filter(|row| (row.1 == side) != swap).collect();
            let watermark = if side == 1 { part[part.len() - 1].0 } else { part[0].0 };
            feed.push((side, batch(&own), watermark));
        }
    }
    feed
}

fn batch(rows: &[&(i64, usize, i64, i64)]) -> RecordBatch {
    let times = rows.iter().map(|row| Some(row.0)).collect::<TimestampMicrosecondArray>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times.with_timezone("UTC")),
        Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| format!("auction-{}", row.2)))),
        Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| format!("a note of {:06}", row.3)))),
    ];
    RecordBatch::try_new(stream().columns, columns).expect("columns of the schema")
}

fn build(load: &Load) -> Box<dyn Operator> {
    let text = format!(
        "[operator.j]\ntype = \"join\"\nfrom = [\"a\", \"b\"]\non = \"{}\"\nkind = \"{}\"\nmatch = {{ {} }}\n",
        load.on, load.kind, load.near
    );
    let (parsed, _) = parse(&text);
    let context =
        BuildContext::new("bench", PathBuf::from("."), std::env::temp_dir(), Arc::new(SqlExpressions::new()));
    let row = OPERATORS.iter().find(|row| row.name == "join").expect("a join");
    let inputs = ["a", "b"].map(|name| Input { name: name.into(), stream: stream() });
    (row.build)(&parsed.nodes[0], &context, &inputs).unwrap_or_else(|error| panic!("{error}")).operator
}

/// Rows that leave, and a sum over them.
fn ours(load: &Load, feed: &Feed) -> (usize, i64) {
    let mut join = build(load);
    let mut answer = (0, 0);
    let mut out = Output::default();
    let mut drain = |join: &mut Box<dyn Operator>, mut progress: Progress, out: &mut Output| loop {
        for (port, batch) in out.drain() {
            assert_eq!(port, 0, "late or rejected");
            answer.0 += batch.num_rows();
            for column in ["a_v", "b_v"] {
                answer.1 += sum(batch.column_by_name(column).expect("a column of the output"));
            }
        }
        if progress == Progress::Done {
            break;
        }
        progress = join.resume(out).expect("goes on");
    };
    for (side, batch, watermark) in feed {
        let progress = join.on_batch(*side, batch, &mut out).expect("takes rows");
        drain(&mut join, progress, &mut out);
        let progress = join.on_watermark(Time(*watermark), &mut out).expect("takes a watermark");
        drain(&mut join, progress, &mut out);
    }
    let progress = join.on_end(&mut out).expect("ends");
    drain(&mut join, progress, &mut out);
    answer
}

fn sum(column: &ArrayRef) -> i64 {
    arrow::compute::sum(column.as_primitive::<Int64Type>()).unwrap_or(0)
}

/// A row as the loop by hand keeps it.
struct Row {
    ts: i64,
    batch: usize,
    row: usize,
    has_partner: bool,
}

/// What the loop by hand has joined, column by column.
#[derive(Default)]
struct Joined {
    ts: Vec<i64>,
    v: [Vec<i64>; 2],
    texts: [String; 2],
    rows: usize,
    sum: i64,
}

impl Joined {
    fn push(&mut self, ts: i64, sides: [Option<(&RecordBatch, usize)>; 2]) {
        self.rows += 1;
        self.ts.push(ts);
        for (side, row) in sides.into_iter().enumerate() {
            let Some((batch, row)) = row else { continue };
            let v = batch.column(3).as_primitive::<Int64Type>().value(row);
            self.v[side].push(v);
            self.sum += v;
            for column in [2, 4] {
                self.texts[side].push_str(batch.column(column).as_string::<i32>().value(row));
            }
        }
        if self.ts.len() >= 8_192 {
            black_box(&self);
            self.ts.clear();
            self.v.iter_mut().for_each(Vec::clear);
            self.texts.iter_mut().for_each(String::clear);
        }
    }
}

/// The same join for these rows only.
fn by_hand(load: &Load, feed: &Feed) -> (usize, i64) {
    let mut joined = Joined::default();
    let mut kept: [HashMap<String, Vec<Row>>; 2] = Default::default();
    let mut number_kept: [HashMap<i64, Vec<Row>>; 2] = Default::default();
    if load.on.contains("a.s") {
        hand(load, feed, &mut kept, &mut joined, |batch, row| {
            batch.column(2).as_string::<i32>().value(row).to_owned()
        });
    } else {
        hand(load, feed, &mut number_kept, &mut joined, |batch, row| {
            batch.column(1).as_primitive::<Int64Type>().value(row)
        });
    }
    (joined.rows, joined.sum)
}

fn hand<K: std::hash::Hash + Eq>(
    load: &Load,
    feed: &Feed,
    kept: &mut [HashMap<K, Vec<Row>>; 2],
    joined: &mut Joined,
    key: impl Fn(&RecordBatch, usize) -> K,
) {
    let near = |left: i64, right: i64| match load.near.split(' ').next() {
        Some("window") => left / 10_000_000 == right / 10_000_000,
        Some("within") => (left..=left + 20_000_000).contains(&right),
        _ => (left - 20_000_000..=left).contains(&right),
    };
    let as_of = load.near.starts_with("as_of");
    let wants_more = load.on.contains(">=");
    for (number, (side, batch, watermark)) in feed.iter().enumerate() {
        let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let values = batch.column(3).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let (ts, mut has_partner) = (times.value(row), false);
            let own = key(batch, row);
            if !as_of && let Some(others) = kept[1 - side].get_mut(&own) {
                for other in others {
                    let theirs = &feed[other.batch].1;
                    let mut pair = [(batch, row, ts), (theirs, other.row, other.ts)];
                    if *side == 1 {
                        pair.swap(0, 1);
                    }
                    let theirs_value = theirs.column(3).as_primitive::<Int64Type>().value(other.row);
                    let is_enough = !wants_more
                        || if *side == 1 {
                            values.value(row) >= theirs_value
                        } else {
                            theirs_value >= values.value(row)
                        };
                    if near(pair[0].2, pair[1].2) && is_enough {
                        (has_partner, other.has_partner) = (true, true);
                        joined.push(
                            ts.max(other.ts),
                            [Some((pair[0].0, pair[0].1)), Some((pair[1].0, pair[1].1))],
                        );
                    }
                }
            }
            kept[*side].entry(own).or_default().push(Row { ts, batch: number, row, has_partner });
        }
        let last = number + 1 == feed.len();
        if as_of && (*side == 1 || last) {
            let (lefts, rights) = kept.split_at_mut(1);
            lefts[0].retain(|key, rows| {
                rows.retain(|left| {
                    let ready = last || left.ts < *watermark;
                    if ready {
                        let theirs = rights[0].get(key).into_iter().flatten();
                        let taken =
                            theirs.filter(|right| near(left.ts, right.ts)).max_by_key(|right| right.ts);
                        let taken = taken.map(|right| (&feed[right.batch].1, right.row));
                        joined.push(left.ts, [Some((&feed[left.batch].1, left.row)), taken]);
                    }
                    !ready
                });
                !rows.is_empty()
            });
        }
        // Old rows cost memory only, so they go now and then.
        if number % 16 == 15 || last {
            for (side, own) in kept.iter_mut().enumerate() {
                let before = watermark - 30_000_000;
                own.retain(|_, rows| {
                    rows.retain(|row| {
                        let is_old = row.ts < before || last;
                        if is_old && load.kind == "left" && side == 0 && !row.has_partner && !as_of {
                            joined.push(row.ts, [Some((&feed[row.batch].1, row.row)), None]);
                        }
                        !is_old
                    });
                    !rows.is_empty()
                });
            }
        }
    }
}

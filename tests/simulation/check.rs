//! The invariants, after the calm.

use std::collections::BTreeMap;

use crate::source;
use crate::world::{Row, World};

/// How far the source allows rows to be out of order, in microseconds.
const DISORDER_US: i64 = source::DISORDER.as_micros() as i64;

/// Counts of equal things.
type Bag = BTreeMap<String, i64>;

fn bag(rows: impl IntoIterator<Item = String>) -> Bag {
    let mut bag = Bag::new();
    for row in rows {
        *bag.entry(row).or_default() += 1;
    }
    bag
}

pub(crate) fn all(seed: u64, world: &World, topology: &str) {
    let state = world.lock();
    let published = |name: &str| state.published.get(name).cloned().unwrap_or_default();
    let fail = |what: String| {
        let tail: Vec<&String> = state.trace.iter().rev().take(40).collect();
        panic!("seed {seed}: {what}\n{topology}\nlast steps, newest first: {tail:#?}");
    };
    // Nothing stays prepared for an epoch that will never come.
    let left: usize = state.prepared.values().flat_map(BTreeMap::values).map(Vec::len).sum();
    if left > 0 {
        fail(format!("{left} rows are prepared and not published"));
    }
    let raw = bag(published("raw"));
    let mut seen: Vec<Row> = Vec::new();
    for (name, outside) in &state.sources {
        let redelivers = topology.contains(&format!("[source.{name}]\ntype = \"peer\""));
        if !topology.contains(&format!("[source.{name}]")) {
            continue;
        }
        for row in &outside.rows {
            if topology.contains("filter") && row.number % 3 == 1 {
                continue;
            }
            let times = raw.iter().find(|(text, _)| is(text, row)).map_or(0, |(_, times)| *times);
            if times == 0 {
                fail(format!("row {row:?} is lost"));
            }
            if times > 1 && !redelivers {
                fail(format!("row {row:?} came {times} times"));
            }
            seen.extend((0..times).map(|_| row.clone()));
        }
        if redelivers && outside.acknowledged != outside.rows.len() {
            fail(format!("{name}: {} of {} acknowledged", outside.acknowledged, outside.rows.len()));
        }
    }
    if raw.values().sum::<i64>() != seen.len() as i64 {
        fail(format!("{} rows came that nobody sent", raw.values().sum::<i64>() - seen.len() as i64));
    }
    let late = published("late");
    windows(topology, &state.sources["in0"].rows, seen.len(), &published("windows"), &late, &fail);
}

fn is(text: &str, row: &Row) -> bool {
    text.split(' ').next().is_some_and(|number| number == row.number.to_string())
}

/// Each window once. From one source that goes back, windows and late rows are
/// those that a recomputation row by row gives; else a redelivered row or the
/// schedule of two sources may decide what is late, and then the sum is right.
fn windows(
    topology: &str,
    rows: &[Row],
    seen: usize,
    windows: &[String],
    late: &[String],
    fail: &dyn Fn(String),
) {
    let found: Bag = bag(windows.iter().map(|window| canonical(window)));
    if let Some((window, times)) = found.iter().find(|(_, times)| **times > 1) {
        fail(format!("window {window} came {times} times"));
    }
    let shape = Shape::of(topology);
    if !topology.contains("\"peer\"") && !topology.contains("in1") {
        let (expected, expected_late) = shape.recompute(rows, topology.contains("filter"));
        if found != expected {
            let differs = |a: &Bag, b: &Bag| -> Vec<String> {
                a.iter()
                    .filter(|(text, n)| b.get(*text) != Some(n))
                    .map(|(text, _)| text.clone())
                    .take(3)
                    .collect()
            };
            let (missing, more) = (differs(&expected, &found), differs(&found, &expected));
            fail(format!("windows differ: missing {missing:?}, wrong {more:?}"));
        }
        let mut numbers: Vec<i64> =
            late.iter().filter_map(|row| row.split(' ').next()?.parse().ok()).collect();
        numbers.sort_unstable();
        if numbers != expected_late {
            fail(format!("late are {numbers:?}, expected {expected_late:?}"));
        }
    } else if shape.slide == shape.size {
        let counted = |window: &String| window.split(' ').rev().nth(1)?.parse::<i64>().ok();
        let counted: i64 = windows.iter().filter_map(counted).sum();
        if counted + late.len() as i64 != seen as i64 {
            fail(format!("{seen} rows in, {counted} in windows, {} late", late.len()));
        }
    }
}

/// Of the windows.
struct Shape {
    size: i64,
    slide: i64,
    offset: i64,
}

impl Shape {
    fn of(topology: &str) -> Shape {
        match () {
            () if topology.contains("hopping") => Shape { size: 4_000_000, slide: 1_000_000, offset: 0 },
            () if topology.contains("700ms") => Shape { size: 700_000, slide: 700_000, offset: 100_000 },
            () => Shape { size: 2_000_000, slide: 2_000_000, offset: 0 },
        }
    }

    /// The windows, and the numbers of the rows that are late for all of theirs.
    fn recompute(&self, rows: &[Row], is_filtered: bool) -> (Bag, Vec<i64>) {
        let Shape { size, slide, offset } = *self;
        let mut sums: BTreeMap<(i64, &str), (i64, i64)> = BTreeMap::new();
        let (mut watermark, mut late) = (i64::MIN, Vec::new());
        for row in rows {
            let counts = !is_filtered || row.number % 3 != 1;
            let mut is_late = true;
            let mut start = (row.time_us - offset).div_euclid(slide) * slide + offset;
            while start > row.time_us - size {
                if start + size > watermark {
                    is_late = false;
                    if counts {
                        let sum = sums.entry((start, &row.key)).or_default();
                        *sum = (sum.0 + 1, sum.1 + row.number);
                    }
                }
                start -= slide;
            }
            if is_late && counts {
                late.push(row.number);
            }
            watermark = watermark.max(row.time_us - DISORDER_US);
        }
        late.sort_unstable();
        let time = |us: i64| tidegate_engine::time::Time(us).to_string();
        let line = |((start, key), (rows, total)): ((i64, &str), (i64, i64))| {
            format!("{} {} {key} {rows} {total}", time(start), time(start + size))
        };
        (bag(sums.into_iter().map(line)), late)
    }
}

/// A window as the oracle writes it.
fn canonical(window: &str) -> String {
    window
        .split(' ')
        .map(|word| match word.strip_suffix('Z') {
            Some(time) if !time.contains('.') => format!("{time}.000000Z"),
            Some(time) => {
                let digits = time.rsplit('.').next().map_or(0, str::len);
                format!("{time}{}Z", "0".repeat(6_usize.saturating_sub(digits)))
            }
            None => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

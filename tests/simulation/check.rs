//! The invariants, after the calm.

use std::collections::BTreeMap;

use crate::world::{Row, World};

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
        for row in outside.rows.iter().filter(|row| !topology.contains("filter") || row.number % 3 != 1) {
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
    windows(topology, &seen, &published("windows"), &published("late"), &fail);
}

fn is(text: &str, row: &Row) -> bool {
    text.split(' ').next().is_some_and(|number| number == row.number.to_string())
}

/// Each window once. Without late rows windows equal the batch recomputation;
/// a redelivered row may be late, and then both together do.
fn windows(topology: &str, seen: &[Row], windows: &[String], late: &[String], fail: &dyn Fn(String)) {
    let (size, slide, offset) = match () {
        () if topology.contains("hopping") => (4_000_000, 1_000_000, 0),
        () if topology.contains("700ms") => (700_000, 700_000, 100_000),
        () => (2_000_000, 2_000_000, 0),
    };
    let mut expected: BTreeMap<(i64, String), (i64, i64)> = BTreeMap::new();
    for row in seen {
        let last = (row.time_us - offset).div_euclid(slide) * slide + offset;
        let mut start = last;
        while start > row.time_us - size {
            let sums = expected.entry((start, row.key.clone())).or_default();
            *sums = (sums.0 + 1, sums.1 + row.number);
            start -= slide;
        }
    }
    let expected: Bag = bag(expected.into_iter().map(|((start, key), (rows, total))| {
        let time = |us: i64| tidegate_engine::time::Time(us).to_string();
        format!("{} {} {key} {rows} {total}", time(start), time(start + size))
    }));
    let found: Bag = bag(windows.iter().map(|window| canonical(window)));
    if let Some((window, times)) = found.iter().find(|(_, times)| **times > 1) {
        fail(format!("window {window} came {times} times"));
    }
    // A redelivered row may be late for some of its windows and count in the others.
    let came_again = seen.iter().collect::<std::collections::BTreeSet<_>>().len() < seen.len();
    if came_again && slide < size {
        return;
    }
    if late.is_empty() {
        if found != expected {
            let missing: Vec<_> =
                expected.iter().filter(|(text, n)| found.get(*text) != Some(n)).take(3).collect();
            let more: Vec<_> =
                found.iter().filter(|(text, n)| expected.get(*text) != Some(n)).take(3).collect();
            fail(format!("windows differ: missing {missing:?}, wrong {more:?}"));
        }
        return;
    }
    let counted: i64 =
        windows.iter().filter_map(|window| window.split(' ').rev().nth(1)?.parse::<i64>().ok()).sum();
    if counted + late.len() as i64 != seen.len() as i64 {
        fail(format!("{} rows in, {counted} in windows, {} late", seen.len(), late.len()));
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

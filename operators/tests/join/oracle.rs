//! The same rows as one batch of SQL: without late rows the batch answer is the
//! streaming answer, whatever the batches, the interleaving and the restarts.

use proptest::prelude::*;

use crate::harness::{R, Run, batch, text};
use crate::kit::{self, sorted};

const KINDS: [&str; 4] = ["inner", "left", "right", "full"];
/// One exact key, text, several, computed ones, with other conditions, none.
const ONS: [&str; 7] = [
    "a.k = b.k",
    "a.s = b.s",
    "a.k = b.k AND b.s = a.s",
    "a.k + 1 = b.k",
    "a.k = b.k AND a.v > b.v",
    "a.s = b.s AND (a.v <> b.v OR a.k = 0)",
    "a.v < b.v",
];

/// How rows reach the join.
#[derive(Clone, Debug)]
struct Case {
    on: usize,
    kind: usize,
    /// Rows of each side in the order they come, none of them late.
    rows: [Vec<R>; 2],
    delay: i64,
    /// Which side goes on by how many rows, and what happens then.
    steps: Vec<(bool, usize, u8)>,
    /// Whether a side that has given all its rows ends, so that it holds nothing back.
    ends: bool,
}

fn rows(delay: i64) -> impl Strategy<Value = Vec<R>> {
    // Half of the rows have one key.
    let key = || prop_oneof![4 => Just(Some(0_i64)), 3 => prop::option::weighted(0.8, 0_i64..5)];
    let text =
        prop_oneof![2 => Just(Some("x")), 2 => prop::sample::select(vec![Some(""), Some("longer"), None])];
    let row = (key(), text, prop::option::weighted(0.9, -3_i64..4), -60_i64..60, 0..=delay);
    prop::collection::vec(row, 0..40).prop_map(|rows| {
        // In the order of time, but for the disorder that the delay allows.
        let mut rows = rows;
        rows.sort_by_key(|(_, _, _, ts, later)| ts + later);
        let made = rows.into_iter().enumerate();
        made.map(|(id, (k, s, v, ts, _))| R { ts, k, s, v, id: id.try_into().expect("few") }).collect()
    })
}

fn case() -> impl Strategy<Value = Case> {
    (0_i64..25).prop_flat_map(|delay| {
        let steps = prop::collection::vec((any::<bool>(), 1..12_usize, 0..10_u8), 1..20);
        let parts = (0..ONS.len(), 0..KINDS.len(), rows(delay), rows(delay), steps, any::<bool>());
        parts.prop_map(move |(on, kind, left, right, steps, ends)| Case {
            on,
            kind,
            rows: [left, right],
            delay,
            steps,
            ends,
        })
    })
}

/// Runs a case to its end; answers the main lines.
fn stream(case: &Case, near: &str) -> Vec<String> {
    let text = text(ONS[case.on], KINDS[case.kind], near);
    let alone = told(case, Run::new(&text));
    if let Some(copies) = Run::copied(&text, 2 + case.steps[0].1 % 2) {
        assert_eq!(told(case, copies), alone, "as copies");
    }
    alone
}

fn told(case: &Case, mut run: Run) -> Vec<String> {
    let mut next = [0, 0];
    let mut marks = [i64::MIN; 2];
    let mut steps = case.steps.iter().cycle();
    while (0..2).any(|side| next[side] < case.rows[side].len()) {
        let (is_left, count, then) = steps.next().expect("steps go round");
        let side =
            if *is_left && next[0] < case.rows[0].len() || next[1] >= case.rows[1].len() { 0 } else { 1 };
        let left = &case.rows[side][next[side]..];
        let part = &left[..(*count).min(left.len())];
        next[side] += part.len();
        run.rows(side, part);
        let newest = part.iter().map(|row| row.ts - case.delay).max();
        marks[side] = marks[side].max(newest.unwrap_or(i64::MIN));
        let is_ended = |side: usize| case.ends && next[side] >= case.rows[side].len();
        let open = (0..2).filter(|side| !is_ended(*side)).map(|side| marks[side]).min();
        if *then != 0
            && let Some(watermark) = open.filter(|watermark| *watermark > i64::MIN)
        {
            run.watermark(watermark);
        }
        match then {
            4 => drop(run.state()),
            5 => run.restore(),
            _ => {}
        }
    }
    if case.steps[0].2.is_multiple_of(2) {
        run.watermark(1_000);
        assert!(run.is_free(), "everything is freed");
    }
    run.end();
    assert_eq!((run.lines[1].len(), run.lines[2].len()), (0, 0), "late or rejected");
    sorted(run.lines[0].clone())
}

/// The lines of a query over both tables.
fn answer(case: &Case, sql: &str) -> Vec<String> {
    kit::answer(&[("a", batch(&case.rows[0])), ("b", batch(&case.rows[1]))], sql)
}

/// A join of both tables under another condition on their times.
fn joined(case: &Case, lead: &str, near: &str) -> String {
    format!(
        "SELECT {lead}, a.*, b.* FROM a {} JOIN b ON {} AND {near}",
        if case.kind == 0 { "INNER" } else { KINDS[case.kind] },
        ONS[case.on],
    )
}

const LATER: &str = "coalesce(CASE WHEN a.ts >= b.ts THEN a.ts ELSE b.ts END, a.ts)";
const A: &str = "arrow_cast(a.ts, 'Int64')";
const B: &str = "arrow_cast(b.ts, 'Int64')";

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn within_equals_the_batch_answer(case in case(), before in 0_i64..30, after in 0_i64..30) {
        let found = stream(&case, &format!("within = {{ before = \"{before}us\", after = \"{after}us\" }}"));
        let near = format!("{B} BETWEEN {A} - {before} AND {A} + {after}");
        prop_assert_eq!(found, answer(&case, &joined(&case, LATER, &near)));
    }

    #[test]
    fn a_window_equals_the_batch_answer(case in case(), size in 1_i64..40) {
        let found = stream(&case, &format!("window = \"{size}us\""));
        let start = |time: &str| format!("{time} - (({time} % {size}) + {size}) % {size}");
        let either = format!("coalesce({A}, {B})");
        let at = |time: &str| format!("arrow_cast({time}, 'Timestamp(Microsecond, Some(\"UTC\"))')");
        let (first, behind) = (start(&either), format!("{} + {size}", start(&either)));
        let lead = format!("{}, {}", at(&first), at(&behind));
        let near = format!("{} = {}", start(A), start(B));
        prop_assert_eq!(found, answer(&case, &joined(&case, &lead, &near)));
    }

    #[test]
    fn as_of_equals_the_batch_answer(case in case(), tolerance in 0_i64..40) {
        let found = stream(&case, &format!("as_of = \"{tolerance}us\""));
        prop_assert_eq!(found, answer(&case, &as_of(&case, tolerance)));
    }
}

/// Each left row with the first of its right rows, by time and then by number.
fn as_of(case: &Case, tolerance: i64) -> String {
    let names = |side: &str| {
        ["ts", "k", "s", "v", "id"].map(|name| format!("{side}.{name} AS {side}_{name}")).join(", ")
    };
    let all =
        ["a", "b"].map(|side| ["ts", "k", "s", "v", "id"].map(|name| format!("{side}_{name}")).join(", "));
    let is_left = KINDS[case.kind] == "left" || KINDS[case.kind] == "full";
    let is_right = KINDS[case.kind] == "right" || KINDS[case.kind] == "full";
    let ranked = format!(
        "WITH ranked AS (SELECT {}, {}, row_number() OVER (PARTITION BY a.id ORDER BY b.ts DESC, b.id DESC) AS n
           FROM a {} JOIN b ON {} AND {B} BETWEEN {A} - {tolerance} AND {A}),
         taken AS (SELECT * FROM ranked WHERE n = 1)",
        names("a"),
        names("b"),
        if is_left { "LEFT" } else { "INNER" },
        ONS[case.on],
    );
    let lefts = format!("SELECT a_ts AS event_time, {}, {} FROM taken", all[0], all[1]);
    if !is_right {
        return format!("{ranked} {lefts}");
    }
    let nulls = ["ts", "k", "s", "v", "id"].map(|name| format!("NULL AS a_{name}")).join(", ");
    format!(
        "{ranked} {lefts} UNION ALL SELECT b.ts AS event_time, {nulls}, b.ts, b.k, b.s, b.v, b.id
         FROM b LEFT JOIN taken ON taken.b_id = b.id WHERE taken.b_id IS NULL"
    )
}

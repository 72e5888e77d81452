//! Random rows through queries, against the same as one batch.

use proptest::prelude::*;

use crate::harness::{Rows, TestRow, answer, batch_answer, rows};

/// A query over streams, and one over all rows that means the same; where they are
/// the same words, the second is empty. `{w}` is the start of the minute of `ts`.
const QUERIES: &[(&str, &str)] = &[
    ("SELECT * FROM a", ""),
    ("SELECT key, n + m AS s, ts FROM a WHERE n > 0 AND (key = 'x' OR m < 3)", ""),
    ("SELECT x.key, x.n FROM a AS x WHERE x.m BETWEEN 1 AND 4;", "SELECT x.key, x.n FROM a AS x WHERE x.m BETWEEN 1 AND 4"),
    (
        "SELECT key, tumble(ts, '1m') AS w, sum(n) AS total, count(*) AS c FROM a GROUP BY key, tumble(ts, '1m')",
        "SELECT key, {w} AS w, sum(n) AS total, count(*) AS c FROM a GROUP BY key, {w}",
    ),
    (
        "SELECT window_end, max(n) - min(n) AS span, count(*) FILTER (WHERE m > 2) AS big FROM a AS t WHERE t.n IS NOT NULL GROUP BY tumble(t.ts, INTERVAL '1' MINUTE) HAVING count(*) > 2 AND max(n) > 0",
        "SELECT {w} + INTERVAL '1 minute' AS window_end, max(n) - min(n) AS span, count(*) FILTER (WHERE m > 2) AS big FROM a WHERE n IS NOT NULL GROUP BY {w} HAVING count(*) > 2 AND max(n) > 0",
    ),
    // Keys that are expressions, by number and by name; a key that is asked for again in another one.
    (
        "SELECT upper(key) AS k, m % 2 AS odd, upper(key) || '!' AS loud, count(DISTINCT n) AS d FROM a GROUP BY 1, odd, tumble(ts, '60s')",
        "SELECT upper(key) AS k, m % 2 AS odd, upper(key) || '!' AS loud, count(DISTINCT n) AS d FROM a GROUP BY upper(key), m % 2, {w}",
    ),
    // Keys alone.
    (
        "SELECT key, window_start FROM a GROUP BY key, tumble(ts, '1 minute')",
        "SELECT DISTINCT key, {w} AS window_start FROM a",
    ),
    // Overlapping windows, and windows over their results.
    (
        "WITH counts AS (SELECT key, count(*) AS c, window_start AS s, window_end AS e FROM a GROUP BY key, hop(ts, '20s', '1m'))
         SELECT s, e, max(c) AS most FROM counts GROUP BY s, e",
        "WITH hops AS (SELECT key, date_bin(INTERVAL '20 seconds', ts) - back AS s FROM a CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '20 seconds'), (INTERVAL '40 seconds')) AS backs (back)),
         counts AS (SELECT key, s, count(*) AS c FROM hops GROUP BY key, s)
         SELECT s, s + INTERVAL '1 minute' AS e, max(c) AS most FROM counts GROUP BY s",
    ),
    // Only the start leaves: event time goes on with it.
    (
        "SELECT key, sum(c) AS c, window_end AS e FROM (SELECT key, tumble(ts, '1m') AS minute, count(*) AS c FROM a GROUP BY key, tumble(ts, '1m')) AS t GROUP BY key, tumble(minute, '5m')",
        "SELECT key, count(*) AS c, date_bin(INTERVAL '5 minutes', ts) + INTERVAL '5 minutes' AS e FROM a GROUP BY key, date_bin(INTERVAL '5 minutes', ts)",
    ),
    (
        "SELECT key, count(*) AS c, window_start AS s, window_end AS e FROM a GROUP BY key, session(ts, '10s')",
        "WITH steps AS (SELECT *, ts - lag(ts) OVER (PARTITION BY key ORDER BY ts) AS step FROM a),
         marked AS (SELECT *, sum(CASE WHEN step < INTERVAL '10 seconds' THEN 0 ELSE 1 END) OVER (PARTITION BY key ORDER BY ts) AS session FROM steps)
         SELECT key, count(*) AS c, min(ts) AS s, max(ts) + INTERVAL '10 seconds' AS e FROM marked GROUP BY key, session",
    ),
    // A table of WITH that is read twice, one inside another, and names that hide nodes.
    (
        "WITH b AS (SELECT key AS k, n FROM a WHERE n > 0), c AS (SELECT k, n * 2 AS n FROM b) SELECT k, n FROM b UNION ALL SELECT k, n FROM c",
        "",
    ),
    (
        "SELECT key, n AS v FROM a WHERE m = 1 UNION ALL SELECT key, m FROM b UNION ALL (SELECT key, n FROM b WHERE n < 0)",
        "",
    ),
    // Joins near in time.
    (
        "SELECT l.key, l.n AS ln, r.n AS rn FROM a AS l JOIN b AS r ON l.key = r.key AND r.ts BETWEEN l.ts - INTERVAL '5 seconds' AND l.ts + INTERVAL '10 seconds'",
        "",
    ),
    (
        "SELECT l.key, l.n AS ln, r.n AS rn FROM a l, b r WHERE l.key = r.key AND l.m > 1 AND r.m < 4 AND l.n < r.n AND l.ts < r.ts AND l.ts > r.ts - INTERVAL '8' SECOND",
        "",
    ),
    (
        "SELECT l.key, l.n AS ln, r.n AS rn FROM a AS l LEFT JOIN b AS r ON l.key = r.key AND r.ts >= l.ts AND r.ts <= l.ts + INTERVAL '10 seconds' WHERE r.n IS NULL OR r.n > 0",
        "",
    ),
    (
        "SELECT l.m AS lm, r.m AS rm FROM a AS l FULL OUTER JOIN b AS r ON l.key = r.key AND l.ts - INTERVAL '3 seconds' <= r.ts AND r.ts - INTERVAL '3 seconds' <= l.ts AND l.m < r.m",
        "",
    ),
    (
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r ON l.key = r.key AND l.ts BETWEEN r.ts AND r.ts + INTERVAL '9 seconds' WHERE l.m > 3 OR r.m > 3",
        "",
    ),
    // The bound lies to one side only.
    (
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r USING (key) WHERE r.ts BETWEEN l.ts + INTERVAL '2 seconds' AND l.ts + INTERVAL '9 seconds'",
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r ON l.key = r.key WHERE r.ts BETWEEN l.ts + INTERVAL '2 seconds' AND l.ts + INTERVAL '9 seconds'",
    ),
    // Three streams: event time of what is joined is `event_time`.
    (
        "SELECT x.m AS x, y.m AS y, z.m AS z FROM a AS x JOIN b AS y ON x.key = y.key AND x.ts BETWEEN y.ts AND y.ts + INTERVAL '5 seconds' JOIN b AS z ON z.key = x.key AND z.ts BETWEEN event_time AND event_time + INTERVAL '4 seconds'",
        "SELECT x.m AS x, y.m AS y, z.m AS z FROM a AS x JOIN b AS y ON x.key = y.key AND x.ts BETWEEN y.ts AND y.ts + INTERVAL '5 seconds' JOIN b AS z ON z.key = x.key AND z.ts BETWEEN x.ts AND x.ts + INTERVAL '4 seconds'",
    ),
    // The same stream in every place: each column has a name of its own.
    (
        "SELECT x.m AS x, y.m AS y, z.m AS z, w.n AS w FROM a AS x JOIN b AS y ON x.key = y.key AND x.ts BETWEEN y.ts AND y.ts + INTERVAL '3 seconds'
         JOIN b AS z ON z.key = x.key AND z.ts = event_time JOIN b AS w ON w.m = z.m AND w.ts BETWEEN event_time AND event_time + INTERVAL '9 seconds'",
        "SELECT x.m AS x, y.m AS y, z.m AS z, w.n AS w FROM a AS x JOIN b AS y ON x.key = y.key AND x.ts BETWEEN y.ts AND y.ts + INTERVAL '3 seconds'
         JOIN b AS z ON z.key = x.key AND z.ts = x.ts JOIN b AS w ON w.m = z.m AND w.ts BETWEEN z.ts AND z.ts + INTERVAL '9 seconds'",
    ),
    // A stream with itself.
    (
        "SELECT x.n AS n, y.m AS m FROM a x JOIN a y ON x.key = y.key AND y.ts BETWEEN x.ts AND x.ts + INTERVAL '9 seconds' AND x.m < y.m",
        "",
    ),
    // Both in one window; and rows with the results of their window.
    (
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r ON tumble(l.ts, '1m') = tumble(r.ts, '1m') AND l.key = r.key",
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r ON date_bin(INTERVAL '1 minute', l.ts) = date_bin(INTERVAL '1 minute', r.ts) AND l.key = r.key",
    ),
    (
        "WITH high AS (SELECT tumble(ts, '1m') AS w, max(m) AS m FROM a GROUP BY tumble(ts, '1m')) SELECT a.key, a.m FROM a JOIN high ON a.m = high.m AND tumble(a.ts, '1m') = high.w",
        "WITH high AS (SELECT {w} AS w, max(m) AS m FROM a GROUP BY {w}) SELECT a.key, a.m FROM a JOIN high ON a.m = high.m AND date_bin(INTERVAL '1 minute', a.ts) = high.w",
    ),
    (
        "WITH l AS (SELECT key, count(*) AS c, window_start, window_end FROM a GROUP BY key, tumble(ts, '1m')),
         r AS (SELECT key, count(*) AS c, window_start, window_end FROM b GROUP BY key, tumble(ts, '1m'))
         SELECT l.key, l.c AS lc, r.c AS rc, l.window_end AS e FROM l JOIN r ON l.key = r.key AND l.window_start = r.window_start AND l.window_end = r.window_end",
        "WITH l AS (SELECT key, count(*) AS c, {w} AS s FROM a GROUP BY key, {w}),
         r AS (SELECT key, count(*) AS c, {w} AS s FROM b GROUP BY key, {w})
         SELECT l.key, l.c AS lc, r.c AS rc, l.s + INTERVAL '1 minute' AS e FROM l JOIN r ON l.key = r.key AND l.s = r.s",
    ),
    // Grouped after a join: event time is the later of both.
    (
        "SELECT l.key, count(*) AS c, window_start AS s FROM a AS l JOIN b AS r ON l.key = r.key AND r.ts BETWEEN l.ts AND l.ts + INTERVAL '5 seconds' GROUP BY l.key, tumble(event_time, '1m')",
        "SELECT l.key, count(*) AS c, date_bin(INTERVAL '1 minute', r.ts) AS s FROM a AS l JOIN b AS r ON l.key = r.key AND r.ts BETWEEN l.ts AND l.ts + INTERVAL '5 seconds' GROUP BY l.key, date_bin(INTERVAL '1 minute', r.ts)",
    ),
    // Two limits of one rank.
    (
        "WITH t AS (SELECT key, m, ROW_NUMBER() OVER (PARTITION BY tumble(ts, '1m') ORDER BY ts) AS r FROM a) SELECT key, m FROM t WHERE r = 1 UNION ALL SELECT key, m FROM t WHERE t.r < 4",
        "WITH t AS (SELECT key, m, ROW_NUMBER() OVER (PARTITION BY {w} ORDER BY ts) AS r FROM a) SELECT key, m FROM t WHERE r = 1 UNION ALL SELECT key, m FROM t WHERE t.r < 4",
    ),
    // A table that is called as a column is.
    ("SELECT key.m AS m, key AS k FROM a AS key", "SELECT m, key AS k FROM a"),
    // Ranks: over rows, and over the results of windows.
    (
        "SELECT key, m, place FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, tumble(ts, '1m') ORDER BY ts DESC) AS place FROM a) AS t WHERE place <= 2 AND m > 0",
        "SELECT key, m, CAST(place AS BIGINT) AS place FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, {w} ORDER BY ts DESC) AS place FROM a) AS t WHERE place <= 2 AND m > 0",
    ),
    (
        "SELECT t.key, t.c FROM (SELECT key, sum(m) * 1000 + min(m) AS c, ROW_NUMBER() OVER (PARTITION BY window_end ORDER BY sum(m) * 1000 + min(m) DESC) AS r FROM a WHERE key = 'x' GROUP BY key, tumble(ts, '1m')) AS t WHERE 2 > t.r",
        "SELECT key, sum(m) * 1000 + min(m) AS c FROM a WHERE key = 'x' GROUP BY key, {w}",
    ),
    (
        "SELECT DISTINCT ON (key, tumble(ts, '1m')) key, m, ts FROM a ORDER BY key, tumble(ts, '1m'), ts DESC",
        "SELECT key, m, ts FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, {w} ORDER BY ts DESC) AS place FROM a) WHERE place = 1",
    ),
    (
        "SELECT DISTINCT ON (upper(key), tumble(ts, '1m')) key, m FROM a",
        "SELECT key, m FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY upper(key), {w} ORDER BY ts) AS place FROM a) WHERE place = 1",
    ),
    // Lists.
    (
        "SELECT key, unnest(ms) AS item, unnest(ns) AS other FROM (SELECT key, array_agg(m ORDER BY ts) AS ms, array_agg(n ORDER BY ts) AS ns FROM a GROUP BY key, tumble(ts, '1m')) AS t WHERE key <> 'y'",
        "SELECT key, m AS item, n AS other FROM a WHERE key <> 'y'",
    ),
    (
        "SELECT t.key, item.v * 2 AS v FROM (SELECT key, array_agg(m) AS ms FROM a GROUP BY key, tumble(ts, '1m')) AS t, UNNEST(t.ms) AS item (v) WHERE item.v > 2 AND t.key = 'x'",
        "SELECT key, m * 2 AS v FROM a WHERE m > 2 AND key = 'x'",
    ),
    // A list that is not there has no items.
    (
        "SELECT key, unnest(ms) AS item FROM (SELECT key, array_agg(m) FILTER (WHERE m > 4 AND n > 3) AS ms FROM a GROUP BY key, tumble(ts, '1m')) AS t",
        "SELECT key, m AS item FROM a WHERE m > 4 AND n > 3",
    ),
    // Tables: on either side, twice, with conditions on one side only, and grouped.
    ("SELECT a.key, a.m, t.w FROM a JOIN t ON a.key = t.key", ""),
    ("SELECT a.m, t.w FROM t, a WHERE a.key = t.key AND t.w > 1 AND a.m > 1 AND a.m < t.w + 3", ""),
    ("SELECT a.m, x.w FROM a LEFT JOIN t AS x ON a.key = x.key AND x.w > 1 WHERE x.w IS NULL OR a.m > 2", ""),
    ("SELECT l.m, t.w FROM t RIGHT OUTER JOIN a AS l ON l.key = t.key AND l.m < 4", ""),
    ("SELECT key, w, m FROM t JOIN a USING (key)", "SELECT a.key, w, m FROM t JOIN a ON a.key = t.key"),
    ("SELECT a.m, t.w FROM a JOIN t ON a.m > t.w + 1", ""),
    (
        "SELECT x.w AS xw, y.w AS yw, z.w AS zw, v.w AS vw, a.m FROM a JOIN t AS x ON a.key = x.key JOIN t AS y ON y.w = x.w + 1 JOIN t AS z ON z.w = y.w LEFT JOIN t AS v ON v.key = z.key",
        "",
    ),
    (
        "SELECT t.w, count(*) AS c, window_end AS e FROM a JOIN t ON a.key = t.key GROUP BY t.w, tumble(ts, '1m')",
        "SELECT t.w, count(*) AS c, {w} + INTERVAL '1 minute' AS e FROM a JOIN t ON a.key = t.key GROUP BY t.w, {w}",
    ),
    // A list under the name of its items.
    (
        "SELECT key, ms AS list, unnest(ms) AS ms FROM (SELECT key, array_agg(m ORDER BY ts) AS ms FROM a GROUP BY key, tumble(ts, '1m')) AS t",
        "SELECT key, array_agg(m) OVER (PARTITION BY key, {w} ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS list, m AS ms FROM a",
    ),
    (
        "SELECT t.key, t.ms AS list, x.ms AS m FROM (SELECT key, array_agg(m ORDER BY ts) AS ms FROM a GROUP BY key, tumble(ts, '1m')) AS t, UNNEST(t.ms) AS x (ms)",
        "SELECT key, array_agg(m) OVER (PARTITION BY key, {w} ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS list, m FROM a",
    ),
    // A rank behind an outer join: its limit takes rows away that the join has let through.
    (
        "SELECT l.m AS lm, t.m AS tm FROM a AS l LEFT JOIN (SELECT key, m, ts, ROW_NUMBER() OVER (PARTITION BY tumble(ts, '1m') ORDER BY ts) AS r FROM b) AS t ON l.key = t.key AND t.ts BETWEEN l.ts - INTERVAL '9 seconds' AND l.ts + INTERVAL '9 seconds' WHERE t.r <= 3",
        "SELECT l.m AS lm, t.m AS tm FROM a AS l LEFT JOIN (SELECT key, m, ts, ROW_NUMBER() OVER (PARTITION BY {w} ORDER BY ts) AS r FROM b) AS t ON l.key = t.key AND t.ts BETWEEN l.ts - INTERVAL '9 seconds' AND l.ts + INTERVAL '9 seconds' WHERE t.r <= 3",
    ),
    // A rank under another name, and its own name for another column.
    (
        "SELECT r, p FROM (SELECT m, ROW_NUMBER() OVER (PARTITION BY tumble(ts, '1m') ORDER BY ts) AS r FROM a) AS t (r, p) WHERE r < 4 AND p <= 6",
        "SELECT r, CAST(p AS BIGINT) AS p FROM (SELECT m, ROW_NUMBER() OVER (PARTITION BY {w} ORDER BY ts) AS r FROM a) AS t (r, p) WHERE r < 4 AND p <= 6",
    ),
    (
        "WITH t (k, v, w, x, y, p) AS (SELECT *, ROW_NUMBER() OVER (PARTITION BY tumble(ts, '1m') ORDER BY ts) FROM a) SELECT k, x FROM t WHERE p <= 2",
        "SELECT key AS k, m AS x FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {w} ORDER BY ts) AS p FROM a) WHERE p <= 2",
    ),
    // NULL has a place among the others.
    (
        "SELECT key, n, m, r FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, tumble(ts, '1m') ORDER BY n DESC) AS r FROM a) AS t WHERE r <= 3",
        "SELECT key, n, m, CAST(r AS BIGINT) AS r FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, {w} ORDER BY n DESC, ts) AS r FROM a) AS t WHERE r <= 3",
    ),
    (
        "SELECT key, n, m, r FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, tumble(ts, '1m') ORDER BY n + 1 NULLS FIRST) AS r FROM a) AS t WHERE r <= 3",
        "SELECT key, n, m, CAST(r AS BIGINT) AS r FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, {w} ORDER BY n + 1 NULLS FIRST, ts) AS r FROM a) AS t WHERE r <= 3",
    ),
    (
        "SELECT DISTINCT ON (key, tumble(ts, '1m')) key, n, m FROM a ORDER BY key, tumble(ts, '1m'), n",
        "SELECT key, n, m FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key, {w} ORDER BY n, ts) AS r FROM a) WHERE r = 1",
    ),
    // Numbers and names of items.
    (
        "SELECT DISTINCT ON (1, tumble(ts, '1m')) upper(key) AS k, 0 - m AS m FROM a ORDER BY k, m",
        "SELECT upper(key) AS k, 0 - m AS m FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY upper(key), {w} ORDER BY 0 - m, ts) AS r FROM a) WHERE r = 1",
    ),
    // An edge beside larger windows is a key.
    (
        "WITH t AS (SELECT key, window_start AS s, window_end AS e, count(*) AS c FROM a GROUP BY key, tumble(ts, '1m')) SELECT s, sum(c) AS c FROM t GROUP BY s, tumble(e, '5m')",
        "SELECT {w} AS s, count(*) AS c FROM a GROUP BY {w}",
    ),
    // Of windows in windows the smaller ones count.
    (
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r ON tumble(l.ts, '1m') = tumble(r.ts, '1m') AND tumble(l.ts, '2m') = tumble(r.ts, '2m')",
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r ON date_bin(INTERVAL '1 minute', l.ts) = date_bin(INTERVAL '1 minute', r.ts)",
    ),
    // What IS DISTINCT FROM compares ends before the next condition.
    (
        "SELECT l.m AS lm, r.m AS rm FROM a AS l JOIN b AS r ON r.ts BETWEEN l.ts - INTERVAL '9 seconds' AND l.ts AND l.n IS NOT DISTINCT FROM r.n WHERE l.m > r.m",
        "",
    ),
    // Keywords behind a dot; quotes make no other name.
    (
        "SELECT t.end, t.case + 1 AS v FROM (SELECT window_end AS \"end\", count(*) AS \"case\" FROM a GROUP BY tumble(ts, '1m')) AS t",
        "SELECT {w} + INTERVAL '1 minute' AS \"end\", count(*) + 1 AS v FROM a GROUP BY {w}",
    ),
    (
        "SELECT key, upper(key) AS k, sum(n) AS s FROM a GROUP BY \"key\", upper(\"key\"), tumble(ts, '1m') HAVING k > 'X' AND count(*) > 0",
        "SELECT key, upper(key) AS k, sum(n) AS s FROM a GROUP BY key, {w} HAVING upper(key) > 'X'",
    ),
    // Names that have to be written with quotes.
    (
        "SELECT \"the key\", \"sum\" + 1 AS \"Group\" FROM (SELECT key AS \"the key\", sum(n) AS \"sum\", window_end AS \"end\" FROM a GROUP BY key, tumble(ts, '1m')) AS \"my table\" WHERE \"my table\".\"sum\" > 0",
        "SELECT \"the key\", \"sum\" + 1 AS \"Group\" FROM (SELECT key AS \"the key\", sum(n) AS \"sum\" FROM a GROUP BY key, {w}) AS \"my table\" WHERE \"my table\".\"sum\" > 0",
    ),
];

pub(crate) fn test_rows() -> impl Strategy<Value = Vec<TestRow>> {
    let row = (0..4_usize, prop::option::of(-9_i64..9), 0..300_000_i64, 0..6_i64);
    prop::collection::vec(row, 0..60).prop_map(|rows| {
        let rows = rows.into_iter().enumerate();
        // No two rows at one time, since SQL knows no order of arrival.
        rows.map(|(at, (key, n, ms, m))| {
            ([Some("x"), Some("y"), Some("longer"), None][key], n, ms * 100 + at as i64, m)
        })
        .collect()
    })
}

/// Rows near each other, so that joins find some.
fn near_rows() -> impl Strategy<Value = Vec<TestRow>> {
    test_rows().prop_map(|rows| rows.into_iter().map(|(key, n, ms, m)| (key, n, ms / 100, m)).collect())
}

fn same(query: &str, batch: &str, rows: &Rows, cut: usize) {
    let minute = "date_bin(INTERVAL '1 minute', ts)";
    let batch = if batch.is_empty() { query } else { batch };
    let expected = batch_answer(&batch.replace("{w}", minute), rows);
    assert_eq!(answer(query, rows, cut), expected, "{query}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn queries_are_equal_to_their_batch(
        a in prop_oneof![test_rows(), near_rows()],
        b in prop_oneof![test_rows(), near_rows()],
        cut in 1..40_usize,
    ) {
        let rows = rows(&a, &b);
        for (query, batch) in QUERIES {
            same(query, batch, &rows, cut);
        }
    }
}

/// Each query gives something for some rows, so that none is equal for nothing.
#[test]
fn no_query_is_tried_without_an_answer() {
    let a: Vec<TestRow> = (0..200_i64)
        .map(|i| {
            (
                [Some("x"), Some("y"), Some("longer"), None][(i % 4) as usize],
                Some(i % 7 - 2),
                i * 1_003,
                i % 6,
            )
        })
        .collect();
    let b: Vec<TestRow> = (0..200_i64)
        .map(|i| {
            (
                [Some("y"), Some("x"), None][(i % 3) as usize],
                Some(i % 5 - 1),
                i * 1_003 + (i % 3) * 2_000 * (i % 2),
                i % 5,
            )
        })
        .collect();
    let rows = rows(&a, &b);
    for (query, batch) in QUERIES {
        assert!(!answer(query, &rows, 64).is_empty(), "{query}");
        same(query, batch, &rows, 7);
    }
}

/// As in Snowflake: the last right row that is not younger; a row without one stays.
#[test]
fn as_of_takes_the_last_right_row() {
    let query = "SELECT a.m, b.m AS bm FROM a ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.key = b.key AND b.ts >= a.ts - INTERVAL '10 seconds'";
    let a = [(Some("x"), None, 10_000, 1), (Some("x"), None, 30_000, 2), (Some("y"), None, 10_000, 3)];
    let b = [(Some("x"), None, 5_000, 7), (Some("x"), None, 9_000, 8), (Some("x"), None, 10_001, 9)];
    assert_eq!(answer(query, &rows(&a, &b), 2), ["m=1 bm=8", "m=2 bm=-", "m=3 bm=-"]);
}

/// The end of a window is one microsecond behind the event time of its result.
#[test]
fn bounds_of_the_results_of_windows_are_those_of_their_columns() {
    let query = "SELECT b.m FROM (SELECT count(*) AS c, window_end AS e FROM a GROUP BY tumble(ts, '1m')) AS w JOIN b ON b.ts BETWEEN w.e - INTERVAL '5 seconds' AND w.e";
    let b =
        [(None, None, 54_999, 1), (None, None, 55_000, 2), (None, None, 60_000, 3), (None, None, 60_001, 4)];
    assert_eq!(answer(query, &rows(&[(None, None, 10_000, 0)], &b), 2), ["m=2", "m=3"]);
}

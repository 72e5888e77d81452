//! Queries without windows: applied in order, the changes are what the query says of
//! all rows at once.

use proptest::prelude::*;

use crate::harness::{Rows, TestRow, applied, batch_answer, loaded, rows, topology};
use crate::oracle::test_rows;

/// A query over streams, and one over all rows that means the same; where they are
/// the same words, the second is empty.
const QUERIES: &[(&str, &str)] = &[
    (
        "SELECT key, count(*) AS c, sum(n) AS s, max(m) - min(m) AS span, count(DISTINCT n) AS d FROM a GROUP BY key",
        "",
    ),
    ("SELECT count(*) AS c, max(n) AS hi FROM a", ""),
    ("SELECT key, sum(n) AS s FROM a WHERE m > 1 GROUP BY key HAVING count(*) > 2 AND max(m) < 5", ""),
    (
        "SELECT upper(key) AS k, m % 2 AS odd, sum(n) FILTER (WHERE n > 0) AS up FROM a GROUP BY 1, odd",
        "SELECT upper(key) AS k, m % 2 AS odd, sum(n) FILTER (WHERE n > 0) AS up FROM a GROUP BY upper(key), m % 2",
    ),
    // Keys alone.
    ("SELECT key FROM a GROUP BY key", ""),
    // What comes of changes: rows of them are chosen, computed, put together and grouped again.
    (
        "SELECT upper(k) AS k, c * 2 AS d FROM (SELECT key AS k, count(*) AS c FROM a GROUP BY key) AS t WHERE t.c > 3",
        "",
    ),
    ("SELECT * FROM (SELECT key, count(*) AS c FROM a GROUP BY key) AS t", ""),
    (
        "SELECT c, count(*) AS keys, max(s) AS most, avg(s) AS mean FROM (SELECT key, count(*) AS c, sum(m) AS s FROM a GROUP BY key) AS t GROUP BY c",
        "",
    ),
    (
        "WITH totals AS (SELECT key, m, sum(n) AS s FROM a GROUP BY key, m) SELECT upper(key) AS k, max(s) AS most FROM totals GROUP BY upper(key) HAVING count(*) > 1",
        "",
    ),
    ("SELECT key, count(*) AS c FROM a GROUP BY key UNION ALL SELECT key, sum(m) FROM b GROUP BY key", ""),
    // Over windows, joins and tables.
    (
        "SELECT key, max(c) AS most FROM (SELECT key, count(*) AS c, window_end FROM a GROUP BY key, tumble(ts, '1m')) AS t GROUP BY key",
        "SELECT key, max(c) AS most FROM (SELECT key, count(*) AS c FROM a GROUP BY key, date_bin(INTERVAL '1 minute', ts)) AS t GROUP BY key",
    ),
    (
        "SELECT l.key, sum(r.m) AS s FROM a AS l JOIN b AS r ON l.key = r.key AND r.ts BETWEEN l.ts - INTERVAL '9 seconds' AND l.ts + INTERVAL '9 seconds' GROUP BY l.key",
        "",
    ),
    ("SELECT t.w, sum(a.n) AS s, count(*) AS c FROM a LEFT JOIN t ON a.key = t.key GROUP BY t.w", ""),
    // Ranks; of equal values the earlier row is ahead.
    (
        "SELECT key, n, place FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY m DESC) AS place FROM a) AS t WHERE place <= 2 AND n > 0",
        "SELECT key, n, CAST(place AS BIGINT) AS place FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY m DESC, ts) AS place FROM a) AS t WHERE place <= 2 AND n > 0",
    ),
    (
        "SELECT m, n FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY ts) AS r FROM a) AS t WHERE r < 4",
        "SELECT m, n FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY ts) AS r FROM a) AS t WHERE r < 4",
    ),
    (
        "SELECT key, count(*) AS c, sum(m) AS s FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY upper(key) ORDER BY ts DESC) AS r FROM a) AS t WHERE r <= 3 GROUP BY key",
        "",
    ),
    // The last row, and the largest one.
    (
        "SELECT DISTINCT ON (key) key, m, ts FROM a ORDER BY key, ts DESC",
        "SELECT key, m, ts FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY ts DESC) AS r FROM a) WHERE r = 1",
    ),
    (
        "SELECT DISTINCT ON (upper(l.key)) l.m, l.key AS k FROM a AS l ORDER BY upper(l.key), l.ts DESC",
        "SELECT m, key AS k FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY upper(key) ORDER BY ts DESC) AS r FROM a) WHERE r = 1",
    ),
    (
        "SELECT DISTINCT ON (key) key, m, ts FROM a ORDER BY key, m DESC",
        "SELECT key, m, ts FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY m DESC, ts) AS r FROM a) WHERE r = 1",
    ),
];

fn same(query: &str, batch: &str, rows: &Rows, cut: usize) -> usize {
    let batch = if batch.is_empty() { query } else { batch };
    let (standing, changes) = applied(query, rows, cut);
    assert_eq!(standing, batch_answer(batch, rows), "{query}");
    changes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applied_they_are_equal_to_their_batch(
        a in test_rows().prop_filter("rows", |rows| !rows.is_empty()),
        b in test_rows(),
        cut in 1..40_usize,
    ) {
        let rows = rows(&a, &b);
        for (query, batch) in QUERIES {
            same(query, batch, &rows, cut);
        }
    }
}

/// Each query gives something, and most of them change what they said before.
#[test]
fn results_are_given_again_as_they_change() {
    let keys = [Some("x"), Some("y"), Some("longer"), None];
    let row = |i: i64, n: i64| (keys[(i % 4) as usize], Some(n), 200_000 - i * 997, i % 6);
    let a: Vec<TestRow> = (0..200).map(|i| row(i, i % 7 - 2)).collect();
    let b: Vec<TestRow> = (0..200).map(|i| row(i, i % 5 - 1)).collect();
    let rows = rows(&a, &b);
    for (query, batch) in QUERIES {
        let changes = same(query, batch, &rows, 9);
        let (standing, _) = applied(query, &rows, 9);
        assert!(!standing.is_empty(), "{query}");
        // A key is there or not, pairs of streams leave together, and rows come in order.
        let stays = ["SELECT key FROM", "JOIN b", "ts DESC", "ORDER BY ts)"]
            .iter()
            .any(|words| query.contains(words));
        assert!(stays || changes > standing.len(), "{query}: {changes} changes of {}", standing.len());
    }
}

#[test]
fn whoever_reads_them_must_follow_changes() {
    let text = topology("SELECT key, count(*) AS c FROM a GROUP BY key");
    assert!(loaded(&text).is_ok());
    let error = loaded(&text.replace("accept_changes = true", "")).err().expect("the sink does not");
    assert_eq!(error.0[0].code, "TG-T012", "{error}");
}

#[test]
fn how_long_results_are_remembered_is_said_where_there_are_some() {
    let with_ttl =
        |query: &str| topology(query).replace("type = \"sql\"\n", "type = \"sql\"\nttl = \"2h\"\n");
    let updating = [
        "SELECT key, count(*) AS c FROM a GROUP BY key",
        "SELECT DISTINCT ON (key) key, n FROM a ORDER BY key, ts DESC",
        "SELECT n FROM (SELECT n, ROW_NUMBER() OVER (ORDER BY n) AS r FROM a) AS x WHERE r <= 3",
    ];
    for query in updating {
        let loaded = loaded(&with_ttl(query)).unwrap_or_else(|error| panic!("{query}\n{error}"));
        let said = loaded.composed.iter().flat_map(|(_, nodes)| nodes);
        let ttl: Vec<_> = said.filter_map(|node| node.table.str("ttl")).collect();
        assert_eq!(ttl, ["2h"], "{query}");
    }
    let error = loaded(&with_ttl("SELECT count(*) AS c FROM a GROUP BY tumble(ts, '1m')"))
        .err()
        .expect("a window ends");
    assert_eq!(error.0[0].code, "TG-C006", "{error}");
}

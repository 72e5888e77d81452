//! What a query cannot ask of a stream, each with its code, the word that is marked
//! and what is said. `^word^` marks the word; it is no part of the query.

use tidegate_engine::diagnostic::Severity;

use crate::harness::{loaded, topology};

const REFUSED: &[(&str, &str, &str)] = &[
    // Not a query.
    ("", "TG-S001", "empty"),
    ("SELECT n FRM ^a^", "TG-S001", "end of the query"),
    ("^SELECT^ FROM a", "TG-S001", "no column"),
    ("SELECT 'x FROM a", "TG-S001", "nterminated"),
    ("^DELETE^ FROM a", "TG-S002", "only SELECT"),
    ("SELECT n FROM a; ^SELECT^ n FROM a", "TG-S001", "end of the query"),
    // Names.
    ("SELECT n FROM ^c^", "TG-T001", "does not exist"),
    ("SELECT n FROM \"^c^.late\"", "TG-T001", "does not exist"),
    ("SELECT n FROM \"a.^late^\"", "TG-T004", "no port"),
    ("SELECT n, ^nn^ FROM a", "TG-X002", "did you mean `n`"),
    ("SELECT n FROM a WHERE n > 1 AND ^x.m^ > 2", "TG-X002", "no column `x.m`"),
    ("SELECT a.n FROM a AS x WHERE ^a.n^ > 1", "TG-X002", "no column"),
    ("SELECT ^n^ FROM a JOIN b ON a.key = b.key AND a.ts = b.ts", "TG-X002", "one of several"),
    ("SELECT n FROM a WHERE ^lenght^(key) > 1", "TG-X004", "no function `lenght`"),
    ("SELECT n AS v, m AS ^v^ FROM a", "TG-T009", "called `v`"),
    ("SELECT n FROM (SELECT n FROM a) AS ^t^ (x, y)", "TG-S004", "names 2 columns"),
    ("SELECT ^z^.* FROM a", "TG-X002", "no `z` in FROM"),
    // Types.
    ("SELECT n FROM a WHERE ^n^", "TG-X003", "true or false"),
    ("SELECT ^key + 1^ AS s FROM a WHERE m > 0", "TG-X003", ""),
    ("SELECT ^sum^(key) AS s FROM a GROUP BY tumble(ts, '1m')", "TG-X003", ""),
    // The moment.
    ("SELECT n FROM a WHERE ts > ^now^()", "TG-X008", "another value at each call"),
    ("SELECT ^random^() AS r FROM a", "TG-X008", "another value at each call"),
    // No end, no order.
    ("SELECT n FROM a ^ORDER^ BY n", "TG-S002", "`sort`"),
    ("SELECT n FROM a ^LIMIT^ 10", "TG-S002", "ROW_NUMBER"),
    ("SELECT n FROM (SELECT n FROM a ^LIMIT^ 10) AS t", "TG-S002", "ROW_NUMBER"),
    ("SELECT ^DISTINCT^ key FROM a", "TG-S002", "tumble"),
    ("SELECT key FROM a ^UNION^ SELECT key FROM b", "TG-S002", "UNION ALL"),
    ("SELECT key FROM a ^EXCEPT^ SELECT key FROM b", "TG-S002", "UNION ALL"),
    ("WITH ^RECURSIVE^ t AS (SELECT n FROM a) SELECT n FROM t", "TG-S002", "round for ever"),
    ("^VALUES^ (1)", "TG-S002", "not values"),
    ("^SELECT^ 1 AS one", "TG-S002", "reads nothing"),
    ("SELECT n FROM ^generate_series^(1, 10)", "TG-S002", "cannot read this"),
    // Queries in expressions.
    ("SELECT n FROM a WHERE n IN (^SELECT^ n FROM b)", "TG-S002", "anew for each row"),
    ("SELECT n FROM a WHERE EXISTS (^SELECT^ 1 FROM b WHERE b.n = a.n)", "TG-S002", "anew for each row"),
    ("SELECT (^SELECT^ max(n) FROM b) AS m FROM a", "TG-S002", "anew for each row"),
    // Aggregates without windows and their results, or that are none.
    ("SELECT key, sum(n) AS s FROM timeless ^GROUP^ BY key", "TG-T007", "needs event time"),
    ("SELECT ^count^(*) AS c FROM timeless", "TG-T007", "needs event time"),
    ("SELECT key, ^m^, sum(n) AS s FROM a GROUP BY key", "TG-X007", "neither a key"),
    ("SELECT key, ^window_start^, sum(n) AS s FROM a GROUP BY key", "TG-X002", "no column"),
    ("SELECT key FROM a WHERE ^sum^(n) > 1", "TG-X007", ""),
    ("SELECT key, ^m^, sum(n) AS s FROM a GROUP BY key, tumble(ts, '1m')", "TG-X007", "neither a key"),
    ("SELECT ^*^ FROM a GROUP BY key, tumble(ts, '1m')", "TG-S002", "grouped"),
    (
        "SELECT key, count(*) AS c FROM a GROUP BY key, tumble(ts, '1m') HAVING ^m^ > 1",
        "TG-X007",
        "neither a key",
    ),
    ("SELECT count(*) AS c FROM a GROUP BY ^7^, tumble(ts, '1m')", "TG-S004", "number 7"),
    ("SELECT count(*) AS c FROM a GROUP BY ^value^, tumble(ts, '1m')", "TG-X003", "cannot be a key"),
    // Windows.
    ("SELECT count(*) AS c FROM timeless GROUP BY tumble(^ts^, '1m')", "TG-T007", "needs event time"),
    (
        "SELECT count(*) AS c FROM (SELECT n FROM a) AS t GROUP BY tumble(^n^, '1m')",
        "TG-T007",
        "needs event time",
    ),
    ("SELECT count(*) AS c FROM a GROUP BY tumble(^n^, '1m')", "TG-S003", "event time is `ts`"),
    ("SELECT count(*) AS c FROM a GROUP BY tumble(^tz^, '1m')", "TG-X002", "no column"),
    ("SELECT count(*) AS c FROM a GROUP BY ^tumble^(ts)", "TG-S003", "tumble(time, size)"),
    ("SELECT count(*) AS c FROM a GROUP BY tumble(ts, ^'soon'^)", "TG-S003", "length of time"),
    ("SELECT count(*) AS c FROM a GROUP BY tumble(ts, ^60^)", "TG-S003", "length of time"),
    ("SELECT count(*) AS c FROM a GROUP BY ^hop^(ts, '1m')", "TG-S003", "hop(time, slide, size)"),
    ("SELECT count(*) AS c FROM a GROUP BY ^hop^(ts, '1m', '10s')", "TG-C006", "slide"),
    ("SELECT count(*) AS c FROM a GROUP BY ^session^(ts, '1 month')", "TG-S003", "different lengths"),
    ("SELECT count(*) AS c FROM a GROUP BY ^tumble^(ts, '7 months')", "TG-S003", "calendar"),
    ("SELECT count(*) AS c FROM a GROUP BY tumble(ts, '1m'), ^tumble^(ts, '2m')", "TG-S002", "one kind"),
    (
        "SELECT ^tumble^(ts, '2m') AS w, count(*) AS c FROM a GROUP BY tumble(ts, '1m')",
        "TG-S002",
        "other windows",
    ),
    ("SELECT ^tumble^(ts, '1m') AS w FROM a", "TG-S002", "date_bin"),
    ("SELECT ^sum^(n) OVER (PARTITION BY key) AS s FROM a", "TG-S002", ""),
    ("SELECT ^lag^(n) OVER (ORDER BY ts) AS s FROM a", "TG-S002", "type `lag`"),
    // Ranks.
    (
        "SELECT n, ^ROW_NUMBER^() OVER (PARTITION BY tumble(ts, '1m') ORDER BY n) AS r FROM a",
        "TG-S002",
        "up to a limit",
    ),
    (
        "SELECT c FROM (SELECT c, ^ROW_NUMBER^() OVER (ORDER BY c) AS r FROM (SELECT key, count(*) AS c FROM a GROUP BY key) AS x) AS y WHERE r <= 3",
        "TG-T012",
        "chosen from results",
    ),
    (
        "SELECT n FROM (SELECT n, ^ROW_NUMBER^() OVER (PARTITION BY tumble(ts, '1m')) AS r FROM a) AS t WHERE r <= 3",
        "TG-S002",
        "compares one value",
    ),
    ("SELECT ^DISTINCT^ ON (key) key, n FROM a", "TG-S002", "without a window"),
    (
        "SELECT ^DISTINCT^ ON (key) key, n FROM a ORDER BY key, ts",
        "TG-S002",
        "the last row is ORDER BY k, ts DESC",
    ),
    // Results that change.
    ("SELECT ^change^ FROM (SELECT key, count(*) AS c FROM a GROUP BY key) AS x", "TG-X002", "no column"),
    (
        "SELECT sum(c) AS s FROM (SELECT key, count(*) AS c, max(ts) AS ts FROM a GROUP BY key) AS x GROUP BY tumble(^ts^, '1m')",
        "TG-T012",
        "close windows",
    ),
    (
        "SELECT x.c FROM (SELECT key, count(*) AS c FROM a GROUP BY key) AS x ^JOIN^ b ON x.key = b.key",
        "TG-T012",
        "taken back",
    ),
    (
        "SELECT x.c FROM (SELECT key, count(*) AS c FROM a GROUP BY key) AS x ^JOIN^ t ON x.key = t.key",
        "TG-T012",
        "",
    ),
    // Tables.
    ("SELECT w FROM ^t^", "TG-S002", "FROM node JOIN t"),
    ("SELECT key FROM (SELECT key FROM ^t^ AS y WHERE w > 1) AS x", "TG-S002", "`y` is a table"),
    ("SELECT count(*) AS c FROM ^t^", "TG-S002", "is a table"),
    ("SELECT a.n FROM a ^FULL^ JOIN t ON a.key = t.key", "TG-S002", "without a partner"),
    ("SELECT a.n FROM a ^RIGHT^ OUTER JOIN t ON a.key = t.key", "TG-S002", "a LEFT JOIN t"),
    ("SELECT a.n FROM t ^LEFT^ JOIN a ON a.key = t.key", "TG-S002", "a LEFT JOIN t"),
    ("SELECT x.w FROM t AS x ^JOIN^ t AS y ON x.w = y.w", "TG-S002", "neither gives rows"),
    ("SELECT a.n FROM a JOIN t ON a.key = ^t.kye^", "TG-X002", "did you mean"),
    (
        "SELECT a.n FROM a ASOF JOIN t MATCH_CONDITION (^a.ts >= t.w^) ON a.key = t.key",
        "TG-S002",
        "no event time",
    ),
    (
        "SELECT n FROM (SELECT n, ROW_NUMBER() OVER (PARTITION BY tumble(ts, '1m'), ^tumble^(ts, '5m') ORDER BY n) AS r FROM a) AS t WHERE r <= 3",
        "TG-S002",
        "one kind",
    ),
    (
        "SELECT t.m FROM (SELECT m, ts, ROW_NUMBER() OVER (PARTITION BY tumble(ts, '1m') ORDER BY m) AS n FROM a) AS t JOIN b ON t.ts = b.ts WHERE ^n^ <= 2",
        "TG-X002",
        "one of several",
    ),
    (
        "SELECT a.m FROM a ASOF JOIN (SELECT key, ts, ^ROW_NUMBER^() OVER (PARTITION BY tumble(ts, '1m') ORDER BY m) AS r FROM b) AS t MATCH_CONDITION (a.ts >= t.ts) ON a.key = t.key AND t.ts >= a.ts - INTERVAL '1 hour' WHERE t.r <= 2",
        "TG-S002",
        "up to a limit",
    ),
    ("SELECT DISTINCT ON (^'x'^, tumble(ts, '1m')) n FROM a", "TG-S002", "same in every row"),
    ("SELECT DISTINCT ON (^7^, tumble(ts, '1m')) n FROM a", "TG-S004", "number 7"),
    ("SELECT DISTINCT ON (^2^, tumble(ts, '1m')) *, n AS k FROM a", "TG-S002", "do not count"),
    ("SELECT DISTINCT ON (key, tumble(ts, '1m')) key, n FROM a ORDER BY ^ALL^", "TG-X002", "no column `ALL`"),
    // Edges of other windows, or that may be NULL.
    (
        "SELECT sum(c) AS c FROM (SELECT window_start, window_end, count(*) AS c FROM a GROUP BY tumble(ts, '1m')) AS t GROUP BY ^window_start^, tumble(window_end, '5m')",
        "TG-S002",
        "of their own",
    ),
    ("SELECT n FROM a WHERE ^n^ IS DISTINCT FROM 3 AND m > 2", "TG-S001", "brackets"),
    // Joins.
    ("SELECT a.n FROM a ^JOIN^ b ON a.key = b.key", "TG-T013", "without a bound"),
    ("SELECT a.n FROM a, ^b^ WHERE a.key = b.key", "TG-T013", "without a bound"),
    ("SELECT a.n FROM a ^JOIN^ b ON a.key = b.key AND a.ts >= b.ts", "TG-T013", "without a bound"),
    ("SELECT a.n FROM a LEFT ^JOIN^ b ON a.key = b.key WHERE a.ts = b.ts", "TG-T013", "without a bound"),
    (
        "SELECT a.n FROM a ^JOIN^ b ON a.key = b.key AND a.ts > b.ts AND a.ts < b.ts - INTERVAL '1 hour'",
        "TG-S003",
        "cross",
    ),
    ("SELECT a.n FROM a ^NATURAL^ JOIN b", "TG-S002", "USING"),
    ("SELECT a.n FROM a LEFT SEMI ^JOIN^ b ON a.key = b.key", "TG-S002", "kind of join"),
    ("SELECT a.n FROM a JOIN b ON ^a.keys^ = b.key AND a.ts = b.ts", "TG-X002", "no column"),
    ("SELECT a.n FROM a ^JOIN^ timeless AS t ON a.key = t.key AND a.ts = t.ts", "TG-T013", "without a bound"),
    ("SELECT a.n FROM a ASOF ^JOIN^ b MATCH_CONDITION (a.ts >= b.ts) ON a.key = b.key", "TG-T013", "how old"),
    (
        "SELECT a.n FROM a ASOF JOIN b MATCH_CONDITION (^a.ts <= b.ts^) ON a.key = b.key",
        "TG-S002",
        "not younger",
    ),
    (
        "SELECT a.n FROM a ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.key = b.key AND b.ts >= a.ts - INTERVAL '1 hour' AND ^tumble^(a.ts, '1m') = tumble(b.ts, '1m')",
        "TG-S002",
        "not by windows",
    ),
    (
        "SELECT a.n FROM a JOIN b ON tumble(a.ts, '2m') = tumble(b.ts, '2m') AND ^tumble^(a.ts, '3m') = tumble(b.ts, '3m')",
        "TG-S003",
        "one size",
    ),
    ("SELECT a.n FROM a JOIN b ON ^tumble(a.ts, '1m'^) = tumble(b.ts, '2m')", "TG-S003", "different sizes"),
    (
        "SELECT a.key FROM a JOIN b ON a.ts = b.ts JOIN b AS c ON event_time = c.ts WHERE ^n^ > 1",
        "TG-X002",
        "one of several",
    ),
    // Shapes.
    ("SELECT key FROM a ^UNION^ ALL SELECT n FROM a", "TG-T008", ""),
    ("SELECT unnest(^n^) AS x FROM a", "TG-X003", "neither a struct nor a list"),
    ("SELECT n + ^unnest^(key) AS x FROM a", "TG-S002", "makes rows"),
];

#[test]
fn what_cannot_run_is_refused_at_its_word() {
    let mut wrong = Vec::new();
    for (marked, code, words) in REFUSED {
        let query = marked.replace('^', "");
        let text = topology(&query);
        let begin = text.find("'''").expect("a query") + 3;
        let mark = marked.find('^').map(|start| {
            let end = marked[start + 1..].find('^').expect("a second mark") + start;
            (begin + start, begin + end)
        });
        let error = match loaded(&text) {
            Ok(_) => {
                wrong.push(format!("{query}: is not refused"));
                continue;
            }
            Err(error) => error,
        };
        let errors: Vec<_> = error.0.iter().filter(|found| found.severity == Severity::Error).collect();
        let first = errors[0];
        let said = format!("{} {}", first.message, first.help.as_deref().unwrap_or(""));
        // A mark may be the first of several words.
        let at = first.span.clone().map(|span| (span.start, span.end));
        let is_there = mark.is_none_or(|(start, _)| at.is_some_and(|(from, to)| from == start && to > from));
        if first.code != *code || !said.contains(words) || !is_there || errors.len() != 1 {
            let shown = at.and_then(|(from, to)| text.get(from..to));
            wrong.push(format!(
                "{marked}\n  expected {code} {words:?}, found {} at {shown:?}: {error}",
                first.code
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whatever is too large or too deep is refused, and nothing ends the process.
#[test]
fn what_is_too_large_is_refused() {
    let chain = |word: &str, count: usize| vec![word; count].join(" + ");
    let nested = |count: usize| {
        (0..count).fold("SELECT n FROM a".to_owned(), |inner, _| format!("SELECT n FROM ({inner}) AS t"))
    };
    let regex = "((a{1000}){1000}){1000}";
    let cases = [
        ("2,000 chained +", format!("SELECT {} AS s FROM a", chain("n", 2_000))),
        ("many in WHERE", format!("SELECT n FROM a WHERE {} > 1", chain("n", 1_900))),
        ("many conditions", format!("SELECT n FROM a WHERE {}", vec!["n > 1"; 900].join(" AND "))),
        (
            "many in a group",
            format!("SELECT sum({}) AS s FROM a GROUP BY lower(key), tumble(ts, '1m')", chain("n", 1_900)),
        ),
        ("64 KiB", format!("SELECT n FROM a WHERE key = '{}'", "x".repeat(65_536))),
        (
            "words",
            format!(
                "SELECT {} FROM a",
                (0..1_500).map(|i| format!("n AS c{i}")).collect::<Vec<_>>().join(", ")
            ),
        ),
        ("brackets", format!("SELECT {}n{} AS s FROM a", "(".repeat(400), ")".repeat(400))),
        ("queries in queries", nested(100)),
        ("minus signs", format!("SELECT {}n AS s FROM a", "- ".repeat(3_000))),
        ("NOTs", format!("SELECT n FROM a WHERE {} n > 1", "NOT ".repeat(3_000))),
        (
            "CASEs",
            format!("SELECT {} 1 {} AS s FROM a", "CASE WHEN n > 1 THEN ".repeat(300), "END ".repeat(300)),
        ),
        ("branches", vec!["SELECT n FROM a"; 300].join(" UNION ALL ")),
        (
            "joins",
            format!(
                "SELECT a.n FROM a JOIN b ON a.ts = b.ts {}",
                (0..300).map(|i| format!("JOIN b AS b{i} ON event_time = b{i}.ts ")).collect::<String>()
            ),
        ),
        (
            "a regex bomb",
            format!(
                "SELECT n FROM a WHERE regexp_like(key, '{regex}') AND regexp_like('{regex}', '{regex}')"
            ),
        ),
    ];
    for (name, query) in cases {
        let begun = std::time::Instant::now();
        let refused = loaded(&topology(&query)).err();
        let took = begun.elapsed();
        println!("{name}: {took:?}");
        assert!(took.as_secs() < 60, "{name}: {took:?}");
        if name == "a regex bomb" {
            // Its pattern is compiled with a limit, when a row comes or before.
            continue;
        }
        let error = refused.unwrap_or_else(|| panic!("{name} is not refused"));
        assert!(["TG-X005", "TG-S001", "TG-T009"].contains(&error.0[0].code), "{name}: {error}");
        assert!(
            error.0[0].span.as_ref().is_some_and(|span| span.end > span.start && span.end < 1 << 20),
            "{name}"
        );
    }
}

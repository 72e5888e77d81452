//! Each query of `examples/nexmark` gives what it gives as one batch.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "../src/catalog.rs"]
mod catalog;
#[path = "../benches/support/mod.rs"]
mod support;

use std::process::Command;

use support::Engine;
use support::nexmark::{answer, batch_answer, generate, queries};

/// Twenty seconds of event time.
const EVENTS: usize = 200_000;

#[test]
fn queries_are_equal_to_their_batch() {
    generate(EVENTS);
    let engine = Engine::start();
    let queries = queries();
    assert!(queries.len() >= 20, "{}", queries.len());
    for (name, text, sql) in queries {
        let (given, batch) = (answer(&engine, &text), batch_answer(&engine, &sql));
        assert!(!batch.is_empty(), "{name} is tried with rows");
        let first = given.iter().zip(&batch).find(|(given, batch)| given != batch);
        assert_eq!(first, None, "{name}: {} rows of {}", given.len(), batch.len());
        assert_eq!(given.len(), batch.len(), "{name}");
        if let Some((_, query)) = STREAMED.iter().find(|(streamed, _)| *streamed == name) {
            let query = if query.is_empty() { sql.as_str() } else { query };
            let given = answer(&engine, &streamed(query));
            let first = given.iter().zip(&batch).find(|(given, batch)| given != batch);
            assert_eq!(first, None, "{name} as a query: {} rows of {}", given.len(), batch.len());
            assert_eq!(given.len(), batch.len(), "{name} as a query");
        }
    }
}

/// Queries as operators of type `sql`: the batch itself where that is no more than
/// rows one by one, else what says the same of a stream.
const STREAMED: &[(&str, &str)] = &[
    ("q0", ""),
    ("q1", ""),
    ("q2", ""),
    ("q14", ""),
    ("q21", ""),
    ("q22", ""),
    (
        "q3",
        "SELECT name, city, state, auction.id AS id FROM auction JOIN person ON seller = person.id
         AND auction.date_time BETWEEN person.date_time - INTERVAL '1000 days' AND person.date_time + INTERVAL '1000 days'
         WHERE category = 10 AND state IN ('or', 'id', 'ca')",
    ),
    (
        "q4",
        "SELECT category, avg(final) AS average FROM (
           SELECT id, category, max(price) AS final FROM auction JOIN bid ON auction = id AND bid.date_time <= expires
           AND bid.date_time BETWEEN auction.date_time AND auction.date_time + INTERVAL '1000 days' GROUP BY id, category) AS winning
         GROUP BY category",
    ),
    (
        "q5",
        "WITH counts AS (SELECT auction, count(*) AS num, window_start, window_end FROM bid GROUP BY auction, hop(date_time, '2s', '10s')),
         most AS (SELECT max(num) AS most, window_end FROM counts GROUP BY window_start, window_end)
         SELECT counts.auction, counts.num FROM counts JOIN most ON counts.window_end = most.window_end AND num = most",
    ),
    (
        "q7",
        "WITH high AS (SELECT max(price) AS high, window_start, window_end FROM bid GROUP BY tumble(date_time, INTERVAL '10' SECOND))
         SELECT auction, price, bidder, date_time, extra FROM bid JOIN high ON price = high AND tumble(date_time, '10s') = high.window_start",
    ),
    (
        "q8",
        "SELECT p.id, p.name, p.starts FROM
         (SELECT id, name, tumble(date_time, '10 seconds') AS starts FROM person GROUP BY id, name, tumble(date_time, '10 seconds')) AS p
         JOIN (SELECT seller, tumble(date_time, '10 seconds') AS starts FROM auction GROUP BY seller, tumble(date_time, '10 seconds')) AS a
         ON p.id = a.seller AND p.starts = a.starts",
    ),
    (
        "q9",
        "SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra,
         auction, bidder, price, bid_date_time, bid_extra FROM (
           SELECT id, item_name, description, initial_bid, reserve, auction.date_time AS date_time, expires, seller, category,
             auction.extra AS extra, auction, bidder, price, bid.date_time AS bid_date_time, bid.extra AS bid_extra,
             ROW_NUMBER() OVER (PARTITION BY id ORDER BY price DESC) AS place
           FROM bid JOIN auction ON auction = id AND bid.date_time <= expires
           AND bid.date_time BETWEEN auction.date_time AND auction.date_time + INTERVAL '1000 days') AS offers
         WHERE place = 1",
    ),
    ("q13", ""),
    (
        "q11",
        "SELECT bidder, count(*) AS bids, window_start, window_end FROM bid GROUP BY bidder, session(date_time, '10s')",
    ),
    (
        "q17",
        "SELECT auction, count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids,
         count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids, count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
         min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
         FROM bid GROUP BY auction, tumble(date_time, '1 day')",
    ),
    (
        "q18",
        "SELECT DISTINCT ON (bidder, auction) auction, bidder, price, channel, url, date_time, extra FROM bid ORDER BY bidder, auction, date_time DESC",
    ),
    (
        "q19",
        "SELECT * FROM (SELECT auction, bidder, price, channel, url, date_time, extra,
         ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC) AS rank FROM bid) AS ranked WHERE rank <= 10",
    ),
    (
        "q20",
        "SELECT auction, bidder, price, channel, url, bid.date_time AS date_time, bid.extra AS extra,
         item_name, initial_bid, reserve, expires, seller, category
         FROM bid, auction WHERE auction = id AND category = 10
         AND bid.date_time >= auction.date_time - INTERVAL '1000 days' AND bid.date_time <= auction.date_time + INTERVAL '1000 days'",
    ),
];

/// The topology of a query over the streams that it names.
fn streamed(query: &str) -> String {
    let named = ["bid", "auction", "person"].into_iter().filter(|name| query.contains(&format!(" {name}")));
    let mut sources: String = named.map(|name| format!("[source.{name}]\n\n")).collect();
    if query.contains("side_input") {
        sources += "[table.side_input]\ntype = \"csv\"\npath = \"side_input.csv\"\nkey = \"key\"\n\n";
    }
    format!(
        "{sources}[operator.result]\ntype = \"sql\"\nquery = '''\n{query}'''\n\n[sink.out]\nfrom = \"result\"\n"
    )
}

/// As they stand, with their files.
#[test]
fn queries_are_right_as_files() {
    let folder = format!("{}/examples/nexmark", env!("CARGO_MANIFEST_DIR"));
    for (name, ..) in queries() {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["check", &format!("{folder}/{name}.toml")])
            .output()
            .expect("tidegate starts");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

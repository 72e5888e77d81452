//! What the saved state of a query depends on.

use crate::harness::{loaded, topology};

/// Texts of the operators inside, without those that keep nothing.
fn fingerprints(query: &str) -> Vec<(String, String)> {
    let loaded = loaded(&topology(query)).unwrap_or_else(|error| panic!("{query}\n{error}"));
    let nodes =
        loaded.plan.operators.iter().map(|node| (node.name.clone(), node.fingerprint.text().to_owned()));
    nodes.filter(|(_, text)| text.contains("type=\"window\"") || text.contains("type=\"join\"")).collect()
}

#[test]
fn another_alias_or_another_condition_elsewhere_leaves_state_as_it_is() {
    let first = fingerprints(
        "SELECT x.key, sum(x.n) AS s, window_end FROM a AS x WHERE x.m > 1 GROUP BY x.key, tumble(x.ts, '1m') HAVING count(*) > 1",
    );
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(first[0].0, "q.2");
    let second = fingerprints(
        "SELECT   key AS k, sum(n) AS s, window_start AS w /* other words */ FROM a\n  WHERE m > 2 GROUP BY tumble(ts, INTERVAL '60 seconds'), key\n HAVING count(*) > 7",
    );
    assert_eq!(first, second);
    let other = fingerprints(
        "SELECT key, sum(n) AS s FROM a WHERE m > 1 GROUP BY key, tumble(ts, '2m') HAVING count(*) > 1",
    );
    assert_ne!(first, other);
}

/// Parts that say the same are told apart by what comes to them: swapped, neither goes on
/// with the state of the other.
#[test]
fn parts_that_say_the_same_are_told_apart_by_what_comes_to_them() {
    let sums = |node: &str, more: &str| {
        format!("SELECT key, sum(n) AS s FROM {node} WHERE m > {more} GROUP BY key, tumble(ts, '1m')")
    };
    let both = |one: &str, other: &str| fingerprints(&format!("{one} UNION ALL {other}"));
    let first = both(&sums("a", "1"), &sums("b", "1"));
    assert_eq!(first.len(), 2, "{first:?}");
    let swapped = both(&sums("b", "1"), &sums("a", "1"));
    assert!(first.iter().zip(&swapped).all(|(one, other)| one.0 == other.0 && one.1 != other.1), "{first:?}");
    let by_condition = both(&sums("a", "1"), &sums("a", "2"));
    let swapped = both(&sums("a", "2"), &sums("a", "1"));
    assert!(by_condition.iter().zip(&swapped).all(|(one, other)| one.1 != other.1), "{swapped:?}");
    // The words around them may change.
    let same = fingerprints(&format!(
        "WITH x AS ({}), y AS ({}) SELECT s, key AS k FROM x UNION ALL SELECT s, key FROM y",
        sums("a", "1"),
        sums("b AS c", "1"),
    ));
    assert_eq!(
        first.iter().map(|part| &part.1).collect::<Vec<_>>(),
        same.iter().map(|part| &part.1).collect::<Vec<_>>()
    );
}

/// The last operator is the query's own node, and every part reads what is there.
#[test]
fn parts_are_nodes_of_the_plan() {
    let loaded = loaded(&topology(
        "SELECT key, tumble(ts, '1m') AS w, sum(n) AS s FROM a WHERE m > 1 GROUP BY key, tumble(ts, '1m') HAVING sum(n) > 1",
    ));
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<_> = loaded.plan.operators.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["q.1", "q.2", "q.3", "q"]);
    let reads: Vec<_> = loaded.plan.operators.iter().map(|node| node.inputs[0].node.as_str()).collect();
    assert_eq!(reads, ["a", "q.1", "q.2", "q.3"]);
    assert_eq!(loaded.plan.sinks[0].input.node, "q");
    let time = loaded.plan.operators[3].part.ports[0].stream.time_name();
    assert_eq!(time, Some("w"), "event time leaves with the start of the window");
    assert_eq!(loaded.plan.operators[3].part.ports[0].stream.time_shift_us, 59_999_999);
}

/// What leaves by the side of a part has a name, by its number where several have one.
#[test]
fn ports_of_parts_can_be_read() {
    let read = |query: &str, from: &str| {
        loaded(&topology(query).replace("from = \"q\"", &format!("from = \"{from}\"")))
    };
    let one =
        "SELECT key, tumble(ts, '1m') AS w, sum(n) AS s FROM a WHERE m > 1 GROUP BY key, tumble(ts, '1m')";
    let plan = read(one, "q.late").unwrap_or_else(|error| panic!("{error}")).plan;
    assert_eq!((plan.sinks[0].input.node.as_str(), plan.sinks[0].input.port), ("q.2", 1));
    let plan = read(one, "q.rejects_3").unwrap_or_else(|error| panic!("{error}")).plan;
    assert_eq!((plan.sinks[0].input.node.as_str(), plan.sinks[0].input.port), ("q", 1));
    let error = read(one, "q.rejects").err().expect("several have it");
    assert_eq!(error.0[0].code, "TG-T004");
    assert!(error.0[0].help.as_ref().is_some_and(|help| help.contains("rejects")), "{error}");
}

//! Expressions as their author meant them: what passes the check is computed.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use std::time::Duration;

use kit::{Manner, TestRow, batch, run};

fn lines(text: &str) -> Vec<Vec<String>> {
    let rows: [TestRow; 2] = [("a", 1.0, None), ("b", 2.0, Some(3.0))];
    let manner = Manner { batch_size: 8, delay: Duration::ZERO, restore: false, snapshot: false };
    run(text, &batch(&rows), manner)
}

/// Functions that exist only in their simplest form.
#[test]
fn coalesce_and_its_kin_are_computed_in_every_operator() {
    let value = |expression: &str| {
        let text =
            format!("[operator.p]\ntype = \"project\"\nfrom = \"rows\"\nselect = [\"{expression} AS x\"]\n");
        let lines = lines(&text);
        assert_eq!(lines[1], Vec::<String>::new(), "{expression} is rejected");
        lines[0].join(" ")
    };
    assert_eq!(value("coalesce(value, 7.0)"), "7.0 3.0");
    assert_eq!(value("nvl(value, 7.0)"), "7.0 3.0");
    assert_eq!(value("ifnull(value, 7.0)"), "7.0 3.0");
    assert_eq!(value("nvl2(value, 1.0, 2.0)"), "2.0 1.0");
    assert_eq!(value("arrow_cast(coalesce(value, 7.0), 'Int32')"), "7 3");
    let filter =
        lines("[operator.f]\ntype = \"filter\"\nfrom = \"rows\"\nwhere = \"coalesce(value, 7.0) > 5\"\n");
    assert_eq!((filter[0].len(), filter[1].len()), (1, 0));
    let window = lines(
        "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\nwindow = { kind = \"tumbling\", size = \"10s\" }\nselect = [\"coalesce(sum(coalesce(value, 7.0)), 0.0) AS s\"]\n",
    );
    assert!(window[0][0].ends_with(" 10.0"), "{window:?}");
}

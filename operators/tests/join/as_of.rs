//! The as-of join: the last right row that is not younger.

use crate::harness::{R, Run, row, short, text};

#[test]
fn a_left_row_takes_the_last_right_row_within_the_tolerance() {
    for restored in [false, true] {
        let mut run = Run::new(&text("a.k = b.k", "left", "as_of = \"10us\""));
        run.rows(0, &[row(1, 20), row(1, 15), row(1, 31), row(2, 20)]);
        run.rows(1, &[row(1, 14), row(1, 20), row(1, 16), row(1, 9)]);
        if restored {
            run.restore();
        }
        run.watermark(20);
        // At 20 another right row of that time may still come.
        assert_eq!(short(&run.lines[0]), ["1 15 14"]);
        if restored {
            run.restore();
        }
        run.watermark(21);
        assert_eq!(short(&run.lines[0]), ["1 15 14", "1 20 20", "2 20 -"]);
        run.watermark(40);
        assert_eq!(short(&run.lines[0]), ["1 15 14", "1 20 20", "1 31 -", "2 20 -"]);
        assert_eq!(run.state_rows(), 0, "20 is older than 40 - 10");
    }
}

#[test]
fn rows_behind_the_watermark_are_late() {
    let mut run = Run::new(&text("a.k = b.k", "full", "as_of = \"10us\""));
    run.watermark(10);
    run.restore();
    run.rows(0, &[row(1, 9), row(1, 12)]);
    run.rows(1, &[row(1, 9), row(1, 10)]);
    run.end();
    assert_eq!(
        (short(&run.lines[0]), short(&run.lines[1])),
        (vec!["1 12 10".into()], vec!["1 - 9".into(), "1 9 -".into()])
    );
}

/// Of equal times the row that came last counts.
#[test]
fn of_equal_times_the_last_one_counts() {
    let mut run = Run::new(&text("a.k = b.k", "inner", "as_of = \"10us\""));
    run.rows(1, &[R { id: 1, ..row(1, 5) }, R { id: 2, ..row(1, 5) }]);
    run.rows(1, &[R { id: 3, ..row(1, 5) }, R { id: 4, ..row(1, 4) }]);
    run.restore();
    run.rows(0, &[row(1, 6)]);
    run.watermark(7);
    assert_eq!(short(&run.lines[0]), ["1 6 3"]);
}

/// Whoever has been followed by another row of its key is of no use any more.
#[test]
fn only_the_last_row_of_a_key_is_kept() {
    for on in ["a.k = b.k", "a.k = b.k AND a.s = b.s"] {
        let mut run = Run::new(&text(on, "inner", "as_of = \"1d\""));
        for time in 0..200 {
            run.rows(1, &(0..10).map(|key| row(key, time)).collect::<Vec<_>>());
            run.watermark(time);
        }
        assert_eq!(run.state_rows(), 10, "{on}");
        run.rows(0, &[row(3, 1_000)]);
        run.watermark(1_001);
        assert_eq!(short(&run.lines[0]), ["3 1000 199"]);
    }
    // Unless another condition may choose an older one.
    let mut run = Run::new(&text("a.k = b.k AND b.v < a.v", "right", "as_of = \"1d\""));
    run.rows(
        1,
        &[R { v: Some(1), ..row(1, 1) }, R { v: Some(9), ..row(1, 2) }, R { v: Some(8), ..row(1, 3) }],
    );
    run.watermark(50);
    run.rows(0, &[R { v: Some(5), ..row(1, 60) }]);
    run.watermark(61);
    run.end();
    assert_eq!(short(&run.lines[0]), ["1 - 2", "1 - 3", "1 60 1"]);
}

/// A right row that nobody has taken leaves when another one has its place.
#[test]
fn a_right_row_without_partner_leaves_once() {
    let mut run = Run::new(&text("a.k = b.k", "full", "as_of = \"100us\""));
    run.rows(1, &[row(1, 10), row(1, 20), row(2, 10)]);
    run.watermark(19);
    assert_eq!((short(&run.lines[0]).len(), run.promised), (0, 10));
    run.watermark(20);
    assert_eq!(short(&run.lines[0]), ["1 - 10"]);
    run.rows(0, &[row(1, 25)]);
    run.watermark(26);
    run.watermark(111);
    assert_eq!(short(&run.lines[0]), ["1 - 10", "1 25 20", "2 - 10"]);
    run.watermark(1_000);
    run.end();
    assert_eq!((short(&run.lines[0]).len(), run.state_rows()), (3, 0));
}

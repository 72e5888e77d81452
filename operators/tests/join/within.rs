//! Joins by distance and by window: what leaves, when, and what is kept.

use crate::harness::{R, Run, build, row, short, text};

/// Trap 12, seconds as microseconds: |Δ| ≤ 5.
#[test]
fn an_outer_row_leaves_once_when_the_watermark_proves_it() {
    let text = text("a.k = b.k", "full", "within = \"5us\"");
    let copies = [None, Some(1), Some(2), Some(3)];
    for (restored, copies) in
        [false, true].into_iter().flat_map(|restored| copies.map(|copies| (restored, copies)))
    {
        let mut run = copies
            .map_or_else(|| Run::new(&text), |copies| Run::copied(&text, copies).expect("it has a key"));
        // Without delay: the watermark is the lesser of the newest times.
        let steps: [(usize, R, i64, &[&str]); 5] = [
            (0, row(1, 10), i64::MIN, &[]),
            (1, row(1, 12), 10, &["1 10 12"]),
            (0, row(2, 11), 11, &["1 10 12"]),
            (0, row(9, 40), 12, &["1 10 12"]),
            (1, row(9, 40), 16, &["1 10 12", "9 40 40"]),
        ];
        for (input, row, watermark, left) in steps {
            run.rows(input, &[row]);
            // At once, not when something else comes.
            assert_eq!(short(&run.lines[0]), left);
            run.watermark(watermark);
            assert_eq!(short(&run.lines[0]), left, "at {watermark}");
            if restored {
                run.restore();
            }
        }
        assert_eq!(run.promised, 11, "(2, 11) may still leave");
        let all = ["1 10 12", "2 11 -", "9 40 40"];
        run.watermark(17);
        assert_eq!((short(&run.lines[0]), run.promised), (all.map(str::to_owned).to_vec(), 17));
        if restored {
            run.restore();
        }
        // Nothing comes any more; the clock goes on.
        run.watermark(46);
        assert_eq!((short(&run.lines[0]).len(), run.is_free()), (3, true));
        run.end();
        assert_eq!(short(&run.lines[0]), all);
    }
}

#[test]
fn event_time_is_the_later_of_the_two_and_names_are_told_apart() {
    let mut run = Run::new(&text("a.k = b.k", "inner", "within = \"5us\""));
    assert_eq!(
        run.columns(),
        ["event_time", "a_ts", "a_k", "a_s", "a_v", "a_id", "b_ts", "b_k", "b_s", "b_v", "b_id"]
    );
    run.rows(1, &[row(1, 3)]);
    run.rows(0, &[row(1, 7)]);
    assert!(run.lines[0][0].starts_with("1970-01-01T00:00:00.000007Z "), "{:?}", run.lines[0]);
}

/// The right row lies from `before` before the left one to `after` behind it.
#[test]
fn bounds_may_differ_and_are_inclusive() {
    let near = "within = { before = \"2us\", after = \"5us\" }";
    for left_first in [true, false] {
        let mut run = Run::new(&text("a.k = b.k", "inner", near));
        let rights: Vec<R> = (0..30).map(|ts| row(1, ts)).collect();
        for turn in 0..2 {
            if (turn == 0) == left_first {
                run.rows(0, &[row(1, 10)]);
            } else {
                run.rows(1, &rights);
            }
        }
        let found: Vec<String> = (8..=15).map(|right| format!("1 10 {right}")).collect();
        assert_eq!(short(&run.lines[0]), crate::kit::sorted(found));
    }
}

#[test]
fn state_is_freed_although_no_row_comes() {
    for (near, until) in [("within = { after = \"5us\" }", 105), ("window = \"10us\"", 109)] {
        let mut run = Run::new(&text("a.k = b.k", "inner", near));
        run.rows(0, &(0..100).map(|n| row(n, 100)).collect::<Vec<_>>());
        run.watermark(until);
        assert_eq!(run.state_rows(), 100);
        run.watermark(until + 1);
        assert_eq!(run.state_rows(), 0);
    }
}

#[test]
fn rows_behind_the_watermark_are_late() {
    let mut run = Run::new(&text("a.k = b.k", "full", "within = \"5us\""));
    run.watermark(10);
    // A restart does not forget how far time has come.
    run.restore();
    run.rows(0, &[row(1, 9), row(1, 10), row(2, 8)]);
    run.rows(1, &[row(1, 9), row(1, 12)]);
    run.end();
    assert_eq!(short(&run.lines[0]), ["1 10 12"]);
    assert_eq!(short(&run.lines[1]), ["1 - 9", "1 9 -", "2 8 -"]);
    // A window is open until its end.
    let mut run = Run::new(&text("a.k = b.k", "full", "window = \"10us\""));
    run.watermark(15);
    run.rows(0, &[row(1, 11), row(1, 9)]);
    run.rows(1, &[row(1, 19), row(1, 20)]);
    run.watermark(20);
    run.end();
    assert_eq!(short(&run.lines[0]), ["1 - 20", "1 11 19"]);
    assert_eq!(short(&run.lines[1]), ["1 9 -"]);
}

#[test]
fn a_row_without_key_has_no_partner() {
    let nobody = R { k: None, ..row(0, 10) };
    for (kind, left) in [("inner", vec![]), ("left", vec!["- 10 -"]), ("full", vec!["- - 10", "- 10 -"])] {
        let mut run = Run::new(&text("a.k = b.k", kind, "within = \"5us\""));
        run.rows(0, std::slice::from_ref(&nobody));
        run.rows(1, std::slice::from_ref(&nobody));
        assert_eq!(
            (short(&run.lines[0]), run.state_rows()),
            (left.into_iter().map(str::to_owned).collect(), 0)
        );
    }
}

/// Division by zero: the row, or the pair, is a reject; its neighbours are not.
#[test]
fn a_condition_that_fails_costs_one_row() {
    let mut run = Run::new(&text("10 / a.v = b.k", "left", "within = \"5us\""));
    run.rows(1, &[row(5, 10)]);
    run.rows(0, &[R { v: Some(2), ..row(1, 10) }, row(2, 10), R { v: Some(5), ..row(3, 10) }]);
    run.end();
    assert_eq!(short(&run.lines[0]), ["1 10 10", "3 10 -"]);
    assert_eq!(run.lines[2].len(), 1, "{:?}", run.lines[2]);
    let mut run = Run::new(&text("a.k = b.k AND 10 / (a.v + b.v) > 1", "full", "within = \"5us\""));
    run.rows(0, &[R { v: Some(2), ..row(1, 10) }, R { v: Some(-3), ..row(1, 11) }]);
    run.rows(1, &[R { v: Some(3), ..row(1, 12) }]);
    run.end();
    assert_eq!(short(&run.lines[0]), ["1 10 12", "1 11 -"]);
    assert_eq!(run.lines[2].len(), 1, "{:?}", run.lines[2]);
}

/// A key that everything has: what comes of it leaves in parts.
#[test]
fn many_pairs_leave_little_by_little() {
    let mut run = Run::new(&text("a.k = b.k", "inner", "within = \"1s\""));
    run.rows(0, &(0..400).map(|n| row(1, n)).collect::<Vec<_>>());
    run.rows(1, &(0..400).map(|n| row(1, n)).collect::<Vec<_>>());
    assert_eq!(run.lines[0].len(), 160_000);
    assert!(run.resumed >= 4, "{}", run.resumed);
    assert!(run.largest <= 8_192, "{}", run.largest);
}

/// What has been told as without a partner is over; the rest goes on.
#[test]
fn a_second_run_goes_on_behind_an_end() {
    let mut run = Run::new(&text("a.k = b.k", "left", "within = \"5us\""));
    run.rows(0, &[row(1, 10), row(2, 10)]);
    run.rows(1, &[row(1, 10), row(3, 10)]);
    run.watermark(10);
    run.end();
    run.restore();
    run.rows(0, &[row(3, 12)]);
    run.rows(1, &[row(1, 12), row(2, 12)]);
    run.watermark(100);
    assert_eq!(short(&run.lines[0]), ["1 10 10", "1 10 12", "2 10 -", "3 12 10"]);
}

#[test]
fn a_state_whose_sides_have_changed_places_is_refused() {
    let mut run = Run::new(&text("a.k = b.k", "left", "within = \"5us\""));
    run.rows(0, &[row(1, 10)]);
    let state = run.state();
    let other = text("a.k = b.k", "left", "within = \"5us\"");
    let restored = |names| build(&other, names).expect("right").operator.restore(state.clone());
    assert!(restored(["b", "a"]).expect_err("refused").0.contains("from = [\"a\", \"b\"]"));
    assert_eq!(restored(["a", "b"]), Ok(()));
}

#[test]
fn a_port_is_named_in_front_of_its_columns() {
    let on = text("x.late.k = b.k", "inner", "within = \"5s\"");
    let part = build(&on, ["x.late", "b"]).unwrap_or_else(|error| panic!("{error}"));
    let columns = &part.ports[0].stream.columns;
    assert_eq!(columns.field(2).name(), "x_late_k");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let right = text("a.k = b.k", "inner", "within = \"5s\"");
    let code = |text: &str, names| build(text, names).err().expect("refused").0[0].code;
    assert_eq!(code(&right.replace("within = \"5s\"", ""), ["a", "b"]), "TG-T013");
    assert_eq!(code(&right.replace("\"5s\"", "\"5s\", as_of = \"1s\""), ["a", "b"]), "TG-C006");
    assert_eq!(code(&right, ["a", "a"]), "TG-T003");
    assert_eq!(code(&right.replace("b.k", "b.z"), ["a", "b"]), "TG-X002");
    assert_eq!(code(&right.replace("a.k = b.k", "a.k"), ["a", "b"]), "TG-X003");
    assert_eq!(code(&right.replace("a.k = b.k", "a.s = b.k"), ["a", "b"]), "TG-X003");
    assert_eq!(code(&right.replace("a.k = b.k", "count(a.k) = b.k"), ["a", "b"]), "TG-X007");
}

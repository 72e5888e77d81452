//! `anomaly` and `fft` in every manner: their sums and blocks outlive a restore
//! between any two rows, and rows are judged in event-time order.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use kit::{TestRow, batch, build, in_all_manners, manners, run, stream, try_build_on};

fn refused(text: &str) -> Vec<(String, String)> {
    let error = try_build_on(&stream(), text).err().expect("is refused");
    error.0.into_iter().map(|wrong| (wrong.code.to_owned(), wrong.message)).collect()
}

fn anomaly(more: &str) -> String {
    format!(
        "[operator.a]\ntype = \"anomaly\"\nfrom = \"rows\"\nkey = [\"key\"]\ncolumn = \"value\"\n{more}\n"
    )
}

/// The last two columns of each row, the score with two digits.
fn scores(lines: &[String]) -> Vec<String> {
    let short = |line: &String| {
        let mut words = line.rsplit(' ');
        let (anomaly, score) = (words.next().expect("a word"), words.next().expect("a word"));
        let score = score.parse::<f64>().map_or(score.to_owned(), |score| format!("{score:.2}"));
        format!("{score} {anomaly}")
    };
    lines.iter().map(short).collect()
}

const STEADY: [f64; 5] = [10.0, 12.0, 11.0, 9.0, 10.0];

/// Two keys in turn; `b` is a thousand times `a`.
fn two_keys(more: &[Option<f64>]) -> Vec<TestRow> {
    let values = STEADY.iter().copied().map(Some).chain(more.iter().copied());
    values
        .enumerate()
        .flat_map(|(second, value)| {
            let at = second as f64;
            [("a", at, value), ("b", at, value.map(|value| value * 1_000.0))]
        })
        .collect()
}

#[test]
fn each_key_is_compared_with_itself() {
    let rows = batch(&two_keys(&[Some(13.0), None, Some(20.0)]));
    // Of 10 12 11 9 10: mean 10.4, standard deviation 1.1402; then of 12 11 9 10 13: 11 and 1.5811.
    let text = anomaly("method = \"zscore\"\nrows = 5\nwarmup = 5\nthreshold = 2.5");
    let found = scores(&in_all_manners(&stream(), &text, &rows)[0]);
    assert_eq!(found[..10], ["- -"; 10]);
    assert_eq!(found[10..], ["2.28 false", "2.28 false", "- -", "- -", "5.69 true", "5.69 true"]);
    // Median 10, deviations 0 2 1 1 0, their median 1; then of 12 11 9 10 13: 11, and 1.
    let text = anomaly("method = \"mad\"\nrows = 5\nwarmup = 5");
    let found = scores(&in_all_manners(&stream(), &text, &rows)[0]);
    assert_eq!(found[10..], ["2.02 false", "2.02 false", "- -", "- -", "6.07 true", "6.07 true"]);
}

#[test]
fn learned_sums_are_carried_on() {
    let rows = batch(&two_keys(&[Some(12.0), Some(12.0), Some(12.0), Some(12.0)]));
    // Distance 1.6 / 1.1402 = 1.4033 from what was learned; k = 0.5: 0.9033 more each time.
    let text = anomaly("method = \"cusum\"\nrows = 5\nthreshold = 2.5");
    let found = scores(&in_all_manners(&stream(), &text, &rows)[0]);
    assert_eq!(found[..10], ["- -"; 10]);
    let of_a: Vec<&String> = found[10..].iter().step_by(2).collect();
    assert_eq!(of_a, ["0.90 false", "1.81 false", "2.71 true", "0.90 false"]);
    // 1.4033 · (1 − 0.8^t) through sqrt(0.2 / 1.8 · (1 − 0.8^2t)).
    let text = anomaly("method = \"ewma\"\nrows = 5");
    let found = scores(&in_all_manners(&stream(), &text, &rows)[0]);
    let of_a: Vec<&String> = found[10..].iter().step_by(2).collect();
    assert_eq!(of_a, ["1.40 false", "1.97 false", "2.39 false", "2.72 false"]);
    let known =
        anomaly("method = \"ewma\"\nmean = 10.4\nsigma = 1.140175425\nside = \"below\"\nthreshold = 1");
    let found = scores(&in_all_manners(&stream(), &known, &rows)[0]);
    assert_eq!(found[0], "-0.35 false");
    assert_eq!(found.iter().filter(|line| line.ends_with('-')).count(), 0, "nothing has to be learned");
}

#[test]
fn rows_are_judged_in_event_time_order() {
    let mut rows: Vec<TestRow> = two_keys(&[Some(13.0), Some(20.0)]);
    let text = anomaly("method = \"zscore\"\nrows = 5\nwarmup = 5");
    let expected = kit::sorted(in_all_manners(&stream(), &text, &batch(&rows))[0].clone());
    rows.swap(1, 6);
    rows.swap(2, 9);
    rows.swap(8, 12);
    for manner in manners(10.0) {
        let found = run(&text, &batch(&rows), manner);
        assert_eq!(kit::sorted(found[0].clone()), expected, "{manner:?}");
    }
    // Without a delay a row older than the newest of its key is late.
    let late = run(&text, &batch(&rows), manners(0.0)[0]);
    assert!(!late[1].is_empty());
    assert_eq!(late[0].len() + late[1].len(), rows.len());
}

#[test]
fn an_anomaly_that_cannot_be_is_refused() {
    for (more, code) in [
        ("method = \"zscore\"\nweight = 0.2", "TG-C006"),
        ("method = \"ewma\"\nweight = 1.5", "TG-C006"),
        ("method = \"ewma\"\nmean = 1.0", "TG-C006"),
        ("method = \"ewma\"\nmean = 1.0\nsigma = 0", "TG-C006"),
        ("method = \"cusum\"\ndrift = -1", "TG-C006"),
        ("method = \"mad\"\nthreshold = 0", "TG-C006"),
        ("method = \"mad\"\nrows = 10\nwarmup = 11", "TG-C006"),
    ] {
        let found = refused(&anomaly(more));
        assert_eq!(
            found.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(),
            [code],
            "{more}: {found:?}"
        );
    }
    let text = anomaly("method = \"mad\"").replace("\"value\"", "\"key\"");
    assert_eq!(refused(&text)[0].1, "`key` is string, but `column` of `a` takes numbers");
}

/// The number of a forgotten key is given to another one, what was known of it not.
#[test]
fn a_forgotten_key_leaves_nothing_behind() {
    let mut rows: Vec<TestRow> = (0..5).map(|at| ("a", f64::from(at), Some(f64::from(at)))).collect();
    rows.extend([
        ("a", 200.0, Some(7.0)),
        ("b", 201.0, Some(7.0)),
        ("b", 202.0, Some(7.0)),
        ("b", 203.0, Some(7.0)),
    ]);
    let text = anomaly("method = \"zscore\"\nrows = 5\nwarmup = 3\nforget = \"100s\"");
    let found = scores(&in_all_manners(&stream(), &text, &batch(&rows))[0]);
    assert_eq!(found[2..5], ["- -", "2.00 false", "1.94 false"]);
    assert_eq!(found[5..], ["- -"; 4]);
    let text = fft("block = { rows = 8, gap = \"keep\" }\nselect = [\"rms\"]\nforget = \"100s\"");
    assert_eq!(in_all_manners(&stream(), &text, &batch(&rows))[0], [""; 0]);
}

fn fft(more: &str) -> String {
    format!("[operator.f]\ntype = \"fft\"\nfrom = \"rows\"\nkey = [\"key\"]\nsignal = \"value\"\n{more}\n")
}

/// A tone of 2 Hz and amplitude 3 at key `a`, of 3 Hz and 1 at `b`; 16 samples a second.
fn tones(count: usize) -> Vec<TestRow> {
    use std::f64::consts::TAU;
    let at = |row: usize| row as f64 / 16.0;
    let tone = |hz: f64, row: usize| (TAU * hz * at(row)).sin();
    (0..count)
        .flat_map(|row| [("a", at(row), Some(3.0 * tone(2.0, row))), ("b", at(row), Some(tone(3.0, row)))])
        .collect()
}

/// Lines with numbers rounded to three digits.
fn rounded(lines: &[String]) -> Vec<String> {
    let round = |word: &str| match word.parse::<f64>() {
        Ok(number) => format!("{:.3}", number + 0.0),
        Err(_) => word.replace("1970-01-01T00:00:", ""),
    };
    lines.iter().map(|line| line.split(' ').map(round).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn blocks_of_each_key_become_features() {
    let text = fft(
        "block = { rows = 16, overlap = 0.5 }\ntaper = \"none\"\nselect = [\"rms\", \"crest\", \"dominant\", \"band(1.5, 2.5) AS two\", \"band(3, 3.5) AS three\"]",
    );
    let found = in_all_manners(&stream(), &text, &batch(&tones(34)));
    // A sine's rms is its amplitude through the root of two, its energy half the square.
    assert_eq!(
        rounded(&found[0]),
        [
            "00.937500Z 00Z a 2.121 1.414 2.000 4.500 0.000",
            "00.937500Z 00Z b 0.707 1.414 3.000 0.000 0.500",
            "01.437500Z 00.500Z a 2.121 1.414 2.000 4.500 0.000",
            "01.437500Z 00.500Z b 0.707 1.414 3.000 0.000 0.500",
            "01.937500Z 01Z a 2.121 1.414 2.000 4.500 0.000",
            "01.937500Z 01Z b 0.707 1.414 3.000 0.000 0.500",
        ]
    );
    let ports = build(&text).ports;
    let fields = ports[0].stream.columns.fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["ts", "block_start", "key", "rms", "crest", "dominant", "two", "three"]);
    assert_eq!(ports[0].stream.time, Some(0));
}

#[test]
fn a_gap_gives_a_block_up() {
    let mut rows = tones(40);
    rows.retain(|row| row.0 == "a");
    rows.remove(10);
    rows[30].2 = None;
    let starts = |gap: &str| {
        let text = fft(&format!("block = {{ rows = 8, gap = \"{gap}\" }}\nselect = [\"rms\"]"));
        let lines = in_all_manners(&stream(), &text, &batch(&rows))[0].clone();
        let starts: Vec<f64> = lines
            .iter()
            .map(|line| {
                line.split([' ', 'Z']).nth(2).expect("a start")[17..].parse::<f64>().expect("seconds") * 16.0
            })
            .collect();
        starts
    };
    assert_eq!(starts("drop"), [0.0, 11.0, 19.0, 32.0], "behind the lost sample, and behind the NULL");
    assert_eq!(starts("keep"), [0.0, 8.0, 17.0, 25.0]);
}

#[test]
fn samples_in_any_order_within_the_delay_give_the_same() {
    let text = fft(
        "block = { rows = 16, overlap = 0.75 }\nselect = [\"rms\", \"kurtosis\", \"envelope(1, 3) AS e\"]",
    );
    let mut rows = tones(40);
    let expected = rounded(&in_all_manners(&stream(), &text, &batch(&rows))[0]);
    for (row, other) in [(0, 9), (3, 12), (20, 31), (40, 55), (77, 66)] {
        rows.swap(row, other);
    }
    for manner in manners(1.0) {
        let found = rounded(&run(&text, &batch(&rows), manner)[0]);
        assert_eq!(kit::sorted(found), kit::sorted(expected.clone()), "{manner:?}");
    }
}

#[test]
fn blocks_that_cannot_be_are_refused() {
    let block = "block = { rows = 16 }\n";
    for (more, code) in [
        ("block = { rows = 16, overlap = 1.0 }\nselect = [\"rms\"]".to_owned(), "TG-C006"),
        (format!("{block}select = [\"rsm\"]"), "TG-X004"),
        (format!("{block}select = []"), "TG-C006"),
        (format!("{block}select = [\"rms\", \"rms\"]"), "TG-T009"),
        (format!("{block}select = [\"rms AS ts\"]"), "TG-T009"),
        (format!("{block}rate = \"often\"\nselect = [\"rms\"]"), "TG-C006"),
        (format!("{block}rate = \"100/s\"\nselect = [\"band(10, 51)\"]"), "TG-C006"),
    ] {
        let found = refused(&fft(&more));
        assert_eq!(
            found.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(),
            [code],
            "{more}: {found:?}"
        );
    }
}
